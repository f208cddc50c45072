"""Networks described by the official configuration values that a golden file carries."""

from __future__ import annotations

from yolov6core.models.detector import Detector, build_detector
from yolov6core.models.variants import LITE, ModelSpec

BLOCK_OF_MODE = {"hyper_search": "scaled", None: "conv_hardswish"}


def spec_from_config(config: dict, *, aux_head: str = "none") -> ModelSpec:
    """A ModelSpec from the official `model` section; the auxiliary head of small models keeps plain distances."""
    backbone, neck, head = config["backbone"], config["neck"], config["head"]
    common = {
        "width": config["width_multiple"],
        "backbone_channels": tuple(backbone["out_channels"]),
        "strides": tuple(head["strides"]),
        "iou_type": head["iou_type"],
    }
    if backbone["type"].startswith("Lite"):
        unified = (neck["unified_channels"],) * 2
        return ModelSpec(**{**vars(LITE), **common, "top_down": unified, "bottom_up": unified})
    levels = len(head["strides"])
    channels = tuple(neck["out_channels"])
    # the official list names the width of each downsampling as well where there are three levels
    bottom_up = channels[levels - 1 :] if levels == 4 else (channels[3], channels[5])
    stage = "csp" if backbone["type"].startswith("CSP") else "rep"
    return ModelSpec(
        **common,
        depth=config["depth_multiple"],
        stage="mbla" if backbone.get("stage_block_type") == "MBLABlock" else stage,
        csp_ratio=backbone.get("csp_e", 0.5),
        fusion="bifusion" if "BiFPAN" in neck["type"] else "concat",
        pool="csp_sppf" if backbone.get("cspsppf") else "sppf",
        backbone_repeats=tuple(backbone["num_repeats"][1:]),
        top_down=channels[: levels - 1],
        bottom_up=bottom_up,
        neck_repeats=neck["num_repeats"][0],
        reg_max=head["reg_max"] if head["use_dfl"] and aux_head != "distribution" else 0,
        anchors=tuple(tuple(level) for level in head.get("anchors_init", ())),
    )


def aux_head_of(options: dict) -> str:
    """The auxiliary head, from the options that the official network was built with."""
    if options.get("fuse_ab"):
        return "anchors"
    return "distribution" if options.get("distill_ns") else "none"


def build_from_meta(meta: dict) -> Detector:
    """The network of a golden file, in its training form."""
    mode = meta["training_mode"]
    aux_head = aux_head_of(meta.get("build_options") or {})
    return build_detector(
        spec_from_config(meta["model_config"], aux_head=aux_head),
        num_classes=meta["num_classes"],
        block=BLOCK_OF_MODE.get(mode, mode),
        aux_head=aux_head,
    )
