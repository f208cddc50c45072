"""Quantizers in a traced network: insertion, dialects, and which layers are quantized.

A quantized model is a GraphModule with the parameter names of the original network (a transposed convolution that
becomes a `PixelUpsampling` gets `.conv` behind its name). Every Conv2d is a QuantConv2d. Every scale group has one
ActivationQuantizer at `ranges.<group>`, which the graph calls at each `QuantizerPlacement` of the group. State dicts
therefore have the same keys in every dialect and for every choice of float layers.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

from torch import fx, nn

from yolov6core.base.saturation import CpuSums
from yolov6core.quant.fake_quant import ActivationQuantizer, QuantConv2d
from yolov6core.quant.folding import drop_identities_, folded
from yolov6core.quant.graph_ops import Kind, activation_quantizers, is_last, kind_of, quant_conv
from yolov6core.quant.placement import QuantizerPlacement, insert_placements_, plan_placements, remove_quantizers_
from yolov6core.quant.scale_groups import ScaleGroups, find_groups
from yolov6core.quant.spec import Dialect, dialect
from yolov6core.quant.upsampling import split_upsampling_


@dataclass(frozen=True)
class QuantState:
    """Description of a quantized model, kept in its `meta["quant"]`."""

    dialect: Dialect
    groups: ScaleGroups
    predictions: frozenset[str]
    """Convolutions whose result leaves the network."""
    float_layers: frozenset[str]
    """Convolutions that are not quantized; prediction convolutions are among them by default."""
    placements: tuple[QuantizerPlacement, ...]
    cpu: CpuSums
    """How the target CPUs add products."""

    @property
    def paired(self) -> bool:
        """Whether weights keep the sums of pairs within 16 bits."""
        return self.dialect.on_cpu and self.cpu == "saturating"


class QuantizedModel(fx.GraphModule):
    """GraphModule whose copies keep the quantizers that the present dialect does not call."""

    ranges: nn.ModuleDict

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantizedModel:
        copied = cast("QuantizedModel", super().__deepcopy__(memo))
        copied.ranges = copy.deepcopy(self.ranges, memo)
        return copied


def insert_quantizers(
    model: nn.Module,
    *,
    keep_float: Callable[[str, nn.Module], bool] | None = None,
    quantize_predictions: bool = False,
    dialect_name: str = "trt",
    cpu: CpuSums = "exact",
) -> QuantizedModel:
    """Trace `model` and insert uncalibrated quantizers into the result; `model` itself does not change.

    Args:
        model: any network of convolutions that torch.fx traces: a deployed Detector, or one with batch norm in
            evaluation form, which is folded here.
        keep_float: (module path, Conv2d) -> whether this convolution stays float.
        quantize_predictions: whether convolutions whose result leaves the network are quantized as well.
        dialect_name: key of `spec.DIALECTS`.
        cpu: how the target CPUs add products, for the dialects for CPUs; it stays when the dialect changes.

    Raises:
        ValueError: batch norm that cannot be folded, no Conv2d, an unknown dialect or kind of CPU.
    """
    chosen = dialect(dialect_name)
    if cpu not in get_args(CpuSums):
        raise ValueError(f"cpu is {cpu!r}; choose {' or '.join(get_args(CpuSums))}")
    root = folded(model)
    split_upsampling_(root)
    traced = QuantizedModel(root, fx.Tracer().trace(root), class_name="QuantizedModel")
    traced.train(model.training)
    drop_identities_(traced)
    convolutions = [node for node in traced.graph.nodes if kind_of(node, traced) is Kind.CONV]
    if not convolutions:
        raise ValueError("the network has no Conv2d, so there is nothing to quantize")
    groups = find_groups(traced.graph, traced)
    predictions = frozenset(str(node.target) for node in convolutions if is_last(node, traced))
    floats = frozenset() if quantize_predictions else predictions
    for name in dict.fromkeys(str(node.target) for node in convolutions):
        conv = traced.get_submodule(name)
        assert isinstance(conv, nn.Conv2d), "kind_of said so"
        if keep_float is not None and keep_float(name, conv):
            floats |= {name}
        traced.set_submodule(name, QuantConv2d.from_float(conv))
    traced.add_module("ranges", nn.ModuleDict({name: ActivationQuantizer(chosen.grid) for name in groups.sources}))
    traced.ranges.to(next(traced.parameters()).device)
    traced.meta["quant"] = QuantState(chosen, groups, predictions, floats, (), cpu)
    return _apply_(traced, dialect=chosen, float_layers=floats)


def state_of(gm: fx.GraphModule) -> QuantState:
    """State of a quantized model; raises ValueError for any other module."""
    if "quant" not in getattr(gm, "meta", {}):
        raise ValueError(f"{type(gm).__name__} has no quantizers; call insert_quantizers first")
    return gm.meta["quant"]


def set_dialect_(gm: QuantizedModel, name: str) -> QuantizedModel:
    """Switch to another dialect (key of `spec.DIALECTS`), in place. Weights, ranges and float layers stay.

    Raises:
        ValueError: unknown dialect, or scales that are being learned, as they belong to the present grid.
    """
    if any(quantizer.step is not None for quantizer in activation_quantizers(gm).values()):
        raise ValueError("scales are being learned on the present dialect's grid; call fix_ranges_ before switching")
    return _apply_(gm, dialect=dialect(name), float_layers=state_of(gm).float_layers)


def set_float_layers_(gm: QuantizedModel, names: Iterable[str]) -> QuantizedModel:
    """Leave exactly these convolutions float and quantize all others, in place.

    Raises:
        ValueError: a name that is no convolution of the model.
    """
    chosen, known = frozenset(names), convolution_names(gm)
    unknown = sorted(chosen - set(known))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no such convolution; the model has {', '.join(known)}")
    return _apply_(gm, dialect=state_of(gm).dialect, float_layers=chosen)


def _apply_(gm: QuantizedModel, *, dialect: Dialect, float_layers: frozenset[str]) -> QuantizedModel:
    state = state_of(gm)
    remove_quantizers_(gm.graph, gm)
    placements = plan_placements(gm.graph, gm, groups=state.groups, dialect=dialect, float_layers=float_layers)
    insert_placements_(gm.graph, placements)
    gm.graph.lint()
    gm.recompile()
    for quantizer in activation_quantizers(gm).values():
        quantizer.grid = dialect.grid
        quantizer.refresh_()
    state = gm.meta["quant"] = replace(state, dialect=dialect, float_layers=float_layers, placements=tuple(placements))
    for name in convolution_names(gm):
        conv = quant_conv(gm, name)
        conv.active, conv.paired = name not in float_layers, state.paired
        if conv.export_scale is not None:
            conv.prepare_export_()
    return gm


def convolution_names(gm: QuantizedModel) -> list[str]:
    """Module paths of all convolutions, in order of execution."""
    targets = (str(node.target) for node in gm.graph.nodes if kind_of(node, gm) is Kind.CONV)
    return list(dict.fromkeys(targets))


def quantized_convolutions(gm: QuantizedModel) -> list[QuantConv2d]:
    """All convolutions, the float ones too, in order of execution."""
    modules = (gm.get_submodule(name) for name in convolution_names(gm))
    return [module for module in modules if isinstance(module, QuantConv2d)]


def quantizable_names(gm: QuantizedModel) -> list[str]:
    """Module paths of the convolutions that are quantized by default: all but the prediction convolutions."""
    predictions = state_of(gm).predictions
    return [name for name in convolution_names(gm) if name not in predictions]


@contextlib.contextmanager
def quantizers_off(gm: QuantizedModel) -> Iterator[None]:
    """Run the float network inside this context: no activation and no weight is rounded."""
    modules = [module for module in gm.modules() if isinstance(module, ActivationQuantizer | QuantConv2d)]
    before = [module.enabled for module in modules]
    try:
        for module in modules:
            module.enabled = False
        yield
    finally:
        for module, enabled in zip(modules, before, strict=True):
            module.enabled = enabled


def get_ranges(gm: QuantizedModel) -> dict[str, tuple[float, float]]:
    """Group name -> (amin, amax); NaN if not calibrated."""
    return {name: (float(module.amin), float(module.amax)) for name, module in activation_quantizers(gm).items()}


def uncalibrated(gm: QuantizedModel) -> list[str]:
    """Names of the groups that the present dialect quantizes and that have no range."""
    placed, ranges = {placement.group for placement in state_of(gm).placements}, get_ranges(gm)
    return sorted(name for name in placed if math.isnan(ranges[name][1]))


def set_ranges_(gm: QuantizedModel, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Set the real range of every scale group, in place.

    Raises:
        ValueError: the groups are not exactly those of the model, or a range is not a finite interval.
    """
    quantizers = activation_quantizers(gm)
    missing, unknown = set(quantizers) - set(ranges), set(ranges) - set(quantizers)
    if missing or unknown:
        raise ValueError(
            f"ranges do not fit this network: missing {sorted(missing)}, unknown {sorted(unknown)}; calibrate it again"
        )
    for name, (amin, amax) in ranges.items():
        try:
            quantizers[name].set_(amin, amax)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def freeze_weight_ranges_(gm: QuantizedModel) -> None:
    """Keep the present weight ranges, for trainings that move weights on fixed grids."""
    for name in convolution_names(gm):
        quant_conv(gm, name).freeze_ranges_()


def learn_ranges_(gm: QuantizedModel) -> None:
    """Make the scales of activations and weights parameters with LSQ's gradient (1902.08153), until `fix_ranges_`.

    Until then the state dict has the parameters `ranges.<group>.step` and `<convolution>.weight_step`.

    Raises:
        ValueError: a range is not calibrated.
    """
    for module in _learning_modules(gm):
        module.learn_()


def fix_ranges_(gm: QuantizedModel) -> None:
    """End `learn_ranges_`: scales become ranges again, frozen for weights. Does nothing if no scale is learned."""
    if any(quantizer.step is not None for quantizer in activation_quantizers(gm).values()):
        for module in _learning_modules(gm):
            module.fix_()
        for name in state_of(gm).float_layers:
            quant_conv(gm, name).freeze_ranges_()  # so that one stored flag holds for all convolutions


def _learning_modules(gm: QuantizedModel) -> list[ActivationQuantizer | QuantConv2d]:
    """All activation quantizers and the convolutions that are quantized now."""
    floats = state_of(gm).float_layers
    convolutions = [quant_conv(gm, name) for name in convolution_names(gm) if name not in floats]
    return [*activation_quantizers(gm).values(), *convolutions]


def ready_for_export_(gm: QuantizedModel) -> QuantizedModel:
    """Make weight ranges constants of the graph and clamp weights to them, in place; the outputs do not change."""
    fix_ranges_(gm)
    for name in convolution_names(gm):
        quant_conv(gm, name).prepare_export_()
    gm.eval()
    return gm


@dataclass(frozen=True)
class LayerRow:
    """A convolution for reports and exporters; ranges, scale and zero point are those of its input."""

    name: str
    quantized: bool
    prediction: bool
    input_group: str
    amin: float
    amax: float
    input_scale: float | None
    zero_point: int


def describe(gm: QuantizedModel) -> list[LayerRow]:
    """One row per convolution in the present dialect, in order of execution."""
    state, quantizers = state_of(gm), activation_quantizers(gm)
    rows: dict[str, LayerRow] = {}
    for node in gm.graph.nodes:
        if kind_of(node, gm) is not Kind.CONV:
            continue
        name, value = str(node.target), node.all_input_nodes[0]
        if kind_of(value, gm) is Kind.ACTIVATION_QUANTIZER:
            value = value.all_input_nodes[0]
        group = state.groups.group_of[value.name]
        quantizer = quantizers[group]
        rows[name] = LayerRow(
            name=name,
            quantized=name not in state.float_layers,
            prediction=name in state.predictions,
            input_group=group,
            amin=float(quantizer.amin),
            amax=float(quantizer.amax),
            input_scale=quantizer.scale,
            zero_point=quantizer.zero_point,
        )
    return list(rows.values())
