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
from stages.shared.help import StageCommand
from stages.shared.shell import errors_as_exit_codes, need_inputs, parameter_file, settle_threads, stage_run
from yolov6core.base.errors import UserError

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
    help="From a detection dataset to an INT8 YOLOv6 engine. `dvc repro` runs the first eleven commands in this order.",
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


@app.command("search-scales", cls=StageCommand)
def search_scales(params: ParamsFile = DEFAULT_PARAMS, changes: Changes = None) -> None:
    """Search RepOptimizer's scales, or take given ones.

    Trains a network of scaled linear branches and keeps its scales.
    """
    with stage_run("search-scales", params, changes) as file:
        model, augment, search, runtime = file.read(
            sections.ModelParams, sections.AugmentParams, sections.SearchParams, sections.RuntimeParams
        )
        need_inputs("search-scales")
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
        settle_threads()
        from stages.infer import infer

        infer(engine, source, out=out, runtime=runtime, names=names, score=score, iou=iou)


@app.command("show-dataset")
def show_dataset(
    params: ParamsFile = DEFAULT_PARAMS,
    changes: Changes = None,
    split: Annotated[str, typer.Option(help="Split: train, select, val or calib.")] = "train",
    image: Annotated[list[str] | None, typer.Option(help="File name of an image; may be given again.")] = None,
    count: Annotated[int, typer.Option(min=1, max=10_000, help="Images drawn, where none is named.")] = 24,
    with_class: Annotated[str | None, typer.Option(help="Draw only from images with a box of this class.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same images.")] = 0,
    epochs: Annotated[
        int, typer.Option(min=0, max=1000, help="Show augmented images of so many epochs [0: images as they are].")
    ] = 0,
    columns: Annotated[int, typer.Option(min=1, max=20, help="Pictures side by side on a sheet.")] = 4,
    rows: Annotated[int, typer.Option(min=1, max=20, help="Rows of a sheet.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for the sheets and images.csv.")] = paths.SHOW,
) -> None:
    """Draw images of the dataset with their boxes.

    Reads artifacts/dataset. With --epochs the pictures are those that train-repopt gets before its mosaic is closed, by
    the sections model, augment and train.
    """
    with stage_run("show-dataset", params, changes) as file:
        sections_read = file.read(sections.ModelParams, sections.AugmentParams, sections.TrainParams)
        from stages.show_dataset import ShownImages, show_dataset

        choice = ShownImages(split, image or (), count, seed, with_class, epochs)
        typer.echo(show_dataset(choice, *sections_read, grid=(columns, rows), out=out))


@app.command("eval")
def eval_any(
    models: Annotated[list[Path], typer.Argument(help="Weights (.safetensors, .pt), ONNX files, folders of engines.")],
    split: Annotated[str, typer.Option(help="Split of the prepared dataset: val, select, calib or train.")] = "val",
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="What runs ONNX files: auto, openvino, onnxruntime or opencv; several are compared."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A new .csv file for the table [none, it is printed].")] = None,
    params: ParamsFile = DEFAULT_PARAMS,
    changes: Changes = None,
) -> None:
    """Compare any models on the prepared dataset.

    Prints one table: mAP, latency, images a second at batch 1 and 32. Obeys the sections model, engine and eval.
    """
    with stage_run("eval", params, changes) as file:
        model, engine, evaluation, runs = file.read(
            sections.ModelParams, sections.EngineParams, sections.EvalParams, sections.RuntimeParams
        )
        from stages.eval import compare

        chosen = {"split": split, "runtimes": runtime or ["auto"], "out": out}
        typer.echo(compare(models, model, engine, evaluation, runs, **chosen))


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
    out: Annotated[Path | None, typer.Option(help="The file to write [ranges with the style's suffix].")] = None,
    style: Annotated[
        str, typer.Option(help="Toolkit: pytorch-quantization, modelopt, aimet, ppq or tensorrt.")
    ] = "modelopt",
) -> None:
    """Write ranges for another toolkit.

    By layer as _amax tensors (pytorch-quantization, modelopt), or by the tensors of an ONNX file, which is written
    beside them: AIMET's encodings, PPQ's JSON, TensorRT's dynamic ranges.
    """
    with errors_as_exit_codes():
        from stages.exchange_ranges import export_ranges

        typer.echo(export_ranges(kind, out=out, style=style))


@app.command("bundle")
def bundle(
    kind: Annotated[str, typer.Option(help="Model: float, ptq, partial or qat.")],
    target: Annotated[str, typer.Option(help="Runtime of the device: tensorrt, openvino or onnxruntime.")],
    tensorrt: Annotated[str, typer.Option(help="Only for TensorRT 8, 10 or 11, a smaller folder [all].")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder to write [artifacts/bundle/KIND-TARGET].")] = None,
    params: ParamsFile = DEFAULT_PARAMS,
    changes: Changes = None,
) -> None:
    """Pack a model for a device.

    Writes a folder that builds, runs and checks itself there. Obeys the section export, and engine.max_batch.
    """
    with stage_run("bundle", params, changes) as file:
        export, engine, runtime = file.read(sections.ExportParams, sections.EngineParams, sections.RuntimeParams)
        from stages.bundle import bundle

        bundle(export, engine, runtime, kind=kind, target=target, tensorrt=tensorrt, out=out)


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
def doctor(
    dataset: Annotated[bool, typer.Option("--dataset", help="Only files of prepare.root that DVC stops at.")] = False,
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Show versions, devices and runtimes.

    Says what each runtime can do here, and what is missing. With --dataset, exit code 1 if DVC would stop.
    """
    with errors_as_exit_codes():
        import stages.doctor as doctor

        if not dataset:
            typer.echo("\n".join(doctor.report()))
        elif lines := doctor.dataset_lines(parameter_file(params).read(sections.PrepareParams)[0]):
            raise UserError("\n".join(lines))


def main() -> None:
    """The console script `yolov6-quant`."""
    app(prog_name="yolov6-quant")


if __name__ == "__main__":
    app(prog_name="python -m stages")
