"""`search-scales`: the first of RepOptimizer's two trainings, which finds a scale per channel and branch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stages.params import AugmentParams, ModelParams, RuntimeParams, SearchParams
from stages.shared import paths
from stages.shared.shell import finish
from stages.shared.start_line import log_start
from stages.shared.trainings import TrainingSections, spread_over_devices, train_float, write_no_epochs
from yolov6core.base.atomic import replace_folder
from yolov6core.base.errors import UserError, logger
from yolov6core.base.tables import write_rows
from yolov6core.pretrained.official_file import read_official_checkpoint
from yolov6core.pretrained.official_names import from_official
from yolov6core.tasks.detection import DetectionTask
from yolov6core.training.repopt import BlockScales, load_scales, save_scales, scale_health, scales_from_state

SHORT_SEARCH = 0.01
"""Mean distance from one below which scales say nothing."""


def search_scales(
    model: ModelParams, augment: AugmentParams, search: SearchParams, runtime: RuntimeParams, *, command: Sequence[str]
) -> None:
    """Write `scales.safetensors` and `health.csv` (spread of every scale vector against its initial value).

    Raises:
        UserError: missing inputs, or given scales of another network.
    """
    if search.scales is not None:
        log_start("search-scales", device="nothing is computed")
    if search.scales is None:
        if not spread_over_devices(command, search, runtime):
            _search(TrainingSections(model, augment, search, runtime), search)
    elif search.scales == "none":
        with replace_folder(paths.SCALES) as folder:
            save_scales(folder / paths.SCALES_FILE.name, {}, variant=model.variant)
            write_no_epochs(folder)
        logger.info("no scales: train.block has to be another form than repopt -> %s", paths.SCALES)
    else:
        scales = _given(Path(search.scales), model.variant)
        logger.info("taking %d blocks of scales from %s", len(scales), search.scales)
        _write(scales, model.variant, rows=[])


def _given(path: Path, variant: str) -> dict[str, BlockScales]:
    """Scales of a file of this project, or of an official checkpoint of a search."""
    if not path.is_file():
        raise UserError(f"search.scales: {path} does not exist; set it to null to search for scales")
    try:
        if path.suffix != ".safetensors":
            scales = scales_from_state(from_official(read_official_checkpoint(path).parts["model"]))
            if not scales:
                raise UserError(f"search.scales: {path} holds no scales; give a checkpoint of a hyper-search")
            return scales
        scales, searched_for = load_scales(path)
    except ValueError as error:
        raise UserError(f"search.scales: {error}") from None
    if searched_for != variant:
        raise UserError(
            f"search.scales: {path} was searched for variant {searched_for!r}, model.variant is "
            f"{variant!r}; scales fit only the network they were searched for"
        )
    return scales


def _search(sections: TrainingSections, search: SearchParams) -> None:
    # Limits of detections are the field's: nothing is chosen by these figures, so eval's must not repeat the search.
    trained, card, state = train_float(
        "search-scales",
        sections,
        block="scaled",
        make_task=lambda network, setup: DetectionTask(
            network,
            setup.card,
            setup.recipe,
            iou=search.iou,
            atss_warmup_epochs=search.atss_warmup_epochs,
            processes=setup.processes,
        ),
        scale_lr=search.scale_lr,
    )
    if trained.main:
        # The last weights, not the best: scales are wanted as far from their start as the search could bring them.
        _write(scales_from_state(trained.state.ema.model.state_dict()), card.variant, rows=trained.run.rows)
        finish(state)


def _write(scales: dict[str, BlockScales], variant: str, *, rows: list[dict[str, float]]) -> None:
    health = scale_health(scales)
    with replace_folder(paths.SCALES) as folder:
        save_scales(folder / paths.SCALES_FILE.name, scales, variant=variant)
        write_rows(folder / "health.csv", health)
        if rows:
            write_rows(folder / "epochs.csv", rows)
        else:
            write_no_epochs(folder)
    moved = sum(float(row["moved"]) for row in health) / len(health)
    logger.info("%d blocks of scales; they moved %.3f from one on average -> %s", len(scales), moved, paths.SCALES)
    if moved < SHORT_SEARCH:
        logger.warning("the scales hardly moved: the search was too short to tell anything, raise search.epochs")
