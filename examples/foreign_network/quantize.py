"""INT8 for a network that this project does not know: PTQ, the block to leave float, QAT, OpenVINO and TensorRT.

python -m stages prepare-voc2yolo && python examples/foreign_network/quantize.py OUT_FOLDER [EPOCHS QAT_EPOCHS]
"""

import copy
import sys
from pathlib import Path

from project import SIZE, SPLITS, STRIDES, score, train, trained

from yolov6core.data.views import image_batches
from yolov6core.engines.registry import RUNTIMES
from yolov6core.engines.runtime import BuildSettings
from yolov6core.evaluation.evaluator import DetectionLimits
from yolov6core.export.dialects import write_dialect
from yolov6core.losses.distill import output_distillation
from yolov6core.models.decoded import DecodedNetwork
from yolov6core.quant import calibrate, insert
from yolov6core.quant.observers import Method
from yolov6core.serving.engine_evaluation import evaluate_engine
from yolov6core.serving.open_engine import open_folder

out, epochs, qat_epochs = Path(sys.argv[1]), *map(int, sys.argv[2:] or (30, 3))
out.mkdir(parents=True, exist_ok=True)
network = trained(epochs).requires_grad_(False)
print(f"float: mAP {score(network, 'val'):.4f}")

quantized = insert.insert_quantizers(network, dialect_name="openvino", quantize_predictions=True)
seen = calibrate.collect(quantized, image_batches(SPLITS["calib"], image_size=SIZE))
insert.set_ranges_(quantized, calibrate.ranges(seen, Method("mse")))
print(f"PTQ: mAP {score(quantized, 'val'):.4f}, on select {score(quantized, 'select'):.4f}")

blocks: dict[str, list[str]] = {}
for name in insert.convolution_names(quantized):  # model.24.levels.0 belongs to model.24
    blocks.setdefault(".".join(name.split(".")[:2]), []).append(name)
scores = {block: score(insert.set_float_layers_(quantized, layers), "select") for block, layers in blocks.items()}
ranking = sorted(scores, key=lambda block: -scores[block])
for place, block in enumerate(ranking):
    print(f"Top{place}: leave {block} float, mAP {scores[block]:.4f}")
insert.set_float_layers_(quantized, blocks[ranking[0]])
print(f"partial: mAP {score(quantized, 'val'):.4f}")

quantized.requires_grad_(True)
train(quantized, lambda x, _: output_distillation(quantized(x), network(x), temperature=1.0), qat_epochs, lr=2e-4)
print(f"QAT: mAP {score(quantized, 'val'):.4f}")

for dialect in ("openvino", "trt"):  # one set of ranges, the file that each runtime needs
    ready = insert.ready_for_export_(insert.set_dialect_(copy.deepcopy(quantized), dialect))
    decoded = DecodedNetwork(ready, strides=STRIDES, image_size=SIZE)
    write_dialect(decoded, out / f"{dialect}.onnx", dialect=dialect, input_shape=(1, 3, *SIZE), opset=19)
print(RUNTIMES["openvino"].build(out / "openvino.onnx", out / "engine", BuildSettings()).describe())
engine = evaluate_engine(open_folder(out / "engine"), SPLITS["val"], limits=DetectionLimits(), batch_size=1)
print(f"engine: mAP {engine.stats['map50_95']:.4f}")
