"""Size and health of image files from their first and last bytes, without decoding."""

from __future__ import annotations

import os
import struct
import zlib
from typing import NamedTuple

import cv2
import numpy as np

from yolov6core.base.inputs import InputError, open_input, read_rest

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif")
"""Names of pictures. OpenCV may be built without the last two; such a picture is then unreadable, by its name."""
MAX_PIXELS = 2**28
"""Larger pictures are refused: decoded, they take over 800 MB, and a file of a few bytes can claim any size."""
MAX_BYTES = 2**31
"""Larger files are refused: a picture of MAX_PIXELS with 16 bits a channel takes less."""

_HEAD = 1 << 14  # bytes; more than most metadata with a thumbnail takes
_MOST_EXIF = 1 << 23  # bytes; libpng takes chunks up to about this length
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TIFF_ORDER = {b"II": "<", b"MM": ">"}
_TIFF_MARK = 42
_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112  # TIFF tags
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG markers SOF0..SOF15 without DHT, JPG, DAC
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})  # JPEG markers without a length


class ImageError(ValueError):
    """The file is not a complete, readable image."""


class ImageTooLargeError(ImageError):
    """The file claims more than MAX_PIXELS."""


class ImageHeader(NamedTuple):
    """Height and width in pixels after the file's orientation is applied, and that orientation.

    `orientation` is EXIF's number 1..8. 1 is upright; from 5 on, the stored width and height are swapped.
    """

    height: int
    width: int
    orientation: int = 1


def read_image_header(path: str) -> ImageHeader:
    """Read the header of a JPEG or PNG file (other formats are decoded), and check that the file is complete.

    Raises:
        ImageError: not an image, an incomplete one, or one of more than MAX_PIXELS.
        OSError: the file cannot be opened.
    """
    try:
        file = open_input(path, limit=MAX_BYTES)
    except InputError as error:
        raise ImageError(str(error)) from None
    try:
        head = os.read(file, _HEAD)
        if head[:3] == b"\xff\xd8\xff":
            return _jpeg(file, head)
        if head[:8] == _PNG_SIGNATURE:
            return _png(file, head)
        if not head:
            raise ImageError("the file is empty")
        return _decoded(head + read_rest(file))
    finally:
        os.close(file)


def read_jpeg_header(data: bytes) -> ImageHeader | None:
    """The header of a JPEG in memory, None for other bytes. Raises ImageError without a frame or with a bad size."""
    if data[:3] != b"\xff\xd8\xff":
        return None
    frame = _jpeg_frame(data)
    if frame is None:
        raise ImageError("JPEG without a frame header")
    return frame[0]


def check_claimed_size(data: bytes) -> None:
    """Check the size that a picture in memory claims before it is decoded; damaged ones are left to the decoder.

    Raises:
        ImageTooLargeError: more than MAX_PIXELS.
    """
    try:
        if data[:3] == b"\xff\xd8\xff":
            _jpeg_frame(data)
        elif data[:8] == _PNG_SIGNATURE and len(data) >= 24:
            width, height = struct.unpack_from(">II", data, 16)
            _upright(height, width, 1, "PNG")
        elif (stored := _claimed(data)[0]) is not None:
            _upright(*stored, 1, "image")
    except ImageTooLargeError:
        raise
    except ImageError:
        pass


def _upright(height: int, width: int, orientation: int, kind: str) -> ImageHeader:
    """The header of a picture stored with `height` and `width`; raises ImageError for impossible sizes."""
    if height < 1 or width < 1:
        raise ImageError(f"{kind} of {width}x{height} pixels")
    if height * width > MAX_PIXELS:
        raise ImageTooLargeError(f"{kind} of {width}x{height} pixels; at most {MAX_PIXELS // 10**6} million are taken")
    return ImageHeader(width, height, orientation) if orientation >= 5 else ImageHeader(height, width, orientation)


def _jpeg(file: int, head: bytes) -> ImageHeader:
    frame = _jpeg_frame(head)
    if frame is None:  # long metadata in front of the frame
        head += read_rest(file)
        frame = _jpeg_frame(head)
    if frame is None:
        raise ImageError("JPEG without a frame header")
    header, position = frame
    # Some cameras append data to the picture. Thumbnails have an end marker too, but lie before the frame.
    os.lseek(file, -2, os.SEEK_END)
    if os.read(file, 2) != b"\xff\xd9":
        os.lseek(file, position, os.SEEK_SET)
        if b"\xff\xd9" not in read_rest(file):
            raise ImageError("JPEG is cut short: no end marker")
    return header


def _jpeg_frame(data: bytes) -> tuple[ImageHeader, int] | None:
    """Walk the segments to the frame header (ITU T.81, B.2.2); None where `data` ends before it."""
    position, orientation = 2, None
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            raise ImageError(f"JPEG segment expected at byte {position}")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _BARE_MARKERS:
            position += 2
        elif marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return _upright(height, width, orientation or 1, "JPEG"), position
        else:
            length = struct.unpack_from(">H", data, position + 2)[0]
            exif = marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0"
            if exif and orientation is None:  # the decoder looks at the first segment only
                orientation = _orientation(data[position + 10 : position + 2 + length], any_order=True)
            position += 2 + length
    return None


def _orientation(tiff: bytes, *, any_order: bool = False) -> int:
    """EXIF's orientation, read as OpenCV does: the first entry, whatever its type; 1 for metadata that it refuses.

    Args:
        any_order: take an unknown mark of the byte order for the one of big numbers first, as it does in JPEGs.
    """
    order = _TIFF_ORDER.get(tiff[:2], ">" if any_order else None)
    if order is None:
        return 1
    try:
        mark, start = struct.unpack_from(order + "HI", tiff, 2)
        count = struct.unpack_from(order + "H", tiff, start)[0] if mark == _TIFF_MARK else 0
        for entry in range(count):
            if struct.unpack_from(order + "H", tiff, start + 2 + 12 * entry)[0] == _ORIENTATION:
                value = struct.unpack_from(order + "H", tiff, start + 10 + 12 * entry)[0]
                return value if 1 <= value <= 8 else 1
    except struct.error:  # damaged metadata does not make the picture unreadable
        pass
    return 1


def _tiff_tags(tiff: bytes) -> dict[int, int]:
    """Tag -> value of the whole numbers in the first directory of TIFF data (TIFF 6.0); EXIF has the same form."""
    order, tags = _TIFF_ORDER.get(tiff[:2]), {}
    if order is None:
        return tags
    try:
        start = struct.unpack_from(order + "I", tiff, 4)[0]
        for entry in range(struct.unpack_from(order + "H", tiff, start)[0]):
            tag, kind = struct.unpack_from(order + "HH", tiff, start + 2 + 12 * entry)
            if kind in (3, 4):  # SHORT, LONG
                tags[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), tiff, start + 10 + 12 * entry)[0]
    except struct.error:  # damaged metadata does not make the picture unreadable
        pass
    return tags


def _png(file: int, head: bytes) -> ImageHeader:
    """Walk the chunks (W3C PNG, 5.3): size from IHDR, orientation from eXIf, complete with IEND."""
    if len(head) < 33 or head[12:16] != b"IHDR":
        raise ImageError("PNG without a header")
    width, height = struct.unpack_from(">II", head, 16)
    position, orientation = 33, None
    while True:
        if position + 12 <= len(head):
            chunk = head[position : position + 8]
        else:
            os.lseek(file, position, os.SEEK_SET)
            chunk = os.read(file, 8)
        if len(chunk) < 8:
            raise ImageError("PNG is cut short: no end chunk")
        length, kind = struct.unpack(">I4s", chunk)
        if kind == b"IEND":
            return _upright(height, width, orientation or 1, "PNG")
        if kind == b"eXIf" and orientation is None and length <= _MOST_EXIF:
            os.lseek(file, position + 8, os.SEEK_SET)
            content = os.read(file, length + 4)
            intact = zlib.crc32(kind + content[:length]) == int.from_bytes(content[length:], "big")
            orientation = _orientation(content[:length]) if intact else None  # as libpng, which drops damaged ones
        position += 12 + length


def _decoded(data: bytes) -> ImageHeader:
    """Other formats are decoded; before, the claimed size is checked where a small file can claim a large one.

    The decoder turns WebP and TIFF pictures by their metadata. The result tells what it did.
    """
    stored, orientation = _claimed(data)
    if stored is not None:
        _upright(*stored, 1, "image")
    image = _imdecode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise ImageError("not an image that OpenCV can read")
    shape = image.shape[:2]
    if orientation >= 5:
        plain = stored
        if data[:4] == b"RIFF":
            untouched = _imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            plain = None if untouched is None else untouched.shape[:2]
        if plain is None or shape != (plain[1], plain[0]):
            orientation = 1  # the decoder did not turn it
    height, width = (shape[1], shape[0]) if orientation >= 5 else shape
    return _upright(height, width, orientation, "image")


def _imdecode(data: bytes, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error:
        return None


def _claimed(data: bytes) -> tuple[tuple[int, int] | None, int]:
    """(height, width) as stored, None where only decoding tells, and the orientation that the metadata ask for."""
    if data[:2] == b"BM" and len(data) >= 26:
        width, height = struct.unpack_from("<ii", data, 18)
        return (abs(height), abs(width)), 1
    if data[:2] in _TIFF_ORDER:
        tags = _tiff_tags(data)
        return (tags.get(_HEIGHT, 1), tags.get(_WIDTH, 1)), _orientation(data)
    if data[:4] == b"GIF8" and len(data) >= 10:
        width, height = struct.unpack_from("<HH", data, 6)
        return (height, width), 1
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return None, _orientation(_webp_exif(data))
    place = data.find(b"ispe", 0, _HEAD)
    if data[4:8] == b"ftyp" and 0 < place <= len(data) - 16:  # ISO/IEC 23008-12, 6.5.3: the size of an AVIF picture
        width, height = struct.unpack_from(">II", data, place + 8)
        return (height, width), 1
    return None, 1


def _webp_exif(data: bytes) -> bytes:
    """The metadata of a WebP file (RFC 9649, 2.7): the first chunk `EXIF`; empty if there is none."""
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            return data[position + 8 : position + 8 + length].removeprefix(b"Exif\0\0")
        position += 8 + length + length % 2
    return b""
