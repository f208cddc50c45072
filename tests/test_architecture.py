"""The rules that a reader relies on: import directions, lean start, and agreement of the pipeline's files."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PACKAGES = ("yolov6core", "stages")
HEAVY = {"onnx", "onnxruntime", "onnxsim", "openvino", "tensorrt", "tensorrt_rtx", "matplotlib", "pandas"}
MAY_IMPORT = {  # package of yolov6core -> packages and modules of yolov6core it may import, besides itself
    "boxes": set(),
    "errors": set(),
    "atomic": {"errors"},
    "checkpoint": {"atomic"},
    "saturation": set(),
    "yaml_text": set(),
    "training": {"atomic"},
    "quant": {"saturation"},
    "models": {"boxes"},
    "assigners": {"boxes"},
    "data": {"boxes", "yaml_text"},
    "datasets": {"data", "yaml_text"},
    "pretrained": {"models", "quant"},
    "evaluation": {"boxes", "data"},
    "losses": {"boxes", "assigners"},
    "engines": {"saturation"},
    "export": {"atomic", "engines", "quant"},
}


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Modules that a file imports, `from package import module` resolved; type-checking imports do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {
                f"{node.module}.{alias.name}"
                for alias in node.names
                if (ROOT / node.module.replace(".", "/") / f"{alias.name}.py").is_file()
            }
            assert all(alias.name != "*" for alias in node.names), f"{path}: star import"
        if not (top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            pending += list(ast.iter_child_nodes(node))
    return found


def ours(modules: set[str]) -> set[str]:
    return {
        module
        for module in modules
        if module.split(".")[0] in PACKAGES and (ROOT / (module.replace(".", "/") + ".py")).is_file()
    }


def closure(module: str) -> set[str]:
    """All modules of the project that a module imports, directly or not, itself included."""
    seen, pending = set(), [module]
    while pending:
        current = pending.pop()
        if current not in seen:
            seen.add(current)
            pending += ours(imports(ROOT / (current.replace(".", "/") + ".py")))
    return seen


def load_yaml(name: str) -> dict:
    return YAML(typ="safe", pure=True).load((ROOT / name).read_text(encoding="utf-8"))


def stage_module(stage: str) -> str:
    return f"stages.{stage.replace('-', '_')}"


STAGES = list(load_yaml("dvc.yaml")["stages"])


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_imports_point_one_way(path):
    parts = module_of(path).split(".")
    for module in ours(imports(path)):
        target = module.split(".")
        if parts[0] == "yolov6core":
            assert target[0] == "yolov6core", f"{path}: the core must not know the stages"
            own, other = parts[1], target[1]
            assert own == other or other in MAY_IMPORT[own], f"{path}: {own} must not import {other}"
        elif target[0] == "stages" and parts[1] != "__main__":
            assert target[1].startswith("_"), f"{path}: a stage must not import the stage {module}"


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_heavy_packages_are_imported_inside_functions(path):
    top = {module.split(".")[0] for module in imports(path, top_level=True)}
    assert not top & HEAVY, f"{path} imports {top & HEAVY} at module level"
    if path.parts[-2] == "stages":
        assert not top & {"torch", "cv2", "numpy"}, f"{path}: a stage's --help must not wait for {top}"


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


def test_no_import_cycles():
    for path in sources():
        for module in ours(imports(path)):
            assert module_of(path) not in closure(module), f"{module_of(path)} and {module} import each other"


@pytest.mark.parametrize("stage", STAGES)
def test_code_deps_equal_the_import_closure(stage):
    deps = {dep for dep in load_yaml("dvc.yaml")["stages"][stage]["deps"] if dep.endswith(".py")}
    needed = {module.replace(".", "/") + ".py" for module in closure(stage_module(stage))}
    assert deps == needed, f"missing: {sorted(needed - deps)}; needless: {sorted(deps - needed)}"


def sections_read(stage: str) -> dict[str, str]:
    """Section -> dataclass name, as the stage's command passes them to read_params."""
    tree = ast.parse((ROOT / (stage_module(stage).replace(".", "/") + ".py")).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    reads = [call for call in calls if ast.unparse(call.func) == "read_params"]
    assert len(reads) == 1, f"{stage} must read its parameters in one place"
    return {keyword.arg: ast.unparse(keyword.value) for keyword in reads[0].keywords}


@pytest.mark.parametrize("stage", STAGES)
def test_params_of_dvc_yaml_are_the_sections_a_stage_reads(stage):
    tracked = {name.partition(".")[0] for name in load_yaml("dvc.yaml")["stages"][stage]["params"]}
    assert tracked == set(sections_read(stage)) - {"runtime"}


def test_params_yaml_fills_every_section_and_nothing_else():
    import importlib

    from stages._params import SECTIONS, parse_params

    document = load_yaml("params.yaml")
    assert set(document) == set(SECTIONS)
    read = {}
    for stage in STAGES:
        module = importlib.import_module(stage_module(stage))
        sections = {name: getattr(module, cls) for name, cls in sections_read(stage).items()}
        assert all(dataclasses.is_dataclass(section) for section in sections.values())
        parse_params(document, **sections)
        read |= sections
    assert set(read) == set(SECTIONS), "a section that no stage reads does nothing"


def test_stages_are_the_commands():
    from stages.__main__ import STAGES as commands

    assert list(commands) == STAGES
    for stage, entry in load_yaml("dvc.yaml")["stages"].items():
        assert entry["cmd"] == f"python -m stages {stage}"
        assert entry["desc"]


def test_help_starts_without_heavy_imports():
    code = "import sys; import stages.__main__; print(sorted({'torch', 'cv2', 'numpy', 'onnx'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_wrong_parameters_are_answered_at_once(tmp_path):
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    broken = (
        text.replace("  epochs: ", "  epoch: ").replace("variant: yolov6n_v2", "variant: 7").replace("qat:", "qatt:")
    )
    path = tmp_path / "params.yaml"
    path.write_text(broken, encoding="utf-8")
    started = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-m", "stages", "train-repopt", "--params", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - started
    assert result.returncode == 2
    for part in ("train.epoch: unknown parameter; did you mean 'epochs'?", "train.epochs: missing", "model.variant: 7"):
        assert part in result.stderr, result.stderr
    assert "qatt: unknown section; did you mean 'qat'?" in result.stderr
    assert seconds < 5, "parameters are checked before torch is imported"
