"""Benchmarks are run by hand; what they import has to exist all the same, and `make bench` has to know them all."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import time
from pathlib import Path

import pytest

from tests.support.pages import anchors_of, page, table_of
from tests.support.pipeline import ROOT

SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
RESULTS = "benchmarks/RESULTS.md"


@pytest.fixture
def of_benchmarks(monkeypatch):
    """Import of a script of `benchmarks/` by name; they import each other by their plain names."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (ROOT / "benchmarks" / f"{name}.py").exists():
            del sys.modules[name]


def imported(path: Path) -> list[tuple[str, str]]:
    """(module, name) of every import from this project, also of code that a script keeps as text."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    trees = [tree]
    for text in texts:
        if "\nfrom yolov6core" in text:
            trees.append(ast.parse(text))
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    ours = [node for node in nodes if node.module.split(".")[0] in ("yolov6core", "stages")]
    return [(node.module, alias.name) for node in ours for alias in node.names]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_exists(path):
    for module, name in imported(path):
        found = importlib.import_module(module)
        if not hasattr(found, name):
            importlib.import_module(f"{module}.{name}")


def test_make_bench_runs_every_benchmark_or_says_why_not(of_benchmarks):
    run_all = of_benchmarks("run_all")
    run = {run_all.script(bench) for bench in (*run_all.QUICK, *run_all.BESIDE_PEERS)}
    assert run | set(run_all.LEFT_OUT) == {path.stem for path in SCRIPTS}
    assert not run & set(run_all.LEFT_OUT)


def test_its_commands_have_options_that_exist(of_benchmarks):
    run_all = of_benchmarks("run_all")
    for bench in (*run_all.QUICK, *run_all.BESIDE_PEERS):
        source = page(f"benchmarks/{run_all.script(bench)}.py")
        for option in re.findall(r"(?<=\s)--[\w-]+", bench.command):
            assert f'"{option}"' in source, f"{bench.command}: no {option}"
        for pattern in bench.claims.values():
            assert re.compile(pattern).groups in (1, 2), pattern


def outcomes(run_all, tmp_path, claims: dict[str, str], code: str, **options) -> list[tuple[str, ...]]:
    (tmp_path / "script.py").write_text(code, encoding="utf-8")
    bench = run_all.Bench(f"WORD=seven python {tmp_path}/script.py ../shared", claims, **options)
    return [row[:3] for row in run_all.outcome(bench, shared=tmp_path / "shared data", limit=5)]


def test_figures_spreads_and_failures_reach_the_table(of_benchmarks, tmp_path):
    run_all = of_benchmarks("run_all")
    claims = {"speed": run_all.RANGE + " times", "other": rf"other {run_all.NUMBER}"}
    code = "import os, sys\nprint(os.environ['WORD'], sys.argv[1])\nprint('1.5 (1.2 to 1.9) times')\n"
    speed, other = outcomes(run_all, tmp_path, claims, code)
    assert speed == ("speed", "1.5", "1.2 to 1.9")
    assert other == ("other", "FAILED: its output lacks this figure", "")
    shown = outcomes(run_all, tmp_path, {"folder": r"seven (.+)"}, code)
    assert shown == [("folder", f"{tmp_path}/shared data", "")]
    for claim, figure, _ in outcomes(run_all, tmp_path, claims, code + "raise SystemExit('no disk')\n"):
        assert (claim, figure) in [(name, "FAILED: exit code 1, no disk") for name in claims]
    (row,) = outcomes(run_all, tmp_path, {"speed": "(x)"}, code, needs=("../shared/weights",))
    assert row[1] == f"not run: no {tmp_path}/shared data/weights"


def test_a_benchmark_that_hangs_is_ended_with_all_that_it_started(of_benchmarks, tmp_path):
    run_all = of_benchmarks("run_all")
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    (tmp_path / "script.py").write_text(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {code!r}])")
    assert run_all.run(f"python {tmp_path}/script.py", limit=1.5) == ("", "took longer than 1.5 s")
    child = Path(f"/proc/{(tmp_path / 'pid').read_text()}/status")
    for _ in range(50):
        if not child.exists() or "State:\tZ" in child.read_text():
            return
        time.sleep(0.1)
    pytest.fail("its child still runs")


def test_a_result_replaces_only_what_stands_between_its_marks(of_benchmarks, tmp_path):
    put_into = of_benchmarks("reporting").put_into
    path = tmp_path / "page.md"
    path.write_text(
        "a\n<!-- bench -->\nold\n<!-- /bench -->\n<!-- peers -->\nkept\n<!-- /peers -->\n", encoding="utf-8"
    )
    put_into(path, "bench", ["new", "lines"])
    text = "a\n<!-- bench -->\nnew\nlines\n<!-- /bench -->\n<!-- peers -->\nkept\n<!-- /peers -->\n"
    assert path.read_text(encoding="utf-8") == text
    with pytest.raises(SystemExit, match="nothing was written"):
        put_into(path, "growth", ["new"])
    assert path.read_text(encoding="utf-8") == text


def test_growth_finds_the_line_and_the_power(of_benchmarks):
    growth = of_benchmarks("growth")
    fixed, slope, off, power = growth.fitted({10: 2.0, 20: 4.0, 40: 8.0})
    assert (fixed, slope, off, power) == pytest.approx((0, 0.2, 0, 1), abs=1e-9)
    row = growth.Row("loading", "images", dict, computed_at=1000)
    assert growth.cells(row, {10: 3.0, 20: 4.0, 40: 6.0})[-1] == "1,000: 102 s"
    assert growth.fitted({1: 8.0, 2: 4.0, 4: 2.0})[3] == pytest.approx(-1)


def between(name: str, mark: str) -> list[str]:
    return page(name).split(f"<!-- {mark} -->\n")[1].split(f"\n<!-- /{mark} -->")[0].splitlines()


def test_the_computed_table_of_coco_is_what_the_script_computes(of_benchmarks):
    growth = of_benchmarks("growth")
    assert between("docs/growth.md", "coco") == growth.coco(8, 20)
    for name, (gflops, parameters) in growth.NETWORKS.items():
        assert f"{parameters} M, {gflops}" in page("docs/networks.md"), name


def test_the_claims_are_those_of_the_results():
    results = page("docs/results.md")
    links = re.findall(r"\]\(\.\./docs/results\.md#([\w-]+)\)", page(RESULTS))
    assert set(links) <= anchors_of(results)
    for claim, figure, spread, _, _ in table_of(page(RESULTS), "| claim | figure | spread | date | section |"):
        for number in re.findall(r"\d+\.\d+", figure + spread):
            assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.]*\d)", results), f"{claim}: {number}"
