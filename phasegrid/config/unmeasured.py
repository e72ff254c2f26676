"""Say what of a sweep its metrics leave out: no mistake, but a surprise."""

from collections.abc import Iterator, Sequence

from phasegrid.config.joining import num_jobs
from phasegrid.config.networks import Grid
from phasegrid.config.types import FIRST_STAGE, MetricRequest, Sweep
from phasegrid.texts import counted


def left_out(sweep: Sweep) -> list[str]:
    """Return a line for each request whose ``runs`` do not divide what a cell has, and for each
    training of which the networks that metrics name leave out seeds.
    """
    stages = (FIRST_STAGE, *(stage.name for stage in sweep.stages))
    grid = Grid(sweep.points, sweep.seeds, stages)
    found = [
        *(line for some in sweep.varied or (sweep.metrics,) for line in _rests(some, grid)),
        *_unnamed_seeds(sweep, stages),
    ]
    return list(dict.fromkeys(found))


def _rests(requests: Sequence[MetricRequest], grid: Grid) -> Iterator[str]:
    for request in requests:
        if request.runs is None:
            continue
        num, what = len(grid.seeds), "seed"
        if request.of is not None:
            num, what = num_jobs(requests[request.of], requests, grid), "measurement"
        if rest := num % request.runs:
            yield (
                f"{request.id or request.name}: runs: {request.runs} of {counted(num, what)} leaves"
                f" {rest} out in every cell"
            )


def _unnamed_seeds(sweep: Sweep, stages: Sequence[str]) -> Iterator[str]:
    """Find stages of which every measurement names its networks, in every cell, and none some
    seeds.
    """
    asking = [request for request in sweep.metrics if request.of is None]
    for name in stages:
        if any(stage.source == name for stage in sweep.stages):
            continue
        about = [r for r in asking if r.networks or (r.stage or stages[-1]) == name]
        named = {one.seed for r in about for one in r.networks if (one.stage or stages[-1]) == name}
        whole = any(not request.networks or request.over == "across" for request in about)
        others = [str(seed) for place, seed in enumerate(sweep.seeds) if place not in named]
        if named and others and not whole:
            whose = f"seed {others[0]} is" if len(others) == 1 else f"seeds {', '.join(others)} are"
            yield f"{name}: {whose} trained and not measured, since all metrics name their networks"
