"""Weights from elsewhere: official checkpoints, published tensors, our own files; matched tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from yolov6core.base.checkpoint import is_own, load_checkpoint
from yolov6core.base.errors import UserError
from yolov6core.models.blocks import deploy_
from yolov6core.models.card import CardError, NetworkCard
from yolov6core.models.detector import Detector, build_detector
from yolov6core.models.variants import VARIANTS, ModelSpec
from yolov6core.pretrained.infer_spec import explicit, infer_spec
from yolov6core.pretrained.official_file import read_official_checkpoint
from yolov6core.pretrained.official_names import from_official

CLASS_LAYERS = "head.cls_preds.*"
"""The tensors that a change of the class count makes anew."""
AUX_HEAD = "head.aux_head."
"""Prefix of the tensors that only some trainings need; a file may hold them without being asked for them."""

WRAPPERS = ("module", "_orig_mod")
"""Names that DataParallel, DistributedDataParallel, AveragedModel and torch.compile put around modules."""
ALIKE = {
    "plain": ("repopt", "conv_relu", "conv_silu", "conv_hardswish"),
    "repvgg": ("repvgg",),
    "qarepvgg": ("qarepvggv2", "qarepvgg"),
    "scaled": ("scaled",),
    "dbb": ("dbb",),
}
"""Block forms that have the same tensors."""
OFFICIAL_BLOCKS = {
    "ConvBNReLU": "conv_relu",
    "ConvBNSiLU": "conv_silu",
    "RealVGGBlock": "repopt",
    "LinearAddBlock": "scaled",
    "RepVGGBlock": "repvgg",
    "QARepVGGBlock": "qarepvgg",
    "QARepVGGBlockV2": "qarepvggv2",
}
"""Block forms by the names that classes have in official files."""


@dataclass(frozen=True)
class GivenWeights:
    """What a file holds, under our names.

    Attributes:
        path: the file.
        tensors: float32 (counters int64), in our names.
        found: one line for people about the file.
        names: class names, where the file says them.
        block: form of the 3x3 blocks, where the file says it.
    """

    path: Path
    tensors: dict[str, Tensor]
    found: str
    names: tuple[str, ...] | None = None
    block: str | None = None

    @property
    def deployed(self) -> bool:
        """Whether batch norm is folded: good for use and for quantization, not for training."""
        return not any(name.endswith(".running_mean") for name in self.tensors)

    @property
    def num_classes(self) -> int:
        """Class count, read off the prediction layers."""
        return self.tensors["head.cls_preds.0.bias"].shape[0]

    @property
    def blocks(self) -> str:
        """Form of the 3x3 blocks as far as tensors tell: `repvgg`, `qarepvgg`, `scaled`, `dbb` or `plain`."""
        if "backbone.stem.mean_bn.weight" in self.tensors:
            return "dbb"
        if "backbone.stem.pointwise.conv.weight" in self.tensors:
            return "repvgg"
        if "backbone.stem.scale_conv.weight" in self.tensors:
            return "scaled"
        return "qarepvgg" if "backbone.stem.pointwise.weight" in self.tensors else "plain"

    @property
    def aux_head(self) -> str:
        """The auxiliary head that the file holds, see `detector.AUX_HEADS`."""
        if any(name.startswith(f"{AUX_HEAD}cls_preds.") for name in self.tensors):
            return "anchors"
        return "distribution" if any(name.startswith(AUX_HEAD) for name in self.tensors) else "none"


def read_weights(path: Path) -> GivenWeights:
    """Read `.pt` files of the official trainer, and `.safetensors` under our names or the official ones.

    Raises:
        UserError: no such file, or one that holds no detector.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the path of a .pt or .safetensors file")
    try:
        given = _safetensors(path) if path.suffix == ".safetensors" else _official(path)
    except ValueError as error:
        raise UserError(str(error)) from None
    tensors = _unwrapped(path, given.tensors)
    if any(name.startswith("detect.") for name in tensors):
        tensors = from_official(tensors)
    if "head.cls_preds.0.bias" not in tensors or tensors["head.cls_preds.0.bias"].ndim != 1:
        raise UserError(
            f"{path} holds {len(tensors)} tensors, but no YOLOv6 detector (head.cls_preds.0.bias is missing)"
        )
    tensors = {name: values.float() if values.is_floating_point() else values for name, values in tensors.items()}
    _refuse_nan(path, tensors)
    return replace(given, tensors=tensors)


def _unwrapped(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the names that data-parallel training, averaging and torch.compile put around modules.

    Raises:
        UserError: two tensors have one name then.
    """
    found: dict[str, Tensor] = {}
    wrapped = any(part in WRAPPERS for name in tensors for part in name.split("."))
    for name, values in tensors.items():
        bare = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if wrapped and name == "n_averaged":
            continue
        if bare in found:
            raise UserError(
                f"{path} holds {bare} twice, with and without {' or '.join(WRAPPERS)}; save one network only"
            )
        found[bare] = values
    if found and all(name.startswith("model.") for name in found):
        found = {name.removeprefix("model."): values for name, values in found.items()}
    return found


def _refuse_nan(path: Path, tensors: Mapping[str, Tensor]) -> None:
    broken = [name for name, values in tensors.items() if not bool(torch.isfinite(values).all())]
    if broken:
        raise UserError(
            f"{path}: {_counted(broken, 'tensors hold NaN or infinity')}; the training that made it has diverged: take "
            "an earlier checkpoint"
        )


def _official(path: Path) -> GivenWeights:
    file = read_official_checkpoint(path)
    part = "average" if "ema" in file.parts else "model"
    trained = "" if file.epoch is None else f", epoch {file.epoch}"
    found = f"official {file.kind} file, {part}{trained}"
    return GivenWeights(path, dict(file.weights), found, file.names, OFFICIAL_BLOCKS.get(file.block or ""))


def _safetensors(path: Path) -> GivenWeights:
    try:
        with safe_open(path, framework="pt") as handle:
            if not is_own(handle.metadata()):
                tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
                return GivenWeights(path, tensors, "plain tensors")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}); download it again") from error
    tensors, meta = load_checkpoint(path)
    try:
        card = checked_card(meta)
    except CardError as error:
        raise ValueError(f"{path}: {error}; train it again, or restore it") from None
    if card.quantization is not None:
        raise ValueError(f"{path} holds a quantized network; give the float one it came from")
    return GivenWeights(path, tensors, f"checkpoint of this project, variant {card.variant}", card.names, card.block)


def checked_card(meta: Mapping[str, Any]) -> NetworkCard:
    """The card of a file, its plain entries checked.

    Raises:
        CardError: an entry is missing or of another type.
    """
    names, size = meta.get("names"), meta.get("image_size")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise CardError(f"names are {str(names)[:100]}; a list of texts is needed")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise CardError(f"image_size is {str(size)[:100]}; two whole numbers are needed")
    for name in ("variant", "block", "aux_head"):
        if not isinstance(meta.get(name, ""), str):
            raise CardError(f"{name} is {str(meta[name])[:100]}; a text is needed")
    return NetworkCard.from_meta(meta)


@dataclass(frozen=True)
class Match:
    """How a file and a network went together.

    Attributes:
        matched: tensors taken from the file.
        new: tensors of the network that start afresh, as asked for.
        left_out: tensors of the file that the network does not need.
    """

    matched: int
    new: tuple[str, ...]
    left_out: tuple[str, ...]


def load_weights_(
    network: nn.Module,
    given: GivenWeights,
    *,
    block: str | None = None,
    reinit: Sequence[str] = (),
    where: str = "train.weights",
) -> Match:
    """Copy a file's tensors into a network; all of them, but for those named to be new.

    Args:
        network: in the form of the file: deployed, if that is.
        block: form of the network's 3x3 blocks, checked where tensors alone could not tell a wrong one.
        reinit: shell patterns of tensors that keep their fresh values, such as `head.cls_preds.*`.
        where: the parameter that named the file, for messages.

    Raises:
        UserError: anything does not fit; the message counts what does and shows what does not.
    """
    if given.block is not None and block is not None and _confused(block, given.block):
        raise UserError(
            f"{where}: the blocks of {given.path} are {given.block}, which has the tensors of {block} and computes "
            f"something else; set train.block to {given.block}"
        )
    own = network.state_dict()
    for pattern in reinit:
        if not any(fnmatchcase(name, pattern) for name in own):
            raise UserError(f"train.reinit: {pattern!r} fits no tensor of the network; try {CLASS_LAYERS!r}")
    new = {name for name in own if any(fnmatchcase(name, pattern) for pattern in reinit)}
    unknown = given.tensors.keys() - own.keys()
    left_out = {name for name in unknown if name.startswith(AUX_HEAD)}
    shared = (given.tensors.keys() & own.keys()) - new
    misshaped = {name for name in shared if given.tensors[name].shape != own[name].shape}
    missing = own.keys() - new - given.tensors.keys()
    if misshaped or missing or unknown - left_out:
        raise UserError(
            f"{where}: {given.path} does not fit: {len(shared - misshaped)} of the network's {len(own)} tensors match, "
            f"{_counted(missing, 'are not in the file')}, {_counted(unknown - left_out, 'of the file are unknown')}, "
            f"{_counted(misshaped, 'have another shape')}. The file holds {given.num_classes} classes and fits "
            f"{_fitting(given)}; for another class count set train.reinit to ['{CLASS_LAYERS}']"
        )
    network.load_state_dict({name: given.tensors[name] for name in shared}, strict=False)
    return Match(len(shared), tuple(sorted(new)), tuple(sorted(left_out | (given.tensors.keys() & new))))


def _confused(block: str, other: str) -> bool:
    """Whether two block forms have the same tensors and not the same function."""
    one_network = {"repopt", "conv_relu"}
    return (
        block != other and not {block, other} <= one_network and any({block, other} <= set(g) for g in ALIKE.values())
    )


def _counted(names: Iterable[str], what: str) -> str:
    names = sorted(names)
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {what}" + (f" ({shown})" if names else "")


def _fitting(given: GivenWeights) -> str:
    found = fitting_variants(given)
    return " or ".join(f"model.variant {name} with train.block {block}" for name, block in found) or "no known variant"


def fitting_variants(given: GivenWeights) -> list[tuple[str, str]]:
    """(variant, block form) of every network of the table that has the numbers of a file.

    Some differ in nothing that tensors show (ReLU or SiLU): then there are several.
    """
    try:
        numbers = explicit(infer_spec(given.tensors))
    except ValueError:  # no detector at all
        return []
    alike = [(name, spec.block) for name, spec in VARIANTS.items() if explicit(spec) == numbers]
    # QARepVGG networks, for one, have the numbers of others and are told from them by their blocks.
    same_blocks = [(name, block) for name, block in alike if block in ALIKE[given.blocks]]
    if given.block is not None:
        same_blocks = [(name, block) for name, block in same_blocks if block == given.block] or same_blocks
    found = alike if given.deployed else same_blocks or alike
    return [(name, block_for(given, published)) for name, published in found]


def block_for(given: GivenWeights, published: str) -> str:
    """The block form of a file, for a variant whose published form is `published`."""
    if given.block is not None:
        return given.block
    choices = ALIKE[given.blocks]
    return published if given.deployed or published in choices else choices[0]


def empty_network(spec: ModelSpec, block: str, given: GivenWeights) -> Detector:
    """A network in the form of a file: its class count, its auxiliary head, deployed if it is."""
    network = build_detector(spec, num_classes=given.num_classes, block=block, aux_head=given.aux_head)
    if given.deployed:
        deploy_(network.eval())
    return network
