"""The parameter file: all problems at once, each with the values that are allowed."""

from __future__ import annotations

import copy
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import Field, ValidationError

from stages.params import AugmentParams, ModelParams, ProjectSection, QatParams, TrainParams
from stages.shared.shell import errors_as_exit_codes
from yolov6core.param_sections import (
    SECTIONS,
    ParameterFile,
    ParamsError,
    Section,
    describe,
    load_params,
    parse_params,
)

RENAMED = ProjectSection.renamed
ROOT = Path(__file__).resolve().parents[2]
PARAMS = ROOT / "params.yaml"
DOCUMENT: dict[str, dict[str, Any]] = load_params(PARAMS)  # type: ignore[assignment]
ABSENT = object()
LONG = 10**400
LONGER = 1 << 20_000  # more digits than Python writes


def str_of(value: object) -> str:
    """An id for a test; pytest's own would write the number out."""
    return "long" if value in (LONG, LONGER) else repr(value)


class Toy(Section):
    section = "qat"
    epochs: Annotated[int, Field(ge=1, le=10)]
    lr: float
    method: Literal["max", "entropy"]
    names: list[str] | None
    strict: bool


GOOD = {"epochs": 3, "lr": 1, "method": "max", "names": None, "strict": False}


def problems(values: dict, model: type[Section] = Toy) -> list[str]:
    """The lines of the error for a section of these values; entries of ABSENT are left out."""
    values = {key: value for key, value in values.items() if value is not ABSENT}
    with pytest.raises(ParamsError) as error:
        parse_params({model.section: values}, model)
    first, *lines = str(error.value).splitlines()
    assert first == f"params: {len(lines)} problem(s)"
    return [line.removeprefix("  ") for line in lines]


def wrong(section: str, **changes: Any) -> list[str]:
    """The lines of the error for params.yaml with these changes in a section."""
    return problems(DOCUMENT[section] | changes, SECTIONS[section])


def right(section: str, **changes: Any) -> Section:
    """The section of params.yaml with these changes."""
    return parse_params({section: DOCUMENT[section] | changes}, SECTIONS[section])[0]


def test_params_yaml_fills_every_section_and_nothing_else():
    assert list(DOCUMENT) == list(SECTIONS)
    for section, model in zip(parse_params(DOCUMENT, *SECTIONS.values()), SECTIONS.values(), strict=True):
        assert type(section) is model
        assert set(DOCUMENT[model.section]) == set(model.model_fields)
        assert section.model_dump() == DOCUMENT[model.section]


def test_an_int_becomes_a_float_where_a_number_is_wanted():
    (toy,) = parse_params({"qat": GOOD | {"names": ["a"]}}, Toy)
    assert toy == Toy(epochs=3, lr=1.0, method="max", names=["a"], strict=False) and isinstance(toy.lr, float)


def test_sections_are_frozen_and_come_in_the_order_asked_for():
    augment, model = ParameterFile(PARAMS).read(AugmentParams, ModelParams)
    assert model.size == tuple(model.image_size) and augment.flip_lr == 0.5
    with pytest.raises(ValidationError, match="frozen"):
        model.shrink = 1  # type: ignore[misc]


def test_all_problems_come_at_once_in_the_order_of_the_file():
    values = {"lr": "fast", "epoch": 3, "epochs": 0, "method": "mse", "names": [1]}
    assert problems(values) == [
        "qat.lr: 'fast' is not allowed; allowed: number",
        "qat.epoch: unknown parameter; did you mean 'epochs'?",
        "qat.epochs: 0 is not allowed; allowed: whole number from 1 to 10",
        "qat.method: 'mse' is not allowed; allowed: 'max' | 'entropy'",
        "qat.names: [1] is not allowed; allowed: list of (text) or null",
        "qat.strict: missing; allowed: true or false",
    ]


def test_problems_of_all_sections_come_at_once_in_the_order_of_the_file():
    document = copy.deepcopy(DOCUMENT)
    document["model"]["variant"] = 7
    document["train"]["epoch"] = document["train"].pop("epochs")
    document["qatt"] = document.pop("qat")
    document["augment"] = [1]  # type: ignore[assignment]
    with pytest.raises(ParamsError) as error:
        parse_params(document, TrainParams, QatParams, AugmentParams, ModelParams, where="params.yaml")
    lines = str(error.value).splitlines()
    assert lines[:2] == ["params.yaml: 6 problem(s)", "  model.variant: 7 is not allowed; allowed: text"]
    assert lines[2].startswith("  augment: a section with the keys mosaic, mixup,")
    assert lines[2].endswith("is needed, found [1]")
    assert lines[3:6] == [
        "  train.epoch: unknown parameter; did you mean 'epochs'?",
        "  train.epochs: missing; allowed: whole number from 0 to 100000",
        "  qatt: unknown section; did you mean 'qat'?",
    ]
    assert lines[6].startswith("  qat: a section with the keys epochs,") and lines[6].endswith("is needed, missing")


@pytest.mark.parametrize("document", [None, [], ["qat"], "text", 3])
def test_a_document_that_is_no_mapping_is_refused(document):
    with pytest.raises(ParamsError, match="params must hold a mapping of sections, found"):
        parse_params(document, Toy)


@pytest.mark.parametrize("key", [1, None, True, (1, 2), 1.5])
def test_names_are_text(key):
    assert problems(GOOD | {key: 1}) == [f"qat.{key!r}: the name of a parameter is text"]
    with pytest.raises(ParamsError, match="the name of a section is text"):
        parse_params({"qat": GOOD, key: {}}, Toy)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, [1], {"a": 1}, math.nan, LONG, LONGER], ids=str_of)
def test_a_whole_number_is_nothing_else(value):
    (line,) = problems(GOOD | {"epochs": value})
    assert line.startswith("qat.epochs: ") and line.endswith("allowed: whole number from 1 to 10")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, None, "1", [], {}, LONG, LONGER], ids=str_of)
def test_a_number_is_finite_and_nothing_else(value):
    (line,) = problems(GOOD | {"lr": value})
    assert line.startswith("qat.lr: ") and line.endswith("is not allowed; allowed: number")


@pytest.mark.parametrize("value", [0, 1, "true", None, []])
def test_a_switch_is_true_or_false(value):
    assert problems(GOOD | {"strict": value}) == [f"qat.strict: {value!r} is not allowed; allowed: true or false"]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("prepare", "voc_origin", value) for value in (True, False, 1.0, 2, "1")]
    + [("export", "opset", value) for value in (19.0, 16, "19", True)]
    + [("ptq", "equalize", value) for value in (False, None, ["off"])],
)
def test_a_choice_has_the_type_of_the_choices(section, key, value):
    (line,) = wrong(section, **{key: value})
    assert line.startswith(f"{section}.{key}: {value!r} is not allowed; allowed: ") and " | " in line


@pytest.mark.parametrize("key", ["plain_epochs", "accumulate_to", "max_norm", "atss_epochs"])
@pytest.mark.parametrize("section", ["search", "train"])
def test_earlier_names_of_trainings_are_answered_with_the_new_ones(section, key):
    values = {
        {new: old for old, new in RENAMED.items() if old == key}.get(k, k): v for k, v in DOCUMENT[section].items()
    }
    assert problems(values, SECTIONS[section]) == [f"{section}.{key}: renamed to {RENAMED[key]}"]


@pytest.mark.parametrize(
    ("section", "old", "new"),
    [
        ("train", "branch", "aux_head"),
        ("train", "new_tensors", "reinit"),
        ("ptq", "wild_ratio", "outlier_ratio"),
        ("qat", "plain_epochs", "close_mosaic_epochs"),
        ("qat", "match_class", "distill_class"),
        ("qat", "match_box", "distill_box"),
        ("qat", "match_dfl", "distill_dfl"),
        ("qat", "features", "distill_features"),
    ],
)
def test_earlier_names_are_answered_with_the_new_ones(section, old, new):
    assert wrong(section, **{old: DOCUMENT[section][new], new: ABSENT}) == [f"{section}.{old}: renamed to {new}"]
    assert wrong(section, **{old: DOCUMENT[section][new]}) == [f"{section}.{old}: renamed to {new}"]


def test_an_earlier_value_is_answered_with_the_new_one():
    assert wrong("ptq", equalize="chains") == ["ptq.equalize: 'chains' is renamed to 'cross_layer'"]


def test_every_renamed_key_names_one_of_today():
    known = {key for model in SECTIONS.values() for key in model.model_fields}
    assert set(RENAMED.values()) - {"cross_layer", "none"} <= known and not known & set(RENAMED)


def test_types_are_told_in_words():
    words = {
        "allowed: 'sgd' | 'adamw'": wrong("train", optimizer="lion"),
        "allowed: whole number from 1 to 1024 or 'auto'": wrong("train", devices=0),
        "allowed: whole number from 1 to 1000000 or null": wrong("train", nominal_batch_size=0),
        "allowed: number at least 1e-06": wrong("train", grad_clip_norm=0),
        "allowed: number above 0 and at most 0.9999": wrong("qat", momentum=0),
        "allowed: list of (number from 50 to 100)": wrong("ptq", percentiles=[99, 101]),
        "allowed: list of (text)": wrong("ptq", float_layers="head.*"),
        "allowed: list of ('openvino' | 'ort' | 'trt' | 'cache' | 'qdq')": wrong("export", dialects=["tflite"]),
        "allowed: list of (whole number from 32 to 8192) or null": wrong("export", image_size=[16, 32]),
        "allowed: 17 | 18 | 19 | 20": wrong("export", opset=13),
        "allowed: auto | cpu | cuda | cuda:N": wrong("runtime", device="gpu"),
    }
    for text, lines in words.items():
        assert len(lines) == 1 and lines[0].endswith(f"; {text}"), lines
    for model in SECTIONS.values():
        for key, field in model.model_fields.items():
            assert "typing" not in describe(field.rebuild_annotation()), key


@pytest.mark.parametrize(
    ("section", "changes", "part"),
    [
        (
            "model",
            {"image_size": [100, 160]},
            "[100, 160] is not allowed; allowed: [height, width], both multiples of 32",
        ),
        ("model", {"image_size": [96]}, "[96] is not allowed; allowed: [height, width], both multiples of 32"),
        ("model", {"image_size": []}, "[height, width]"),
        ("model", {"image_size": [96, 160], "shrink": 49}, "shrink is 49; the grey frame has at most half a side of"),
        ("prepare", {"classes": []}, "classes is []; give different names, or null for all that occur"),
        ("prepare", {"classes": ["a", "a"]}, "classes is ['a', 'a']"),
        ("prepare", {"train_split": []}, "train_split and val_split need at least one name each"),
        ("prepare", {"val_split": ""}, "train_split and val_split need at least one name each"),
        ("search", {"nominal_batch_size": 12}, "nominal_batch_size is 12; give a multiple of batch_size (8), or null"),
        ("train", {"nominal_batch_size": 12}, "nominal_batch_size is 12; give a multiple of batch_size (8), or null"),
        ("train", {"momentum": 0}, "momentum is 0, but optimizer sgd uses Nesterov momentum"),
        ("search", {"momentum": 0.0}, "momentum is 0, but optimizer sgd uses Nesterov momentum"),
        ("train", {"teacher": "t", "aux_head": "anchors"}, "aux_head is anchors and teacher is set; the two are not"),
        ("train", {"teacher": "t", "distill_class": 0, "distill_dfl": 0}, "distill_features are 0; raise one"),
        ("train", {"epochs": 0}, "epochs is 0, but weights is null; train for some epochs or give weights"),
        ("train", {"reinit": ["head.*"]}, "reinit is ['head.*'], but weights is null; all tensors are new then"),
        ("ptq", {"method": "percentile", "percentiles": []}, "percentiles is empty, but method is percentile"),
        ("sensitivity", {"max_layers": None}, "nothing limits the float layers; give max_drop, max_layers or"),
        (
            "qat",
            {"detection": 0, "distill_class": 0, "distill_box": 0, "distill_features": 0},
            "all of detection, distill_class, distill_box and distill_features are 0; nothing would be learned",
        ),
        ("export", {"dialects": []}, "dialects is []; name at least one, each once"),
        ("export", {"dialects": ["ort", "ort"]}, "dialects is ['ort', 'ort']; name at least one, each once"),
        ("export", {"opset": 18}, "fp16 needs opset 19 or 20, opset is 18"),
        ("export", {"batch": 2, "dynamic_batch": True}, "batch is 2 and dynamic_batch true; a fixed batch needs"),
        ("export", {"image_size": [64]}, "image_size is [64]; give [height, width], or null for the training's"),
        ("export", {"form": "raw", "nms": "topk"}, "nms topk suppresses decoded boxes; choose form decoded, or nms"),
        ("export", {"nms": "efficient_nms"}, "is a plugin of TensorRT, dialects has openvino, ort; leave dialects"),
        ("export", {"nms": "onnx"}, "dialects has trt, cache; leave dialects [openvino, ort], or choose nms topk"),
        ("engine", {"dla_core": 0, "runtime": "openvino"}, "dla_core is for runtime tensorrt, runtime is openvino"),
        ("engine", {"calibration_cache": True, "runtime": "openvino"}, "is for runtime tensorrt, runtime is openvino"),
    ],
)
def test_conflicts_are_told(section, changes, part):
    (line,) = wrong(section, **changes)
    assert line.startswith(section) and part in line


def test_all_conflicts_of_a_section_come_at_once():
    lines = wrong("train", epochs=0, momentum=0, reinit=["head.*"])
    assert len(lines) == 3 and all(line.startswith("train: ") for line in lines)
    with pytest.raises(ValueError, match="nothing limits the float layers"):
        SECTIONS["sensitivity"](**DOCUMENT["sensitivity"] | {"max_layers": None})


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("model", {"image_size": [96, 160], "shrink": 48}),
        ("train", {"epochs": 0, "weights": "w.safetensors", "reinit": ["head.*"]}),
        ("train", {"momentum": 0, "optimizer": "adamw"}),
        ("train", {"nominal_batch_size": 64, "devices": "auto", "seed": 2**63 - 1}),
        ("search", {"scales": "none"}),
        ("prepare", {"train_split": ["train", "trainval"], "classes": ["cell"]}),
        ("export", {"nms": "efficient_nms", "dialects": ["trt", "cache"], "image_size": [32, 8192]}),
        ("sensitivity", {"max_layers": None, "float_layers": []}),
        ("runtime", {"device": "cuda"}),
        ("runtime", {"device": "cuda:0"}),
        ("runtime", {"device": "cuda:15"}),
    ],
)
def test_allowed_values_are_taken(section, changes):
    assert right(section, **changes).model_dump() == DOCUMENT[section] | changes


@pytest.mark.parametrize(
    ("section", "key", "values"),
    [
        ("train", "seed", [-1, 2**63]),
        ("search", "seed", [-1, 2**63]),
        ("qat", "seed", [-1, 2**63]),
        ("prepare", "seed", [-1, 2**63]),
        ("qat", "momentum", [0, 0.0, -0.1, 1]),
        (
            "runtime",
            "device",
            ["", "gpu", "automatic", "cuda:", "cuda:01", "cuda:x", "cuda:-1", "cuda:1000", "cpu\n", "CPU", 0],
        ),
        ("prepare", "root", ["", "a\0b", None, []]),
        ("prepare", "classes", [[""]]),
        ("prepare", "calib_images", [0, LONG]),
        ("train", "weights", ["", {}]),
        ("train", "teacher", [""]),
        ("search", "scales", ["", False]),
        ("export", "image_size", [[31, 64], [64, 8193], [[64, 64]], [64.0, 64], 640, []]),
        ("engine", "workspace_mib", [-1, 2**64]),
        ("runtime", "cache", ["off", "disc", None, True]),
        ("runtime", "cache_mib", [-1, LONG]),
        ("runtime", "waiting", ["sleep", "", True, None]),
        ("runtime", "tensorboard", ["", "a\0b", 1, []]),
        ("augment", "mosaic", [[0.5], {"p": 0.5}, 1.1, LONG]),
    ],
)
def test_values_that_would_fail_later_are_refused(section, key, values):
    for value in values:
        (line,) = wrong(section, **{key: value})
        assert line.startswith(section) and key in line, value


def test_long_values_are_shortened():
    for value in ("x" * 10_000, list(range(10_000)), {str(key): key for key in range(10_000)}, LONG, LONGER):
        (line,) = wrong("runtime", device=value)
        assert len(line) < 250


def test_mutations_end_in_params_errors_or_success():
    draw = random.Random(0)
    loop: list = []
    loop.append(loop)
    values = [None, "", "\0", "\ud800", -1, 0, 1e400, -1e-320, math.nan, [], [[]], [None], {}, {1: 2}, True, False]
    values += [LONG, -LONG, LONGER, 2**63, 2**64, loop, [LONG, LONGER], object(), b"", 1j, "off", "null", [32, 32], {1}]
    refused = 0
    for _ in range(4):
        for section, model in SECTIONS.items():
            for value in values:
                changed = copy.copy(DOCUMENT[section])
                changed[draw.choice(list(changed))] = value
                try:
                    parse_params({section: changed}, model)
                except ParamsError as error:
                    refused += 1
                    assert str(error).startswith("params: 1 problem(s)\n  " + section)
    assert refused > 1000


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"model: [", "not valid YAML"),
        (b"model: {a: 1, a: 2}", "not valid YAML"),
        (b"model: !!python/object:os.system {}", "not valid YAML"),
        (b"model: \xff\xfe", "is not UTF-8 text"),
        (b"model: " + b"9" * 5000, "cannot be read"),
        (b"model: " + b"[" * 600, ""),
        (b"model: 2001-99-99", ""),
        (b"", "must hold a mapping of sections, found NoneType"),
        (b"- model", "must hold a mapping of sections, found list"),
        (b"? [1]\n: 2", ""),
    ],
)
def test_files_that_are_no_parameters_end_in_code_2(tmp_path, capsys, content, part):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(typer.Exit) as stop, errors_as_exit_codes():
        ParameterFile(path).read(ModelParams)
    assert stop.value.exit_code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {path}") and part in message


def test_missing_files_are_told(tmp_path, capsys):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ParamsError, match="is missing; run from the project's root or give --params"):
            load_params(path)
    with pytest.raises(typer.Exit), errors_as_exit_codes():
        ParameterFile(tmp_path / "none.yaml").read(ModelParams)
    assert "none.yaml is missing" in capsys.readouterr().err


def test_nothing_heavy_is_imported():
    code = "import sys, stages.params; print(sorted({'torch', 'cv2', 'numpy', 'onnx'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
