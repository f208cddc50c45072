"""The Python API of TensorRT, version by version, as NVIDIA's own bindings tell it: no GPU and no TensorRT are needed.

    python -m tests.support.tensorrt_api [--cache FOLDER]     # writes tests/support/tensorrt_api.json again

The bindings of each version are on PyPI without NVIDIA's libraries. They ask for about ten C functions; stub libraries,
made with gcc, let them load. Loaded, they tell names, enum members and docstrings, which hold signatures. They run
nothing. `fake_tensorrt` is made from the stored table.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from operator import attrgetter
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_suffix(".json")
PACKAGES = {
    "8.6.1": "tensorrt-bindings==8.6.1",
    "10.3.0": "tensorrt-cu12-bindings==10.3.0",
    "11.4.0.106": "tensorrt-cu13-bindings==11.4.0.106",
}
RTX_PACKAGE = "tensorrt_rtx_bindings"
CLASSES = (
    "Builder",
    "IBuilderConfig",
    "ICudaEngine",
    "EngineInspector",
    "IExecutionContext",
    "IHostMemory",
    "IInt8EntropyCalibrator2",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "ITensor",
    "ITimingCache",
    "OnnxParser",
    "ParserError",
    "Runtime",
)
ENUMS = (
    "BuilderFlag",
    "DataType",
    "DeviceType",
    "HardwareCompatibilityLevel",
    "ILogger.Severity",
    "LayerInformationFormat",
    "LayerType",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "ProfilingVerbosity",
    "TensorIOMode",
)
FUNCTIONS = ("init_libnvinfer_plugins",)
Table = dict[str, Any]


class Unreachable(RuntimeError):
    """The bindings of a version cannot be had or loaded here; the message says why."""


def bindings(version: str, cache: Path) -> tuple[Path, Path]:
    """The bindings of a version, downloaded once, and a folder of stub libraries. Raises Unreachable."""
    for tool in ("gcc", "readelf", "nm"):
        if shutil.which(tool) is None:
            raise Unreachable(f"{tool} is missing, which the stub libraries are made with")
    folder = cache / f"{version}-{sys.implementation.cache_tag}"
    if not list(folder.glob("*/tensorrt.so")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        found = _run(*command, "--timeout", "20", "--retries", "1", PACKAGES[version], "-d", str(folder))
        if found.returncode:
            raise Unreachable(f"{PACKAGES[version]} is not to be had: {found.stderr.strip()[-300:]}")
        for wheel in folder.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(folder)
    library = next(folder.glob("*/tensorrt.so"))
    return library, _stubs(library, folder / "stubs")


def _stubs(library: Path, folder: Path) -> Path:
    """A library for each name that `library` is linked with; the first has all the functions that are missing."""
    if folder.is_dir():
        return folder
    needed = re.findall(r"\[(libnv\S+?)\]", _run("readelf", "-d", str(library)).stdout)
    symbols = [line.split() for line in _run("nm", "-D", "--undefined-only", str(library)).stdout.splitlines()]
    wanted = [row[-1] for row in symbols if row[-2] != "w" and "@" not in row[-1]]
    names = [name for name in wanted if not name.lstrip("_").startswith("Py")]
    making = folder.with_suffix(f".{os.getpid()}")
    making.mkdir()
    source = making / "stubs.s"
    for number, name in enumerate(needed):
        rows = [f".globl {symbol}\n.balign 64\n{symbol}: .zero 256\n" for symbol in (names if number == 0 else [])]
        source.write_text(".data\n" + "".join(rows))
        made = _run("gcc", "-shared", "-nostdlib", f"-Wl,-soname,{name}", "-o", str(making / name), str(source))
        if made.returncode:
            raise Unreachable(f"gcc makes no stub library: {made.stderr.strip()[-300:]}")
    making.rename(folder)
    return folder


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def read_api(library: Path, stubs: Path) -> Table:
    """The API of bindings, read in a process of its own. Raises Unreachable."""
    root = str(Path(__file__).parents[2])
    command = (sys.executable, "-m", "tests.support.tensorrt_api", "--dump", str(library))
    found = _run(*command, LD_LIBRARY_PATH=str(stubs), PYTHONPATH=root)
    if found.returncode:
        raise Unreachable(f"{library} does not load: {found.stderr.strip()[-300:]}")
    return json.loads(found.stdout)


def load_library(path: Path) -> Any:
    """Bindings as a module."""
    spec = importlib.util.spec_from_file_location("tensorrt", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def api_of(module: Any) -> Table:
    """Classes with their methods and properties, enums with the numbers of their members, and functions.

    A method is a list of signatures, a signature the names of its arguments ('=' behind those with a default) and the
    type of its result.
    """
    return {
        "classes": {name: _class_api(getattr(module, name)) for name in CLASSES if hasattr(module, name)},
        "enums": {
            name: {member: int(value) for member, value in attrgetter(name)(module).__members__.items()}
            for name in ENUMS
        },
        "functions": {name: signatures(getattr(module, name).__doc__) for name in FUNCTIONS if hasattr(module, name)},
    }


def _class_api(kind: type) -> Table:
    methods, properties = {"__init__": signatures(kind.__init__.__doc__)}, {}
    for name in dir(kind):
        member = getattr(kind, name)
        layer = kind.__name__ == "INetworkDefinition" and name.startswith("add_")  # the parser's, not the adapter's
        if layer or name.startswith("_") or isinstance(member, type):
            continue
        if isinstance(member, property):
            properties[name] = "written" if member.fset is not None else "read"
        elif callable(member) and not hasattr(member, "value"):
            methods[name] = signatures(member.__doc__)
    return {"methods": methods, "properties": properties}


def signatures(text: str | None) -> list[list[Any]]:
    """[[argument names], type of the result] of each overload in a docstring of pybind11."""
    found = []
    for line in re.findall(r"^(?:\d+\. )?\w+\((.*)\) -> (.+)$", text or "", re.MULTILINE):
        if line[0] != "*args, **kwargs":
            names = [_argument(part) for part in _split(line[0]) if not part.startswith("self")]
            found.append([names, re.split(r"[.:]+", line[1].strip())[-1]])
    return found


def _argument(part: str) -> str:
    name, _, rest = part.partition(":")
    return name.strip() + ("=" if " = " in rest else "")


def _split(text: str) -> list[str]:
    """Arguments of a signature: commas inside brackets separate none."""
    parts, depth, start = [], 0, 0
    for position, letter in enumerate(text):
        depth += (letter in "([<{") - (letter in ")]>}")
        if letter == "," and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    return [part for part in [*parts, text[start:].strip()] if part]


def stored() -> dict[str, Table]:
    """Version -> API, as it was read last; `rtx` is TensorRT-RTX."""
    return json.loads(TABLE.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--dump", type=Path)
    options = parser.parse_args()
    if options.dump:
        json.dump(api_of(load_library(options.dump)), sys.stdout)
        return
    table = {version: read_api(*bindings(version, options.cache)) for version in PACKAGES}
    table["rtx"] = rtx_api()
    TABLE.write_text(_lines(table), encoding="utf-8")


def _lines(table: Table, depth: int = 2) -> str:
    """JSON with a line for each class and each enum."""
    if depth < 0:
        return json.dumps(table, sort_keys=True)
    rows = (f"{json.dumps(key)}: {_lines(table[key], depth - 1)}" for key in sorted(table))
    return "{\n" + ",\n".join(rows) + "\n}" + ("\n" if depth == 2 else "")


def rtx_api() -> Table:
    """API of the TensorRT-RTX that is installed. Raises Unreachable."""
    from yolov6core.engines.runtime import RuntimeMissing
    from yolov6core.engines.tensorrt_import import import_tensorrt

    try:
        return api_of(import_tensorrt("tensorrt_rtx"))
    except RuntimeMissing as error:
        raise Unreachable(str(error)) from None


def default_cache() -> Path:
    """Where downloaded bindings lie."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "yolov6-quant" / "tensorrt-api"


if __name__ == "__main__":
    main()
