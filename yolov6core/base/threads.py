"""How many threads torch and OpenCV use."""

from __future__ import annotations

import os

import cv2
import torch


def set_threads(threads: int) -> int:
    """Give torch `threads` threads (0: all cores) and OpenCV one; returns the number in use.

    The thread count changes the order of floating-point sums, so weights are byte-identical only for equal counts.
    """
    count = threads or os.cpu_count() or 1
    torch.set_num_threads(count)
    cv2.setNumThreads(1)
    return count
