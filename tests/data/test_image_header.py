from __future__ import annotations

import os
import struct

import cv2
import numpy as np
import pytest

from tests.support.png import png_chunk
from yolov6core.data.image_header import ImageError, ImageTooLargeError, check_claimed_size, read_image_header
from yolov6core.datasets.check import turn_box


def picture(height=48, width=64):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def encoded(suffix, *options):
    return cv2.imencode(suffix, picture(), list(options))[1].tobytes()


def exif(orientation, order="<"):
    mark = b"II" if order == "<" else b"MM"
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = mark + struct.pack(order + "HI", 42, 8) + struct.pack(order + "H", 1) + entry + bytes(4)
    return b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_sizes(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encoded(suffix))
    assert read_image_header(str(path)) == (48, 64, 1)


def test_progressive_and_long_metadata(tmp_path):
    path = tmp_path / "a.jpg"
    data = encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    segment = b"\xff\xe2" + struct.pack(">H", 65000) + bytes(64998)
    path.write_bytes(data[:2] + segment * 3 + data[2:])
    assert read_image_header(str(path)) == (48, 64, 1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_agrees_with_opencv(tmp_path, orientation, order):
    path = tmp_path / "a.jpg"
    data = encoded(".jpg")
    path.write_bytes(data[:2] + exif(orientation, order) + data[2:])
    header = read_image_header(str(path))
    assert header.orientation == orientation
    assert (header.height, header.width) == cv2.imread(str(path)).shape[:2]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_cut_files_are_seen(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    data = encoded(suffix)
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ImageError, match="cut short"):
        read_image_header(str(path))
    path.write_bytes(data[:12])
    with pytest.raises(ImageError, match="JPEG without a frame header|PNG without a header"):
        read_image_header(str(path))


def test_data_behind_the_picture_is_allowed(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(".jpg") + b"maker's notes" * 100)
    assert read_image_header(str(path)) == (48, 64, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"text", "not an image that OpenCV can read"),
        (b"\xff\xd8\xff", "JPEG without a frame header"),
        (b"\xff\xd8\xff\xe0\0\0\0\0\0\0\0\0", "JPEG without a frame header"),
    ],
)
def test_other_bytes(tmp_path, data, message):
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=message):
        read_image_header(str(path))


@pytest.mark.parametrize("place", [33, -12])
def test_orientation_of_png_agrees_with_opencv(tmp_path, place):
    path = tmp_path / "a.png"
    data = encoded(".png")
    path.write_bytes(data[:place] + png_chunk(b"eXIf", exif(6)[10:]) + data[place:])
    assert read_image_header(str(path)) == (64, 48, 6)
    assert cv2.imread(str(path)).shape[:2] == (64, 48)


def test_data_behind_a_png_is_allowed(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(".png") + bytes(99))
    assert read_image_header(str(path)) == (48, 64, 1)


def huge(suffix):
    """A small file that claims 60,000 x 60,000 pixels."""
    data = bytearray(encoded(suffix))
    if suffix == ".png":
        header = struct.pack(">II", 60000, 60000) + bytes(data[24:29])
        return bytes(data[:8]) + png_chunk(b"IHDR", header) + bytes(data[33:])
    if suffix == ".bmp":
        data[18:26] = struct.pack("<ii", 60000, -60000)
    if suffix == ".jpg":
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = struct.pack(">HH", 60000, 60000)
    if suffix == ".tiff":
        start = struct.unpack_from("<I", data, 4)[0]
        for entry in range(struct.unpack_from("<H", data, start)[0]):
            at = start + 2 + 12 * entry
            tag, kind = struct.unpack_from("<HH", data, at)
            if tag in (256, 257):
                struct.pack_into("<I" if kind == 4 else "<H", data, at + 8, 60000)
    return bytes(data)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tiff"])
def test_absurd_sizes_are_refused_before_decoding(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(huge(suffix))
    with pytest.raises(ImageError, match="60000x60000 pixels; at most 268 million"):
        read_image_header(str(path))
    with pytest.raises(ImageTooLargeError):
        check_claimed_size(path.read_bytes())
    check_claimed_size(encoded(suffix))
    check_claimed_size(encoded(suffix)[:30])


def turned_file(format_, orientation, tmp_path):
    """A picture with a white box, as a file whose metadata ask for it to be turned."""
    image = pytest.importorskip("PIL.Image")
    stored = np.zeros((80, 100, 3), np.uint8)
    stored[20:60, 10:40] = 255
    path = tmp_path / f"a.{format_.lower()}"
    exif = image.Exif()
    exif[0x0112] = orientation
    more = {"tiffinfo": {0x0112: orientation}} if format_ == "TIFF" else {"exif": exif}
    image.fromarray(stored).save(path, format_, **more | ({"lossless": True} if format_ == "WEBP" else {}))
    return str(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_decoder_decides(tmp_path, format_, orientation):
    path = turned_file(format_, orientation, tmp_path)
    decoded = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if decoded is None:
        pytest.skip(f"OpenCV reads no {format_} here")
    header = read_image_header(path)
    assert (header.height, header.width) == decoded.shape[:2]
    rows, columns = np.nonzero(decoded[..., 0] > 128)
    found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    expected = (10, 20, 40, 60)
    if header.orientation >= 5:
        expected = turn_box(expected, header.orientation, (80, 100))
    if header.orientation in (1, 5, 6, 7, 8):
        assert found == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(("first", "second"), [(6, 1), (1, 6), (3, 8), (0, 6), (9, 6)])
def test_the_first_of_two_segments_counts_as_in_the_decoder(tmp_path, first, second):
    path = tmp_path / "a.jpg"
    data = encoded(".jpg")
    path.write_bytes(data[:2] + exif(first) + exif(second) + data[2:])
    header = read_image_header(str(path))
    assert (header.height, header.width) == cv2.imread(str(path)).shape[:2]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("place", range(20))
def test_odd_metadata_are_taken_as_by_the_decoder(tmp_path, suffix, place):
    path = tmp_path / f"a{suffix}"
    data = encoded(suffix)
    for value in (0, 1, 3, 4, 0x12, 0x49, 0x4D, 0xFF):
        segment = bytearray(exif(6, ">"))
        segment[10 + place] = value
        if suffix == ".jpg":
            path.write_bytes(data[:2] + segment + data[2:])
        else:
            path.write_bytes(data[:33] + png_chunk(b"eXIf", bytes(segment[10:])) + data[33:])
        header = read_image_header(str(path))
        assert (header.height, header.width) == cv2.imread(str(path)).shape[:2], value


@pytest.mark.parametrize("suffix", [".gif", ".avif", ".jfif"])
def test_further_formats(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encoded(".jpg" if suffix == ".jfif" else suffix))
    assert read_image_header(str(path)) == (48, 64, 1)


def test_a_gif_may_not_claim_any_size(tmp_path):
    path = tmp_path / "a.gif"
    path.write_bytes(b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(20))
    with pytest.raises(ImageError, match="65535x65535 pixels; at most"):
        read_image_header(str(path))


def test_a_file_that_fills_the_memory_is_refused(tmp_path):
    with open(tmp_path / "a.jpg", "wb") as file:
        file.write(b"\xff\xd8\xff")
        file.truncate(2**40)
    with pytest.raises(ImageError, match="at most 2147483648"):
        read_image_header(str(tmp_path / "a.jpg"))


def test_no_picture_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    for path in (str(tmp_path / "a.jpg"), "/dev/zero", str(tmp_path)):
        with pytest.raises(ImageError, match="only regular files"):
            read_image_header(path)
