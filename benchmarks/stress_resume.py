"""Kill trainings over and over, in steps and while their state is written, and compare the bytes they end in.

    python benchmarks/stress_resume.py --kills 20

Scale search, float training and QAT of the smallest network on drawn images, in a temporary folder. Each is run once
without interruption. Then it is started again and again, with a SIGKILL at a random moment, every second one while the
state is half written, until the kills are used up, and once more to its end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from yolov6core.base.yaml_text import parse_yaml

ROOT = Path(__file__).parents[1]
OUTS = {
    "search-scales": "artifacts/scales/scales.safetensors",
    "train-repopt": "artifacts/train/weights.safetensors",
    "qat-distill": "artifacts/qat/weights.safetensors",
}
DEADLY = """
import os, random, signal, sys
from stages.__main__ import app
from yolov6core.base import atomic
from yolov6core.training import interruption, loop

kind, number = sys.argv.pop(1), int(sys.argv.pop(1))
place, name = {"step": (loop, "set_step_"), "write": (atomic, "write_to_disk")}[kind]
real, count = getattr(place, name), iter(range(1, 1_000_000))
interruption.SAVE_SECONDS = 0.0

def deadly(*arguments):
    real(*arguments)
    if next(count) == number:
        if kind == "write":
            os.truncate(arguments[0], random.randrange(len(arguments[1])))
        os.kill(os.getpid(), signal.SIGKILL)

setattr(place, name, deadly)
app(prog_name="python -m stages")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="in all, over the three stages")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=None, help="of the moments; default: another every time")
    options = parser.parse_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_params(options.epochs)
        for stage in ("draw-sample --root data/sample_voc --images 16", "prepare-voc2yolo"):
            stages(*stage.split())
        for number, (stage, out) in enumerate(OUTS.items()):
            if stage == "qat-distill":
                stages("detect-cpu")
                stages("ptq-calib")
            kills = options.kills // 3 + (number < options.kills % 3)
            stress(stage, Path(out), kills, steps=options.epochs * 2)


def stress(stage: str, out: Path, kills: int, *, steps: int) -> None:
    """Run one stage to its end with so many kills; SystemExit if it ends in other bytes than without."""
    stages(stage)
    expected = out.read_bytes()
    done = 0
    for attempt in range(100 * kills):
        if done == kills:
            break
        kind = ("step", "write")[attempt % 2]
        code = stages("-c", DEADLY, kind, str(random.randint(1, max(2, steps // kills))), stage, check=False)
        if code == 0:  # it came to its end before the moment
            continue
        if code != -9:
            raise SystemExit(f"{stage} ended with {code} where it should have been killed")
        done += 1
    out.unlink(missing_ok=True)
    stages(stage)
    same = out.read_bytes() == expected
    print(f"{stage}: {done} kills, {'the same bytes' if same else 'OTHER BYTES'}", flush=True)
    print(f"  {hashlib.sha256(expected).hexdigest()[:16]} {out.name}", flush=True)
    if not same:
        raise SystemExit(1)


def write_params(epochs: int) -> None:
    """The committed parameters for the smallest network."""
    params = parse_yaml((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["model"] |= {"variant": "test", "image_size": [64, 96]}
    params["prepare"] |= {"calib_images": 4, "select_fraction": 0.25}
    for section in ("search", "train", "qat"):
        params[section] |= {"epochs": epochs, "batch_size": 4, "eval_every": 2}
    params["runtime"]["threads"] = 1
    Path("params.yaml").write_text(json.dumps(params), encoding="utf-8")


def stages(*arguments: str, check: bool = True) -> int:
    """Run a command of the project, or Python code; its exit code."""
    start = [sys.executable] if arguments[0] == "-c" else [sys.executable, "-m", "stages"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*start, *arguments], env=environment, capture_output=True, text=True)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr}")
    return done.returncode


if __name__ == "__main__":
    main()
