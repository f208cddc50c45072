"""What INT8 costs over several seeds: the whole pipeline for each, and the mean and spread of the differences to float.

    python benchmarks/seeds.py --seeds 0 1 2 --out ../seeds/sample
    python benchmarks/seeds.py --out ../seeds/bccd --set prepare.root=../shared/data/BCCD prepare.voc_origin=0 ...

A seed draws the weights, the order of the images and their changes, and which training images are calibrated on and
select. Every seed has a folder of its own under `--out`; a series that was interrupted goes on where it was. mAP50:95
on the validation images in percent: that of the engines, and how far each is from its torch network.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolov6core.base.yaml_text import parse_yaml

REPOSITORY = Path(__file__).parents[1]
STAGES = tuple(parse_yaml((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
"""Names of the commands that `dvc repro` runs, in its order."""
TORCH_METRICS = {"float": "train", "ptq": "ptq", "partial": "partial", "qat": "qat"}
"""Kind of model -> the stage whose metrics are those of its torch network."""
SEEDED = ("prepare", "search", "train", "qat")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="section.key=value", help="changes of params.yaml")
    options = parser.parse_args()
    scores = {seed: run(options.out.resolve() / f"seed{seed}", seed, options.set) for seed in options.seeds}
    for seed, found in scores.items():
        print(f"seed {seed}: " + "  ".join(f"{name} {engine:.2f}" for name, (engine, _) in found.items()))
    for name in ("naive", "ptq", "partial", "qat"):
        gains = [found[name][0] - found["float"][0] for found in scores.values()]
        print(f"{name:8s} {summary(gains)} to float")
    apart = max(abs(engine - torch) for found in scores.values() for engine, torch in found.values())
    print(f"largest difference of an engine to its torch network: {apart:.3f}")


def run(folder: Path, seed: int, changes: list[str]) -> dict[str, tuple[float, float]]:
    """mAP50:95 in percent of every kind of model, of its engine and of its torch network (`naive` has none)."""
    run_stages(folder, changed_params(seed, changes), STAGES)

    def percent(path: Path) -> float:
        return 100 * json.loads(path.read_text(encoding="utf-8"))["map50_95"]

    metrics = folder / "metrics"
    engines = {name: percent(metrics / f"eval/{name}.json") for name in ("naive", *TORCH_METRICS)}
    torch = {name: percent(metrics / f"{stage}.json") for name, stage in TORCH_METRICS.items()}
    return {name: (engine, torch.get(name, engine)) for name, engine in engines.items()}


def run_stages(folder: Path, params: dict[str, Any], stages: Sequence[str]) -> None:
    """Run commands of the pipeline in a folder of their own, but those that ended there before."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(json.dumps(params), encoding="utf-8")
    done = folder / "stages.txt"
    finished = done.read_text(encoding="utf-8").split() if done.exists() else []
    for stage in stages:
        if stage in finished:
            continue
        with (folder / f"{stage}.log").open("w", encoding="utf-8") as log:
            environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
            command = [sys.executable, "-m", "stages", stage]
            if subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log).returncode:
                raise SystemExit(f"{stage} failed, see {log.name}")
        finished.append(stage)
        done.write_text("\n".join(finished), encoding="utf-8")


def changed_params(seed: int, changes: list[str]) -> dict[str, Any]:
    """The committed parameters with another seed and `section.key=value` changes; the data set's path made absolute."""
    params = parse_yaml((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    for section in SEEDED:
        params[section]["seed"] = seed
    for change in changes:
        path, _, value = change.partition("=")
        section, _, key = path.partition(".")
        if key not in params.get(section, {}):
            raise SystemExit(f"--set {change}: there is no {path} in params.yaml")
        params[section][key] = parse_yaml(value)
    params["prepare"]["root"] = str((REPOSITORY / params["prepare"]["root"]).resolve())
    return params


def summary(values: list[float]) -> str:
    """Mean and standard deviation."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):+.2f} (standard deviation {spread:.2f})"


if __name__ == "__main__":
    main()
