"""Official checkpoint files: contents of files that torch.save writes here, and refusal of forged ones."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.forging import call, forge, name, number, text, view
from yolov6core.pretrained.official_file import read_official_checkpoint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.pt"


def small_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    inner = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    inner.register_buffer("kept", torch.rand(3))
    inner.register_buffer("dropped", torch.rand(3), persistent=False)
    inner.register_parameter("absent", None)
    return nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 4, 3, bias=False), late=nn.PReLU(), inner=inner))


def assert_same_state(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(got) == list(expected)
    for key, value in expected.items():
        assert got[key].dtype == value.dtype and torch.equal(got[key], value), key


@pytest.mark.parametrize("seed", range(3))
def test_a_saved_module_reads_back_as_its_state_dict(path, seed):
    model = small_model(seed)
    torch.save(model, path)
    found = read_official_checkpoint(path)
    assert_same_state(found.weights, model.state_dict())
    assert found.kind == "stripped" and found.optimizer is found.names is found.strides is found.epoch is None
    model.load_state_dict(found.weights)


def test_a_shared_module_appears_under_both_names(path):
    block = nn.Linear(2, 2)
    model = nn.Sequential(block, nn.ReLU(), block).half()
    torch.save({"model": model, "ema": None}, path)
    assert_same_state(read_official_checkpoint(path).weights, model.state_dict())


def test_trainer_files_give_everything_and_prefer_the_average(path):
    model, average = small_model(0), small_model(1)
    for item in (model, average):
        item.names, item.nc, item.stride = ["cat", "dog"], 2, torch.tensor([8.0, 16.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for parameter in list(model.parameters())[:3]:
        parameter.grad = torch.rand_like(parameter)
    optimizer.step()
    table = {"model": model.half(), "ema": average.half(), "updates": 7, "epoch": 3, "results": (0.1, 0.2)}
    torch.save({**table, "optimizer": optimizer.state_dict(), "scheduler": {"last_epoch": 3}}, path)
    found = read_official_checkpoint(path)
    assert found.kind == "trainer" and list(found.parts) == ["model", "ema"]
    assert (found.epoch, found.updates, found.results) == (3, 7, (0.1, 0.2))
    assert (found.names, found.num_classes, found.strides) == (("cat", "dog"), 2, (8, 16))
    assert_same_state(found.parts["model"], model.state_dict())
    assert_same_state(found.weights, average.state_dict())
    assert found.weights["stem.weight"].dtype == torch.float16
    expected = optimizer.state_dict()
    assert list(found.optimizer.groups) == expected["param_groups"]
    assert sorted(found.optimizer.momentum) == [0, 1, 2]
    for index, buffer in found.optimizer.momentum.items():
        assert torch.equal(buffer, expected["state"][index]["momentum_buffer"])


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": state, "epoch": 4}])
def test_state_dictionaries_are_accepted(path, wrap):
    state = small_model().state_dict()
    torch.save(wrap(state), path)
    found = read_official_checkpoint(path)
    assert found.kind == "state_dict" and found.names is None
    assert_same_state(found.weights, state)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ([1, 2], "holds an object of type list instead of a model"),
        ({}, "holds a table of nothing instead of a model"),
        ({"model": None, "epoch": 1}, "a table of 'model', 'epoch' instead of a model"),
        ({"weights": torch.ones(2), "lr": 0.1}, "a table of 'weights', 'lr' instead of a model"),
        ({"model": 3}, "holds an object of type int under 'model'"),
        ({"model": {"a": torch.ones(1), "b": 2}}, "holds a table of 'a', 'b' under 'model'"),
        ({"model": nn.ReLU(), "optimizer": {"state": {}}}, "optimizer without param_groups or state"),
        ({"model": nn.ReLU(), "optimizer": {"state": {0: 1}, "param_groups": []}}, "optimizer without param_groups"),
    ],
)
def test_other_contents_are_named(path, saved, message):
    torch.save(saved, path)
    with pytest.raises(ValueError, match=message) as error:
        read_official_checkpoint(path)
    assert str(path) in str(error.value)


def table(**entries: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def module(*, parameters: bytes = b"}", buffers: bytes = b"}", modules: bytes = b"}") -> bytes:
    """A module, not yet given its three tables, kept under index 1, then given them."""
    state = table(_parameters=parameters, _buffers=buffers, _modules=modules)
    return name("yolov6.models.yolo", "Model") + b")\x81q\x01" + state + b"b"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (module(modules=table(again=b"h\x01")), "contains itself at 'again.again."),
        (module(modules=table(a=b"h\x01", b=b"h\x01", c=b"h\x01")), "contains itself"),
        (module(modules=table(a=number(1))), "has an object of type int as the module 'a'"),
        (module(parameters=table(a=number(1))), "has an object of type int as the tensor 'a'"),
        (module(parameters=table(a=view()), buffers=table(a=view())), "two tensors named 'a' in 'model'"),
        (module(parameters=table(a=view(offset=3))), "does not fit its storage"),
        (module(buffers=b"N"), "without a table _buffers"),
        (call(name("yolov6.models.yolo", "Model"), text("x")), "'yolov6.models.yolo.Model' without a table _buffers"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_forged_modules_are_refused(path, body, message):
    with pytest.raises(ValueError, match=message) as error:
        read_official_checkpoint(forge(path, body))
    assert str(path) in str(error.value)


def test_modules_without_end_are_refused(path):
    """Forty modules, each holding the next one twice, have a million million names."""
    body = module()
    for _ in range(40):
        body = module(modules=b"}(" + text("a") + body + b"q\x02" + text("b") + b"h\x02" + b"u")
    with pytest.raises(ValueError, match="contains itself"):
        read_official_checkpoint(forge(path, body))


def test_many_views_of_few_numbers_are_refused(path):
    storage = torch.zeros(2**16)
    torch.save({f"layer.{index}.weight": storage for index in range(1000)}, path)
    with pytest.raises(ValueError, match="stores 65,536 numbers"):
        read_official_checkpoint(path)
