"""`python -m stages COMMAND`: every stage of the pipeline, and the commands around it."""

from __future__ import annotations

import typer

from stages.build_trt import build_trt_cli
from stages.detect_cpu import detect_cpu_cli
from stages.doctor import doctor_cli
from stages.draw_sample import draw_sample_cli
from stages.eval_trt import eval_trt_cli
from stages.export_onnx import export_onnx_cli
from stages.import_checkpoint import import_checkpoint_cli
from stages.infer import infer_cli
from stages.prepare_voc2yolo import prepare_voc2yolo_cli
from stages.ptq_calib import ptq_calib_cli
from stages.qat_distill import qat_distill_cli
from stages.search_scales import search_scales_cli
from stages.sensitivity import sensitivity_cli
from stages.train_repopt import train_repopt_cli
from stages.variants import variants_cli

app = typer.Typer(
    help="From a detection dataset to an INT8 YOLOv6 engine. `dvc repro` runs the stages in order.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
STAGES = {
    "prepare-voc2yolo": prepare_voc2yolo_cli,
    "search-scales": search_scales_cli,
    "train-repopt": train_repopt_cli,
    "detect-cpu": detect_cpu_cli,
    "ptq-calib": ptq_calib_cli,
    "sensitivity": sensitivity_cli,
    "qat-distill": qat_distill_cli,
    "export-onnx": export_onnx_cli,
    "build-trt": build_trt_cli,
    "eval-trt": eval_trt_cli,
}
for name, command in STAGES.items():
    app.command(name, rich_help_panel="Pipeline")(command)
app.command("infer", rich_help_panel="Around it")(infer_cli)
app.command("draw-sample", rich_help_panel="Around it")(draw_sample_cli)
app.command("import-checkpoint", rich_help_panel="Around it")(import_checkpoint_cli)
app.command("variants", rich_help_panel="Around it")(variants_cli)
app.command("doctor", rich_help_panel="Around it")(doctor_cli)


if __name__ == "__main__":
    app(prog_name="python -m stages")
