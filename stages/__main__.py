"""`python -m stages COMMAND`: every stage of the pipeline, and the commands around it.

A command reads its sections of the parameter file first and imports its module then, so that wrong parameters are
answered before torch is loaded.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from stages import params as sections
from stages.shared import paths
from stages.shared.help import StageCommand
from stages.shared.options import DEFAULT_PARAMS, Changes, ParamsFile
from stages.shared.shell import need_inputs, stage_run
from stages.tools import tools


class Commands(TyperGroup):
    """The commands; a name that is none of them is answered with the nearest."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            near = [name for name in self.commands if args[0] in name] or get_close_matches(args[0], self.commands, n=2)
            if near:
                ctx.fail(f"no such command {args[0]!r}; did you mean {' or '.join(near)}?")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Commands,
    help="From a detection dataset to an INT8 YOLOv6 engine. `dvc repro` runs the first twelve commands in this order.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 120},
    rich_markup_mode=None,  # rich takes a third of the time that help needs
)


def _again(stage: str, params: Path, changes: list[str] | None) -> list[str]:
    """Arguments of `python` that run a stage in the same way."""
    return ["-m", "stages", stage, "--params", str(params), *(f"--set={change}" for change in changes or ())]


@app.command("prepare-voc2yolo", cls=StageCommand)
def prepare_voc2yolo(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Check a VOC, COCO or YOLO dataset and split it.

    Images stay where they are; labels, split lists, COCO files and a report are written.
    """
    with stage_run("prepare-voc2yolo", params, changes) as file:
        (prepare,) = file.read(sections.PrepareParams)
        from stages.prepare_voc2yolo import prepare_voc2yolo

        prepare_voc2yolo(prepare)


@app.command("given-files", cls=StageCommand)
def given_files(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Note the contents of the files that parameters name.

    Weights, scales and rankings from elsewhere: another file, and what depends on it runs again.
    """
    with stage_run("given-files", params, changes) as file:
        search, train, sensitivity, qat = file.read(
            sections.SearchParams, sections.TrainParams, sections.SensitivityParams, sections.QatParams
        )
        from stages.given_files import given_files

        given_files(
            {
                "search-scales": {"search.scales": None if search.scales == "none" else search.scales},
                "train-repopt": {"train.weights": train.weights, "train.teacher": train.teacher},
                "sensitivity": {"sensitivity.from_file": sensitivity.from_file},
                "qat-distill": {"qat.teacher": qat.teacher},
            }
        )


@app.command("search-scales", cls=StageCommand)
def search_scales(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Search RepOptimizer's scales, or take given ones.

    Trains a network of scaled linear branches and keeps its scales.
    """
    with stage_run("search-scales", params, changes) as file:
        model, augment, search, runtime = file.read(
            sections.ModelParams, sections.AugmentParams, sections.SearchParams, sections.RuntimeParams
        )
        need_inputs("search-scales", also=() if search.scales else (paths.DATASET,))
        from stages.search_scales import search_scales

        search_scales(model, augment, search, runtime, command=_again("search-scales", params, changes))


@app.command("train-repopt", cls=StageCommand)
def train_repopt(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Train the float network.

    Trains with RepOptimizer, or other blocks; from given weights, if there are any.
    """
    with stage_run("train-repopt", params, changes) as file:
        model, augment, train, evaluation, runtime = file.read(
            sections.ModelParams,
            sections.AugmentParams,
            sections.TrainParams,
            sections.EvalParams,
            sections.RuntimeParams,
        )
        need_inputs("train-repopt")
        from stages.train_repopt import train_repopt

        train_repopt(model, augment, train, evaluation, runtime, command=_again("train-repopt", params, changes))


@app.command("detect-cpu", cls=StageCommand)
def detect_cpu(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Say which sums and integers INT8 is made for.

    Resolves ptq.cpu and ptq.dialect by the CPU and the runtimes at hand.
    """
    with stage_run("detect-cpu", params, changes) as file:
        ptq, engine = file.read(sections.PtqParams, sections.EngineParams)
        from stages.detect_cpu import detect_cpu

        detect_cpu(ptq, engine.runtime)


@app.command("ptq-calib", cls=StageCommand)
def ptq_calib(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Calibrate the float network to INT8.

    Compares methods on the select split and keeps the best.
    """
    with stage_run("ptq-calib", params, changes) as file:
        ptq, evaluation, runtime = file.read(sections.PtqParams, sections.EvalParams, sections.RuntimeParams)
        need_inputs("ptq-calib")
        from stages.ptq_calib import ptq_calib

        ptq_calib(ptq, evaluation, runtime)


@app.command("sensitivity", cls=StageCommand)
def sensitivity(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Rank layers by quantization error and keep few float.

    Float layers are chosen on the select split, within a budget.
    """
    with stage_run("sensitivity", params, changes) as file:
        section, evaluation, runtime = file.read(
            sections.SensitivityParams, sections.EvalParams, sections.RuntimeParams
        )
        need_inputs("sensitivity")
        from stages.sensitivity import sensitivity

        sensitivity(section, evaluation, runtime)


@app.command("qat-distill", cls=StageCommand)
def qat_distill(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Fine-tune the calibrated network with fake quantizers.

    The float network is the teacher. The start is kept if no epoch is better.
    """
    with stage_run("qat-distill", params, changes) as file:
        augment, qat, evaluation, runtime = file.read(
            sections.AugmentParams, sections.QatParams, sections.EvalParams, sections.RuntimeParams
        )
        need_inputs("qat-distill")
        from stages.qat_distill import qat_distill

        qat_distill(augment, qat, evaluation, runtime, command=_again("qat-distill", params, changes))


@app.command("export-onnx", cls=StageCommand)
def export_onnx(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Write and check ONNX files of all models.

    Each file is run against torch. engine.runtime counts for a warning only.
    """
    with stage_run("export-onnx", params, changes) as file:
        export, engine, runtime = file.read(sections.ExportParams, sections.EngineParams, sections.RuntimeParams)
        need_inputs("export-onnx")
        from stages.export_onnx import export_onnx

        export_onnx(export, runtime, engine_runtime=engine.runtime)


@app.command("build-trt", cls=StageCommand)
def build_trt(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Build engines of all exported models.

    For the runtime at hand.
    """
    with stage_run("build-trt", params, changes) as file:
        (engine,) = file.read(sections.EngineParams)
        need_inputs("build-trt")
        from stages.build_trt import build_trt

        build_trt(engine)


@app.command("eval-trt", cls=StageCommand)
def eval_trt(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Compare all engines on the val split.

    One evaluator measures mAP, latency, throughput and size.
    """
    with stage_run("eval-trt", params, changes) as file:
        (evaluation,) = file.read(sections.EvalParams)
        need_inputs("eval-trt")
        from stages.eval_trt import eval_trt

        eval_trt(evaluation)


@app.command("report", cls=StageCommand)
def report(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Show the run on one page.

    The page opens without a network, prints, and is small enough to mail. Parts that a run lacks are named.
    """
    with stage_run("report", params, changes) as file:
        read = file.read(
            sections.ModelParams,
            sections.AugmentParams,
            sections.PrepareParams,
            sections.SearchParams,
            sections.TrainParams,
            sections.PtqParams,
            sections.SensitivityParams,
            sections.QatParams,
            sections.ExportParams,
            sections.EngineParams,
            sections.EvalParams,
        )
        from stages.report import report

        report({section.section: section.model_dump() for section in read})


app.add_typer(tools)


def main() -> None:
    """The console script `yolov6-quant`."""
    app(prog_name="yolov6-quant")


if __name__ == "__main__":
    app(prog_name="python -m stages")
