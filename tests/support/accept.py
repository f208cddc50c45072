"""Accept an edit that changes no output: other names, comments, moved code.

`make accept` runs this from the project's root. Every stage that `dvc status` calls changed runs on the inputs that
are there. Its new outputs are compared with the old ones, which always come back. If all are the same, `dvc commit`
tells dvc.lock of the new code; if not, the differences are printed and the exit code is 1.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from yolov6core.base.atomic import write_json
from yolov6core.base.yaml_text import parse_yaml

CODE = ("stages", "yolov6core")  # a change of any other dependency is no matter of the code alone
ASIDE = Path(".ckpt/accept")
"""Where old outputs lie while a stage runs. The next start brings them back if this one was killed."""
MEASURED = re.compile(r"latency.*|fps|speedup|.*_ms")  # keys and columns of times, which differ from run to run
# files of nothing but measured times or of the machine, and a picture and a page that show them
NOT_COMPARED = ("rounds.csv", "environment.json", "summary.png", "index.html")
SHOWN = 5  # differences of one file that are printed


def differences(old: Path, new: Path, name: str) -> Iterator[str]:
    """Lines that say where a file or folder `name` differs, and by how much; none if both are the same."""
    if old.is_dir() and new.is_dir():
        for inner in sorted({path.name for folder in (old, new) for path in folder.iterdir()}):
            yield from differences(old / inner, new / inner, f"{name}/{inner}")
    elif not old.exists() or not new.exists():
        yield f"{name}: only the {'old' if old.exists() else 'new'} outputs have it"
    elif old.is_dir() or new.is_dir():
        yield f"{name}: a {'folder' if old.is_dir() else 'file'} before, a {'folder' if new.is_dir() else 'file'} now"
    elif old.name not in NOT_COMPARED:
        read = READERS.get(old.suffix, read_bytes)
        found = list(differing_values(read(old), read(new), ""))
        yield from (f"{name}: {line}" for line in found[:SHOWN])
        if len(found) > SHOWN:
            yield f"{name}: {len(found) - SHOWN} more differences"


def differing_values(old: Any, new: Any, key: str) -> Iterator[str]:
    """Differences of two documents but for measured times."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            inner = f"{key}.{name}" if key else str(name)
            if name not in old or name not in new:
                yield f"{inner}: only the {'old' if name in old else 'new'} file has it"
            elif not MEASURED.fullmatch(str(name)):
                yield from differing_values(old[name], new[name], inner)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from differing_values(*pair, f"{key}[{index}]")
    elif isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor) and in_words(old) == in_words(new):
        if not torch.equal(old, new):
            yield f"{key}: {in_words(old)}, by at most {float((old.double() - new.double()).abs().max()):.3g}"
    elif type(old) is not type(new) or isinstance(old, torch.Tensor) or old != new:
        yield f"{key}: {in_words(old)} -> {in_words(new)}{by_how_much(old, new)}".removeprefix(": ")


def in_words(value: object) -> str:
    """A value in at most 80 characters; of tensors, type and shape."""
    text = f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def by_how_much(old: Any, new: Any) -> str:
    """The difference of two numbers or texts of numbers; nothing for other values."""
    try:
        return f", by {abs(float(new) - float(old)):.3g}"
    except (TypeError, ValueError):
        return ""


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_csv(path: Path) -> dict[str, Any]:
    """Columns and rows of a table; cells stay text."""
    with path.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        rows = list(table)
    return {"columns": table.fieldnames, "rows": rows}


def read_tensors(path: Path) -> dict[str, Any]:
    """Tensors and metadata of a safetensors file. Entries of metadata that are JSON are read as such."""
    with safe_open(path, framework="pt") as handle:
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
        notes = handle.metadata() or {}
    read = {name: json.loads(text) if text.startswith(("{", "[")) else text for name, text in notes.items()}
    return tensors | {"metadata": read}


def read_arrays(path: Path) -> dict[str, Any]:
    """Arrays of an npz file: numbers as tensors, text as lists."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return {name: x.tolist() if x.dtype.kind in "US" else torch.from_numpy(x) for name, x in arrays.items()}


def read_bytes(path: Path) -> dict[str, str]:
    """The lines of a text; of other files, a digest of their bytes."""
    data = path.read_bytes()
    try:
        return {f"line {number}": line for number, line in enumerate(data.decode().split("\n"), start=1)}
    except UnicodeDecodeError:
        return {"bytes": f"{len(data)} with SHA-256 {hashlib.sha256(data).hexdigest()}"}


READERS = {".json": read_json, ".csv": read_csv, ".safetensors": read_tensors, ".npz": read_arrays}
"""By suffix. Files of other kinds have to have equal bytes."""


def put_aside(outs: list[str]) -> None:
    """Move outputs to `ASIDE`. The list of them is written first, so that `bring_back` can undo a part of it."""
    write_json(ASIDE / "outs.json", outs)
    for out in outs:
        (ASIDE / out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).replace(ASIDE / out)


def bring_back() -> None:
    """Put old outputs in the place of new ones, after a run or a run that was killed."""
    listed = ASIDE / "outs.json"
    for out in read_json(listed) if listed.exists() else []:
        if (ASIDE / out).exists():
            shutil.rmtree(out) if Path(out).is_dir() else Path(out).unlink(missing_ok=True)
            Path(out).parent.mkdir(parents=True, exist_ok=True)
            (ASIDE / out).replace(out)
    shutil.rmtree(ASIDE, ignore_errors=True)


def more_than_code(changes: list[Any]) -> Iterator[str]:
    """What `dvc status` says of a stage, without its code."""
    for change in changes:
        if not isinstance(change, dict) or "changed deps" not in change:
            yield json.dumps(change)
        else:
            deps = change["changed deps"].items()
            yield from (f"{dep}: {json.dumps(state)}" for dep, state in deps if Path(dep).parts[0] not in CODE)


def differences_of_a_run(stage: Mapping[str, Any]) -> list[str]:
    """Run a stage of dvc.yaml; say how its outputs differ from the old ones, which are then back."""
    entries = [entry for part in ("outs", "metrics", "plots") for entry in stage.get(part, [])]
    outs = [path for entry in entries for path in (entry if isinstance(entry, dict) else [entry])]
    try:
        put_aside(outs)
        code = subprocess.run(stage["cmd"], shell=True).returncode
        if code:
            return [f"the command ended with exit code {code}"]
        return [line for out in outs for line in differences(ASIDE / out, Path(out), out)]
    finally:
        bring_back()


def code_state() -> dict[str, bytes]:
    """Every file of code."""
    return {str(path): path.read_bytes() for folder in CODE for path in Path(folder).rglob("*.py")}


def main() -> int:
    """Exit code 0 if dvc.lock knows the code as it is."""
    bring_back()
    before = code_state()
    status = subprocess.run(["dvc", "status", "--json"], stdout=subprocess.PIPE, text=True, check=True).stdout
    changed = json.loads(status)
    if refused := [f"{stage}: {change}" for stage, changes in changed.items() for change in more_than_code(changes)]:
        print("more than code has changed; 'dvc repro' is for that:", *refused, sep="\n")
        return 1
    stages, same = parse_yaml(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"], True
    for stage in changed:
        print(f"{stage}: {stages[stage]['cmd']}", flush=True)
        found = differences_of_a_run(stages[stage])
        print(*(f"{stage}: {line}" for line in found or ["all outputs are the same"]), sep="\n", flush=True)
        same = same and not found
    if not same or code_state() != before:
        print("dvc.lock is as it was:", "the code was edited in the meantime" if same else "outputs differ")
        return 1
    if changed:
        subprocess.run(["dvc", "commit", "--force", *changed], check=True)
    print("dvc.lock knows the code as it is")
    return 0


if __name__ == "__main__":
    sys.exit(main())
