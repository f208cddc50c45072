"""Integer kernels of every kind of CPU that this one can imitate add our weights exactly, but only with our limits."""

from __future__ import annotations

import json
from functools import cache

import pytest

from tests.support.cpu_modes import MODES, run_in

pytestmark = pytest.mark.slow


CONTROLS = ("here", "avx2")
"""Modes in which weights of all 8 bits are tried as well."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cpu_modes")


@cache
def found_in(mode, folder):
    """What one process in the mode finds for all kinds of weights."""
    kinds = ("saturating", "exact") if mode in CONTROLS else ("saturating",)
    result = run_in(mode, folder, "tests/support/exact_sums.py", *kinds)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def sums_and_differences(mode, folder, cpu):
    document = found_in(mode, folder)
    return document["sums"], document["differences"][cpu]


@pytest.mark.parametrize("mode", MODES)
def test_weights_for_saturating_cpus_are_added_exactly(folder, mode):
    sums, differences = sums_and_differences(mode, folder, "saturating")
    assert len(differences) == 56
    assert {case: row for case, row in differences.items() if any(row.values())} == {}
    hidden = {"here": (), "openvino-avx2": ("openvino",)}.get(mode, ("openvino", "onnxruntime"))
    assert all(sums[runtime] == "saturating" for runtime in hidden), "the mode does not hide instructions"


def test_whole_networks_are_right_without_vnni(folder):
    tests = "tests/export/test_families.py::test_engines_agree_with_torch_on_every_cpu"
    result = run_in("avx2", folder, "-m", "pytest", tests)
    assert result.returncode == 0 and "12 passed" in result.stdout, result.stdout


@pytest.mark.parametrize("mode", CONTROLS)
def test_all_bits_are_right_on_exact_cpus_only(folder, mode):
    """The control of the test above: where sums saturate, weights of 8 bits are wrong in all but depthwise kernels."""
    sums, differences = sums_and_differences(mode, folder, "exact")
    for runtime, kind in sums.items():
        wrong = {case for case, row in differences.items() if row[runtime]}
        if kind == "exact":
            assert wrong == set()
        else:
            safe = {case for case in differences if case.startswith(("depthwise", "one ", "drawn"))}
            assert set(differences) - safe <= wrong
            assert not any(case.startswith("depthwise") for case in wrong)
