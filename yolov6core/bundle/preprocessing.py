"""What has to happen to a picture before the network sees it, in numbers and in words."""

from __future__ import annotations

from typing import Any

from yolov6core.data.transforms import GREY
from yolov6core.exchange.interface import Interface


def preprocessing(interface: Interface, size: tuple[int, int]) -> dict[str, Any]:
    """The contents of `preprocess.json`.

    Args:
        interface: of the file.
        size: (height, width) of its input.
    """
    pixels = interface.input == "uint8"
    return {
        "input": interface.input,
        "image_size": list(size),
        "shrink": interface.shrink,
        "grey": GREY[0],
        "colour_order": "BGR" if pixels else "RGB",
        "layout": "NHWC" if pixels else "NCHW",
        "data_type": "uint8" if pixels else "float32",
        "scale": 1 if pixels else 1 / 255,
        "mean": [0, 0, 0],
        "resize": {"smaller": "area average", "larger": "bilinear", "keeps_aspect_ratio": True},
        "place": "centre; an odd pixel of padding goes right or below",
        "steps": _steps(interface, size),
    }


def _steps(interface: Interface, size: tuple[int, int]) -> list[str]:
    height, width = size
    inside = f"{height - interface.shrink} x {width - interface.shrink}"
    frame = f", so that a grey frame of {interface.shrink / 2:g} pixels stays on each side" if interface.shrink else ""
    ends = [
        "Put the three colours in the order red, green, blue, as planes [3, height, width].",
        "Divide by 255. No mean is subtracted.",
    ]
    if interface.input == "uint8":
        ends = ["Leave the pixels as they are, blue, green, red, [height, width, 3]: the graph does the rest."]
    return [
        "Decode the picture to 8 bits a colour.",
        f"Scale it, with its aspect ratio, to the largest size that fits into {inside} (height x width){frame}. Round "
        "both sides to whole pixels. Average areas to make it smaller, interpolate linearly to make it larger.",
        f"Put it into the middle of a picture of {height} x {width} whose pixels are all {GREY[0]} (grey).",
        *ends,
        "Boxes are in pixels of this input: subtract the padding and divide by the scale to get pixels of the picture.",
    ]
