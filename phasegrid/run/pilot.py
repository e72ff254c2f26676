"""Choose the packs of a pilot run, which does the cells whose times say most about the others."""

import math
from itertools import chain

from phasegrid.packs import Pack
from phasegrid.plan.contents import Plan
from phasegrid.plan.cost import guess_cost
from phasegrid.run.parts import part_of
from phasegrid.train.compat import by_kind


def telling_cells(packs: list[Pack], limit: int, plan: Plan, stored: set[str]) -> set[int]:
    """Return `limit` cells with missing jobs for a pilot run.

    Two parts of the cost are unknown before anything is timed, the overhead and the arithmetic of
    the trainings. Each further cell is the one whose logarithms of both, scaled to the range of the
    sweep, are farthest from those of the cells that are chosen or already trained, so that small
    and large cells are among them. The first, where none is trained, is the cheapest. Equal cells
    are taken in the order of the sweep.
    """
    left = sorted({pack.cell for pack in packs})
    places = dict(zip((cell.index for cell in plan.cells), _places(plan), strict=True))
    timed = [cell.index for cell in plan.cells if any(t.key in stored for t in cell.trials)]
    chosen: list[int] = []
    nearest = {
        index: min((math.dist(places[index], places[other]) for other in timed), default=math.inf)
        for index in left
    }
    while left and len(chosen) < limit:
        if timed or chosen:
            new = max(left, key=lambda index: nearest[index])
        else:
            new = min(left, key=lambda index: sum(places[index]))
        chosen.append(new)
        left.remove(new)
        for index in left:
            nearest[index] = min(nearest[index], math.dist(places[index], places[new]))
    return set(chosen)


def _places(plan: Plan) -> list[tuple[float, ...]]:
    """Return, for each cell, the logarithms of the overhead and the arithmetic of its trainings,
    each from 0 for the smallest to 1 for the largest.
    """
    costs = [[guess_cost(cell, trial) for trial in cell.trials] for cell in plan.cells]
    parts = (
        [sum(guess.overhead_s for guess in guesses) for guesses in costs],
        [sum(guess.arithmetic_s for guess in guesses) for guesses in costs],
    )
    return list(zip(*map(_from_0_to_1, parts), strict=True))


def _from_0_to_1(values: list[float]) -> list[float]:
    logs = [math.log(max(value, 1e-9)) for value in values]
    low, high = min(logs), max(logs)
    return [(x - low) / (high - low) if high > low else 0.0 for x in logs]


def within(packs: list[Pack], cells: set[int], stored: set[str]) -> list[Pack]:
    """Return the packs that a pilot run of some cells can do: trainings, and measurements of these
    cells if everything they need is stored or done by a returned pack.
    """
    kept = [pack for pack in packs if pack.kind == "train" or pack.cell in cells]
    while True:
        there = stored.union(*(pack.job_keys() for pack in kept))
        able = [pack for pack in kept if there.issuperset(pack.needs)]
        if len(able) == len(kept):
            return kept
        kept = able


def of_cells(packs: list[Pack], cells: set[int], plan: Plan) -> list[Pack]:
    """Return the packs of some cells, with their trainings and those of other cells that may share
    a stack with these.
    """
    trials = {trial.key for cell in plan.cells if cell.index in cells for trial in cell.trials}
    found = []
    for pack in packs:
        if pack.kind == "measure":
            found += [pack] if pack.cell in cells else []
        elif not trials.isdisjoint(pack.job_keys()):
            kinds = [[t.key for t in kind] for kind in by_kind(pack.trials)]
            wanted = [keys for keys in kinds if not trials.isdisjoint(keys)]
            found.append(part_of(pack, list(chain.from_iterable(wanted))))
    return found
