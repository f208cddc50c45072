"""What a checkpoint says of its network: one frozen, typed object, and its form in the file's metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_args

from yolov6core.base.saturation import CpuSums
from yolov6core.models.head import AUX_REG_MAX
from yolov6core.models.variants import ModelSpec, variant

WEIGHT_RANGES = ("follow", "frozen")
"""Weight ranges follow the weights, or keep the values that calibration gave them."""


class CardError(ValueError):
    """Metadata that describe no network of this project; the message names the entry."""


@dataclass(frozen=True)
class QuantizationCard:
    """How a network was quantized.

    Attributes:
        method: how the activation ranges came about, such as `mse` or `percentile_99.99`.
        dialect: the integer grid that the ranges were chosen on: `trt`, `openvino` or `ort`.
        cpu: integer sums of the CPUs that it is for: `exact` or `saturating`.
        float_layers: module paths of the convolutions that are not quantized, sorted.
        weight_ranges: one of `WEIGHT_RANGES`.
    """

    method: str
    dialect: str = "trt"
    cpu: CpuSums = "exact"
    float_layers: tuple[str, ...] = ()
    weight_ranges: str = "follow"


@dataclass(frozen=True)
class NetworkCard:
    """What is needed to build a network and to use it.

    Attributes:
        spec: the numbers of the network.
        variant: its name in the table of variants.
        block: form of the 3x3 blocks, one of `rep_blocks.BLOCKS`.
        names: class names, in the order of the scores.
        image_size: (height, width) of the input in pixels.
        aux_head: what the head predicts beside its output in training, one of `detector.AUX_HEADS`.
        shrink: pixels of the grey frame around images, half of them a side.
        deployed: whether batch norm is folded in the stored tensors.
        quantization: None for a float network.
    """

    spec: ModelSpec
    variant: str
    block: str
    names: tuple[str, ...]
    image_size: tuple[int, int]
    aux_head: str = "none"
    shrink: int = 0
    deployed: bool = False
    quantization: QuantizationCard | None = None

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.names)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of each pyramid level."""
        return self.spec.strides

    @property
    def reg_max(self) -> int:
        """Last bin of the distance distribution that the network learns, in its output or its aux head; 0: none."""
        return AUX_REG_MAX if self.aux_head == "distribution" else self.spec.reg_max

    def to_meta(self) -> dict[str, Any]:
        """Plain JSON values for a checkpoint; `from_meta` reads them back."""
        meta: dict[str, Any] = {
            "model": self.spec.to_meta(),
            "variant": self.variant,
            "block": self.block,
            "aux_head": self.aux_head,
            "names": list(self.names),
            "image_size": list(self.image_size),
        }
        meta |= {"shrink": self.shrink} if self.shrink else {}
        meta |= {"deployed": True} if self.deployed else {}
        if self.quantization is not None:
            meta["quant"] = asdict(self.quantization) | {"float_layers": list(self.quantization.float_layers)}
        return meta

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> NetworkCard:
        """Read the metadata of a checkpoint.

        Raises:
            CardError: an entry is missing or wrong.
        """
        try:
            height, width = meta["image_size"]
            return cls(
                spec=ModelSpec.from_meta(meta["model"]),
                variant=meta.get("variant", "unnamed"),
                block=meta.get("block") or ModelSpec.from_meta(meta["model"]).block,
                names=tuple(meta["names"]),
                image_size=(height, width),
                aux_head=meta.get("aux_head", meta.get("branch", "none")),  # until 0.1 it was called branch
                shrink=meta.get("shrink", 0),
                deployed=meta.get("deployed", False),
                quantization=_quantization(meta["quant"]) if "quant" in meta else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CardError(f"the metadata describe no network ({type(error).__name__}: {error})") from error

    def quantized(self, quantization: QuantizationCard) -> NetworkCard:
        """The card of this network once it is quantized."""
        return replace(self, quantization=quantization)


def _quantization(meta: Mapping[str, Any]) -> QuantizationCard:
    known = {entry.name for entry in fields(QuantizationCard)}
    found = QuantizationCard(**{key: value for key, value in meta.items() if key in known})
    for name, allowed in (("weight_ranges", WEIGHT_RANGES), ("cpu", get_args(CpuSums))):
        if getattr(found, name) not in allowed:
            raise ValueError(f"{name} is {getattr(found, name)!r}; {' or '.join(allowed)} is allowed")
    return replace(found, float_layers=tuple(sorted(found.float_layers)))


def new_card(
    name: str,
    *,
    block: str = "published",
    aux_head: str = "none",
    names: tuple[str, ...],
    image_size: tuple[int, int],
    shrink: int = 0,
) -> NetworkCard:
    """The card of a network that is about to be built.

    Args:
        name: see `variants.VARIANTS`.
        block: form of the 3x3 blocks; `published`: the variant's own.

    Raises:
        ValueError: there is no such variant, or it does not take the image size.
    """
    spec = variant(name)
    coarsest = max(spec.strides)
    if any(side % coarsest for side in image_size):
        raise ValueError(f"image_size is {list(image_size)}; both sides have to be multiples of {coarsest} for {name}")
    return NetworkCard(
        spec=spec,
        variant=name,
        block=spec.block if block == "published" else block,
        names=names,
        image_size=image_size,
        aux_head=aux_head,
        shrink=shrink,
    )
