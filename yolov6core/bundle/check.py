"""Run the network of this folder on the pictures in check/, compare it with torch, and time it: `python check.py`.

Needs Python 3.10, numpy, OpenCV and the runtime. Exit code 0: outputs agree. 1: they do not. 2: it could not run.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np

CLEAR = 0.15  # detections so much above the threshold have to be found by torch and by the engine


def letterbox(image, size, shrink, grey):
    """Picture uint8 BGR [h, w, 3], scaled to fit `size` less `shrink`, in the middle of a grey one of `size`."""
    height, width = image.shape[:2]
    ratio = min((size[0] - shrink) / height, (size[1] - shrink) / width)
    new = max(1, round(height * ratio)), max(1, round(width * ratio))
    if new != (height, width):
        method = cv2.INTER_AREA if new[0] * new[1] < height * width else cv2.INTER_LINEAR
        image = cv2.resize(image, (new[1], new[0]), interpolation=method)
    top, left = (size[0] - new[0]) // 2, (size[1] - new[1]) // 2
    canvas = np.full((*size, 3), grey, np.uint8)
    canvas[top : top + new[0], left : left + new[1]] = image
    return canvas


def fed(pixels, form):
    """uint8 RGB [B, 3, H, W] as the network takes it: float32 in 0..1, or uint8 BGR [B, H, W, 3]."""
    bgr = pixels.transpose(0, 2, 3, 1)[..., ::-1]
    return np.ascontiguousarray(bgr) if form == "uint8" else pixels.astype(np.float32) / np.float32(255)


def open_onnxruntime(ort, options):
    """Function from an input to outputs by name, the number of images that it takes, and the device."""
    settings, providers = ort.SessionOptions(), [options.device or "CPUExecutionProvider"]
    settings.intra_op_num_threads, settings.log_severity_level = options.threads, 3
    session = ort.InferenceSession(str(options.model), settings, providers=providers)
    entry, names = session.get_inputs()[0], [output.name for output in session.get_outputs()]

    def run(data):
        return dict(zip(names, session.run(names, {entry.name: data}), strict=True))

    return run, entry.shape[0] if isinstance(entry.shape[0], int) else options.batch, session.get_providers()[0]


def open_openvino(ov, options):
    device = options.device or "CPU"
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": options.threads} if device == "CPU" else {}
    compiled = ov.Core().compile_model(str(options.model), device, {"PERFORMANCE_HINT": "LATENCY", **hints})
    request, batch = compiled.create_infer_request(), compiled.input(0).get_partial_shape()[0]

    def run(data):
        found = request.infer([data], share_outputs=False)
        return {name: value for port, value in found.items() for name in port.get_names()}

    return run, batch.get_length() if batch.is_static else options.batch, device


def cuda(name, *arguments):
    """Call the driver's own library, so that no CUDA package for Python is needed."""
    code = getattr(ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"), name)(*arguments)
    if code:
        raise RuntimeError(f"CUDA driver: {name} failed with error {code}")


def open_tensorrt(trt, options):
    device, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
    cuda("cuInit", 0)
    cuda("cuDeviceGet", ctypes.byref(device), int(options.device or 0))
    cuda("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    cuda("cuCtxSetCurrent", context)
    cuda("cuStreamCreate", ctypes.byref(stream), 0)
    logger = trt.Logger(trt.Logger.WARNING)
    if hasattr(trt, "init_libnvinfer_plugins"):  # TensorRT-RTX has no plugins
        trt.init_libnvinfer_plugins(logger, "")
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(options.model.read_bytes())
    if engine is None:
        raise RuntimeError(f"{options.model} is no engine of TensorRT {trt.__version__} and this GPU: build it here")
    execution, arrays, memory = engine.create_execution_context(), {}, {}
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    names.sort(key=lambda name: engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT)  # the input first
    shape = tuple(options.batch if side == -1 else side for side in engine.get_tensor_shape(names[0]))
    if not execution.set_input_shape(names[0], shape):
        raise RuntimeError(f"the engine does not take {shape}; give another --batch")
    for name in names:
        kind = trt.nptype(engine.get_tensor_dtype(name))
        arrays[name], memory[name] = np.empty(tuple(execution.get_tensor_shape(name)), kind), ctypes.c_uint64()
        cuda("cuMemAlloc_v2", ctypes.byref(memory[name]), ctypes.c_size_t(max(arrays[name].nbytes, 1)))
        execution.set_tensor_address(name, memory[name].value)

    def run(data, _kept=(runtime, engine)):  # they have to outlive the execution
        cuda("cuMemcpyHtoD_v2", memory[names[0]], ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(data.nbytes))
        if not execution.execute_async_v3(stream.value):
            raise RuntimeError("TensorRT could not run the engine; its messages say why")
        cuda("cuStreamSynchronize", stream)
        for name in names[1:]:
            target, size = ctypes.c_void_p(arrays[name].ctypes.data), ctypes.c_size_t(arrays[name].nbytes)
            cuda("cuMemcpyDtoH_v2", target, memory[name], size)
        return {name: arrays[name].copy() for name in names[1:]}

    return run, shape[0], f"GPU {device.value}"


OPENERS = {"onnxruntime": open_onnxruntime, "openvino": open_openvino}
OPENERS |= {"tensorrt": open_tensorrt, "tensorrt_rtx": open_tensorrt}


def overlaps(box, boxes):
    """Intersection over union of a box [4] with the boxes of rows [N, 4 or more], xyxy."""
    sides = np.minimum(box[2:4], boxes[:, 2:4]) - np.maximum(box[:2], boxes[:, :2])
    common = np.clip(sides, 0, None).prod(1)
    areas = (boxes[:, 2:4] - boxes[:, :2]).prod(1)
    return common / np.maximum((box[2:4] - box[:2]).prod() + areas - common, 1e-9)


def detections(outputs, about):
    """Rows x1, y1, x2, y2, score, class of the first image, by greedy suppression inside each class."""
    if about["nms"] != "none":
        columns = outputs["boxes"][0], outputs["scores"][0][:, None], outputs["classes"][0][:, None]
        return np.concatenate(columns, 1)[: int(outputs["num_dets"].reshape(-1)[0])]
    places, labels = np.nonzero(outputs["scores"][0] > about["score_threshold"])
    rows = np.column_stack((outputs["boxes"][0][places], outputs["scores"][0][places, labels], labels))
    rows, kept = rows[np.argsort(-rows[:, 4], kind="stable")], []
    while len(rows) and len(kept) < about["max_detections"]:
        best, rows = rows[0], rows[1:]
        kept.append(best)
        rows = rows[(overlaps(best, rows) <= about["iou_threshold"]) | (rows[:, 5] != best[5])]
    return np.array(kept).reshape(-1, 6)


def compare(results, expected, about):
    """Whether outputs and detections of the images agree, and a line about each."""
    ok, lines, allowed = True, [], about["allowed_l2"]
    for name in expected:
        found = np.stack([result[name][0] for result in results]).astype(np.float64)
        error = np.linalg.norm(found - expected[name]) / max(np.linalg.norm(expected[name]), 1e-12)
        ok = ok and bool(error <= allowed)  # NaN is an error, too
        lines.append(f"{name}: relative error {error:.4f}, allowed {allowed:.4f}")
    lost = clear = 0
    for result, wanted in zip(results if about["form"] == "decoded" else [], about["detections"], strict=False):
        pair = np.array(wanted).reshape(-1, 6), detections(result, about)
        for rows, others in (pair, pair[::-1]):
            rows = rows[rows[:, 4] > about["score_threshold"] + CLEAR]
            hits = [(overlaps(row, others[others[:, 5] == row[5]]) > 0.5).any() for row in rows]
            lost, clear = lost + hits.count(False), clear + len(rows)
    lines.append(f"clear detections of torch and of this engine: {clear}, {lost} of them without a partner")
    return ok and lost <= 0.05 * clear, lines


def main():
    folder = Path(__file__).resolve().parent
    texts = [(folder / f"{name}.json").read_text(encoding="utf-8") for name in ("bundle", "preprocess")]
    about = {key: value for text in texts for key, value in json.loads(text).items()}
    parser = argparse.ArgumentParser(description="Compare the network of this folder with torch, and time it.")
    add = parser.add_argument
    add("--model", type=Path, default=folder / about["model"], help="ONNX file, or TensorRT's engine")
    add("--runtime", choices=OPENERS, default=about["target"])
    add("--device", help="ONNX Runtime's provider, OpenVINO's device, or number of the GPU")
    add("--threads", type=int, default=0, help="of the CPU; 0: as the runtime likes")
    add("--batch", type=int, default=1, help="images of a run, where the model takes any number")
    add("--rounds", type=int, default=100, help="runs that are timed")
    options = parser.parse_args()
    sys.modules["openvino_telemetry"] = None  # pyright: ignore[reportArgumentType]  nothing is sent
    module = importlib.import_module(options.runtime)
    run, batch, device = OPENERS[options.runtime](module, options)
    print(f"{options.runtime} {module.__version__} on {device}, {options.model.name}")
    images = np.load(folder / "check" / "inputs.npz")["images"]
    pictures = [cv2.imread(str(path)) for path in sorted((folder / "check").glob("*.png"))]
    own = np.stack([letterbox(x, about["image_size"], about["shrink"], about["grey"])[..., ::-1] for x in pictures])
    apart = int(np.abs(own.transpose(0, 3, 1, 2).astype(int) - images).max())
    feeds = [np.repeat(fed(image[None], about["input"]), batch, 0) for image in images]
    ok, lines = compare([run(feed) for feed in feeds], np.load(folder / "check" / "expected.npz"), about)
    print(*lines, f"pictures in check/ against inputs.npz: at most {apart} of 255 apart, allowed 2", sep="\n")
    times = []
    for _ in range(options.rounds + 10):  # the first ones warm up
        start = time.perf_counter()
        run(feeds[0])
        times.append(1000 * (time.perf_counter() - start))
    middle, slow = np.percentile(times[10:], (50, 95))
    print(f"{middle:.2f} ms, 95 % within {slow:.2f} ms, batch {batch}: {1000 * batch / middle:.0f} images a second")
    print("OK: outputs agree with torch" if ok and apart <= 2 else "WRONG: outputs differ from torch")
    return 0 if ok and apart <= 2 else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception as error:  # of libraries, which share no other base class
        print(f"could not run: {error}", file=sys.stderr)
        sys.exit(2)
