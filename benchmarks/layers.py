"""Time of each layer in float and in INT8, in OpenVINO and ONNX Runtime, by the runtimes' own counters.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/layers.py --variant yolov6n_v2 --size 640 --threads 2
    OMP_WAIT_POLICY=PASSIVE python benchmarks/layers.py --all

Float and INT8 networks of one runtime run in turns; the shortest time of each node counts, because interruptions only
add time. Weights are random. A row is a part of the network, or a convolution with `--all`: milliseconds in float and
in INT8, how many times faster INT8 is, and the share of the INT8 peak that its convolutions reach. The peak is the rate
of the fastest layer of the same network. `limit` is the time of the same multiply-adds at that rate. What is not a
convolution stands in rows of its own: conversions (quantizing, dequantizing, other layouts), moves (concat, shuffle,
pooling), activations that no convolution takes in, and the decoding of boxes and scores. Nodes under 1 microsecond
count as nothing in OpenVINO's counters.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from engine_speed import exported, networks
from reporting import table

from yolov6core.engines.onnxruntime_engine import build
from yolov6core.engines.runtime import BuildSettings
from yolov6core.exchange.graph_view import CONVOLUTIONS, GraphView, made_before_convolutions

CONVERSIONS = "QuantizeLinear DequantizeLinear FakeQuantize Reorder ReorderInput ReorderOutput Transpose Convert"
MOVES = "Concat Concatenation QLinearConcat MaxPool NhwcMaxPool Pooling DepthToSpace Reshape Split"
KINDS = {**dict.fromkeys(CONVERSIONS.split(), "conversions"), **dict.fromkeys(MOVES.split(), "moves")}
"""Operator -> the row that it counts for where it belongs to no convolution; others count as activations."""
PARTS = r"backbone\.(?:stem|stages\.\d|pool)|neck|head\.(?:stems|cls_convs|reg_convs|cls_preds|reg_preds)"


@dataclass
class Layer:
    """A row: multiply-adds, and milliseconds by '<runtime> <kind>'."""

    products: float = 0.0
    times: dict[str, float] = field(default_factory=lambda: defaultdict(float))


class File:
    """What the nodes of an exported file belong to."""

    def __init__(self, path: Path) -> None:
        model = onnx.shape_inference.infer_shapes(onnx.load(path))
        view = GraphView(model)
        values = [*model.graph.value_info, *model.graph.output]
        shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
        before = made_before_convolutions(model)
        self.products: dict[str, float] = {}
        self.owner: dict[str, str] = {}
        """Name of a node or tensor -> its layer; runtimes name fused nodes by one of them."""
        for node in model.graph.node:
            if node.op_type in CONVOLUTIONS:
                weight = _constant(view, node.input[1])
                layer = re.sub(r"^network\.|(\.conv)?\.weight.*$", "", weight)
                pixels = np.prod(shapes.get(node.output[0], [0])[2:])
                grown = 4 if node.op_type == "ConvTranspose" else 1  # each input pixel gives 2x2 outputs
                self.products[layer] = float(view.array(weight).size * pixels / grown)
            elif not before.issuperset(node.output):
                layer = "decoding"
            else:  # a node that follows a convolution, and nothing else, may be fused with it
                layer = self.owner.get(node.input[0], "") if node.op_type in ("Relu", "Mul", "Sigmoid") else ""
            if layer:
                self.owner |= dict.fromkeys((node.name, *node.output), layer)

    def layer(self, names: list[str], operator: str) -> str:
        """Layer of a runtime's node by the names of what was fused into it."""
        found = [self.owner[name] for name in names if name in self.owner]
        real = next((layer for layer in found if layer in self.products), None)
        if real and operator not in KINDS and (operator != "QuickGelu" and "Subgraph" not in operator):
            return real
        if "decoding" in found:
            return "decoding"
        return KINDS.get(operator, "conversions" if any("FakeQuantize" in n for n in names) else "activations")


def _constant(view: GraphView, name: str) -> str:
    while name not in view.constants:
        name = view.producer[name].input[0]
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="yolov6n_v2")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--all", action="store_true", help="a row for each convolution")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape = (1, 3, options.size, options.size)
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    layers: dict[str, Layer] = {}
    with tempfile.TemporaryDirectory() as name:
        files = exported(dict(networks(options.variant, options.size)), Path(name), shape)
        for runtime, timed in (("openvino", openvino_times), ("onnxruntime", onnxruntime_times)):
            paths = {kind: files[f"{runtime} {kind}"] for kind in ("float", "int8")}
            for kind, found in timed(paths, image, options).items():
                facts = File(paths[kind])
                for layer, products in facts.products.items():
                    layers.setdefault(layer, Layer()).products = products
                for (names, operator), milliseconds in found.items():
                    row = layers.setdefault(facts.layer(list(names), operator), Layer())
                    row.times[f"{runtime} {kind}"] += milliseconds
    print(f"{options.variant} at {options.size}, batch 1, {options.threads} threads")
    for runtime in ("openvino", "onnxruntime"):
        report(layers, runtime, whole=not options.all)


Times = dict[tuple[tuple[str, ...], str], float]
"""(names of what a node is made of, its operator) -> milliseconds."""


def openvino_times(paths: Mapping[str, Path], image: np.ndarray, options: argparse.Namespace) -> dict[str, Times]:
    """Kind -> times of the nodes that OpenVINO runs."""
    import openvino as ov

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True}
    settings["INFERENCE_NUM_THREADS"] = options.threads
    compiled = {kind: ov.Core().compile_model(path, "CPU", settings) for kind, path in paths.items()}
    requests = {kind: model.create_infer_request() for kind, model in compiled.items()}
    best: dict[str, dict[str, float]] = {kind: {} for kind in paths}
    for run in range(options.runs + 3):  # the first three warm up
        for kind, request in requests.items():
            request.infer([image], share_inputs=True)
            for entry in request.get_profiling_info() if run >= 3 else ():
                milliseconds = 1000 * entry.real_time.total_seconds()
                best[kind][entry.node_name] = min(milliseconds, best[kind].get(entry.node_name, milliseconds))
    found: dict[str, Times] = {}
    for kind, model in compiled.items():
        found[kind] = defaultdict(float)
        for node in model.get_runtime_model().get_ops():
            facts = node.get_rt_info()
            names = [name.removesuffix("/WithoutBiases") for name in _text(facts["originalLayersNames"]).split(",")]
            key = (tuple(names), _text(facts["layerType"]))
            found[kind][key] += best[kind].get(node.get_friendly_name(), 0.0)
    return found


def onnxruntime_times(paths: Mapping[str, Path], image: np.ndarray, options: argparse.Namespace) -> dict[str, Times]:
    """Kind -> times of the nodes that ONNX Runtime runs, in the engine that is built here."""
    import onnxruntime as ort

    found: dict[str, Times] = {}
    with tempfile.TemporaryDirectory() as name:
        sessions: dict[str, ort.InferenceSession] = {}
        for kind, path in paths.items():
            info = build(path, Path(name) / kind, BuildSettings(threads=options.threads))
            settings = ort.SessionOptions()
            settings.intra_op_num_threads = options.threads
            settings.add_session_config_entry("session.force_spinning_stop", "1")
            settings.enable_profiling, settings.profile_file_prefix = True, str(Path(name) / f"{kind}_times")
            engine = Path(name) / kind / info.file
            sessions[kind] = ort.InferenceSession(engine, settings, providers=["CPUExecutionProvider"])
        for _ in range(options.runs + 3):
            for session in sessions.values():
                session.run(None, {"images": image})
        for kind, session in sessions.items():
            found[kind] = _shortest(json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")))
    return found


def _shortest(events: list[dict[str, Any]]) -> Times:
    times: dict[tuple[tuple[str, ...], str], list[float]] = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            name = re.sub(r"(_token_\d+|_nchwc)+$", "", event["name"].removesuffix("_kernel_time"))
            times[(event["name"], name), event["args"]["op_name"]].append(event["dur"] / 1000)
    return {key: min(values[3:] or values) for key, values in times.items()}


def report(layers: Mapping[str, Layer], runtime: str, *, whole: bool) -> None:
    """Rows of one runtime."""
    fast, slow = f"{runtime} int8", f"{runtime} float"
    rates = {name: layer.products / layer.times[fast] for name, layer in layers.items() if layer.times[fast]}
    peak = max(rates.values())
    merged: dict[str, Layer] = {}
    for name, layer in layers.items():
        found = re.match(PARTS, name)
        row = merged.setdefault(found[0] if found and whole else name, Layer())
        row.products += layer.products
        for key, value in layer.times.items():
            row.times[key] += value
    merged = dict(sorted(merged.items(), key=lambda item: item[1].products == 0))
    total = Layer(sum(layer.products for layer in merged.values()))
    total.times.update({key: sum(layer.times[key] for layer in merged.values()) for key in (fast, slow)})
    rows = []
    for name, layer in {**merged, "all": total}.items():
        real, integer, limit = layer.times[slow], layer.times[fast], layer.products / peak
        ratio, share = f"{real / integer:.2f}" if integer else "", f"{limit / integer:.0%}" if integer and limit else ""
        part = f"{integer / total.times[fast]:.1%}"
        rows.append((name, f"{real:.2f}", f"{integer:.2f}", part, ratio, f"{limit:.2f}" if limit else "", share))
    print(f"\n{runtime}: the fastest INT8 layer does {2e-6 * peak:.0f} GOPS")
    header = ("part", "float, ms", "INT8, ms", "of all", "times", "limit, ms", "of the peak")
    print("\n".join(table(header, rows)))


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))


if __name__ == "__main__":
    main()
