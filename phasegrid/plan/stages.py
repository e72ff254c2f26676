"""Lay out the trainings of a cell, stage after stage, each from what another leaves. Pure."""

from collections.abc import Mapping, Sequence

from phasegrid.config.types import FIRST_STAGE, GridPoint, Sweep
from phasegrid.jobs import WEIGHTS, Artifact, Start, Trial
from phasegrid.plan.keys import Texts


def seeds_by_stage(sweep: Sweep) -> dict[str, tuple[int, ...]]:
    """Return the seeds with which each stage is trained: all of them, unless the stage is there
    only for others, which start from the trials of some seeds, and no metric measures it.
    """
    names = [FIRST_STAGE, *(stage.name for stage in sweep.stages)]
    named = [(request.networks or (request,)) for request in sweep.metrics]
    measured = {one.stage or names[-1] for networks in named for one in networks}
    found: dict[str, tuple[int, ...]] = {}
    for name in reversed(names):
        started = [stage for stage in sweep.stages if stage.source == name]
        wanted = {
            seed
            for stage in started
            for seed in (found[stage.name] if stage.seed is None else (stage.seed,))
        }
        is_read = name in measured or not started
        found[name] = tuple(seed for seed in sweep.seeds if is_read or seed in wanted)
    return {name: found[name] for name in names}


def trials_by_stage(
    point: GridPoint, sweep: Sweep, seeds: Mapping[str, Sequence[int]], texts: Texts
) -> dict[str, tuple[Trial, ...]]:
    """Return the trials of a cell by stage, each stage after the one that it starts from; `seeds`
    are those of each stage.
    """
    found = {FIRST_STAGE: texts.trials(point, point.recipe, seeds[FIRST_STAGE])}
    for stage, recipe, at in zip(sweep.stages, point.stage_recipes, point.starts, strict=True):
        name = WEIGHTS if at is None else f"{WEIGHTS}@{at}"
        keys = {trial.seed: trial.key for trial in found[stage.source]}
        starts = [
            Start(Artifact(keys[seed if stage.seed is None else stage.seed], name), stage.optimizer)
            for seed in seeds[stage.name]
        ]
        found[stage.name] = texts.trials(point, recipe, seeds[stage.name], starts)
    return found
