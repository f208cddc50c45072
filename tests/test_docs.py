"""README, CONTRIBUTING, docs and dvc.lock say what the committed code and metrics say."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
from functools import cache
from typing import Any
from urllib.parse import unquote

import pytest
import typer.main
from ruamel.yaml import YAML

from stages.__main__ import app
from stages.shared.paths import KINDS
from tests.support.pages import anchors_of, code_of, page, pages, table_of
from tests.support.pipeline import ROOT, STAGES
from tests.test_architecture import MAY_IMPORT
from yolov6core.param_sections import SECTIONS, ParamsError, parse_params

COLUMNS = ("map50_95", "map50", "latency_ms", "size_mb", "speedup")
PAGES = pages()
MADE_BY_RUNS = {"check.py"}
"""Names of files that commands write, and that pages speak of."""
ROOT_NAMES = ("stages", "yolov6core", "tests", "benchmarks", "examples", "metrics", "docs", ".github")
"""Folders of the project whose files the pages may name; `artifacts/` and the like are made by runs."""
FILE_ENDINGS = ("txt", "json", "onnx", "xml", "bin", "plan", "engine", "cache")
"""`engine.json`, `model.onnx`: what follows the dot is no parameter."""
SET_WITH = {"train.epochs": {"weights": "given.safetensors"}}
"""Parameter -> others that some of its values need: no epochs need weights."""
COMMANDS = typer.main.get_command(app).commands


def committed(path: str) -> str:
    """A file as of the last commit: a run of one's own changes metrics, and that is no fault of the README."""
    return committed_bytes(path).decode()


def committed_bytes(path: str) -> bytes:
    result = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True)
    if result.returncode:
        pytest.skip(f"{path} is not in the last commit of a Git checkout")
    return result.stdout


def committed_digest(path: str) -> str:
    """MD5 of a file or folder as of the last commit, as DVC writes it."""
    listed = subprocess.run(["git", "ls-tree", "-r", "--name-only", "HEAD", path], cwd=ROOT, capture_output=True)
    names = listed.stdout.decode().splitlines()
    if names == [path]:
        return hashlib.md5(committed_bytes(path), usedforsecurity=False).hexdigest()
    parts = [
        {"md5": committed_digest(name), "relpath": name.removeprefix(f"{path}/")}
        for name in sorted(names, key=lambda name: tuple(name.split("/")))
    ]
    return hashlib.md5(json.dumps(parts).encode(), usedforsecurity=False).hexdigest() + ".dir"


def yaml_of(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


@cache
def params() -> dict[str, dict[str, Any]]:
    return yaml_of((ROOT / "params.yaml").read_text(encoding="utf-8"))


@cache
def dvc_stages() -> dict[str, dict[str, Any]]:
    return yaml_of((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def spans_of(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_table_in_the_readme_is_the_committed_metrics():
    lines = [f"| kind | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for kind in KINDS:
        row = json.loads(committed(f"metrics/eval/{kind}.json"))
        lines.append(f"| {kind} | " + " | ".join(f"{row[column]:.4g}" for column in COLUMNS) + " |")
    table = re.search(r"<!-- table -->\n(.*?)<!-- /table -->", committed("README.md"), re.DOTALL)[1].strip()
    assert table == "\n".join(lines), "paste this into README.md:\n" + "\n".join(lines)


def test_the_lock_was_made_by_this_code():
    """All code of all stages has the hash that dvc.lock recorded when the committed metrics were made."""
    lock = yaml_of(committed("dvc.lock"))["stages"]
    digests: dict[str, str] = {}
    stale: set[str] = set()
    for stage, entry in dvc_stages().items():
        recorded = {dep["path"]: dep["md5"] for dep in lock[stage]["deps"]}
        for path in entry["deps"]:
            if path.startswith(("stages/", "yolov6core/")):
                digests.setdefault(path, committed_digest(path))
                if recorded.get(path) != digests[path]:
                    stale.add(path)
    assert not stale, "run `make accept` or `make repro` and commit dvc.lock: " + ", ".join(sorted(stale))


def test_folders_have_the_digest_that_dvc_gives_them():
    lock = yaml_of(committed("dvc.lock"))["stages"]
    (recorded,) = (dep["md5"] for dep in lock["prepare-voc2yolo"]["deps"] if dep["path"] == "data/sample_voc")
    assert committed_digest("data/sample_voc") == recorded


def test_the_lock_holds_the_committed_parameters():
    lock = yaml_of(committed("dvc.lock"))
    values_of = yaml_of(committed("params.yaml"))
    for stage, entry in lock["stages"].items():
        for name, values in entry.get("params", {}).get("params.yaml", {}).items():
            section, _, key = name.partition(".")
            found = values_of[section][key] if key else values_of[section]
            assert values == found, f"{stage}: {name} differs from dvc.lock"


@pytest.mark.parametrize("name", PAGES)
def test_parameters_exist(name):
    sections = "|".join(params())
    for code in code_of(page(name)):
        if "renamed to" in code:
            continue  # a message that quotes a key of an earlier version
        for section, key, more in re.findall(rf"(?<![\w./-])({sections})\.(\*|[a-z]\w*)((?:\.\w+)*)(?![\w.]*/)", code):
            if (key + more).rpartition(".")[2] in FILE_ENDINGS:
                continue  # a file
            assert key == "*" or key in params()[section], f"{name}: {code}: no parameter {section}.{key}"


@pytest.mark.parametrize("name", PAGES)
def test_values_of_parameters_are_allowed(name):
    """`section.key: value` in a code span is a value that the parameter takes, as far as its own choices tell."""
    for code in code_of(page(name)):
        found = re.fullmatch(r"(\w+)\.(\w+): (\S+)", code)
        if found and found[1] in params():
            values = params()[found[1]] | SET_WITH.get(f"{found[1]}.{found[2]}", {}) | {found[2]: yaml_of(found[3])}
            with contextlib.suppress(ParamsError):
                parse_params({found[1]: values}, SECTIONS[found[1]])
                continue
            pytest.fail(f"{name}: {code}: not allowed")


@pytest.mark.parametrize("name", PAGES)
def test_paths_exist(name):
    inside = re.compile(rf"(?<![\w./-])(?:{'|'.join(map(re.escape, ROOT_NAMES))})/[\w./*-]*")
    beside = re.compile(r"(?<![\w./*-])(?!\.\./|artifacts/)[\w./-]+\.(?:py|md|toml|lock)(?![\w/])")
    for code in code_of(page(name)):
        for path in inside.findall(code):
            assert list(ROOT.glob(path.rstrip("/."))), f"{name}: {code}: {path} does not exist"
        for path in beside.findall(code):
            if path in MADE_BY_RUNS:
                continue
            folders = (ROOT, ROOT / "stages", ROOT / "yolov6core", *ROOT.glob("examples/*"))
            where = [folder for folder in folders if (folder / path).exists()]
            assert where, f"{name}: {code}: {path} does not exist"


@pytest.mark.parametrize("name", PAGES)
def test_commands_exist(name):
    scripts = "|".join(path.stem for path in (ROOT / "benchmarks").glob("*.py"))
    targets = re.search(r"^\.PHONY: (.*)$", page("Makefile"), re.MULTILINE)[1].split()
    for code in code_of(page(name)):
        for command, rest in re.findall(r"-m stages ([a-z0-9-]+)([^#|;]*)", code):
            if command.startswith("-"):
                continue
            assert command in COMMANDS, f"{name}: {code}: no command {command}"
            options = {option for parameter in COMMANDS[command].params for option in parameter.opts} | {"--help"}
            assert set(re.findall(r"(?<=\s)--[\w-]+", rest)) <= options, f"{name}: {code}"
        for stage in re.findall(r"dvc (?:repro(?: -s)?|commit -f) ([a-z][\w-]+)", code):
            assert stage in STAGES, f"{name}: {code}: no stage {stage}"
        for target in re.findall(r"(?:^|\s)make ([a-z0-9-]+)", code):
            assert target in targets, f"{name}: {code}: the Makefile has no target {target}"
        for script, rest in re.findall(rf"benchmarks/({scripts})\.py([^#|;]*)", code):
            source = page(f"benchmarks/{script}.py")
            for option in re.findall(r"(?<=\s)--[\w-]+", rest):
                assert f'"{option}"' in source, f"{name}: {code}: {script} has no {option}"


def test_the_readme_installs_the_pinned_torch():
    pinned = re.search(r"^torch==\S+", page("constraints.txt"), re.MULTILINE)[0]
    assert f'pip install "{pinned}"' in page("README.md")


def stages_run_again(item: str, *, others: bool) -> set[str]:
    """Stages of dvc.yaml that depend on a path, a parameter or a section (`qat.*`; others: but for those named)."""
    if "/" in item:
        return {stage for stage, entry in dvc_stages().items() if item.rstrip("/") in entry["deps"]} - {"report"}
    section, _, key = item.partition(".")
    found = set()
    for stage, entry in dvc_stages().items():
        parts = {name for name in entry["params"] if name.startswith(f"{section}.")}
        if section in entry["params"] or item in parts or (key == "*" and parts and not others):
            found.add(stage)
    return found - {"report"}  # shows all of a run, so it is made again after every change


def test_the_pipeline_page_says_what_runs_again():
    for what, answer in table_of(page("docs/pipeline.md"), "| a change of | runs again |"):
        named = {stage for stage in STAGES if re.search(rf"(?<![\w.`-]){stage}(?![\w.`-])", answer)}
        for item in spans_of(what):
            assert named == stages_run_again(item, others=what.startswith("other")), item


def test_the_pipeline_page_has_every_stage_in_order():
    rows = table_of(page("docs/pipeline.md"), "| stage | does | writes |")
    assert [stage for stage, _, _ in rows] == STAGES
    for stage, _, written in rows:
        for out in dvc_stages()[stage]["outs"]:
            (path,) = [out] if isinstance(out, str) else out
            assert path in written, f"{stage} writes {path}"


def paths_of(entry: dict[str, Any], *keys: str) -> set[str]:
    """Paths of an entry of dvc.yaml, without their options."""
    listed = [item for key in keys for item in entry.get(key, [])]
    return {path for item in listed for path in ([item] if isinstance(item, str) else item)}


def reads(dep: str, written: set[str]) -> bool:
    """Whether a dependency is one of these paths, or a file in one of these folders."""
    return any(dep == path or dep.startswith(f"{path}/") for path in written)


def needed_stages() -> dict[str, set[str]]:
    """Stage -> the stages whose outputs it reads, without those that come before another one of them."""
    outs = {stage: paths_of(entry, "outs", "metrics", "plots") for stage, entry in dvc_stages().items()}
    needs = {
        stage: {other for other, written in outs.items() if any(reads(dep, written) for dep in entry["deps"])}
        for stage, entry in dvc_stages().items()
    }

    def before(stage: str) -> set[str]:
        return needs[stage].union(*map(before, needs[stage]))

    return {stage: others - set().union(*map(before, others)) for stage, others in needs.items()}


def test_the_graph_in_the_readme_is_that_of_dvc_yaml():
    (graph,) = re.findall(r"^```mermaid\n(.*?)^```$", page("README.md"), re.DOTALL | re.MULTILINE)
    plain = re.sub(r'\["[^"]*"\]', "", graph)
    drawn = set(re.findall(r"^ +([\w-]+) --> ([\w-]+)$", plain, re.MULTILINE))
    expected = {(other, stage) for stage, others in needed_stages().items() for other in others}
    assert drawn == expected, "\n".join(f"{a} --> {b}" for a, b in sorted(expected))
    assert set(re.findall(r'^ +([\w-]+)\["', graph, re.MULTILINE)) == set(STAGES), "every stage has its label"


def test_the_readme_is_short():
    assert len(page("README.md").splitlines()) <= 150


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    text = page(name)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue  # elsewhere
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / unquote(path) if path else ROOT / name
        assert file.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in anchors_of(file.read_text(encoding="utf-8")), f"{name}: {target}"


def test_every_page_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)", page("README.md")))
    assert {name for name in PAGES if name.startswith("docs/")} <= linked


def test_pictures_are_used_described_and_small():
    told = {
        ((ROOT / name).parent / target).resolve(): text
        for name in PAGES
        for text, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", page(name))
    }
    pictures = {path.resolve() for path in (ROOT / "docs/pictures").iterdir()}
    assert pictures == set(told) and all(told.values())
    assert sum(path.stat().st_size for path in pictures) < 500_000


def test_the_page_in_docs_is_that_of_the_committed_run():
    """DVC's hash of the folder `artifacts/report`, which holds the page alone."""
    page_md5 = hashlib.md5(committed_bytes("docs/report.html"), usedforsecurity=False).hexdigest()
    listed = json.dumps([{"md5": page_md5, "relpath": "index.html"}]).encode()
    (out,) = yaml_of(committed("dvc.lock"))["stages"]["report"]["outs"]
    found = hashlib.md5(listed, usedforsecurity=False).hexdigest() + ".dir"
    assert found == out["md5"], "run `python docs/make_pictures.py`"


def test_every_table_of_results_has_its_command():
    sections = re.split(r"^## ", page("docs/results.md"), flags=re.MULTILINE)[1:]
    bare = [
        text.splitlines()[0] for text in sections if "\n|---" in text and not re.search(r"`[^`]*python |make ", text)
    ]
    assert not bare


def test_contributing_says_who_may_import_whom():
    rows = table_of(page("CONTRIBUTING.md"), "| package | holds | may import, beside `base` |")
    told = {spans_of(package)[0]: set(spans_of(others)) for package, _, others in rows}
    assert told == MAY_IMPORT


def test_contributing_names_every_step_of_its_recipes():
    recipes = page("CONTRIBUTING.md").split("## How to add")[1]
    for recipe in re.findall(r"^### .*?(?=^##|\Z)", recipes, re.DOTALL | re.MULTILINE):
        steps = re.findall(r"^\d\. ", recipe, re.MULTILINE)
        assert 3 <= len(steps) <= 6, recipe.splitlines()[0]
