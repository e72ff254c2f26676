"""What every sweep is drawn as: how much a figure holds, what its panels are called, what is left
out.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from phasegrid.analysis.phases.rules import Rules
from phasegrid.analysis.report import comparison
from phasegrid.analysis.report.findings import Findings, findings
from phasegrid.analysis.report.requested import Tables
from phasegrid.analysis.report.standard import (
    MOST_PANELS,
    MOST_ROWS,
    fill_pages,
    further_figures,
    further_pages,
    not_standard,
    standard_figures,
)
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.analysis.tables.quantities import SEVEN
from phasegrid.metrics import METRICS

MakeGrid = Callable[..., SweepTables]


def with_quantities(grid: SweepTables, *names: str, value: float | None = None) -> SweepTables:
    """Return the grid with copies of its training loss, or one `value`, under other names, and no
    further quantities but these.
    """
    loss = grid.values[grid.values["quantity"] == "train_loss"]
    fixed = {} if value is None else {"value": value}
    more = [loss.assign(quantity=name, **fixed) for name in names]
    usual = grid.values[grid.values["quantity"].isin([*SEVEN, "end_residual"])]
    return replace(grid, values=pd.concat([usual, *more], ignore_index=True))


def found_in(grid: SweepTables) -> Findings:
    return findings(grid, Rules())


def titles(figure: Figure) -> list[str]:
    found = [ax.get_title(loc="left").replace("\n", " ") for ax in figure.axes]
    return [title for title in found if title]


def small(make_grid: MakeGrid) -> SweepTables:
    """A grid that is drawn fast."""
    return make_grid([["I", "IV-B"]] * 2, loads=[4, 64], temperatures=[16, 256], seeds=2)


def ways(count: int) -> list[str]:
    return [f"test_loss[examples={number}]" for number in range(count)]


def test_few_further_quantities_share_one_figure(make_grid: MakeGrid) -> None:
    found = found_in(with_quantities(small(make_grid), *ways(MOST_PANELS - 1)))
    assert list(further_figures(found)) == ["further"]


def test_many_further_quantities_are_spread_evenly_over_numbered_figures(
    make_grid: MakeGrid,
) -> None:
    names = [*ways(MOST_PANELS - 3), "test_ece", "lambda_min", "length_ratio"]
    found = found_in(with_quantities(small(make_grid), *names))
    assert sorted(name for page in further_pages(found) for name in page) == sorted(names)
    figures = {name: make() for name, make in further_figures(found).items()}
    assert list(figures) == ["further_1", "further_2"]
    for number, figure in enumerate(figures.values(), start=1):
        assert f"({number} of 2)" in figure.get_suptitle()
        assert titles(figure)[-1] == "phases"
        assert len(titles(figure)) <= MOST_PANELS


def test_with_facets_a_figure_has_few_rows_of_them(make_grid: MakeGrid) -> None:
    facets = ('[["train.lr",0.1]]', '[["train.lr",0.2]]')
    pages = further_pages(found_in(with_quantities(make_grid(facets=facets), *ways(MOST_ROWS))))
    assert [len(page) for page in pages] == [MOST_ROWS - 1, 1]


def test_variants_on_two_pages_share_their_colours(make_grid: MakeGrid) -> None:
    names = ways(MOST_PANELS)
    grid = with_quantities(small(make_grid), *names)
    last = grid.values["quantity"] == names[-1]
    values = grid.values.assign(value=grid.values["value"].where(~last, grid.values["value"] * 50))
    makers = further_figures(found_in(replace(grid, values=values)))
    limits = {
        (mesh.norm.vmin, mesh.norm.vmax)
        for make in makers.values()
        for ax in make().axes
        if ax.get_title(loc="left").startswith("test loss")
        for mesh in ax.collections
        if isinstance(mesh, QuadMesh)
    }
    assert (len(makers), len(limits)) == (2, 1)


@pytest.mark.parametrize(
    ("sizes", "most", "pages"),
    [
        ([], 4, []),
        ([1, 1, 1], 4, [3]),
        ([1] * 5, 4, [3, 2]),
        ([2, 3, 2], 4, [2, 3, 2]),
        ([9], 4, [4, 4, 1]),
    ],
)
def test_groups_stay_together_on_pages_that_they_fit_on(
    sizes: list[int], most: int, pages: list[int]
) -> None:
    groups = [[f"{i}.{j}" for j in range(size)] for i, size in enumerate(sizes)]
    found = fill_pages(groups, most)
    assert [len(page) for page in found] == pages
    assert [name for page in found for name in page] == [n for group in groups for n in group]


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_column_that_is_idle_in_a_sweep_is_noted_and_not_drawn(
    make_grid: MakeGrid, value: float
) -> None:
    idle = ["end_residual", "end_residual[epochs=5]"]
    grid = with_quantities(small(make_grid), *idle, value=value)
    loss = grid.values[grid.values["quantity"] == "train_loss"]
    zeros = loss.assign(quantity="length_ratio", value=0.0)  # whose declaration names no such case
    found = found_in(replace(grid, values=pd.concat([grid.values, zeros], ignore_index=True)))
    reason = "every number is 0 or missing, as it is without BatchNorm"
    assert not_standard(found) == [
        *(("further", f"{name}: {reason}") for name in idle),
        ("diagram", "the same in every cell: length_ratio 0"),
    ]
    assert further_pages(found) == []


def test_a_column_with_one_other_number_is_drawn(make_grid: MakeGrid) -> None:
    grid = with_quantities(small(make_grid), "end_residual", value=0.0)
    grid.values.loc[grid.values.index[-1], "value"] = 0.5
    found = found_in(grid)
    assert not not_standard(found)
    assert further_pages(found) == [["end_residual"]]


def shared(make_grid: MakeGrid, load: str, temperature: str) -> Findings:
    """A grid in which every cell has the accuracy and the counts of the same trials."""
    grid = make_grid([["I"] * 2] * 2, loads=[1, 2], temperatures=[1, 2], load_path=load)
    grid = with_quantities(grid, "test_accuracy", "log_volume", "dimension")
    value = grid.values["value"].where(grid.values["quantity"] != "test_accuracy", 90.0)
    value = value.where(grid.values["quantity"] != "dimension", 2.0)
    only = grid.values["quantity"].isin(["test_accuracy", "log_volume", "dimension"])
    values = grid.values.assign(value=value)[only]
    return found_in(replace(grid, temperature_path=temperature, values=values))


def test_what_cells_share_is_noted_once_and_in_no_figure(make_grid: MakeGrid) -> None:
    found = shared(make_grid, "metrics.simplex.connectors", "metrics.simplex.volume_lambda")
    note = "the same in every cell: test_accuracy 90 %, dimension 2"
    assert not_standard(found) == [("diagram", note)]
    assert list(standard_figures(found)) == ["further", "curves"]
    assert further_pages(found) == [["log_volume"]]
    assert {"test_accuracy", "dimension"} < set(found.table["quantity"])  # for the tables


def test_what_is_the_same_in_every_cell_is_not_drawn_whatever_the_axes(
    make_grid: MakeGrid,
) -> None:
    found = shared(make_grid, "metrics.simplex.connectors", "train.lr")
    note = "the same in every cell: test_accuracy 90 %, dimension 2"
    assert not_standard(found) == [("diagram", note)]
    assert further_pages(found) == [["log_volume"]]


def test_a_count_that_only_facets_change_is_noted_and_not_drawn(make_grid: MakeGrid) -> None:
    facets = tuple(f'[["metrics.simplex.connectors",{num}]]' for num in (1, 4))
    grid = with_quantities(make_grid(facets=facets), "log_volume", "dimension")
    counts = grid.values["facet"].map(dict(zip(facets, (1.0, 4.0), strict=True)))
    value = grid.values["value"].where(grid.values["quantity"] != "dimension", counts)
    found = found_in(replace(grid, values=grid.values.assign(value=value)))
    assert ("diagram", "the same in every cell: dimension 1 or 4") in not_standard(found)
    assert further_pages(found) == [["log_volume"]]


def test_a_sweep_with_one_axis_names_few_of_its_further_quantities(make_grid: MakeGrid) -> None:
    grid = with_quantities(small(make_grid), *ways(9))
    notes = dict(not_standard(found_in(replace(grid, temperature_path=None))))
    assert notes["further"].endswith("test_loss[examples=4] and 4 more")


def test_only_the_declaration_says_that_a_column_may_be_idle() -> None:
    (column,) = [c for c in METRICS["connectivity"].columns if c.idle]
    assert column.name == "end_residual_percent"


def test_every_panel_of_a_sweep_with_stages_names_its_stage(make_grid: MakeGrid) -> None:
    names = ["train_loss[stage=train]", "test_ece", "test_ece[stage=train]", "cka[mixup_alpha=4]"]
    plain = {"connectivity": "epochs=9, stage=train"}
    grid = replace(with_quantities(small(make_grid), *names), last_stage="tune", plain=plain)
    found = found_in(grid)
    shown = [
        title
        for name, make in standard_figures(found).items()
        if name != "curves"
        for title in titles(make())
    ]
    assert shown
    assert all("stage=" in title for title in shown)
    of_train = {title for title in shown if "stage=train" in title}
    assert of_train == {
        "training loss, stage=train",
        "test calibration error, stage=train",
        "mode connectivity, stage=train",
    }
    assert {"phases, stage=tune", "CKA, mixup_alpha=4, stage=tune"} <= set(shown)


def test_a_comparison_names_the_stage_of_each_sweep(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids = {"a": replace(small(make_grid), last_stage="tune"), "b": small(make_grid)}
    drawn: list[Figure] = []
    monkeypatch.setattr(comparison, "open_store", lambda folder: folder)
    monkeypatch.setattr(comparison, "load_grid", lambda _, sweep: grids[sweep])
    monkeypatch.setattr(
        comparison,
        "save_figures",
        lambda makers, *_: drawn.extend(m() for m in makers.values()) or [],
    )
    comparison.compare("one", "a", "one", "b", tmp_path)
    difference, gain = drawn
    assert difference.get_suptitle() == "b − a, stage=tune"
    legend = gain.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["b", "a, stage=tune"]


def test_a_sweep_without_stages_names_none(make_grid: MakeGrid) -> None:
    found = found_in(small(make_grid))
    assert not any("stage" in label for label in found.labels(["train_loss", "cka"]))
    assert Tables(found).title("Fig. 2", pd.DataFrame({"x": [1]})) == "Fig. 2"


def test_a_figure_of_rows_names_the_stage_that_all_its_rows_are_of(make_grid: MakeGrid) -> None:
    tables = Tables(found_in(small(make_grid)))
    assert tables.title("Fig. 2", pd.DataFrame({"stage": ["tune"] * 2})) == "Fig. 2, stage=tune"
    assert tables.title("Fig. 2", pd.DataFrame({"stage": ["train", "tune"]})) == "Fig. 2"
