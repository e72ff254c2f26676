"""Choose the packs of a pilot run, which does the first cells with missing jobs."""

from phasegrid.packs import Pack
from phasegrid.plan.contents import Plan


def first_cells(packs: list[Pack], limit: int) -> set[int]:
    """Return the first `limit` cells with missing jobs, which a pilot run does."""
    return set(sorted({pack.cell for pack in packs})[:limit])


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
    """Return the packs of some cells. A pack of trainings may hold trials of other cells in the
    same stack, which are done too.
    """
    trials = {trial.key for cell in plan.cells if cell.index in cells for trial in cell.trials}
    return [
        pack
        for pack in packs
        if (
            pack.cell in cells
            if pack.kind == "measure"
            else not trials.isdisjoint(trial.key for trial in pack.trials)
        )
    ]
