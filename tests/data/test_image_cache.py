"""Images kept in memory or on disk: the same bytes, in every process, within their room, and gone at the end."""

import errno
import multiprocessing
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from yolov6core.data import image_cache
from yolov6core.data.augment import TrainTransform
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.image_cache import LONGEST_SIDE, ImageCache, free_memory, make_cache
from yolov6core.data.loader import train_batches

KINDS = ("ram", "disk")
SIZE = (64, 64)


def cache_of(kind, folder, *, count=4, image_bytes=3 * 64 * 64, limit_mib=1) -> ImageCache:
    made = make_cache(kind, count=count, image_bytes=image_bytes, limit_mib=limit_mib, folder=folder)
    assert made is not None
    return made


def picture(seed: int, height: int = 9, width: int = 13) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_images_come_back_as_they_were(tmp_path, kind) -> None:
    cache = cache_of(kind, tmp_path, image_bytes=3 * LONGEST_SIDE)
    images = [picture(0), picture(1, 1, LONGEST_SIDE), picture(2, LONGEST_SIDE, 1)[:, ::-1], picture(3, 1, 1)]
    assert [cache.get(index) for index in range(4)] == [None] * 4
    for index in (2, 0, 3, 1):
        cache.put(index, images[index])
    for index, image in enumerate(images):
        kept = cache.get(index)
        np.testing.assert_array_equal(kept, image)
        assert kept is not None and not kept.flags.writeable
    assert cache.used == sum(image.nbytes for image in images)


@pytest.mark.parametrize("kind", KINDS)
def test_what_one_process_keeps_all_have(tmp_path, kind) -> None:
    cache = cache_of(kind, tmp_path)
    for method in ("fork", "spawn"):  # spawn: the cache is pickled
        index = int(method == "spawn")
        process = multiprocessing.get_context(method).Process(target=cache.put, args=(index, picture(index)))
        process.start()
        process.join(60)
        np.testing.assert_array_equal(cache.get(index), picture(index))


def test_a_cache_that_has_ended_is_none_elsewhere(tmp_path) -> None:
    cache = cache_of("disk", tmp_path)
    left = pickle.dumps(cache)
    cache._file.close()
    assert pickle.loads(left) is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_room_is_never_exceeded(tmp_path, kind, caplog) -> None:
    image = picture(0, 500, 500)
    cache = cache_of(kind, tmp_path, count=3, image_bytes=image.nbytes)
    for index in range(3):
        cache.put(index, image)
    assert [cache.get(index) is not None for index in range(3)] == [True, False, False]
    assert cache.used == image.nbytes <= 2**20
    assert "all 3 images may need 3 MiB, but runtime.cache_mib is 1" in caplog.text
    cache.put(1, picture(1, LONGEST_SIDE + 1, 1))
    assert cache.get(1) is None, "a word cannot say such a side"


def test_free_memory_is_a_limit(tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(image_cache, "free_memory", lambda: 2**20)
    cache = cache_of("ram", tmp_path, count=4, image_bytes=2**18)
    for index in range(4):
        cache.put(index, picture(0, 2**9, 2**9 // 3))
    assert cache.used <= 2**19 and "of 1 MiB free, half is taken" in caplog.text


def test_a_full_disk_ends_the_keeping_only(tmp_path, caplog, monkeypatch) -> None:
    cache = cache_of("disk", tmp_path)
    cache.put(0, picture(0))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    cache.put(1, picture(1))
    monkeypatch.undo()
    cache.put(2, picture(2))
    np.testing.assert_array_equal(cache.get(0), picture(0))
    assert cache.get(1) is None and cache.get(2) is None
    assert caplog.text.count("no further training image is kept (No space left on device)") == 1


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path, caplog) -> None:
    (tmp_path / "file").touch()
    assert make_cache("disk", count=1, image_bytes=1, limit_mib=1, folder=tmp_path / "file") is None
    assert "training images are decoded every time" in caplog.text
    assert make_cache("none", count=1, image_bytes=1, limit_mib=1, folder=tmp_path) is None
    assert make_cache("ram", count=1, image_bytes=1, limit_mib=0, folder=tmp_path) is None


def _wait_with_images(folder: Path, ready: multiprocessing.connection.Connection) -> None:
    cache = cache_of("disk", folder)
    cache.put(0, picture(0))
    ready.send(cache.used)
    signal.pause()


def test_a_kill_leaves_nothing(tmp_path) -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_wait_with_images, args=(tmp_path, theirs))
    process.start()
    assert ours.poll(60) and ours.recv() == picture(0).nbytes
    assert not any(tmp_path.iterdir()), "the file has no name"
    process.kill()
    process.join()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "1000\n", "memory.current": "900\n", "memory.stat": "anon 1\ninactive_file 50\n"}, 150),
        ({"memory.max": "max\n", "memory.current": "900\n", "memory.stat": ""}, 4096),
        (
            {"memory.limit_in_bytes": "800", "memory.usage_in_bytes": "700", "memory.stat": "total_inactive_file 9"},
            109,
        ),
        ({}, 4096),
    ],
)
def test_the_memory_of_a_container_counts(tmp_path, monkeypatch, files, left) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:    4 kB\nHugePages_Total: 0\n")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(image_cache, "MEMORY_FACTS", tmp_path / "meminfo")
    monkeypatch.setattr(image_cache, "CONTAINERS", (tmp_path,))
    assert free_memory() == left


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_training_bytes_do_not_depend_on_the_cache(make_dataset, tmp_path, kind, workers) -> None:
    folder = make_dataset(count=9)
    plain, kept = DetectionDataset(folder, "train"), DetectionDataset(folder, "train")
    kept.keep_fitted(SIZE, kind=kind, limit_mib=1, folder=tmp_path)
    for epoch in range(3):
        ways = [
            list(
                train_batches(
                    dataset,
                    TrainTransform(dataset, image_size=SIZE),
                    batch_size=2,
                    seed=3,
                    epoch=epoch,
                    workers=count,
                )
            )
            for dataset, count in ((plain, 0), (kept, workers))
        ]
        for ours, theirs in zip(*ways, strict=True):
            assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    assert kept._kept is not None and all(kept._kept.get(index) is not None for index in range(9)), "by any worker"
    for path in kept.paths:
        path.unlink()
    assert kept.load_fitted(0, SIZE)[0].size, "comes from the cache"
    with pytest.raises(ValueError, match="cannot be read"):
        kept.load_fitted(0, (32, 32))
    with pytest.raises(ValueError, match="cannot be read"):
        plain.load_fitted(0, SIZE)
