"""The list of networks."""

from __future__ import annotations

from stages.variants import table
from yolov6core.models.variants import VARIANTS


def test_every_variant_has_a_line_with_its_cost(monkeypatch) -> None:
    monkeypatch.setattr("stages.variants.VARIANTS", {name: VARIANTS[name] for name in ("yolov6n", "test")})
    header, nano, small = table(classes=80, side=640)
    assert header.split()[0] == "variant"
    assert nano.split()[:2] == ["yolov6n", "repvgg"] and nano.split()[-2:] == ["4.65", "11.32"]
    assert small.startswith("test ")
