"""Panels of facets: their names, their colours, and what facets do not change."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from phasegrid.analysis.draw.lines import cut_panels
from phasegrid.analysis.draw.panels import seven_panels
from phasegrid.analysis.draw.scales import make_frame
from phasegrid.analysis.phases.label import label_phases
from phasegrid.analysis.phases.rules import Rules
from phasegrid.analysis.stats.aggregate import aggregate
from phasegrid.analysis.tables.grid import SweepTables

MakeGrid = Callable[..., SweepTables]

PATH = "metrics.simplex.connectors"
FACETS = tuple(f'[["{PATH}",{num}]]' for num in (1, 4))


def grid_with(make_grid: MakeGrid, first: list[float], second: list[float]) -> SweepTables:
    """A grid of two cells in each of two facets, with these losses."""
    grid = make_grid(
        [["I", "I"]], loads=[1, 2], temperatures=[16], facets=FACETS, seeds=2, noise=0.0
    )
    values = grid.values[grid.values["quantity"] == "train_loss"].sort_values(["cell", "seed_a"])
    numbers = [number for number in (*first, *second) for _ in range(2)]
    return replace(grid, values=values.assign(value=numbers), axis_names={PATH: "joints"})


def panels(grid: SweepTables, share: bool | None = None) -> tuple[Figure, list[Axes]]:
    frame = make_frame(grid.cells, grid.load_path, grid.temperature_path, grid.axis_names)
    phases = label_phases(grid, Rules())
    names = ["train_loss"]
    figure = seven_panels(
        aggregate(grid), phases, frame, names, with_phases=False, share_colours=share
    )
    return figure, [ax for ax in figure.axes if ax.get_title(loc="left")]


def limits(ax: Axes) -> tuple[float | None, float | None]:
    (mesh,) = [item for item in ax.collections if isinstance(item, QuadMesh)]
    return mesh.norm.vmin, mesh.norm.vmax


def note(ax: Axes) -> str:
    return ax.texts[0].get_text().replace("\n", " ")


def test_a_facet_that_shared_colours_would_flatten_has_its_own(make_grid: MakeGrid) -> None:
    figure, axes = panels(grid_with(make_grid, [0.1, 0.11], [1.0, 1.5]))
    assert [limits(ax) for ax in axes] == [(0.1, 0.11), (1.0, 1.5)]
    assert len(figure.axes) == 4, "a bar for each panel"
    assert all("colours of its own" in note(ax) for ax in axes)


@pytest.mark.parametrize(
    ("second", "share"),
    [([0.105, 1.5], None), ([0.12, 0.13], None), ([1.0, 1.5], True)],
    ids=["ranges overlap", "no panel would be flat", "asked for"],
)
def test_facets_share_colours_where_that_lets_one_compare(
    make_grid: MakeGrid, second: list[float], share: bool | None
) -> None:
    figure, axes = panels(grid_with(make_grid, [0.1, 0.11], second), share)
    assert len({limits(ax) for ax in axes}) == 1
    assert len(figure.axes) == 3, "one bar"


def test_colours_of_its_own_can_be_asked_for(make_grid: MakeGrid) -> None:
    _, axes = panels(grid_with(make_grid, [0.1, 0.11], [0.105, 0.2]), False)
    assert [limits(ax) for ax in axes] == [(0.1, 0.11), (0.105, 0.2)]


def test_what_arguments_of_metrics_do_not_change_has_one_panel(make_grid: MakeGrid) -> None:
    grid = grid_with(make_grid, [0.1, 0.2], [0.1, 0.2])
    _, (alone,) = panels(grid)
    assert "the same in every facet" in note(alone)
    assert "joints" not in alone.get_title(loc="left")
    frame = make_frame(grid.cells, grid.load_path, grid.temperature_path)
    assert len(cut_panels(aggregate(grid), frame, ["train_loss"], "load").axes) == 1


def test_a_facet_has_the_name_that_the_sweep_gives_it(make_grid: MakeGrid) -> None:
    _, axes = panels(grid_with(make_grid, [0.1, 0.11], [0.2, 0.21]))
    heads = [ax.get_title(loc="left").split("\n")[0] for ax in axes]
    assert heads == ["joints = 1", "joints = 4"]


def test_phases_without_a_hessian_are_named_by_the_training_loss(make_grid: MakeGrid) -> None:
    grid = make_grid()
    values = grid.values[~grid.values["quantity"].isin(["trace", "lambda_max"])]
    named = []
    for one in (grid, replace(grid, values=values)):
        phases = label_phases(one, Rules())
        frame = make_frame(one.cells, one.load_path, one.temperature_path)
        figure = seven_panels(aggregate(one), phases, frame, ["train_loss"])
        named.append([text.get_text() for text in figure.legends[0].get_texts()])
    assert any(text.startswith("IV-B  flat") for text in named[0])
    assert not any("flat" in text or "sharp" in text for text in named[1])
    assert any("low training loss" in text for text in named[1])
