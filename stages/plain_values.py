"""Sections of `params.yaml` as the plain values that the library takes."""

from __future__ import annotations

from dataclasses import fields, replace

from stages.params import EvalParams, ModelParams, QatParams, SearchParams, TrainParams
from yolov6core.errors import UserError
from yolov6core.models.card import NetworkCard, new_card
from yolov6core.tasks.evaluation import DetectionLimits
from yolov6core.training.recipe import Recipe


def recipe_of(section: SearchParams | TrainParams | QatParams) -> Recipe:
    """The recipe of a training: every field that the section has under the same name."""
    values = section.model_dump()
    return Recipe(**{field.name: values[field.name] for field in fields(Recipe) if field.name in values})


def limits_of(evaluation: EvalParams) -> DetectionLimits:
    """Which detections count."""
    return DetectionLimits(evaluation.score_threshold, evaluation.iou_threshold, evaluation.max_detections)


def card_of(
    model: ModelParams, *, names: tuple[str, ...], block: str, aux_head: str = "none", deployed: bool = False
) -> NetworkCard:
    """The card of the float network. Raises UserError for a variant or size that does not exist."""
    try:
        card = new_card(
            model.variant, block=block, aux_head=aux_head, names=names, image_size=model.size, shrink=model.shrink
        )
    except ValueError as error:
        raise UserError(f"model: {error}") from None
    return replace(card, deployed=deployed)
