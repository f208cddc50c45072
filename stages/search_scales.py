"""`search-scales`: the first of RepOptimizer's two trainings, which finds a scale per channel and branch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from stages._devices import run_on_devices
from stages._networks import Architecture
from stages._params import DEFAULT_PARAMS, AugmentParams, Bounds, ModelParams, ParamsFile, RuntimeParams, read_params
from stages._report import stage_errors, warn_unless_in
from stages._training import RecipeParams, Sections, Task
from yolov6core.atomic import replace_folder
from yolov6core.errors import StageError, logger

if TYPE_CHECKING:
    from yolov6core.training.repopt import BlockScales

OUT = Path("artifacts/scales")
GIVEN = Path("pretrained/scales")


@dataclass(frozen=True)
class SearchParams(RecipeParams):
    """Section `search`: the training recipe of the search, or a file of scales that makes it unnecessary.

    `scales` may be `off` too: no scales, for trainings of other block forms than repopt.
    """

    scales: str | None
    scale_lr: Annotated[float, Bounds(0, 1000)]


def search_scales_cli(params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Train scaled linear branches and keep their scales (or take given ones): artifacts/scales."""
    model, augment, search, runtime = read_params(
        params, model=ModelParams, augment=AugmentParams, search=SearchParams, runtime=RuntimeParams
    )
    with stage_errors():
        if search.scales is None and run_on_devices("search-scales", search, runtime, params):
            return
        search_scales(model, augment, search, runtime)


def search_scales(
    model: ModelParams, augment: AugmentParams, search: SearchParams, runtime: RuntimeParams, *, out: Path = OUT
) -> None:
    """Write `scales.safetensors` and `health.csv` (spread of every scale vector against its initial value)."""
    from yolov6core.checkpoint import save_checkpoint

    if search.scales is None:
        _search(Sections(model, augment, search, runtime), scale_lr=search.scale_lr, out=out)
    elif search.scales == "off":
        with replace_folder(out) as folder:
            save_checkpoint(folder / "scales.safetensors", {}, {"variant": model.variant})
        logger.info("no scales: train.block has to be another form than repopt -> %s", out)
    else:
        scales = _given(Path(search.scales), model.variant)
        logger.info("taking %d blocks of scales from %s", len(scales), search.scales)
        _write(out, scales, model.variant, rows=[])


def _given(path: Path, variant: str) -> dict[str, BlockScales]:
    """Scales of a file of this project, or of an official checkpoint of a search."""
    from yolov6core.checkpoint import load_checkpoint
    from yolov6core.pretrained.official_file import read_official_checkpoint
    from yolov6core.pretrained.official_names import from_official
    from yolov6core.training.repopt import scales_from_state, scales_from_tensors

    if not path.is_file():
        raise StageError(f"search.scales: {path} does not exist; set it to null to search for scales")
    warn_unless_in(GIVEN, path, where="search.scales")
    try:
        if path.suffix != ".safetensors":
            scales = scales_from_state(from_official(read_official_checkpoint(path).parts["model"]))
            if not scales:
                raise StageError(f"search.scales: {path} holds no scales; give a checkpoint of a hyper-search")
            return scales
        tensors, meta = load_checkpoint(path)
    except ValueError as error:
        raise StageError(f"search.scales: {error}") from None
    if meta.get("variant") != variant:
        raise StageError(
            f"search.scales: {path} was searched for variant {meta.get('variant')!r}, model.variant is "
            f"{variant!r}; scales fit only the network they were searched for"
        )
    return scales_from_tensors(tensors)


def _search(sections: Sections, *, scale_lr: float, out: Path) -> None:
    from stages._fit import finish
    from stages._training import train_float
    from yolov6core.training.repopt import scales_from_state

    trained = train_float("search-scales", sections, Task(Architecture("scaled"), scale_lr=scale_lr))
    if not trained.main:
        return
    # The last weights, not the best: scales are wanted as far from their start as the search could bring them.
    scales = scales_from_state(trained.learner.ema.model.state_dict())
    _write(out, scales, sections.model.variant, rows=trained.run.rows)
    finish(trained.state)


def _write(out: Path, scales: dict, variant: str, *, rows: list[dict]) -> None:
    from stages._fit import write_rows
    from yolov6core.checkpoint import save_checkpoint
    from yolov6core.training.repopt import scale_health, scales_to_tensors

    health = scale_health(scales)
    with replace_folder(out) as folder:
        save_checkpoint(folder / "scales.safetensors", scales_to_tensors(scales), {"variant": variant})
        write_rows(folder / "health.csv", health)
        if rows:
            write_rows(folder / "epochs.csv", rows)
    moved = sum(row["moved"] for row in health) / len(health)
    logger.info("%d blocks of scales; they moved %.3f from one on average -> %s", len(scales), moved, out)
    if moved < 0.01:
        logger.warning("the scales hardly moved: the search was too short to tell anything, raise search.epochs")
