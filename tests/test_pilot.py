"""A pilot does the cells whose times say most about the others."""

from phasegrid.estimates import Workload
from phasegrid.jobs import Part, Trial
from phasegrid.packs import Pack
from phasegrid.plan.contents import Cell, Plan
from phasegrid.run.pilot import telling_cells

WIDTHS, BATCHES = (2, 8, 32, 128), (16, 64, 256, 1024)


def grid() -> Plan:
    """Return widths x batch sizes, a trial each; cells are numbered width by width."""
    cells = []
    for width in WIDTHS:
        work = Workload(1000, 100, 10, width**2, 1000 * width**2, layers=10)
        for batch in BATCHES:
            recipe = {"epochs": 1, "batch_size": batch}
            key = f"{width}-{batch}"
            part = Part("m", 1, {"width": width})
            trial = Trial(key, Part("d", 1, {}), part, recipe, 0)
            cells.append(Cell(len(cells), (), width, batch, (trial,), (), work))
    return Plan("s", None, None, tuple(cells))


def packs(plan: Plan, stored: set[str]) -> list[Pack]:
    return [
        Pack(cell.trials[0].key, "train", cell.index, trials=cell.trials)
        for cell in plan.cells
        if cell.trials[0].key not in stored
    ]


def chosen(limit: int, *stored: str) -> set[str]:
    plan = grid()
    found = telling_cells(packs(plan, set(stored)), limit, plan, set(stored))
    return {plan.cells[index].trials[0].key for index in found}


def test_the_first_cell_of_a_pilot_is_the_cheapest() -> None:
    assert chosen(1) == {"2-1024"}


def test_a_pilot_of_four_cells_has_both_ends_of_both_axes() -> None:
    assert chosen(4) == {"2-1024", "2-16", "128-1024", "128-16"}


def test_a_second_pilot_does_what_the_first_says_least_about() -> None:
    assert chosen(1, "2-1024", "2-16", "128-1024") == {"128-16"}
    assert chosen(1, "2-1024") != {"2-256"}


def test_a_pilot_larger_than_the_sweep_does_the_sweep() -> None:
    assert len(chosen(99)) == len(WIDTHS) * len(BATCHES)


def test_cells_of_which_nothing_is_known_are_taken_in_order() -> None:
    unknown = tuple(
        Cell(
            index,
            (),
            None,
            None,
            (Trial(f"t{index}", Part("d", 1, {}), Part("m", 1, {}), {}, 0),),
            (),
        )
        for index in range(5)
    )
    plan = Plan("s", None, None, unknown)
    assert telling_cells(packs(plan, set()), 3, plan, set()) == {0, 1, 2}
