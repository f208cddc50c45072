"""The rules that a reader relies on: import directions, lean start, and agreement of the pipeline's files."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.pipeline import ROOT, STAGES
from yolov6core.base.yaml_text import parse_yaml

PACKAGES = ("yolov6core", "stages")
OPTIONAL = {"onnx", "onnxruntime", "onnxsim", "openvino", "tensorboard", "tensorrt", "tensorrt_rtx"}
"""Heavy packages that are imported inside functions of these packages only."""
MAY_NEED_OPTIONAL = ("bundle", "engines", "exchange", "export", "training")
OPTIONAL_PARTS = {"torch.utils.tensorboard": "tensorboard"}
"""Parts of other packages that need an optional one."""
VALUES_ARE_TRACKED = {"stages/params.py", "yolov6core/param_sections.py"}
"""No dependency in `dvc.yaml`, nor is their table of networks: they check values that DVC tracks. A new bound must not
train again."""
MAY_IMPORT = {  # package or module of yolov6core -> others that it may import; all may import `base`
    "base": set(),
    "param_sections": set(),
    "models": set(),
    "assigners": set(),
    "losses": {"assigners"},
    "data": set(),
    "datasets": {"data"},
    "evaluation": {"data"},
    "training": set(),
    "quant": set(),
    "pretrained": {"models", "quant"},
    "exchange": set(),
    "engines": {"exchange"},
    "export": {"engines", "evaluation", "exchange", "quant"},
    "tasks": {"data", "evaluation", "losses", "models", "pretrained", "training"},
    "int8": {
        "data",
        "engines",
        "evaluation",
        "export",
        "losses",
        "models",
        "pretrained",
        "quant",
        "tasks",
        "training",
    },
    "serving": {"data", "engines", "evaluation"},
    "report": {"data", "evaluation"},
    "bundle": {"data", "engines", "evaluation", "exchange", "export", "int8", "models", "quant", "tasks"},
}
COMMANDS = ("__main__", "tools")
"""Modules of `stages/` that define the command line."""
MOST_LINES_OF_STAGES = 4300
MOST_LINES_OF_DVC_YAML = 220


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def path_of(module: str) -> Path:
    return ROOT / (module.replace(".", "/") + ".py")


def import_nodes(tree: ast.AST, *, inside: str = "") -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """Every import of a file with the function that it stands in ('' at the top); type-checking imports count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, inside
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from import_nodes(node, inside=getattr(node, "name", "lambda") if function else inside)


def names_of(node: ast.Import | ast.ImportFrom) -> set[str]:
    """Modules that an import names, `from package import module` resolved."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    assert node.level == 0 and node.module, "relative import"
    assert all(alias.name != "*" for alias in node.names), "star import"
    inner = {f"{node.module}.{alias.name}" for alias in node.names}
    return {node.module} | {module for module in inner if path_of(module).is_file()}


@cache
def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {name for node, _ in import_nodes(tree) for name in names_of(node)}


def packages_of(node: ast.Import | ast.ImportFrom) -> set[str]:
    """Top-level packages that an import needs."""
    return {OPTIONAL_PARTS.get(name, name.split(".")[0]) for name in names_of(node)}


def ours(modules: set[str]) -> set[str]:
    return {module for module in modules if module.split(".")[0] in PACKAGES and path_of(module).is_file()}


@cache
def closure(module: str, *, passed_over: frozenset[str] = frozenset()) -> set[str]:
    """All modules of the project that a module imports, directly or not, itself included.

    Args:
        passed_over: modules that are left out, with all that only they import.
    """
    seen, pending = set(), [module]
    while pending:
        current = pending.pop()
        if current not in seen:
            seen.add(current)
            pending += ours(imports(path_of(current))) - passed_over
    return seen


def stage_module(stage: str) -> str:
    return f"stages.{stage.replace('-', '_')}"


def dvc_stages() -> dict[str, dict]:
    return parse_yaml((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_imports_point_one_way(path):
    parts = module_of(path).split(".")
    for module in ours(imports(path)):
        target = module.split(".")
        if parts[0] == "yolov6core":
            assert target[0] == "yolov6core", f"{path}: the core must not know the stages"
            own, other = parts[1], target[1]
            assert other in MAY_IMPORT[own] | {own, "base"}, f"{path}: {own} must not import {other}"
        elif target[0] == "stages" and parts[1] not in COMMANDS:
            assert target[1] in ("params", "shared"), f"{path}: a stage must not import the stage {module}"


def test_base_is_made_of_leaves():
    for path in (ROOT / "yolov6core" / "base").glob("*.py"):
        assert all(module.startswith("yolov6core.base.") for module in ours(imports(path))), path


def test_no_import_cycles():
    for path in sources():
        for module in ours(imports(path)):
            assert module_of(path) not in closure(module), f"{module_of(path)} and {module} import each other"


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_functions_import_only_where_it_is_needed(path):
    inside_main: list[str] = []
    for node, function in import_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        packages = packages_of(node)
        if path.parts[-2] == "stages" and path.stem in COMMANDS and function:
            inside_main.append(function)
        elif function and path.parts[-3:] == BARS:
            assert names_of(node) == {"stages.shared.drawing"}, f"{path}: {function} imports {packages}"
        elif function:
            assert path.parts[-2] in MAY_NEED_OPTIONAL, f"{path}: {function} imports {packages}"
            assert packages <= OPTIONAL | {"ctypes"} | HELPERS, f"{path}: {function} imports {packages}"
    assert len(set(inside_main)) == len(inside_main), "one import a command"


BARS = ("stages", "shared", "bars.py")
"""It loads the module that draws, and rich with it, when there is something to draw on a terminal."""
HELPERS = {"google", "ml_dtypes"}
"""Parts of the optional packages that have names of their own."""


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_optional_packages_are_not_imported_at_the_top(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    type_checking = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node, function in import_nodes(tree):
        if not function and id(node) not in type_checking:
            packages = packages_of(node)
            assert not packages & OPTIONAL, f"{path} imports {packages} at its top"


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_files_stay_readable(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    if path.name == "__init__.py":
        tree = ast.parse(text)
        assert len(tree.body) == 1 and ast.get_docstring(tree), f"{path} must hold a docstring only"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{path}: {node.name} is too long"


def test_sources_are_python_3_10():
    """The Python of JetPack 6. basedpyright, set to 3.10, knows the names of the standard library that it lacks."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for line in ('requires-python = ">=3.10"', 'target-version = "py310"', 'pythonVersion = "3.10"'):
        assert line in project
    for path in sources():
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))


def test_class_names_are_unique():
    seen: dict[str, Path] = {}
    for path in sources():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert node.name not in seen, f"{node.name} is in {seen[node.name]} and in {path}"
                seen[node.name] = path


def test_the_stages_stay_small():
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "stages").rglob("*.py"))
    assert lines < MOST_LINES_OF_STAGES
    assert len((ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()) < MOST_LINES_OF_DVC_YAML


@pytest.mark.parametrize("stage", STAGES)
def test_code_deps_cover_the_import_closure_and_none_is_needless(stage):
    deps = {dep for dep in dvc_stages()[stage]["deps"] if dep.split("/")[0] in PACKAGES}
    checks = frozenset(path.removesuffix(".py").replace("/", ".") for path in VALUES_ARE_TRACKED)
    needed = {module.replace(".", "/") + ".py" for module in closure(stage_module(stage), passed_over=checks)}
    for dep in deps:
        assert (ROOT / dep).exists(), f"{dep} does not exist"
        assert any(covers(dep, path) for path in needed), f"{dep} is needless"
        assert not any(other != dep and covers(other, dep) for other in deps), f"{dep} is inside another one"
    missing = sorted(path for path in needed if not any(covers(dep, path) for dep in deps))
    assert not missing, f"missing: {missing}"


def covers(dep: str, path: str) -> bool:
    return path == dep or path.startswith(f"{dep}/")


def sections_read(stage: str) -> set[str]:
    """Sections that the stage's command reads."""
    from stages import params

    tree = ast.parse(path_of("stages.__main__").read_text(encoding="utf-8"))
    name = stage.replace("-", "_")
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    (read,) = (call for call in calls if ast.unparse(call.func) == "file.read")
    return {getattr(params, ast.unparse(argument).removeprefix("sections.")).section for argument in read.args}


@pytest.mark.parametrize("stage", STAGES)
def test_params_of_dvc_yaml_are_the_sections_a_stage_reads(stage):
    tracked = {name.partition(".")[0] for name in dvc_stages()[stage]["params"]}
    assert tracked == sections_read(stage) - {"runtime"}


def test_params_yaml_fills_every_section_and_nothing_else():
    from yolov6core.param_sections import SECTIONS, parse_params

    document = parse_yaml((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert list(document) == list(SECTIONS)
    parse_params(document, *SECTIONS.values())
    assert set().union(*map(sections_read, STAGES)) == set(SECTIONS), "a section that no stage reads does nothing"


def test_stages_are_the_commands():
    from stages.__main__ import app

    assert [command.name for command in app.registered_commands][: len(STAGES)] == STAGES
    for stage, entry in dvc_stages().items():
        assert entry["cmd"] == f"python -m stages {stage}"
        assert entry["desc"]


def test_help_starts_without_heavy_imports():
    heavy = {"torch", "cv2", "numpy", "onnx", "rich"}
    code = f"import sys; import stages.__main__; print(sorted({heavy} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_one_module_draws():
    drawing = [module_of(path) for path in sources() if any(name.split(".")[0] == "rich" for name in imports(path))]
    assert drawing == ["stages.shared.drawing"]


def test_wrong_parameters_are_answered_at_once(tmp_path):
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    broken = (
        text.replace("  epochs: ", "  epoch: ").replace("variant: yolov6n_v2", "variant: 7").replace("qat:", "qatt:")
    )
    path = tmp_path / "params.yaml"
    path.write_text(broken, encoding="utf-8")
    started = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-m", "stages", "train-repopt"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - started
    assert result.returncode == 2
    for part in ("train.epoch: unknown parameter; did you mean 'epochs'?", "train.epochs: missing", "model.variant: 7"):
        assert part in result.stderr, result.stderr
    assert "qatt: unknown section; did you mean 'qat'?" in result.stderr
    assert seconds < 5, "parameters are checked before torch is imported"


@pytest.mark.parametrize("name", ["dvc.yaml", "params.yaml"])
def test_files_have_the_form_that_dvc_writes(name, tmp_path):
    """So that `dvc exp run -S` and `dvc freeze` change the lines that they are about, and no other."""
    from dvc.utils.serialize import modify_yaml

    text = (ROOT / name).read_text(encoding="utf-8")
    copy = tmp_path / name
    copy.write_text(text, encoding="utf-8")
    with modify_yaml(str(copy)):
        pass
    assert copy.read_text(encoding="utf-8") == text


def test_freezing_a_stage_adds_one_line(tmp_path, monkeypatch):
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, name)
    lines = Path("dvc.yaml").read_text(encoding="utf-8").splitlines()
    with Repo.init(no_scm=True) as repo:
        for stage in STAGES[1:]:  # DVC writes nothing of the first, whose dependency is a parameter
            repo.freeze(stage)
            frozen = Path("dvc.yaml").read_text(encoding="utf-8").splitlines()
            assert [line for line in frozen if line != "    frozen: true"] == lines, stage
    assert frozen.count("    frozen: true") == len(STAGES) - 1
