"""Integer arithmetic of the CPU at hand, and its consequences for engines."""

from __future__ import annotations

import dataclasses
import os

import pytest

from tests.support.cpu_modes import run_in
from yolov6core.engines import cpu
from yolov6core.engines.complaints import is_wrong_here, unsuitable_cpu
from yolov6core.engines.cpu import IntegerArithmetic, integer_arithmetic
from yolov6core.engines.registry import RUNTIMES, open_engine, open_exact
from yolov6core.engines.runtime import BuildSettings
from yolov6core.export.dialects import write_dialect

SAYS = "from yolov6core.engines.cpu import integer_arithmetic as i; print(i().sums, i().runtimes, i().flags)"


def pretend(monkeypatch, sums):
    """Let the CPU at hand be of this kind."""
    runtimes = {"openvino": sums, "onnxruntime": sums}
    monkeypatch.setattr(cpu, "integer_arithmetic", lambda: IntegerArithmetic(sums, runtimes, ()))


@pytest.mark.skipif(
    bool({"CPUID_MASK", "ONEDNN_MAX_CPU_ISA"} & os.environ.keys()), reason="instructions are hidden from this process"
)
def test_flags_and_trials_agree_here():
    found = integer_arithmetic()
    assert set(found.runtimes) == {"openvino", "onnxruntime"}
    assert (found.sums == "exact") == bool(found.flags), "a runtime does not do what the CPU can"
    assert ("no VNNI" in found.describe()) == (found.sums == "saturating")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["openvino-avx2", "avx512", "avx2"])
def test_a_lower_instruction_set_is_noticed(tmp_path, mode):
    result = run_in(mode, tmp_path, "-c", SAYS)
    assert result.stdout.startswith("saturating {'openvino': 'saturating'"), result.stderr


def test_trials_decide_and_flags_stand_in(monkeypatch):
    def missing():
        raise ImportError

    monkeypatch.setattr(cpu, "cpu_facts", lambda: {"flags": "avx2 avx_vnni"})
    for probe, sums in ((missing, "exact"), (lambda: False, "saturating"), (lambda: True, "exact")):
        monkeypatch.setattr(cpu, "PROBES", {"openvino": probe, "onnxruntime": missing})
        found = cpu.integer_arithmetic.__wrapped__()
        assert found.sums == found.of("openvino") == sums and found.flags == ("avx_vnni",)
    monkeypatch.setattr(cpu, "cpu_facts", dict)
    monkeypatch.setattr(cpu, "PROBES", {"openvino": missing})
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    assert cpu.integer_arithmetic.__wrapped__().sums == "saturating", "what is not known is taken for the worse"
    monkeypatch.setattr(cpu.platform, "machine", lambda: "arm64")
    assert cpu.integer_arithmetic.__wrapped__().sums == "exact"


@pytest.fixture
def built(tmp_path, toy_net):
    """(runtime, dialect, weights of all 8 bits) -> an engine of the toy network."""

    def build(runtime, dialect, *, full):
        net = toy_net(dialect)
        if full:
            for module in net.modules():
                if hasattr(module, "conv"):
                    module.scale = module.conv.weight.detach().abs().amax((1, 2, 3)) / 127
        path = tmp_path / "model.onnx"
        write_dialect(net, path, dialect=dialect, input_shape=(1, 3, 32, 32))
        return RUNTIMES[runtime].build(path, tmp_path / "engine", BuildSettings(threads=1))

    return build


@pytest.mark.parametrize("runtime, dialect", [("openvino", "openvino"), ("onnxruntime", "ort")])
def test_engines_say_which_cpus_they_are_for(built, monkeypatch, runtime, dialect):
    safe = built(runtime, dialect, full=False)
    assert (safe.overflowing_convs, safe.cpu_sums) == (0, integer_arithmetic().of(runtime))
    assert f"CPU with {safe.cpu_sums} integer sums" in safe.describe()
    full = built(runtime, dialect, full=True)
    assert full.overflowing_convs >= 4
    pretend(monkeypatch, "exact")
    assert unsuitable_cpu(full) == unsuitable_cpu(safe) == ""
    pretend(monkeypatch, "saturating")
    assert unsuitable_cpu(safe) == "" and not is_wrong_here(safe)
    loud = "WRONG SUMS" if runtime == "openvino" else "INT8 WITHOUT GAIN"
    assert unsuitable_cpu(full).startswith(f"{loud}: {full.overflowing_convs} convolutions")
    assert is_wrong_here(full) == (runtime == "openvino")
    assert unsuitable_cpu(dataclasses.replace(full, device="Tesla T4", runtime="tensorrt")) == ""


@pytest.mark.parametrize("runtime, dialect", [("openvino", "openvino"), ("onnxruntime", "ort")])
def test_an_engine_in_exact_arithmetic_agrees_with_torch(
    built, tmp_path, toy_net, images, run_torch, distance, runtime, dialect
):
    built(runtime, dialect, full=False)
    wanted = run_torch(toy_net(dialect), images[:1])
    assert distance(open_exact(tmp_path / "engine").infer(images[:1]), wanted) < 0.01
    assert distance(open_engine(tmp_path / "engine").infer(images[:1]), wanted) < 0.01


@pytest.mark.slow
def test_onnxruntime_adds_in_32_bits_what_would_overflow(tmp_path):
    """On the CPU at hand and on one without VNNI: files for exact CPUs stay right, if slow."""
    code = """
import sys, tempfile, pathlib, numpy as np
sys.path.insert(0, ".")
from tests.support.largest_convolution import largest_convolution
from yolov6core.engines import onnxruntime_engine as ort
from yolov6core.engines.runtime import BuildSettings
folder = pathlib.Path(tempfile.mkdtemp())
largest_convolution(folder / "model.onnx")
info = ort.build(folder / "model.onnx", folder / "engine", BuildSettings(threads=1))
boxes, _ = ort.load(folder / "engine", info).infer(np.ones((1, 3, 8, 8), np.float32))
print(info.overflowing_convs, info.int8_convs, float(np.median(boxes)))
"""
    for mode in ("here", "avx2"):
        result = run_in(mode, tmp_path, "-c", code)
        assert result.returncode == 0, result.stderr
        count, integer, value = result.stdout.split()
        assert (count, float(value)) == ("2", 255.0), mode
        assert integer == "2"
