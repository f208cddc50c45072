"""A quick form of every benchmark and one table of what they say: `make bench`, `make bench-peers`.

    python benchmarks/run_all.py                # without other toolkits; under 15 minutes on two quiet cores
    python benchmarks/run_all.py --peers        # beside other toolkits: in the environment of `make bench-peers`
    python benchmarks/run_all.py --only nms qat_step --update

Each benchmark is a process of its own. One that fails or takes too long stays in the table with its reason, and the
others go on; the exit code is 1 then. `--update` puts the table into benchmarks/RESULTS.md. Quick figures are those of
a few rounds: they show that a claim still holds, the claims themselves come from the longer runs of docs/results.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reporting import ROOT, machine, put_into, table

NUMBER = r"([-+]?[\d.]+)"
RANGE = NUMBER + r" *\((.+?)\)"
"""A figure, and its spread in brackets."""
RUN_HERE = ("artifacts/onnx", "artifacts/dataset")
"""What `make repro` leaves, for benchmarks of the network in the present folder."""
SHARED = "../shared"
SHARED_DATA = ("../shared/weights", "../shared/data/coco128")
PACKAGES = ("torch", "openvino", "onnxruntime", "numpy", "opencv-python-headless", "dvc")
PEERS = ("nvidia-modelopt", "nncf", "ultralytics", "torchvision")
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
HEADER = ("claim", "figure", "spread", "seconds", "command")


@dataclass(frozen=True)
class Bench:
    """A command with small options, and where its output says what.

    Attributes:
        command: as one types it in the project's folder; `../shared` becomes the folder of shared data.
        claims: what a figure is -> pattern of the output, with a group for the figure and one for its spread, if any.
        needs: paths without which it is not run.
    """

    command: str
    claims: Mapping[str, str]
    needs: tuple[str, ...] = ()


QUICK = (
    Bench(
        "python benchmarks/start_up.py --rounds 3",
        {
            "start: `stages --help`, s": rf"stages --help: {NUMBER} s \((.+?)\)",
            "start: `import torch`, s": rf"import torch: {NUMBER} s \((.+?)\)",
            "start: answer to a wrong parameter, s": rf"wrong parameter: {NUMBER} s \((.+?)\)",
            "DVC finds nothing to do, s": rf"dvc status: {NUMBER} s \((.+?)\)",
        },
    ),
    Bench(
        "python benchmarks/prepare_speed.py --images 2000 --rounds 2",
        {"conversion of VOC, images/s": rf"images: {NUMBER} a second"},
    ),
    Bench(
        "python benchmarks/loader_speed.py data/sample_voc --batches 12",
        {
            f"loader at 320, {how}, {count}, images/s": rf"cache {kind}, workers {workers}: {NUMBER} .*? \((.+?)\)"
            for kind, how in (("none", "decoding"), ("ram", "images in memory"))
            for workers, count in ((0, "no workers"), (2, "two workers"))
        },
    ),
    Bench(
        "python benchmarks/training_step.py --steps 6",
        {
            "training step of N, RepOpt, ms": rf"repopt .* {NUMBER} +[\d.]+\n",
            "training step of N, search of scales, ms": rf"scaled .* {NUMBER} +[\d.]+\n",
            "training step of N (v3), RepVGG, ms": rf"repvgg .* {NUMBER} +[\d.]+\n",
        },
    ),
    Bench(
        "python benchmarks/qat_step.py --rounds 6 --kinds quantized teacher",
        {
            "QAT step of N to a float step": rf"quantized .* x {NUMBER} \((.+?)\)",
            "QAT step with teacher to a float step": rf"teacher .* x {NUMBER} \((.+?)\)",
        },
    ),
    Bench(
        "python benchmarks/waiting.py --rounds 1 --steps 8",
        {
            "step with `runtime.waiting: auto`, to the best": rf"auto alone to the best alone: {NUMBER}",
            "the same beside a busy process": rf"auto beside to the best alone: {NUMBER}",
        },
    ),
    Bench(
        "python benchmarks/evaluation_speed.py --runs 2",
        {
            "whole evaluation, INT8, images/s": rf"openvino int8: {NUMBER} images",
            "whole evaluation, torch, images/s": rf"torch: {NUMBER} images",
        },
    ),
    Bench(
        "python benchmarks/nms.py --rounds 5",
        {
            f"suppression, {kind}: OpenVINO's operator takes, times": rf"{kind}: .*?openvino {NUMBER} times"
            for kind in ("scattered", "clustered", "piled")
        },
    ),
    Bench(
        "python benchmarks/calibration_speed.py --variant yolov6n_v2 --batches 2",
        {"ranges of N by all methods, CPU s": rf"methods for \d+ tensors: {NUMBER} s"},
    ),
    Bench(
        "OMP_WAIT_POLICY=PASSIVE python benchmarks/engine_speed.py --rounds 3",
        {
            "N at 640: OpenVINO INT8 to its FP32": rf"openvino int8 +openvino float +{RANGE}",
            "N at 640: ONNX Runtime INT8 to its FP32": rf"onnxruntime int8 +onnxruntime float +{RANGE}",
            "N at 640: OpenVINO INT8 to torch": rf"openvino int8 +torch float +{RANGE}",
        },
    ),
    Bench(
        "python benchmarks/end_to_end.py --rounds 5 --repeats 10",
        {
            "picture to boxes above 0.25, OpenVINO INT8 to float": rf"openvino int8 is {RANGE} times",
            "picture to boxes above 0.25, ONNX Runtime INT8 to float": rf"onnxruntime int8 is {RANGE} times",
        },
        RUN_HERE,
    ),
    Bench(
        "python benchmarks/video_speed.py --frames 60 --rounds 3",
        {"video: reading and drawing beside the detector, times faster": rf"beside to in turns: {RANGE} times"},
        RUN_HERE[1:],
    ),
    Bench(
        "python benchmarks/sensitivity.py --images 24",
        {
            "sensitivity: fast takes, s": rf"fast {NUMBER} s",
            "sensitivity: exact takes, on 24 images, s": rf"exact {NUMBER} s",
        },
        (*RUN_HERE, "artifacts/ptq/weights.safetensors"),
    ),
    Bench(
        "python benchmarks/weight_grids.py .",
        {
            "sample, weights of 8 bits, mAP": rf"percentile_99.99 +{NUMBER}",
            "sample, pairs for CPUs without VNNI, mAP": rf"percentile_99.99 +[\d.]+ +{NUMBER}",
        },
        RUN_HERE,
    ),
    Bench(
        "python benchmarks/input_sizes.py --shared ../shared",
        {
            "YOLOv6Lite-L on COCO128, square, AP": rf"square +{NUMBER}",
            "YOLOv6Lite-L on COCO128, `model.shrink: 8`, AP": rf"shrink 8 +{NUMBER}",
        },
        SHARED_DATA,
    ),
    Bench(
        "python benchmarks/lite_coco128.py --shared ../shared --equalize depthwise --adaround 0 --threads 2",
        {
            "YOLOv6Lite-L on COCO128, PTQ with equalization, AP": rf"chosen: .* {NUMBER}\n",
            "the same with up to a tenth of the layers float, AP": rf"layers float .* {NUMBER}\n",
        },
        SHARED_DATA,
    ),
    Bench(
        "python benchmarks/stress_resume.py --kills 3 --epochs 2 --seed 0",
        {
            f"`{stage}` killed and continued": rf"{stage}: \d+ kills, (.+)"
            for stage in ("search-scales", "train-repopt", "qat-distill")
        },
    ),
)
"""What `make bench` runs."""

BESIDE_PEERS: tuple[Bench, ...] = (
    *(
        Bench(
            f"python benchmarks/peers.py calibration --tool {tool}",
            {
                f"calibration by {tool}, s": rf"{tool}: {NUMBER} s",
                f"calibration by {tool}, memory, MiB": rf"{NUMBER} MiB",
                f"calibration by {tool}, mAP to float, points": rf"mAP {NUMBER} points",
            },
            RUN_HERE,
        )
        for tool in ("ours", "ours_all_int8", "modelopt", "onnxruntime", "nncf")
    ),
    Bench(
        "python benchmarks/calibration_speed.py --variant yolov6n_v2 --batches 2 --tensors 2",
        {
            "search by entropy: modelopt takes, times": rf"entropy: .*: {NUMBER} times \((.+?)\)",
            "search by MSE: modelopt takes, times": rf"mse: .*: {NUMBER} times \((.+?)\)",
        },
    ),
    Bench(
        "python benchmarks/peers.py qat",
        {
            "QAT step of N to a float step, ours": rf"quantized .* x {NUMBER} \((.+?)\)",
            "QAT step of N to a float step, modelopt": rf"modelopt .* x {NUMBER} \((.+?)\)",
        },
    ),
    Bench(
        "python benchmarks/peers.py sensitivity",
        {
            "sensitivity: ours, fast, s": rf"ours {NUMBER} s",
            "sensitivity: modelopt's gradient scores, s": rf"modelopt {NUMBER} s",
        },
        (*RUN_HERE, "artifacts/ptq/weights.safetensors"),
    ),
    Bench(
        "python benchmarks/peers.py loader",
        {
            "loader, two workers, ours, images/s": rf"ours, cache ram, workers 2: {NUMBER} .*?\((.+?)\)",
            "the same with `runtime.cache: none`": rf"ours, cache none, workers 2: {NUMBER} .*?\((.+?)\)",
            "loader, two workers, ultralytics, images/s": rf"ultralytics, workers 2: {NUMBER} images .*?\((.+?)\)",
        },
        RUN_HERE,
    ),
    Bench(
        "python benchmarks/peers.py training",
        {
            "training step of N at 320, ours, ms": rf"ours: {NUMBER} ms a step",
            "training step of ultralytics' YOLOv6-N, ms": rf"ultralytics: {NUMBER} ms a step",
            "GFLOPs of ultralytics' YOLOv6-N at 640 (ours: 11.0)": rf"ultralytics: .* {NUMBER} GFLOPs",
        },
    ),
    Bench(
        "python benchmarks/peers.py nms",
        {
            f"suppression, {kind}: ultralytics in torch alone takes, times": rf"{kind}: .*takes {NUMBER} times"
            for kind in ("scattered", "clustered", "piled")
        },
    ),
    Bench(
        "python benchmarks/library_accuracy.py .",
        {
            "PTQ to float, points": rf"ours {NUMBER}",
            "NNCF's PTQ to float, points": rf"NNCF {NUMBER}",
            "NNCF's PTQ, predictions float, to float": rf"NNCF, float predictions {NUMBER}",
        },
        RUN_HERE,
    ),
    Bench(
        "OMP_WAIT_POLICY=PASSIVE python benchmarks/engine_speed.py --rounds 3 --nncf",
        {"N at 640: INT8 to NNCF's with the same layers": rf"openvino int8 +openvino nncf float predictions +{RANGE}"},
    ),
    Bench(
        "python benchmarks/end_to_end.py --rounds 5 --repeats 10 --nncf",
        {"picture to boxes, to NNCF with OpenVINO's preparation": rf"{RANGE} times as fast as openvino nncf"},
        RUN_HERE,
    ),
)
"""What `make bench-peers` runs, in an environment with the other toolkits."""

LEFT_OUT = {
    "block_forms": "trains every form with every seed: a day",
    "gpu_check": "needs a GPU",
    "growth": "has a table of its own: `python benchmarks/growth.py`",
    "layers": "has tables of its own: docs/int8_layers.md",
    "reporting": "is what the others share",
    "run_all": "is this script",
    "shared_machine": "runs the whole pipeline twice: 10 minutes",
    "step_profile": "prints tables that say where the time goes, not how long it is",
    "seeds": "runs the whole pipeline for each seed: hours",
}
"""Benchmark without a quick form -> why."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="store_true", help="the benchmarks beside other toolkits")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="scripts without .py")
    parser.add_argument("--limit", type=float, default=300, help="seconds that one benchmark may take")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("YOLOV6_SHARED", ROOT.parent / "shared")))
    parser.add_argument("--update", action="store_true", help=f"write the table into {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args()
    benches = BESIDE_PEERS if options.peers else QUICK
    if unknown := set(options.only) - set(map(script, benches)):
        parser.error(f"--only {' '.join(sorted(unknown))}: choose from {', '.join(sorted(set(map(script, benches))))}")
    benches = [bench for bench in benches if not options.only or script(bench) in options.only]
    head = machine((*PACKAGES, *(PEERS if options.peers else ())))
    print(head, flush=True)
    rows: list[tuple[str, ...]] = []
    for number, bench in enumerate(benches, start=1):
        print(f"{number}/{len(benches)} {bench.command}", flush=True)
        rows += outcome(bench, shared=options.shared, limit=options.limit)
    failed, skipped = (sum(row[1].startswith(word) for row in rows) for word in ("FAILED", "not run"))
    lines = [head, "", *table(HEADER, rows), "", f"{failed} of {len(rows)} failed, {skipped} were not run."]
    print("\n".join(lines))
    if options.update:
        put_into(RESULTS, "peers" if options.peers else "bench", lines)
    raise SystemExit(1 if failed else 0)


def script(bench: Bench) -> str:
    """Name of the script that a benchmark runs."""
    found = re.search(r"benchmarks/(\w+)\.py", bench.command)
    assert found, bench.command
    return found[1]


def outcome(bench: Bench, *, shared: Path, limit: float) -> list[tuple[str, ...]]:
    """Run a benchmark; its rows of the table."""
    needs = [Path(path.replace(SHARED, str(shared))) for path in bench.needs]
    missing = [str(path) for path in needs if not (ROOT / path).exists()]
    if missing:
        return [(claim, f"not run: no {', '.join(missing)}", "", "", f"`{bench.command}`") for claim in bench.claims]
    started = time.perf_counter()
    output, failure = run(bench.command.replace(SHARED, shlex.quote(str(shared))), limit=limit)
    seconds = f"{time.perf_counter() - started:.0f}"
    rows = []
    for claim, pattern in bench.claims.items():
        found = re.findall(pattern, output)
        figure, spread = (found[-1], "") if found and isinstance(found[-1], str) else found[-1] if found else ("", "")
        if failure or not figure:
            figure = f"FAILED: {failure or 'its output lacks this figure'}"
        rows.append((claim, figure, spread, seconds, f"`{bench.command}`"))
    return rows


def run(command: str, *, limit: float) -> tuple[str, str]:
    """Output of a command run with this Python, and '' or what went wrong. Nothing that it started stays behind."""
    words = shlex.split(command)
    settings = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    arguments = [sys.executable if word == "python" else word for word in words if word.split("=")[0] not in settings]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | settings
    with subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            return "", f"took longer than {limit:g} s"
        finally:  # also after Ctrl-C: the session ends with all that it started
            end_session(process.pid)
    lines = [line for line in output.splitlines() if line.strip()]
    return output, "" if process.returncode == 0 else f"exit code {process.returncode}, {' '.join(lines[-1:])[:200]}"


def end_session(leader: int) -> None:
    """Kill what is left of a session."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main()
