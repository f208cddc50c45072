"""The parameter file: every problem at once, each with what is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from stages._params import Bounds, ModelParams, ParamsError, parse_params


@dataclass(frozen=True)
class Toy:
    epochs: Annotated[int, Bounds(1, 10)]
    lr: float
    method: Literal["max", "entropy"]
    names: list[str] | None
    strict: bool


GOOD = {"epochs": 3, "lr": 1, "method": "max", "names": None, "strict": False}


def problems(**changes) -> str:
    values = {key: value for key, value in (GOOD | changes).items() if value != "absent"}
    with pytest.raises(ParamsError) as error:
        parse_params({"qat": values}, qat=Toy)
    return str(error.value)


def test_values_are_converted_and_checked():
    (toy,) = parse_params({"qat": GOOD | {"names": ["a"]}}, qat=Toy)
    assert toy == Toy(epochs=3, lr=1.0, method="max", names=["a"], strict=False) and isinstance(toy.lr, float)


def test_all_problems_come_at_once():
    text = problems(epochs=0, lr="fast", method="mse", names=[1], strict="absent", epoch=3)
    for part in (
        "6 problem(s)",
        "qat.epochs: 0 is not allowed; allowed: whole number from 1 to 10",
        "qat.lr: 'fast' is not allowed; allowed: number",
        "qat.method: 'mse' is not allowed; allowed: 'max' | 'entropy'",
        "qat.names: [1] is not allowed",
        "qat.strict: missing; allowed: true or false",
        "qat.epoch: unknown parameter; did you mean 'epochs'?",
    ):
        assert part in text


@pytest.mark.parametrize("value", [True, 1.0, "1", None])
def test_a_whole_number_is_nothing_else(value):
    assert "qat.epochs" in problems(epochs=value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, None])
def test_a_number_is_finite(value):
    assert "qat.lr" in problems(lr=value)


def test_sections_are_checked_too():
    with pytest.raises(ParamsError, match="did you mean 'qat'"):
        parse_params({"qatt": GOOD}, qat=Toy)
    with pytest.raises(ParamsError, match="mapping of sections"):
        parse_params(["qat"], qat=Toy)


def test_checks_between_values():
    good = {"variant": "yolov6n_v2", "image_size": [96, 160], "shrink": 48}
    parse_params({"model": good}, model=ModelParams)
    with pytest.raises(ParamsError, match="multiples of 32"):
        parse_params({"model": good | {"image_size": [100, 160]}}, model=ModelParams)
    with pytest.raises(ParamsError, match="shrink is 49; .* at most half a side"):
        parse_params({"model": good | {"shrink": 49}}, model=ModelParams)
