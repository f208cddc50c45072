"""What an engine of TensorRT runs in INT8: its list of layers, as the engine inspector or the builder's log give it.

A layer of an engine stands for one or more operators of the file. TensorRT fuses operators in a row ("conv + relu") and
convolutions side by side that read the same tensor ("conv_a + relu_a || conv_b + relu_b").
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CONVOLUTION = re.compile("conv|correlation|gemm", re.IGNORECASE)
"""In the type of a layer: CaskConvolution and CaskDeconvolutionV2 (TensorRT), correlation and deconv (Myelin)."""
SOURCE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
MYELIN_END = re.compile(r"_myl\d+_\d+$")
NEW_LINE = re.compile(r"^Name: (?P<name>.+?), LayerType: (?P<kind>\w+), Inputs: \[(?P<rest>.*)$")
"""A line of the verbose log, from TensorRT 8.5 on and of TensorRT-RTX, with profiling verbosity DETAILED."""
OLD_LINE = re.compile(r"^Layer\((?P<kind>\w+)\): (?P<name>.+), Tactic: [^,]+, (?P<data>.*?) -> ")
"""The same in TensorRT 8: data is `name[Int8(1,3,8,8)], ...`."""
OLD_TYPE = re.compile(r"\[(?P<type>\w+)\(")
DATATYPE = re.compile(r"Data[Tt]ype: (?P<type>[^,}\]]+)")
METADATA = re.compile(r", Metadata: (?P<text>.*)$")


@dataclass(frozen=True)
class EngineLayer:
    """A layer of an engine.

    Attributes:
        kind: its type, such as CaskConvolution.
        integer: whether its data, the first input, are 8-bit integers.
        sources: names of the operators of the file that it came from.
    """

    name: str
    kind: str
    integer: bool
    sources: tuple[str, ...]

    @property
    def convolves(self) -> bool:
        """Whether its type is that of a convolution."""
        return CONVOLUTION.search(self.kind) is not None


def layers_of_json(text: str) -> list[EngineLayer]:
    """Layers in the JSON of the engine inspector; none where it names layers only (another profiling verbosity)."""
    try:
        rows = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        return []
    found = []
    for row in rows:
        if isinstance(row, dict) and "LayerType" in row:
            types = [_datatype(entry) for entry in row.get("Inputs", [])]
            sources = _sources(row["Name"], row.get("Metadata", ""))
            found.append(EngineLayer(row["Name"], row["LayerType"], bool(types) and _is_integer(types[0]), sources))
    return found


def _datatype(tensor: dict[str, str]) -> str:
    """Its key is Format/Datatype up to TensorRT 10 and DataType from 11 on."""
    return next((value for key, value in tensor.items() if "datatype" in key.lower()), "")


def layers_of_log(lines: Iterable[str]) -> list[EngineLayer]:
    """Layers in the list that the builder's verbose log ends with."""
    found = []
    for line in "\n".join(lines).splitlines():
        if row := NEW_LINE.match(line):
            datatype = DATATYPE.search(row["rest"])  # of the first input
            metadata = METADATA.search(row["rest"])
            integer = datatype is not None and _is_integer(datatype["type"])
            sources = _sources(row["name"], metadata["text"] if metadata else "")
            found.append(EngineLayer(row["name"], row["kind"], integer, sources))
        elif row := OLD_LINE.match(line):
            datatype = OLD_TYPE.search(row["data"])
            integer = datatype is not None and _is_integer(datatype["type"])
            found.append(EngineLayer(row["name"], row["kind"], integer, _sources(row["name"], "")))
    return found


def _is_integer(datatype: str) -> bool:
    return "int8" in datatype.lower()


def _sources(name: str, metadata: str) -> tuple[str, ...]:
    """Operators of a layer: those in its name first."""
    named = [MYELIN_END.sub("", part.strip()) for part in re.split(r" \|\| | \+ ", name)]
    return tuple(dict.fromkeys((*named, *SOURCE.findall(metadata))))


def audit(layers: Sequence[EngineLayer], convolutions: Iterable[str]) -> tuple[list[str], list[str]]:
    """Names of the (integer, float) convolutions of a file, by the layers of the engine that was built from it.

    A convolution is looked for among layers that are convolutions first, by the layer's name and then by its metadata.
    A compiled region of another type may hold it, too. What no layer names counts as float: nothing shows that it is
    INT8. Both lists are empty where there are no layers, so that nothing is known.
    """
    if not layers:
        return [], []
    by_rank: list[dict[str, EngineLayer]] = [{}, {}, {}]
    for layer in layers:
        for position, source in enumerate(layer.sources):
            named = position == 0 or source in layer.name
            rank = 2 if not layer.convolves else 0 if named else 1
            by_rank[rank].setdefault(source, layer)
    integer, real = [], []
    for name in convolutions:
        layer = next((table[name] for table in by_rank if name in table), None)
        (integer if layer is not None and layer.integer else real).append(name)
    return integer, real
