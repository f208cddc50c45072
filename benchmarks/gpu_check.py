"""Everything of this project that only a GPU can show, in one run that needs no network.

    python benchmarks/gpu_check.py --out gpu.json                  # a machine with CUDA; TensorRT where it is installed
    python benchmarks/gpu_check.py --device cpu --runtime openvino --variant yolov6n_v2 --size 64 --batch 4 --no-compile

Float and QAT steps in every precision, fake quantizers against the CPU's, a training killed and continued, trainings
by torchrun, the tests marked `gpu`, engines of all kinds of model: INT8 over float (FP16 on TensorRT) at batch 1 and
32, and their mAP beside torch's; both forms of upsampling in the float network. Engines need `artifacts/` of a pipeline
that has run in the present folder, and the images of the sample dataset. A check that fails says why, and the others go
on. The second line is a dry run of the script itself. Prints a table and writes one JSON document.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from qat_step import LABELS_ONLY, RECIPE, random_batch
from stress_resume import DEADLY, ROOT
from torch import Tensor, nn

from stages.shared import paths
from yolov6core.base.yaml_text import parse_yaml
from yolov6core.data.transforms import network_input
from yolov6core.engines.build_settings import BuildSettings
from yolov6core.engines.compatibility import RUNTIME_DIALECT
from yolov6core.engines.latency import measure, speedup
from yolov6core.engines.registry import RUNTIMES, open_engine, survey
from yolov6core.engines.runtime import Engine, OnGpu
from yolov6core.engines.tensorrt_calibration import CALIBRATED
from yolov6core.exchange.compare import compare_outputs
from yolov6core.export.dialects import write_traced
from yolov6core.export.onnx_export import to_onnx
from yolov6core.int8.qat import QatTask
from yolov6core.models.blocks import deploy_
from yolov6core.models.card import NetworkCard, new_card
from yolov6core.models.decoded import DecodedNetwork
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import QuantizedModel, insert_quantizers, set_ranges_
from yolov6core.quant.observers import Method
from yolov6core.quant.upsampling import split_upsampling_
from yolov6core.tasks.detection import DetectionTask
from yolov6core.tasks.networks import fresh_network, placed
from yolov6core.training.distributed import ProcessGroup
from yolov6core.training.loop import train_one_epoch
from yolov6core.training.train_state import make_train_state

CLASSES = 20
WARM_UP = 3
BATCHES = (1, 32)
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--runtime", default="tensorrt", choices=RUNTIME_DIALECT)
    parser.add_argument("--variant", default="yolov6s_v2")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes minutes")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    options = parser.parse_args()
    document: dict[str, Row] = {}
    for name in options.only:
        started = time.perf_counter()
        try:
            row = CHECKS[name](options)
        except Exception as error:  # one failure must not hide what the others show
            row = {"failed": f"{type(error).__name__}: {error}"}
        document[name] = row | {"seconds": round(time.perf_counter() - started, 1)}
        options.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        for key, value in document[name].items():
            print(f"| {name} | {key} | {value} |", flush=True)
    print(f"-> {options.out}")


def environment(options: argparse.Namespace) -> Row:
    """Versions, and the device."""
    found: Row = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    found |= {item.name: item.version or item.problem for item in survey()}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "gpus": torch.cuda.device_count()}
        found |= {
            "gpu_gib": round(properties.total_memory / 2**30, 1),
            "capability": f"{properties.major}.{properties.minor}",
        }
    return found


def steps(options: argparse.Namespace) -> Row:
    """Images a second and peak memory of training steps: float in every precision, compiled, and QAT."""
    found: Row = {}
    for label, changes in (
        ("float", {}),
        ("float bf16", {"amp": "bf16"}),
        ("float fp16", {"amp": "fp16"}),
        ("float compiled", {"compile": True}),
        ("float bf16 compiled", {"amp": "bf16", "compile": True}),
        ("qat", None),
    ):
        if options.no_compile and "compiled" in label:
            continue
        try:
            found[label] = timed_steps(options, changes)
        except Exception as error:  # a precision that the device lacks, a compiler that is not installed
            found[label] = f"failed: {type(error).__name__}: {error}"
    return found


def timed_steps(options: argparse.Namespace, changes: dict[str, Any] | None) -> str:
    """Images a second of one kind of step; None for QAT."""
    torch.manual_seed(0)
    card, network = fresh(options)
    recipe = replace(RECIPE, batch_size=options.batch, **(changes or {}))
    data = random_batch(options.batch, options.size, boxes=8, classes=CLASSES)
    group = ProcessGroup(device=options.device)
    if changes is None:
        teacher, student = quantized(network, data[0], options.device)
        task: Any = QatTask(student, teacher, card, parts=LABELS_ONLY, iou="siou")
        model: nn.Module = student
    else:
        model, task = network, DetectionTask(network, card, recipe, iou="siou", processes=group)
    state = make_train_state(model, recipe, batches_per_epoch=100, processes=group)
    with peak_memory(options.device) as memory:
        seconds = []
        for _ in range(WARM_UP + options.steps):
            started = time.perf_counter()
            train_one_epoch(state, [data], lambda batch: task(batch, 0), task.weights)
            finished(options.device)
            seconds.append(time.perf_counter() - started)
    return f"{options.batch / statistics.median(seconds[WARM_UP:]):.1f} images/s, {memory()}"


def fresh(options: argparse.Namespace) -> tuple[NetworkCard, Any]:
    """A network with random weights whose batch norm has seen images, on the device."""
    size = (options.size, options.size)
    card = new_card(options.variant, block="repopt", names=tuple(map(str, range(CLASSES))), image_size=size)
    network = placed(fresh_network(card), options.device)
    with torch.no_grad():
        network.train()(network_input(random_batch(2, options.size, boxes=1, classes=CLASSES)[0]).to(options.device))
    return card, network


def quantized(network: nn.Module, images: Tensor, device: str) -> tuple[nn.Module, QuantizedModel]:
    """The deployed network, and the same with calibrated quantizers."""
    teacher = deploy_(network.eval())
    student = placed(insert_quantizers(teacher), device)
    set_ranges_(student, ranges(collect(student, [network_input(images).to(device)]), Method("max")))
    return teacher, student


def quantizers(options: argparse.Namespace) -> Row:
    """The same calibrated network on CPU and device: ranges, every quantizer, and the outputs."""
    torch.manual_seed(0)
    small = argparse.Namespace(**vars(options) | {"device": "cpu", "size": min(options.size, 320)})
    images, _ = random_batch(2, small.size, boxes=1, classes=CLASSES)
    _, network = fresh(small)
    _, student = quantized(network, images, "cpu")
    batch = network_input(images)
    weights = {name: module.effective_weight().detach() for name, module in convolutions(student)}
    values = torch.linspace(-3.0, 9.0, 100_001)
    activations = {name: module(values) for name, module in student.ranges.items()}
    with torch.no_grad():
        here = student(batch)
        student.to(options.device)
        there = student(batch.to(options.device))
    found = {name: module.effective_weight().detach().cpu() for name, module in convolutions(student)}
    moved = {name: module(values.to(options.device)).cpu() for name, module in student.ranges.items()}
    return {
        "weights that differ": sum(int((found[name] != weights[name]).sum()) for name in weights),
        "activations that differ": sum(int((moved[name] != activations[name]).sum()) for name in moved),
        "relative distance of outputs": f"{distance(flat(there), flat(here)):.2e}",
    }


def convolutions(model: QuantizedModel) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "effective_weight")]


def flat(outputs: Any) -> Tensor:
    """All tensors of an output as one vector on the CPU."""
    if isinstance(outputs, Tensor):
        return outputs.detach().float().cpu().flatten()
    parts = (
        outputs.values()
        if isinstance(outputs, dict)
        else outputs
        if isinstance(outputs, list | tuple)
        else vars(outputs).values()
    )
    return torch.cat([flat(part) for part in parts])


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def resume(options: argparse.Namespace) -> Row:
    """A training that is killed in its third step and continued, against one that was not."""
    with small_project(options):
        weights = paths.WEIGHTS["float"]
        run("train-repopt")
        expected = weights.read_bytes()
        killed = run("-c", DEADLY, "step", "3", "train-repopt", check=False)
        run("train-repopt")
        return {"killed with": killed, "the same bytes": weights.read_bytes() == expected}


def torchrun(options: argparse.Namespace) -> Row:
    """Trainings of one and of two processes, one device each (NCCL on GPUs, gloo on a CPU)."""
    found: Row = {}
    for count in (1, 2):
        if options.device.startswith("cuda") and torch.cuda.device_count() < count:
            found[f"{count} processes"] = f"not tried: {torch.cuda.device_count()} GPU"
            continue
        with small_project(options):
            started = time.perf_counter()
            run(
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc-per-node={count}",
                "-m",
                "stages",
                "train-repopt",
            )
            score = json.loads(Path("metrics/train.json").read_text(encoding="utf-8"))["map50_95"]
            found[f"{count} processes"] = f"{time.perf_counter() - started:.1f} s, mAP50:95 {score:.4f}"
    return found


def gpu_tests(options: argparse.Namespace) -> Row:
    """`pytest -m gpu`."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rs", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return {"exit code": done.returncode, "last lines": done.stdout.strip().splitlines()[-8:]}


def engines(options: argparse.Namespace) -> Row:
    """Engines of every kind of model, of any batch: INT8 convolutions, speed against float, mAP beside torch's."""
    project = Path.cwd()
    for path in paths.WEIGHTS.values():
        if not path.exists():
            return {"not tried": f"{path} is missing: run the pipeline here, or copy artifacts/ of one that has run"}
    params = parse_yaml((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["prepare"]["root"] = str((ROOT / params["prepare"]["root"]).resolve())
    params["export"] |= {"dialects": [RUNTIME_DIALECT[options.runtime]], "dynamic_batch": True}
    params["export"] |= file_form(options.runtime)
    params["engine"] |= {"runtime": options.runtime, "max_batch": max(BATCHES)}
    params["runtime"]["device"] = options.device
    with temporary_folder():
        Path("params.yaml").write_text(json.dumps(params), encoding="utf-8")
        Path("artifacts").mkdir()
        for folder in paths.FOLDERS.values():
            folder.symlink_to(project / folder)
        for stage in ("prepare-voc2yolo", "export-onnx", "build-trt", "eval-trt"):
            run(stage)
        return engine_rows(project)


def engine_rows(project: Path) -> Row:
    opened = {path.name: open_engine(path) for path in sorted(paths.ENGINES.iterdir())}
    found: Row = {}
    for kind, engine in opened.items():
        score = json.loads((paths.METRICS / "eval" / f"{kind}.json").read_text(encoding="utf-8"))["map50_95"]
        found[kind] = f"{engine.info.describe()}; mAP50:95 {score:.4f}"
        if kind == "naive":  # there is none in torch
            found[kind] += ", calibrated by TensorRT itself" if engine.info.dialect == CALIBRATED else ""
            continue
        stage = {"float": "train"}.get(kind, kind)
        of_torch = json.loads((project / paths.METRICS / f"{stage}.json").read_text(encoding="utf-8"))["map50_95"]
        found[kind] += f" (torch {of_torch:.4f})"
    return found | compared_times(opened, "float")


def compared_times(opened: dict[str, Engine], first: str) -> Row:
    """How many times as fast as the engine `first` the others are, call by call and, on a GPU, by its clock."""
    found: Row = {}
    others = [name for name in opened if name != first]
    for batch in BATCHES:
        images = np.random.default_rng(0).random((batch, 3, *opened[first].info.input_shape[2:]), dtype=np.float32)
        times = measure({name: partial(engine.infer, images) for name, engine in opened.items()}, repeats=20)
        shown = (f"{name} {speedup(times[first], times[name]):.2f}" for name in others)
        found[f"batch {batch}, times as fast as {first} ({times[first].median_ms:.2f} ms)"] = ", ".join(shown)
        if clock := gpu_times(opened, images):
            shown = (f"{name} {clock[first] / clock[name]:.2f}" for name in others)
            found[f"batch {batch}, by the GPU's clock ({clock[first]:.3f} ms)"] = ", ".join(shown)
    return found


def gpu_times(opened: dict[str, Engine], images: np.ndarray, rounds: int = 5) -> dict[str, float]:
    """Median milliseconds of a run without copies, engines in turns; none for engines that do not run on a GPU."""
    on_gpu = {name: engine for name, engine in opened.items() if isinstance(engine, OnGpu)}
    found: dict[str, list[float]] = {name: [] for name in on_gpu}
    for _ in range(rounds):
        for name, engine in on_gpu.items():
            found[name] += engine.compute_ms(images, 40)
    return {name: statistics.median(times) for name, times in found.items()}


def file_form(runtime: str) -> dict[str, Any]:
    """Opset and precision of files that the runtime takes: half precision where it takes its types from the file."""
    if RUNTIME_DIALECT[runtime] != "trt":
        return {"fp16": False}
    old = RUNTIMES[runtime].version().startswith("8.")
    return {"opset": 17, "fp16": False} if old else {"opset": 19, "fp16": True}


def upsampling(options: argparse.Namespace) -> Row:
    """The float network with transposed convolutions, and with 1x1 convolutions and DepthToSpace in place of them."""
    torch.manual_seed(0)
    card, network = fresh(argparse.Namespace(**vars(options) | {"device": "cpu"}))
    whole = deploy_(network.eval())
    split = copy.deepcopy(whole)
    split_upsampling_(split)
    form, dialect = file_form(options.runtime), RUNTIME_DIALECT[options.runtime]
    settings = BuildSettings(max_batch=max(BATCHES))
    opened: dict[str, Engine] = {}
    with temporary_folder():
        for name, model in (("ConvTranspose", whole), ("DepthToSpace", split)):
            decoded = DecodedNetwork(model, strides=card.strides, image_size=card.image_size).eval()
            shape = (1, 3, *card.image_size)
            traced = to_onnx(decoded, input_shape=shape, dynamic_batch=True, opset=form.get("opset", 19))
            path = write_traced(traced, Path(f"{name}.onnx"), dialect=dialect, fp16=form["fp16"]).path
            RUNTIMES[options.runtime].build(path, Path(name), settings)
            opened[name] = open_engine(Path(name))
        images = np.random.default_rng(0).random((1, 3, *card.image_size), dtype=np.float32)
        outputs = [[engine.infer(images)] for engine in opened.values()]
        differ = {"relative distance of outputs": f"{compare_outputs(*outputs)['relative_l2']:.2e}"}
        return differ | compared_times(opened, "ConvTranspose")


@contextmanager
def peak_memory(device: str) -> Iterator[Callable[[], str]]:
    """Gives a function that tells the peak memory of the device since the start."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        yield lambda: f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB"
    else:
        yield lambda: "memory not told on a CPU"


def finished(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


@contextmanager
def temporary_folder() -> Iterator[None]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


@contextmanager
def small_project(options: argparse.Namespace) -> Iterator[None]:
    """Be in a folder with a small prepared dataset and parameters of a short training on the device."""
    params = parse_yaml((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["model"] |= {"variant": "yolov6n_v2", "image_size": [64, 64]}
    params["prepare"] |= {"calib_images": 4, "select_fraction": 0.25}
    params["search"]["scales"] = "none"
    params["train"] |= {"block": "repvgg", "epochs": 4, "batch_size": 4, "eval_every": 2}
    params["runtime"] |= {"device": options.device, "threads": 2}
    with temporary_folder():
        Path("params.yaml").write_text(json.dumps(params), encoding="utf-8")
        run("draw-sample", "--root", "data/sample_voc", "--images", "16")
        run("prepare-voc2yolo")
        run("search-scales")
        yield


def run(*arguments: str, check: bool = True) -> int:
    """Run a command of the project, or `python` with the arguments; its exit code."""
    start = [sys.executable] if arguments[0].startswith("-") else [sys.executable, "-m", "stages"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*start, *arguments], env=environment, capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"{arguments[0]}: {done.stderr.strip()[-400:]}")
    return done.returncode


CHECKS: dict[str, Callable[[argparse.Namespace], Row]] = {
    "environment": environment,
    "steps": steps,
    "quantizers": quantizers,
    "resume": resume,
    "torchrun": torchrun,
    "tests": gpu_tests,
    "engines": engines,
    "upsampling": upsampling,
}


if __name__ == "__main__":
    main()
