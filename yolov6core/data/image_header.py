"""Size and health of image files from their first and last bytes, without decoding."""

from __future__ import annotations

import struct
from typing import BinaryIO, NamedTuple

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

_HEAD = 1 << 16
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG markers SOF0..SOF15 without DHT, JPG, DAC
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})  # JPEG markers without a length


class ImageError(ValueError):
    """The file is not a whole, readable image."""


class ImageHeader(NamedTuple):
    """Height and width in pixels as a decoder that obeys the file's orientation gives them, and that orientation.

    `orientation` is EXIF's number 1..8; 1 is upright, from 5 on the stored width and height are swapped.
    """

    height: int
    width: int
    orientation: int = 1


def read_image_header(path: str) -> ImageHeader:
    """Read the header of a JPEG or PNG file (other formats are decoded); also sees files that were cut short.

    Raises:
        ImageError: not an image, or an incomplete one.
        OSError: the file cannot be opened.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD)
        if head[:3] == b"\xff\xd8\xff":
            return _jpeg(file, head)
        if head[:8] == _PNG_SIGNATURE:
            return _png(file, head)
    if not head:
        raise ImageError("the file is empty")
    return _decoded(path)


def _jpeg(file: BinaryIO, head: bytes) -> ImageHeader:
    frame = _jpeg_frame(head)
    if frame is None:  # long metadata in front of the frame
        file.seek(0)
        head = file.read()
        frame = _jpeg_frame(head)
    if frame is None:
        raise ImageError("JPEG without a frame header")
    header, position = frame
    file.seek(-2, 2)
    # Some cameras append data to the picture; thumbnails, which end the same way, lie in front of the frame.
    if file.read() != b"\xff\xd9":
        file.seek(position)
        if b"\xff\xd9" not in file.read():
            raise ImageError("JPEG is cut short: no end marker")
    return header


def _jpeg_frame(data: bytes) -> tuple[ImageHeader, int] | None:
    """Walk the segments to the frame header (ITU T.81, B.2.2); None where `data` ends before it."""
    position, orientation = 2, 1
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
            if not height or not width:
                raise ImageError(f"JPEG of {width}x{height} pixels")
            size = (width, height) if orientation >= 5 else (height, width)
            return ImageHeader(*size, orientation), position
        else:
            length = struct.unpack_from(">H", data, position + 2)[0]
            if marker == 0xE1:
                orientation = _exif_orientation(data[position + 4 : position + 2 + length]) or orientation
            position += 2 + length
    return None


def _exif_orientation(segment: bytes) -> int | None:
    """Tag 0x0112 of the first directory of an EXIF segment; None where there is none."""
    if segment[:6] != b"Exif\0\0" or len(segment) < 16:
        return None
    tiff = segment[6:]
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return None
    try:
        start = struct.unpack_from(order + "I", tiff, 4)[0]
        for entry in range(struct.unpack_from(order + "H", tiff, start)[0]):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * entry)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else None
    except struct.error:  # damaged metadata does not make the picture unreadable
        return None
    return None


def _png(file: BinaryIO, head: bytes) -> ImageHeader:
    if len(head) < 33 or head[12:16] != b"IHDR":
        raise ImageError("PNG without a header")
    width, height = struct.unpack_from(">II", head, 16)
    if not height or not width:
        raise ImageError(f"PNG of {width}x{height} pixels")
    file.seek(-12, 2)
    if b"IEND" not in file.read():
        file.seek(33)
        if b"IEND" not in file.read():
            raise ImageError("PNG is cut short: no end chunk")
    return ImageHeader(height, width)


def _decoded(path: str) -> ImageHeader:
    import cv2

    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        raise ImageError("not an image that OpenCV can read")
    return ImageHeader(image.shape[0], image.shape[1])
