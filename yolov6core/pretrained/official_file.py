"""Checkpoints of the official trainer: whole modules pickled in half precision, read as named tensors."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from yolov6core.pretrained.torch_archive import TorchArchive, read_torch_archive
from yolov6core.pretrained.torch_pickle import Stub, TensorRecord

PARTS = ("model", "ema")
MAX_DEPTH = 64  # official models nest 8 deep; deeper is a module that contains itself
MAX_NAME = 500  # characters of a name; official ones have up to 60
MAX_SHARING = 4  # tensors together hold at most so many times the stored numbers; in official files, once
MAX_TENSORS = 100_000  # the largest official models have about two thousand
MAX_MODULES = 100_000  # the largest official models have a few thousand; more is one module under endless names


@dataclass(frozen=True)
class OptimizerState:
    """State of the optimizer. Parameter indices are torch's: counted through the groups in order.

    Attributes:
        groups: one table per parameter group: `params` (indices) and plain settings such as `lr`.
        momentum: parameter index -> momentum buffer, float32, shape of the parameter.
    """

    groups: tuple[dict[str, Any], ...]
    momentum: dict[int, Tensor]


@dataclass(frozen=True)
class OfficialCheckpoint:
    """Contents of an official file; None for missing values.

    Attributes:
        kind: "trainer" with an average or an optimizer beside the model; "stripped" for modules alone;
            "state_dict" for named tensors without modules.
        parts: "model" and, in trainer files, "ema" -> state dictionary with official names, in the order of
            `state_dict()`; float16 in official files, batch counts int64.
        epoch: the last finished epoch, from 0.
        updates: number of updates of the average.
        results: AP50 and AP50:95 of the last evaluation, or as many numbers as the file has.
        names: class names.
        num_classes: number of classes.
        strides: pixels per cell of each level, finest first.
        block: class name of the backbone's stem, such as "RepVGGBlock"; tensors do not show the form of 3x3 blocks.
        optimizer: settings and momentum buffers, in trainer files.
    """

    kind: Literal["trainer", "stripped", "state_dict"]
    parts: dict[str, dict[str, Tensor]]
    epoch: int | None = None
    updates: int | None = None
    results: tuple[float, ...] | None = None
    names: tuple[str, ...] | None = None
    num_classes: int | None = None
    strides: tuple[int, ...] | None = None
    block: str | None = None
    optimizer: OptimizerState | None = None

    @property
    def weights(self) -> dict[str, Tensor]:
        """The part to use: the average if there is one, as the official evaluation does."""
        return self.parts["ema" if "ema" in self.parts else "model"]


def read_official_checkpoint(path: Path) -> OfficialCheckpoint:
    """Read a `.pt` file of the official trainer, or one with the tensors of a model alone. No code in it is run.

    Tensors keep their stored types. Four forms are accepted: the trainer's table, a whole module, a table of named
    tensors, and a table of named tensors under `model`.

    Raises:
        ValueError: the file cannot be read (see `read_torch_archive`) or has another form.
    """
    archive = read_torch_archive(path)
    root = archive.root
    if isinstance(root, Stub) or _is_state(root):
        root = {"model": root}
    found = {name: root[name] for name in PARTS if root.get(name) is not None} if isinstance(root, dict) else {}
    if not found:
        raise ValueError(
            f"{path} holds {_describe(root)} instead of a model; "
            "expected a checkpoint of the official trainer or a state_dict() of named tensors"
        )
    optimizer = _optimizer(archive, root.get("optimizer"))
    modules = [part for part in found.values() if isinstance(part, Stub)]
    kind = "trainer" if optimizer or "ema" in found else "stripped" if modules else "state_dict"
    return OfficialCheckpoint(
        kind=kind,
        parts={name: _state(archive, name, part) for name, part in found.items()},
        epoch=_whole(root.get("epoch")),
        updates=_whole(root.get("updates")),
        results=_numbers(root.get("results")),
        optimizer=optimizer,
        **(_description(archive, modules[-1]) if modules else {}),
    )


def _is_state(value: Any) -> bool:
    entries = value.items() if isinstance(value, dict) else ()
    return bool(entries) and all(isinstance(key, str) and isinstance(item, TensorRecord) for key, item in entries)


def _state(archive: TorchArchive, name: str, part: Any) -> dict[str, Tensor]:
    """State dictionary of one part of the file, a module or already a table of tensors."""
    if not isinstance(part, Stub) and not _is_state(part):
        raise ValueError(f"{archive.path} holds {_describe(part)} under {name!r}; expected a module or named tensors")
    records: dict[str, TensorRecord] = {}
    for key, record in _named_records(archive.path, part) if isinstance(part, Stub) else part.items():
        if key in records:
            raise ValueError(f"{archive.path} has two tensors named {key!r:.100} in {name!r}; download it again")
        if len(key) > MAX_NAME or len(records) >= MAX_TENSORS:
            raise ValueError(
                f"{archive.path} has more than {MAX_TENSORS} tensors in {name!r}, or a name above {MAX_NAME} "
                "characters; the file is forged: delete it"
            )
        records[key] = record
    _check_amount(archive, name, records)
    return {key: archive.tensor(record) for key, record in records.items()}


def _check_amount(archive: TorchArchive, name: str, records: Mapping[str, TensorRecord]) -> None:
    """Refuse many views of few numbers: each becomes a tensor of its own, with memory of its own, sooner or later."""
    views = sum(math.prod(record.size) for record in records.values())
    stored = sum(storage.numel() for storage in archive.storages.values())
    if views > MAX_SHARING * stored + 2**20:
        raise ValueError(
            f"{archive.path} has {len(records)} tensors of {views:,} numbers in {name!r}, and stores {stored:,} numbers"
            "; the file is forged: delete it"
        )


def _named_records(path: Path, root: Stub) -> Iterator[tuple[str, TensorRecord]]:
    """Names and tensors in the order of `state_dict()`: own parameters, own persistent buffers, then children."""
    pending = [("", 0, root)]
    visited = 0
    while pending:
        prefix, depth, module = pending.pop()
        visited += 1
        if depth > MAX_DEPTH or visited > MAX_MODULES:
            raise ValueError(
                f"{path} has a module that contains itself at {prefix!r:.100}; the file is forged: delete it"
            )
        dropped = module.attributes.get("_non_persistent_buffers_set")
        buffers = _table(path, module, "_buffers", without=dropped if isinstance(dropped, set) else ())
        own = [*_table(path, module, "_parameters"), *buffers]
        for name, value in own:
            if not isinstance(value, TensorRecord):
                raise ValueError(
                    f"{path} has {_describe(value)} as the tensor {prefix + name!r:.100}; download it again"
                )
            yield prefix + name, value
        children = []
        for name, value in _table(path, module, "_modules"):
            if not isinstance(value, Stub):
                raise ValueError(
                    f"{path} has {_describe(value)} as the module {prefix + name!r:.100}; download it again"
                )
            children.append((f"{prefix}{name}.", depth + 1, value))
        pending += reversed(children)


def _table(path: Path, module: Stub, name: str, without: Container[str] = ()) -> list[tuple[str, Any]]:
    """Entries of one of a module's three tables, except empty entries and names in `without`."""
    table = module.attributes.get(name)
    if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
        raise ValueError(f"{path} has a {module.class_name!r} without a table {name}; save it again with torch.save")
    return [(key, value) for key, value in table.items() if value is not None and key not in without]


def _description(archive: TorchArchive, model: Stub) -> dict[str, Any]:
    """Class names, class count, strides and block, from the model's plain attributes."""
    names, strides = model.attributes.get("names"), model.attributes.get("stride")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        names = None
    return {
        "names": None if names is None else tuple(names),
        "num_classes": _whole(model.attributes.get("nc")),
        "strides": tuple(archive.tensor(strides).flatten().long().tolist())
        if isinstance(strides, TensorRecord)
        else None,
        "block": _class_of(model, ("backbone", "stem")),
    }


def _class_of(model: Stub, path: tuple[str, ...]) -> str | None:
    """Class name, without its module, of the submodule at `path`."""
    for name in path:
        children = model.attributes.get("_modules")
        child = children.get(name) if isinstance(children, dict) else None
        if not isinstance(child, Stub):
            return None
        model = child
    return model.class_name.rsplit(".", 1)[-1]


def _optimizer(archive: TorchArchive, value: Any) -> OptimizerState | None:
    if not isinstance(value, dict):
        return None
    groups, states = value.get("param_groups"), value.get("state")
    if (
        not isinstance(groups, list)
        or not isinstance(states, dict)
        or not all(isinstance(table, dict) for table in (*groups, *states.values()))
    ):
        raise ValueError(f"{archive.path} has an optimizer without param_groups or state; strip or download it again")
    momentum = {index: state.get("momentum_buffer") for index, state in states.items()}
    return OptimizerState(
        groups=tuple({key: item for key, item in group.items() if _is_plain(item)} for group in groups),
        momentum={index: archive.tensor(item) for index, item in momentum.items() if isinstance(item, TensorRecord)},
    )


def _is_plain(value: Any) -> bool:
    """Whether a value is None, a number, a switch or a flat list of these."""
    items = value if isinstance(value, list) else [value]
    return all(item is None or isinstance(item, int | float) for item in items)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _numbers(value: Any) -> tuple[float, ...] | None:
    plain = isinstance(value, list | tuple) and all(isinstance(item, int | float) for item in value)
    return tuple(map(float, value)) if plain else None


def _describe(value: Any) -> str:
    if isinstance(value, Stub):
        return f"a {value.class_name!r}"
    if isinstance(value, dict):
        return f"a table of {', '.join(f'{key!r:.40}' for key in list(value)[:8] if isinstance(key, str)) or 'nothing'}"
    return f"an object of type {type(value).__name__}"
