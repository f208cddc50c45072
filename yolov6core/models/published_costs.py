"""Cost of every variant at 80 classes and 640 pixels, stored because counting takes half a minute (a test compares)."""

from __future__ import annotations

CLASSES, SIDE = 80, 640
COSTS: dict[str, tuple[int, float]] = {
    "yolov6n": (4646940, 11.3160),
    "yolov6s": (18537276, 44.9667),
    "yolov6m": (34855900, 85.0858),
    "yolov6l": (59607484, 149.4663),
    "yolov6n6": (10373936, 12.3329),
    "yolov6s6": (41394448, 49.0254),
    "yolov6m6": (79640048, 93.8183),
    "yolov6l6": (140359248, 166.4573),
    "yolov6n_v2": (4317212, 11.0408),
    "yolov6t_v2": (9695532, 24.7302),
    "yolov6s_v2": (17220412, 43.8657),
    "yolov6n_base": (4661468, 11.3619),
    "yolov6s_base": (13166588, 30.1687),
    "yolov6m_base": (28332348, 71.4805),
    "yolov6l_base": (59607484, 149.4663),
    "yolov6n_qa": (4646940, 11.3160),
    "yolov6s_qa": (18537276, 44.9667),
    "yolov6m_qa": (34855900, 85.0858),
    "yolov6s_mbla": (11608988, 29.4347),
    "yolov6m_mbla": (26059404, 65.9362),
    "yolov6l_mbla": (46273916, 116.9605),
    "yolov6x_mbla": (78829308, 197.7008),
    "yolov6_lite_s": (546790, 2.1736),
    "yolov6_lite_m": (778733, 2.5799),
    "yolov6_lite_l": (1084557, 3.3666),
    "test": (176092, 0.4894),
}
"""Variant -> parameters and 1e9 operations of the deployed network."""
