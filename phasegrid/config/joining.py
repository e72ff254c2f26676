"""Check requests that join what the jobs of another request in a cell left: ``of`` with ``over:
cell``.
"""

from collections.abc import Sequence

from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.inputs import Draft
from phasegrid.config.networks import Grid, choose_pairs
from phasegrid.config.places import places_in, training_of
from phasegrid.config.types import MetricRequest
from phasegrid.texts import counted


def check_joined(
    draft: Draft, drafts: Sequence[Draft], grid: Grid, diagnostics: Diagnostics
) -> None:
    """Note why a request cannot join the jobs of another one in a cell: they are in none, or are
    fewer than its ``runs``.
    """
    request = draft.request
    if not request.joins or request.of is None or diagnostics.is_broken("metrics"):
        return
    source = drafts[request.of].request
    num = num_jobs(source, [one.request for one in drafts], grid)
    if num == 0:
        message = f"joins what is over one cell; {source.id!r} is over networks across cells"
        diagnostics.add(draft.node("over"), f"{draft.path}.over", message)
    elif request.runs is not None and request.runs > num:
        has = f"but {source.id!r} has {counted(num, 'job')} in a cell"
        where = draft.given.get("runs", draft.node("runs").place)
        diagnostics.add(where, f"{draft.path}.runs", f"found {request.runs}, {has}")


def num_jobs(request: MetricRequest, requests: Sequence[MetricRequest], grid: Grid) -> int:
    """Return how many jobs a request has in the cell with the fewest; 0 if they are across
    cells.
    """
    if request.of is not None:
        num = num_jobs(requests[request.of], requests, grid)
        return num // (request.runs or num) if request.joins and num else num
    if request.over == "across":
        return 0
    if request.networks:
        return 1
    trainings = [training_of(point, request.stage, grid.stages) for point in grid.points]
    places = min(len(places_in(request.at, one)) for one in trainings) if request.at else 1
    num, how = len(grid.seeds), request.pairs or "all"
    if request.over == "trajectory":
        each = {"pair": len(choose_pairs(range(places), how)), "cell": 1}
        return num * each.get(request.declared_over, places)
    if request.over == "cell":
        return num // request.runs if request.runs else 1
    return places * (len(choose_pairs(range(num), how)) if request.over == "pair" else num)
