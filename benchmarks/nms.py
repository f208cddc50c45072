"""Suppression of one image against the NonMaxSuppression operators of OpenVINO and ONNX Runtime, in turns.

    python benchmarks/nms.py --candidates 10000

Three kinds of predictions [8400, 80] at 640 x 640: `scattered` (a weak network: anything anywhere), `clustered` (many
classes around a few objects) and `piled` (a few objects, each found by hundreds of anchors, so that all candidates have
to be looked at). The operators get the scores [1, C, A] ready; the time of that transpose is not counted for them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from yolov6core.engines.latency import measure, speedup
from yolov6core.evaluation.nms import nms

OPTIONS = {"score_threshold": 0.03, "iou_threshold": 0.65, "max_detections": 300}
CLASSES = 80
Arrays = tuple[np.ndarray, np.ndarray]


def anchors(size: int = 640) -> np.ndarray:
    """[A, 3] centre x, y and stride."""
    levels = []
    for stride in (8, 16, 32):
        rows, columns = np.mgrid[: size // stride, : size // stride].reshape(2, -1)
        levels.append(np.stack(((columns + 0.5) * stride, (rows + 0.5) * stride, np.full(len(rows), stride)), axis=1))
    return np.concatenate(levels)


def around(objects: int, jitter: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes [A, 4] of the nearest object, moved a little, the object's number [A] and its distance [A]."""
    points = anchors()[:, :2]
    centres, sizes = rng.uniform(100, 540, (objects, 2)), rng.uniform(60, 250, (objects, 2))
    distances = np.linalg.norm(points[:, None] - centres, axis=2)
    nearest = distances.argmin(axis=1)
    half = sizes[nearest] * np.exp(rng.normal(0, jitter, points.shape)) / 2
    middle = centres[nearest] + rng.normal(0, 30 * jitter, points.shape)
    return np.concatenate((middle - half, middle + half), axis=1), nearest, distances.min(axis=1)


def predictions(kind: str, candidates: int, seed: int = 0) -> Arrays:
    """Boxes [8400, 4] and scores [8400, 80], `candidates` of them above the threshold."""
    rng = np.random.default_rng(seed)
    if kind == "scattered":
        points = anchors()
        half = points[:, 2:] * rng.uniform(0.5, 3, (len(points), 2))
        boxes = np.concatenate((points[:, :2] - half, points[:, :2] + half), axis=1)
        scores = rng.random((len(points), CLASSES)) ** 8
    else:
        boxes, nearest, distance = around(*((12, 0.12) if kind == "clustered" else (6, 0.02)), rng)
        scores = np.exp(-distance / 60)[:, None] * rng.random((len(boxes), CLASSES)) ** 3
        if kind == "piled":  # each object in sixteen classes of its own
            scores *= (np.arange(CLASSES) - 11 * nearest[:, None]) % CLASSES < 16
    limit = np.partition(scores.ravel(), -candidates)[-candidates]
    threshold = OPTIONS["score_threshold"]
    scores = np.where(scores >= limit, threshold + 0.9 * (scores - 0.99 * limit), threshold * scores / limit * 0.9)
    return boxes.astype(np.float32), scores.astype(np.float32)


def operator_model() -> bytes:
    """ONNX model of one NonMaxSuppression: boxes [1, A, 4], scores [1, C, A] to selected [N, 3]."""
    from onnx import TensorProto, helper, numpy_helper

    values = (np.int64(OPTIONS["max_detections"]), np.float32(OPTIONS["iou_threshold"]), np.float32(0.03))
    constants = [numpy_helper.from_array(np.array([value]), f"c{i}") for i, value in enumerate(values)]
    node = helper.make_node("NonMaxSuppression", ["boxes", "scores", "c0", "c1", "c2"], ["selected"])
    inputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, (1, "A", 4)),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, "C", "A")),
    ]
    outputs = [helper.make_tensor_value_info("selected", TensorProto.INT64, ("N", 3))]
    graph = helper.make_graph([node], "nms", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def operators(threads: int) -> dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """The operators installed: boxes and scores [1, C, A] to selected (0, class, anchor) [N, 3]."""
    found: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {}
    model = operator_model()
    try:
        import openvino

        compiled = openvino.Core().compile_model(openvino.Core().read_model(model), "CPU", {"NUM_STREAMS": 1})
        request = compiled.create_infer_request()
        found["openvino"] = lambda boxes, scores: request.infer([boxes, scores], share_inputs=True)[0]
    except ImportError:
        pass
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        found["onnxruntime"] = lambda boxes, scores: np.asarray(
            session.run(None, {"boxes": boxes, "scores": scores})[0]
        )
    except ImportError:
        pass
    return found


def same(found: np.ndarray, selected: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> bool:
    """Whether the best of an operator's selections per class are the detections of `nms`."""
    labels, places = selected[selected[:, 2] >= 0, 1:].T
    order = np.argsort(-scores[places, labels], kind="stable")[: OPTIONS["max_detections"]]
    return np.array_equal(found[:, :4], boxes[places[order]]) and np.array_equal(found[:, 5], labels[order])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    rivals = operators(options.threads)
    for kind in ("scattered", "clustered", "piled"):
        boxes, scores = predictions(kind, options.candidates)
        by_class = np.ascontiguousarray(scores.T)[None]
        found = nms(boxes, scores, **OPTIONS)
        calls: dict[str, Callable[[], object]] = {"ours": lambda b=boxes, s=scores: nms(b, s, **OPTIONS)}
        for name, run in rivals.items():
            calls[name] = lambda run=run, b=boxes[None], s=by_class: run(b, s)
        times = measure(calls, rounds=options.rounds, repeats=options.repeats)
        print(
            f"{kind}: {(scores > 0.03).sum()} candidates, {len(found)} kept, {times['ours'].median_ms:.2f} ms", end=""
        )
        for name, run in rivals.items():
            agreed = "equal" if same(found, run(boxes[None], by_class), boxes, scores) else "DIFFERENT"
            print(f"; {name} {speedup(times[name], times['ours']):.2f} times as long, {agreed}", end="")
        print()


if __name__ == "__main__":
    main()
