"""The wing of float networks: checkpoints, detection task, self-distillation, training, evaluation of a split."""
