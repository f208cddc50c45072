"""Detection and distillation losses: pure functions and dictionaries of named terms."""
