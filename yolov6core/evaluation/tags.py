"""Text in pictures: filled tags at boxes, drawn by Pillow, in sizes that follow the picture."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

Colour = tuple[int, int, int]
Tag = tuple[str, tuple[int, int], Colour]
"""Text, left and top of its box, and colour (BGR)."""
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
MAX_CHARACTERS = 60


@dataclass(frozen=True)
class Sizes:
    """Pixels of lines, text and the rim around text."""

    line: int
    text: int
    rim: int

    @classmethod
    def of(cls, picture: NDArray[Any]) -> Sizes:
        """For a picture [h, w, 3]: text of about a fortieth of its shorter side, never too small to read."""
        side = min(picture.shape[:2])
        text = max(10, round(side / 40))
        return cls(line=max(1, round(side / 320)), text=text, rim=max(1, round(text / 6)))


def write_tags(picture: NDArray[np.uint8], tags: Sequence[Tag], sizes: Sizes) -> NDArray[np.uint8]:
    """The picture, uint8 BGR [h, w, 3], with filled tags above their boxes, or inside where there is no room above.

    Pictures in which a tag would take more than a quarter get none: a network's input of 32 pixels, for one.
    """
    font = _font(sizes.text)
    height = sum(font.getmetrics()) + sizes.rim
    if not tags or 4 * height > min(picture.shape[:2]):
        return picture
    canvas = Pillow.fromarray(picture[..., ::-1])
    draw = ImageDraw.Draw(canvas)
    for text, (left, top), colour in tags:
        text = shown(text)
        width = round(draw.textlength(text, font=font)) + 2 * sizes.rim
        x = max(0, min(left - sizes.line // 2, canvas.width - width))
        y = top - height if top >= height else min(max(top, 0), max(canvas.height - height, 0))
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour[::-1])
        draw.text((x + sizes.rim, y + sizes.rim // 2), text, font=font, fill=_ink(colour))
    return np.ascontiguousarray(np.asarray(canvas)[..., ::-1])


def write_title(picture: NDArray[np.uint8], title: str, *, height: int) -> NDArray[np.uint8]:
    """The picture with black text in its first `height` rows."""
    canvas = Pillow.fromarray(picture[..., ::-1])
    font = _font(round(height * 0.6))
    ImageDraw.Draw(canvas).text((4, height / 2), shown(title), font=font, fill=(0, 0, 0), anchor="lm")
    return np.ascontiguousarray(np.asarray(canvas)[..., ::-1])


def shown(text: str) -> str:
    """One short line of text that can be drawn: no control characters, no ends of lines."""
    line = "".join(" " if unicodedata.category(letter).startswith(("C", "Z")) else letter for letter in str(text))
    return line if len(line) <= MAX_CHARACTERS else line[: MAX_CHARACTERS - 1] + "\u2026"


def _ink(colour: Colour) -> Colour:
    """Black on light colours (BGR), white on dark ones."""
    blue, green, red = colour
    return (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 140 else (255, 255, 255)


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT), size)
