"""Rankings of quantities by how they go with performance."""

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest

from phasegrid.analysis.draw.ranking import APART, MARKS
from phasegrid.analysis.phases.rules import Rules
from phasegrid.analysis.report.findings import findings
from phasegrid.analysis.report.requested import Requested, requested_figures
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.declare import FigureRequest
from phasegrid.figures.ranking import RankingArgs

MakeGrid = Callable[..., SweepTables]


def ranked(grid: SweepTables, **args: object) -> Requested:
    request = FigureRequest("ranking", asdict(RankingArgs("r", **args)))  # type: ignore[arg-type]
    return requested_figures(findings(grid, Rules()), [request], lambda _name: None)


def test_a_row_of_marks_stands_at_the_numbers_of_the_table(make_grid: MakeGrid) -> None:
    drawn = ranked(make_grid())
    assert list(drawn.notes) == []
    table, (ax,) = drawn.tables["r"], drawn.figures["r"].axes
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert len(labels) == len(table) > 3
    assert "test accuracy" not in labels
    assert "rank correlation with test accuracy" in ax.get_xlabel()
    for place, (container, name) in enumerate(zip(ax.containers, MARKS, strict=True)):
        x, y = container.lines[0].get_data()
        np.testing.assert_array_equal(x, table[name])
        np.testing.assert_allclose(y, np.arange(len(table)) + APART * (place - 1))


def test_quantities_and_what_they_are_ranked_against_can_be_chosen(make_grid: MakeGrid) -> None:
    drawn = ranked(make_grid(), quantities=("trace", "cka"), quantity="train_loss")
    table = drawn.tables["r"]
    assert set(table["quantity"]) == {"trace", "cka"}
    assert set(table["target"]) == {"train_loss"}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"quantity": "bleu"}, "bleu is not measured yet"),
        ({"quantities": ("test_accuracy",)}, "nothing else differs in 4 cells"),
    ],
)
def test_without_numbers_there_is_a_note(
    make_grid: MakeGrid, args: dict[str, object], said: str
) -> None:
    drawn = ranked(make_grid(), **args)
    assert drawn.figures == {}
    assert said in " ".join(note for _, note in drawn.notes)
