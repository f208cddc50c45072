"""The result of a training, as far as it has come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

ON_SELECT = ("map50_95", "map50", "agreement")
"""Figures of an evaluation on the select split, as rows have them."""
Row = dict[str, float]
"""Figures of one epoch: its number from 1, the learning rate, every loss term, and mAP where it was evaluated."""


@dataclass
class TrainingRun:
    """The best weights on the select split, and one row an epoch."""

    best_score: float = -math.inf
    best_epoch: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def offer(self, model: nn.Module, score: float, epoch: int) -> None:
        """Keep a copy of the weights if no score so far was better; of equal scores the later epoch stays."""
        if score >= self.best_score:
            self.best_score, self.best_epoch = score, epoch
            self.best_state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def evaluations(self) -> list[Row]:
        """Figures on the select split, of the epochs that were evaluated."""
        return [
            {name: row[name] for name in ("epoch", *ON_SELECT) if name in row} for row in self.rows if "map50_95" in row
        ]

    def figures(self) -> dict[str, Any]:
        """JSON values of everything but the weights; `restore` reads them back."""
        return {"best_score": self.best_score, "best_epoch": self.best_epoch, "rows": self.rows}

    def restore(self, figures: Mapping[str, Any], best_state: dict[str, Tensor]) -> None:
        """Continue from stored figures and weights."""
        self.best_score, self.best_epoch = figures["best_score"], figures["best_epoch"]
        self.rows, self.best_state = list(figures["rows"]), best_state
