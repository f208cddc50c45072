"""Training loop, schedules, weight averaging and RepOptimizer."""
