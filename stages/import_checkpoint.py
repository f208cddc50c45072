"""`import-checkpoint`: an official checkpoint as a file of this project (not a stage of the pipeline)."""

from __future__ import annotations

from yolov6core.tasks.checkpoint_import import import_checkpoint as import_checkpoint
