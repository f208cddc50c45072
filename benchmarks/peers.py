"""The same work here and in other toolkits: `make bench-peers` makes an environment with them, and runs all of these.

    .venv-peers/bin/python benchmarks/peers.py calibration --tool modelopt
    .venv-peers/bin/python benchmarks/peers.py qat
    .venv-peers/bin/python benchmarks/peers.py sensitivity
    .venv-peers/bin/python benchmarks/peers.py loader
    .venv-peers/bin/python benchmarks/peers.py training
    .venv-peers/bin/python benchmarks/peers.py nms

In the folder of a pipeline that has run.

`calibration`: one tool in one process, by its defaults (the largest value for activations, a scale for each channel of
weights), from the float network to its INT8 form on all images of `calib`; seconds, what the process's peak memory rose
by, and mAP50:95 on `val` to the float network. Ours and modelopt stay in torch; NNCF and ONNX Runtime read and write
ONNX or OpenVINO models, and NNCF corrects biases as well. Ours leaves the prediction layers float, the others do not:
`ours_all_int8` is ours without that.
`qat`: a training step on labels alone, with the fake quantizers of both in turns, to a float step.
`sensitivity`: calibration and scores of all layers by gradients, on 32 images; modelopt's are of the loss.
`loader`: mosaic, warp, colour and flip by the defaults of both. ultralytics decodes one picture a sample and takes the
three others of a mosaic from those it decoded lately; ours draws all four from the whole dataset, and keeps pictures
once decoded (runtime.cache: ram) or not. Its validator needs a network of its own, and is left out.
`training`: a step of YOLOv6-N (forward, loss, backward, SGD) with the same images and boxes. ultralytics' network of
that name has plain convolutions and a head of its own, so GFLOPs stand beside the time.
`nms`: one image at 640 pixels with three kinds of predictions, as in nms.py; ultralytics' in the form of its validator,
and in torch alone: torchvision's operator needs the build of torch with CUDA.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import itertools
import logging
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from library_accuracy import FLOAT, compiled, score
from loader_speed import images_per_second, make_transform
from nms import OPTIONS, predictions
from qat_step import IOU, RECIPE, make_steps, one_step, random_batch
from torch import Tensor, nn

from stages.shared import paths
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.views import image_batches
from yolov6core.engines.latency import measure, speedup
from yolov6core.evaluation.nms import nms
from yolov6core.int8.layer_ranking import readout
from yolov6core.models.blocks import deploy_
from yolov6core.models.card import NetworkCard, new_card
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import insert_quantizers, set_ranges_
from yolov6core.quant.observers import Method
from yolov6core.quant.sensitivity import fast_sensitivity
from yolov6core.tasks.detection import LOSS_WEIGHTS, DetectionTask
from yolov6core.tasks.evaluation import SplitEvaluator
from yolov6core.tasks.networks import fresh_network, load_float, placed

BATCH = 8
IMAGES = 32
"""For the scores of layers."""
Predict = Callable[[Tensor], tuple[np.ndarray, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("calibration", *MEASURED))
    parser.add_argument("--tool", default="ours", choices=tuple(CALIBRATIONS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable()
    if options.what == "calibration":
        calibration(options.tool)
    else:
        MEASURED[options.what](options.rounds)


def calibration(tool: str) -> None:
    """One tool's way from the float network to an INT8 one; its time, memory and mAP."""
    network, card = load_float(paths.WEIGHTS["float"])
    images = list(batches(card, "calib"))
    if tool in MODULES:  # loading it is not what is measured
        importlib.import_module(MODULES[tool])
    used, started = peak_mib(), time.perf_counter()
    result = CALIBRATIONS[tool](network, images)
    seconds, memory = time.perf_counter() - started, peak_mib() - used
    before = on_val(load_float(paths.WEIGHTS["float"])[0], card)  # only now: its memory would hide the calibration's
    after = on_val(result, card) if isinstance(result, nn.Module) else 100 * score(result, card)
    print(
        f"{tool}: {seconds:.2f} s, {memory:.0f} MiB, mAP {after - before:+.2f} points, {sum(map(len, images))} images"
    )


def ours(network: nn.Module, images: list[Tensor], *, predictions: bool = False) -> nn.Module:
    gm = insert_quantizers(network, dialect_name="openvino", quantize_predictions=predictions)
    set_ranges_(gm, ranges(collect(gm, images), Method("max")))
    return gm


def modelopt(network: nn.Module, images: list[Tensor]) -> nn.Module:
    import modelopt.torch.quantization as mtq

    def forward(model: nn.Module) -> None:
        with torch.no_grad():
            for batch in images:
                model(batch)

    return mtq.quantize(network, mtq.INT8_DEFAULT_CFG, forward)


def onnxruntime(_network: nn.Module, images: list[Tensor]) -> Predict:
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = (image[None].numpy() for batch in images for image in batch)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {"images": image}

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "int8.onnx"
        quantize_static(paths.ONNX / "float.ort.onnx", out, Reader(), per_channel=True)
        session = ort.InferenceSession(out, providers=["CPUExecutionProvider"])

    def predict(batch: Tensor) -> tuple[np.ndarray, np.ndarray]:
        results = [session.run(["boxes", "scores"], {"images": image[None].numpy()}) for image in batch]
        boxes, scores = (np.concatenate(part) for part in zip(*results, strict=True))
        return boxes, scores

    return predict


def nncf(_network: nn.Module, images: list[Tensor]) -> Predict:
    from engine_speed import nncf_model

    return compiled(nncf_model(FLOAT, [image[None].numpy() for batch in images for image in batch]))


CALIBRATIONS: dict[str, Callable[[nn.Module, list[Tensor]], Any]] = {
    "ours": ours,
    "ours_all_int8": partial(ours, predictions=True),
    "modelopt": modelopt,
    "onnxruntime": onnxruntime,
    "nncf": nncf,
}
"""Tool -> (float network, batches) to a fake-quantized torch network, or to a call of the INT8 model."""
MODULES = {"modelopt": "modelopt.torch.quantization", "onnxruntime": "onnxruntime.quantization", "nncf": "nncf"}


def batches(card: NetworkCard, split: str, limit: int | None = None) -> Iterator[Tensor]:
    dataset = DetectionDataset(paths.DATASET, split, limit=limit)
    return image_batches(dataset, image_size=card.image_size, shrink=card.shrink, batch_size=BATCH)


def on_val(network: nn.Module, card: NetworkCard) -> float:
    """mAP50:95 in points."""
    evaluate = SplitEvaluator(DetectionDataset(paths.DATASET, "val"), card, batch_size=BATCH)
    return 100 * evaluate(network).stats["map50_95"]


def peak_mib() -> float:
    """Peak memory of this process so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def qat(rounds: int) -> None:
    """A step with the fake quantizers of both, and a float step, in turns."""
    torch.manual_seed(0)
    data = random_batch(16, 320, boxes=8, classes=20)
    steps = make_steps("yolov6n_v2", data, classes=20)
    card = new_card("yolov6n_v2", block="repopt", names=tuple(map(str, range(20))), image_size=(320, 320))
    images = data[0].float() / 255
    network = fresh_network(card).train()
    with torch.no_grad():
        network(images)
    student = placed(modelopt(deploy_(network.eval()), [images]), "cpu")
    task = DetectionTask(student, card, RECIPE, iou=IOU)
    compared = {
        "float": steps["float"],
        "quantized": steps["quantized"],
        "modelopt": one_step(student, task, data, RECIPE),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in compared}
    for number in range(rounds + 1):
        for kind, step in compared.items():
            started = time.perf_counter()
            step()
            if number:  # the first round warms up
                seconds[kind].append(time.perf_counter() - started)
    for kind, values in seconds.items():
        ratios = sorted(value / base for value, base in zip(values, seconds["float"], strict=True))
        print(
            f"{kind:<10} {statistics.median(values):.3f} s   x {statistics.median(ratios):.3f} "
            f"({ratios[0]:.3f} to {ratios[-1]:.3f})"
        )


def sensitivity(_rounds: int) -> None:
    """Calibration and scores of all layers by gradients; modelopt's are of the loss on drawn boxes."""
    import modelopt.torch.quantization as mtq

    network, card = load_float(paths.WEIGHTS["float"])
    images = list(batches(card, "select", IMAGES))
    started = time.perf_counter()
    fast_sensitivity(ours(copy.deepcopy(network), images), images, readout=readout(card))
    print(f"ours {time.perf_counter() - started:.2f} s", flush=True)
    for module in network.modules():
        if isinstance(module, nn.ReLU | nn.SiLU):
            module.inplace = False  # modelopt's hooks forbid it
    _, targets = random_batch(BATCH, 32, boxes=8, classes=len(card.names))

    def forward_backward(model: Any, batch: Tensor) -> None:
        task = DetectionTask(model, card, RECIPE, iou=IOU)
        terms = task(((255 * batch).to(torch.uint8), targets[targets[:, 0] < len(batch)]), 1)
        torch.stack([LOSS_WEIGHTS[name] * term for name, term in terms.items()]).sum().backward()

    started = time.perf_counter()
    with contextlib.redirect_stdout(None):
        mtq.auto_quantize(
            network,
            {"effective_bits": 12.0},
            quantization_formats=[mtq.INT8_DEFAULT_CFG],
            data_loader=images,
            forward_step=lambda model, batch: model(batch),
            forward_backward_step=forward_backward,
            num_calib_steps=len(images),
            num_score_steps=len(images),
        )
    print(f"modelopt {time.perf_counter() - started:.2f} s")


def loader(rounds: int) -> None:
    """Training images a second with no and with two workers, in turns."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    ours = {kind: make_transform(paths.DATASET, kind, 320) for kind in ("ram", "none")}
    dataset = ours["none"].dataset
    rates: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"YOLO_CONFIG_DIR": folder, "YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false"}
        theirs = {workers: ultralytics_loader(dataset, Path(folder) / "data", workers) for workers in (0, 2)}
        for turn, workers in itertools.product(range(rounds), (0, 2)):
            for kind, transform in ours.items():
                rate = images_per_second(transform, batch=16, workers=workers, epoch=100 * turn, batches=12)
                rates.setdefault((f"ours, cache {kind}", workers), []).append(rate)
            rates.setdefault(("ultralytics", workers), []).append(theirs[workers]())
    for (tool, workers), found in rates.items():
        middle = statistics.median(found)
        print(f"{tool}, workers {workers}: {middle:.0f} images a second ({min(found):.0f} to {max(found):.0f})")


def ultralytics_loader(dataset: DetectionDataset, folder: Path, workers: int) -> Callable[[], float]:
    """A call that measures ultralytics' loader on the same images, in the form of folders that it reads."""
    prepare_torchvision()
    from ultralytics.cfg import get_cfg
    from ultralytics.data.build import build_dataloader, build_yolo_dataset

    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(dataset.paths):
        image = folder / "images" / f"{index}{path.suffix}"
        if not image.exists():
            image.symlink_to(path.resolve())
            _, labels = dataset.load(index)
            height, width = cv2.imread(str(path)).shape[:2]
            lines = [row_of(label, height, width) for label in labels]
            (folder / "labels" / f"{index}.txt").write_text("\n".join(lines), encoding="utf-8")
    config = get_cfg(overrides={"imgsz": 320, "mosaic": 1.0, "cache": False})
    data = {"names": dict(enumerate(dataset.names)), "nc": len(dataset.names), "channels": 3}
    theirs = build_yolo_dataset(config, str(folder / "images"), 16, data, mode="train")
    stream = build_dataloader(theirs, 16, workers, device="cpu", pin_memory=False)
    endless = itertools.chain.from_iterable(itertools.repeat(stream))

    def measure() -> float:
        for _ in range(1 + 2 * workers):  # as in loader_speed.py
            next(endless)
        start, count = time.perf_counter(), 0
        for _ in range(12):
            count += len(next(endless)["img"])
        return count / (time.perf_counter() - start)

    return measure


def prepare_torchvision() -> None:
    """Let ultralytics be imported where torchvision's compiled part is for another build of torch; it does without."""
    if not torch_knows_nms():
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)


_KEPT: list[Any] = []
"""Libraries of operators live as long as their objects."""


def torch_knows_nms() -> bool:
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        return False
    return True


def row_of(label: np.ndarray, height: int, width: int) -> str:
    """`class cx cy w h` of a label (class, xyxy in pixels)."""
    number, left, top, right, bottom = label
    centre = ((left + right) / 2 / width, (top + bottom) / 2 / height)
    return " ".join(map(str, (int(number), *centre, (right - left) / width, (bottom - top) / height)))


def training(rounds: int) -> None:
    """A step of both, in turns."""
    prepare_torchvision()
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils.torch_utils import get_flops

    torch.manual_seed(0)
    data = random_batch(16, 320, boxes=8, classes=20)
    model = DetectionModel("yolov6n.yaml", nc=20, verbose=False).train()
    model.args = get_cfg()
    images, targets = data[0].float() / 255, data[1]
    batch = {"img": images, "batch_idx": targets[:, 0], "cls": targets[:, 1:2], "bboxes": targets[:, 2:]}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-7, momentum=0.9, nesterov=True)

    def theirs() -> None:
        model(batch)[0].sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad()

    calls = {"ours": make_steps("yolov6n_v2", data, classes=20)["float"], "ultralytics": theirs}
    times = measure(calls, rounds=rounds, repeats=1, warmup=1)
    for tool, gflops in (("ours", 11.0), ("ultralytics", get_flops(model, 640))):
        print(f"{tool}: {times[tool].median_ms:.0f} ms a step, {gflops:.1f} GFLOPs at 640")


def suppression(rounds: int) -> None:
    """The same predictions for both; how many boxes each keeps."""
    prepare_torchvision()
    from ultralytics.utils.nms import non_max_suppression

    for kind in ("scattered", "clustered", "piled"):
        boxes, scores = predictions(kind, 10_000)
        sides = np.concatenate(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2], scores), axis=1)
        given = torch.from_numpy(np.ascontiguousarray(sides.T)[None].astype(np.float32))
        options: dict[str, Any] = {"conf_thres": 0.03, "iou_thres": 0.65, "max_det": 300, "max_time_img": 60.0}
        calls: dict[str, Callable[[], Any]] = {
            "ours": lambda b=boxes, s=scores: nms(b, s, **OPTIONS),
            "ultralytics": lambda g=given, o=options: non_max_suppression(g.clone(), multi_label=True, **o)[0],
        }
        kept = {tool: len(call()) for tool, call in calls.items()}
        times = measure(calls, rounds=rounds, repeats=1, warmup=0)
        ratio = speedup(times["ultralytics"], times["ours"])
        print(f"{kind}: ours {times['ours'].median_ms:.2f} ms, {kept['ours']} kept; ", end="")
        print(f"ultralytics takes {ratio:.0f} times as long, {kept['ultralytics']} kept")


MEASURED: dict[str, Callable[[int], None]] = {
    "qat": qat,
    "sensitivity": sensitivity,
    "loader": loader,
    "training": training,
    "nms": suppression,
}
"""What is measured in turns -> its function of the number of rounds."""


if __name__ == "__main__":
    main()
