"""`python -m stages COMMAND`: every stage of the pipeline, and the commands around it.

A command reads its sections of the parameter file first and imports its module then, so that wrong parameters are
answered before torch is loaded.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stages import params as sections
from stages.shared import paths
from stages.shared.shell import errors_as_exit_codes, stage_run

ParamsFile = Annotated[
    Path, typer.Option("--params", help="The parameter file, or one that holds only what differs from params.yaml.")
]
DEFAULT_PARAMS = paths.PARAMS
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="A value for this run, as qat.epochs=1; may be given again.")
]


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
    help="From a detection dataset to an INT8 YOLOv6 engine. `dvc repro` runs the first ten commands in this order.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich takes a third of the time that help needs
)


def _again(stage: str, params: Path, changes: list[str] | None) -> list[str]:
    """Arguments of `python` that run a stage in the same way."""
    return ["-m", "stages", stage, "--params", str(params), *(f"--set={change}" for change in changes or ())]


@app.command("prepare-voc2yolo")
def prepare_voc2yolo(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Check a VOC, COCO or YOLO dataset and split it.

    Reads prepare.root. Writes labels, split lists, COCO files and a report to artifacts/dataset, and
    metrics/prepare.json. Obeys the section prepare.
    """
    with stage_run("prepare-voc2yolo", params, changes) as file:
        (prepare,) = file.read(sections.PrepareParams)
        from stages.prepare_voc2yolo import prepare_voc2yolo

        prepare_voc2yolo(prepare)


@app.command("search-scales")
def search_scales(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Search RepOptimizer's scales, or take given ones.

    Reads artifacts/dataset. Trains a network of scaled linear branches and writes its scales to artifacts/scales. Obeys
    the sections model, augment and search.
    """
    with stage_run("search-scales", params, changes) as file:
        model, augment, search, runtime = file.read(
            sections.ModelParams, sections.AugmentParams, sections.SearchParams, sections.RuntimeParams
        )
        from stages.search_scales import search_scales

        search_scales(model, augment, search, runtime, command=_again("search-scales", params, changes))


@app.command("train-repopt")
def train_repopt(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Train the float network.

    Trains with RepOptimizer, or other blocks. Reads artifacts/dataset, artifacts/scales and given weights. Writes
    artifacts/train and metrics/train.json. Obeys the sections model, augment and train, and eval for what counts as a
    detection.
    """
    with stage_run("train-repopt", params, changes) as file:
        model, augment, train, evaluation, runtime = file.read(
            sections.ModelParams,
            sections.AugmentParams,
            sections.TrainParams,
            sections.EvalParams,
            sections.RuntimeParams,
        )
        from stages.train_repopt import train_repopt

        train_repopt(model, augment, train, evaluation, runtime, command=_again("train-repopt", params, changes))


@app.command("detect-cpu")
def detect_cpu(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Say which sums and integers INT8 is made for.

    Resolves ptq.cpu and ptq.dialect by the CPU and the runtimes at hand; writes .cpu.json and .dialect.json. Obeys the
    sections ptq and engine.
    """
    with stage_run("detect-cpu", params, changes) as file:
        ptq, engine = file.read(sections.PtqParams, sections.EngineParams)
        from stages.detect_cpu import detect_cpu

        detect_cpu(ptq, engine.runtime)


@app.command("ptq-calib")
def ptq_calib(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Calibrate the float network to INT8.

    Reads artifacts/train and artifacts/dataset. Writes ranges and the calibrated network to artifacts/ptq, and
    metrics/ptq.json. Obeys the section ptq, and eval for what counts as a detection.
    """
    with stage_run("ptq-calib", params, changes) as file:
        ptq, evaluation, runtime = file.read(sections.PtqParams, sections.EvalParams, sections.RuntimeParams)
        from stages.ptq_calib import ptq_calib

        ptq_calib(ptq, evaluation, runtime)


@app.command("sensitivity")
def sensitivity(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Rank layers by quantization error and keep few float.

    Reads artifacts/train and artifacts/ptq. Writes the ranking and the partially quantized network to
    artifacts/sensitivity, and metrics/partial.json. Obeys the section sensitivity, and eval for what counts as a
    detection.
    """
    with stage_run("sensitivity", params, changes) as file:
        section, evaluation, runtime = file.read(
            sections.SensitivityParams, sections.EvalParams, sections.RuntimeParams
        )
        from stages.sensitivity import sensitivity

        sensitivity(section, evaluation, runtime)


@app.command("qat-distill")
def qat_distill(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Fine-tune the calibrated network with fake quantizers.

    Reads artifacts/ptq (or artifacts/sensitivity) and artifacts/train, the teacher. Writes artifacts/qat and
    metrics/qat.json. Obeys the sections augment and qat, and eval for what counts as a detection.
    """
    with stage_run("qat-distill", params, changes) as file:
        augment, qat, evaluation, runtime = file.read(
            sections.AugmentParams, sections.QatParams, sections.EvalParams, sections.RuntimeParams
        )
        from stages.qat_distill import qat_distill

        qat_distill(augment, qat, evaluation, runtime, command=_again("qat-distill", params, changes))


@app.command("export-onnx")
def export_onnx(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Write and check ONNX files of all models.

    Reads artifacts/train, ptq, sensitivity and qat. Writes a file for each model and dialect to artifacts/onnx. Obeys
    the section export, and engine.runtime for a warning.
    """
    with stage_run("export-onnx", params, changes) as file:
        export, engine, runtime = file.read(sections.ExportParams, sections.EngineParams, sections.RuntimeParams)
        from stages.export_onnx import export_onnx

        export_onnx(export, runtime, engine_runtime=engine.runtime)


@app.command("build-trt")
def build_trt(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Build engines of all exported models.

    Reads artifacts/onnx. Writes engines of the runtime at hand to artifacts/engines. Obeys the section engine.
    """
    with stage_run("build-trt", params, changes) as file:
        (engine,) = file.read(sections.EngineParams)
        from stages.build_trt import build_trt

        build_trt(engine)


@app.command("eval-trt")
def eval_trt(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Compare all engines on the val split.

    Reads artifacts/engines and artifacts/dataset. Writes tables, curves and pictures to artifacts/eval, and
    metrics/eval. Obeys the section eval.
    """
    with stage_run("eval-trt", params, changes) as file:
        (evaluation,) = file.read(sections.EvalParams)
        from stages.eval_trt import eval_trt

        eval_trt(evaluation)


@app.command("infer")
def infer(
    engine: Annotated[Path, typer.Option(help="Folder of an engine (artifacts/engines/ptq), or an ONNX file.")],
    source: Annotated[str, typer.Option(help="Image, folder of images, video, or number of a camera.")],
    out: Annotated[Path, typer.Option(help="Folder for pictures, detections.json and detections.csv.")] = paths.INFER,
    runtime: Annotated[
        str, typer.Option(help="What runs an ONNX file: auto, openvino, onnxruntime or opencv.")
    ] = "auto",
    names: Annotated[Path | None, typer.Option(help="Class names: a dataset.yaml, or a text file of lines.")] = None,
    score: Annotated[float, typer.Option(min=0, max=1, help="Weakest score that counts.")] = 0.4,
    iou: Annotated[float, typer.Option(min=0, max=1, help="Overlap from which the weaker box goes.")] = 0.45,
) -> None:
    """Detect on images, videos or a camera.

    Draws and saves the detections, and prints times.
    """
    with errors_as_exit_codes():
        from stages.infer import infer

        infer(engine, source, out=out, runtime=runtime, names=names, score=score, iou=iou)


@app.command("draw-sample")
def draw_sample(
    root: Annotated[Path, typer.Option(help="Folder of the VOC tree; its files are replaced.")] = paths.SAMPLE,
    images: Annotated[int, typer.Option(min=4, help="Number of images, every third for validation.")] = 560,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same dataset.")] = 20240,
) -> None:
    """Draw the sample dataset.

    Writes synthetic scenes of shapes as a VOC tree.
    """
    with errors_as_exit_codes():
        from stages.draw_sample import draw_sample

        typer.echo(draw_sample(root, images=images, seed=seed))


@app.command("import-checkpoint")
def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="A .pt of the official trainer, or .safetensors of its tensors.")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("imported.safetensors"),
    variant: Annotated[str | None, typer.Option(help="Which network it is, where tensors alone do not tell.")] = None,
    names: Annotated[
        str | None, typer.Option(help="Class names, separated by commas, where the file has none.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the square input [320 for Lite, else 640].")] = None,
) -> None:
    """Convert an official checkpoint.

    Runs nothing of it. The result is for train.weights (or search.scales).
    """
    with errors_as_exit_codes():
        from stages.import_checkpoint import import_checkpoint

        given = names.split(",") if names else None
        typer.echo(import_checkpoint(checkpoint, out=out, variant=variant, names=given, side=image_size))


@app.command("import-ranges")
def import_ranges(
    ranges: Annotated[Path, typer.Argument(help="A .safetensors or .pt file with _amax tensors.")],
    out: Annotated[Path, typer.Option(help="Folder of the quantized network, replaced as a whole.")] = paths.PTQ,
) -> None:
    """Take ranges of another toolkit.

    Quantizes the float network with ranges of pytorch-quantization or modelopt, in place of ptq-calib.
    """
    with errors_as_exit_codes():
        from stages.exchange_ranges import import_ranges

        typer.echo(import_ranges(ranges, out=out))


@app.command("export-ranges")
def export_ranges(
    kind: Annotated[str, typer.Argument(help="Model: ptq, partial or qat.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")] = Path("ranges.safetensors"),
    style: Annotated[str, typer.Option(help="Names of layers: pytorch-quantization or modelopt.")] = "modelopt",
) -> None:
    """Write ranges for another toolkit.

    The tensors have the names of pytorch-quantization or modelopt.
    """
    with errors_as_exit_codes():
        from stages.exchange_ranges import export_ranges

        typer.echo(export_ranges(kind, out=out, style=style))


@app.command("variants")
def variants(
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 80,
    image_size: Annotated[int, typer.Option(min=64, help="Side of the square input.")] = 640,
) -> None:
    """List the networks and their cost.

    Shows block form, strides, and parameters and arithmetic of the deployed network.
    """
    with errors_as_exit_codes():
        from stages.variants import table

        typer.echo("\n".join(table(classes=classes, side=image_size)))


@app.command("doctor")
def doctor() -> None:
    """Show versions, devices and runtimes.

    Says what each runtime can do here, and what is missing.
    """
    with errors_as_exit_codes():
        from stages.doctor import report

        typer.echo("\n".join(report()))


def main() -> None:
    """The console script `yolov6-quant`."""
    app(prog_name="yolov6-quant")


if __name__ == "__main__":
    app(prog_name="python -m stages")
