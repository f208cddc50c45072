"""The pipeline's commands: one module, one Typer command, one DVC stage."""
