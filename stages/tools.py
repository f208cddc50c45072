"""The commands around the stages: `infer`, `eval`, `bundle`, `doctor` and others. DVC runs none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages import params as sections
from stages.shared import paths
from stages.shared.options import DEFAULT_PARAMS, Changes, ParamsFile
from stages.shared.shell import errors_as_exit_codes, parameter_file, settle_threads, stage_run
from yolov6core.base.errors import UserError

tools = typer.Typer()


@tools.command("infer")
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


@tools.command("show-dataset")
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


@tools.command("eval")
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


@tools.command("draw-sample")
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


@tools.command("import-checkpoint")
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


@tools.command("import-ranges")
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


@tools.command("export-ranges")
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


@tools.command("bundle")
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


@tools.command("variants")
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


@tools.command("doctor")
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
