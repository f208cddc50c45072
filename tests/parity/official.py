"""Networks described by the official configuration values that a golden file carries."""

from __future__ import annotations

from yolov6core.models.detector import Detector, build_detector
from yolov6core.models.variants import ModelSpec

BLOCK_OF_MODE = {"repopt": "repopt", "hyper_search": "scaled", "repvgg": "repvgg"}


def supported(meta: dict) -> bool:
    """Whether the network family of a golden file exists here."""
    config = meta["model_config"]
    return (
        config["backbone"]["type"] == "EfficientRep"
        and config["neck"]["type"] == "RepPANNeck"
        and meta["training_mode"] in BLOCK_OF_MODE
        and not meta.get("build_options")
        and not config["head"]["use_dfl"]
    )


def spec_from_config(config: dict) -> ModelSpec:
    """A ModelSpec from the official `model` section."""
    return ModelSpec(
        depth=config["depth_multiple"],
        width=config["width_multiple"],
        backbone_channels=tuple(config["backbone"]["out_channels"]),
        backbone_repeats=tuple(config["backbone"]["num_repeats"][1:]),
        neck_channels=tuple(config["neck"]["out_channels"]),
        neck_repeats=tuple(config["neck"]["num_repeats"]),
        strides=tuple(config["head"]["strides"]),
    )


def build_from_meta(meta: dict) -> Detector:
    """The network of a golden file, in its training form."""
    return build_detector(
        spec_from_config(meta["model_config"]),
        num_classes=meta["num_classes"],
        block=BLOCK_OF_MODE[meta["training_mode"]],
    )
