"""Figures of planes through points in weight space: they hold what was measured."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure

import phasegrid
from phasegrid import load_sweep
from phasegrid.analysis.draw.planes import Surface, plane_levels, plane_maps
from phasegrid.analysis.draw.style import MISSING
from phasegrid.analysis.report.planes import by_vertices
from phasegrid.analysis.tables.networks import courses, named_networks
from phasegrid.errors import SweepError

U, V = [0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0]
ENDS, BEND = [[0.0, 0.0], [3.0, 0.0]], [[1.5, 2.0]]
LOSS = "training loss (nats)"


def row(cell: int = 0, seeds: tuple[int, int] = (0, 1), **changed: object) -> dict[str, Any]:
    """A plane with the loss u + 10 v + cell + 1, and the columns of a release without paths."""
    return {
        "cell": cell,
        "line": "",
        "head": f"width {cell + 1}",
        "seed_a": float(seeds[0]),
        "seed_b": float(seeds[1]),
        "axis": np.array(U),
        "axis_2": np.array(V),
        "train_loss": [[u + 10 * v + cell + 1 for u in U] for v in V],
        "points_u": [0.0, 1.5, 3.0],
        "points_v": [0.0, 2.0, 0.0],
        **changed,
    }


def draw(
    *rows: dict[str, Any],
    cap: float = 99.0,
    most: int = 12,
    columns: tuple[str, ...] = ("train_loss",),
) -> Figure:
    surfaces = [
        Surface(column, LOSS if column == "train_loss" else column, cap) for column in columns
    ]
    return plane_maps(pd.DataFrame(list(rows)), surfaces, most=most)


def maps(figure: Figure) -> list[Axes]:
    return [ax for ax in figure.axes if ax.get_xlabel() == "u"]


def contours(ax: Axes) -> tuple[QuadContourSet, ...]:
    return tuple(item for item in ax.collections if isinstance(item, QuadContourSet))


def marks(ax: Axes, kind: str) -> list[list[float]]:
    found = [item.get_offsets() for item in ax.collections if item.get_label() == kind]
    return [list(map(float, place[0])) for place in map(np.asarray, found)]


def written(ax: Axes) -> list[str]:
    """Return the names on a map, without the note above it."""
    return [text.get_text() for text in ax.texts if text.get_gid() == "name"]


def note(ax: Axes) -> str:
    """Return the note above a map, in one line."""
    return next(text.get_text() for text in ax.texts if text.get_gid() != "name").replace("\n", " ")


def lines(ax: Axes, kind: str) -> list[list[list[float]]]:
    found = [line.get_xydata() for line in ax.lines if line.get_label() == kind]
    return [np.asarray(line).tolist() for line in found]


COMPLEX: dict[str, Any] = {
    "points_u": [0.0, 3.0, 1.5, 1.0],
    "points_v": [0.0, 0.0, 2.0, 1.0],
    "points_distance": [0.0, 0.0, 0.0, 4.5],
    "points_name": ["w0", "w1", "c0", "c1"],
    "corners": ["w0", "c0", "w1"],
    "edges": [[0.0, 2.0], [1.0, 2.0]],
    "num_bends": 0,
}


def test_the_sides_of_a_triangle_of_vertices_are_edges_of_the_complex_or_straight() -> None:
    figure = draw(row(**COMPLEX))
    (ax,) = maps(figure)
    assert lines(ax, "edge") == [[[0.0, 0.0], [1.5, 2.0]], [[1.5, 2.0], [3.0, 0.0]]]
    assert lines(ax, "straight") == [[[0.0, 0.0], [3.0, 0.0]]]
    assert marks(ax, "networks") == [[0.0, 0.0], [3.0, 0.0]]
    assert marks(ax, "bends") == [[1.5, 2.0], [1.0, 1.0]]
    assert {"w₀", "w₁", "θ₀", "θ₁ (4.5 off)"} <= set(written(ax))
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "straight line that is no edge" in named
    assert not {"network", "bend of a curve"} & set(named)
    face = {**COMPLEX, "edges": [[0.0, 1.0], [0.0, 2.0], [1.0, 2.0]]}
    assert len(lines(maps(draw(row(**face)))[0], "edge")) == 3


def test_each_cell_has_its_plane_with_its_points() -> None:
    figure = draw(row(0), row(1))
    assert [ax.get_title(loc="left") for ax in maps(figure)] == ["width 1", "width 2"]
    for cell, ax in enumerate(maps(figure)):
        filled, drawn = contours(ax)
        assert (filled.zmin, filled.zmax) == (1 + cell, 24 + cell)
        assert (marks(ax, "networks"), marks(ax, "bends")) == (ENDS, BEND)
        for level, path in zip(drawn.levels, drawn.get_paths(), strict=True):
            u, v = path.vertices[:, 0], path.vertices[:, 1]
            np.testing.assert_allclose(u + 10 * v + cell + 1, level)  # the loss is linear
    assert figure.get_suptitle().startswith(f"{LOSS}; 2 planes; ")


def test_both_axes_have_one_scale_unless_a_map_would_be_a_strip() -> None:
    both, strip = draw(row(0), row(1)), draw(row(0), row(1, axis_2=np.array(V) / 10))
    assert [ax.get_aspect() for ax in maps(both)] == [1.0, 1.0]
    assert [ax.get_aspect() for ax in maps(strip)] == ["auto", "auto"], "one rule for all maps"
    told = "u, v: distances in weight space"
    assert both.get_suptitle() == f"{LOSS}; 2 planes; {told}"
    stretched = strip.get_suptitle().replace("\n", " ")
    assert stretched == f"{LOSS}; 2 planes; {told}, v on a scale of its own"


def test_a_curve_is_drawn_over_its_plane_with_some_t() -> None:
    t = np.linspace(0, 1, 5)
    path = {"path_u": 3 * t, "path_v": 4 * t * (1 - t), "path_t": t, "num_bends": 1.0}
    (ax,) = maps(draw(row(names=["seed 0", "seed 1"], **path)))
    (curve,) = lines(ax, "curve")
    np.testing.assert_allclose(curve, np.stack([path["path_u"], path["path_v"]], 1))
    assert written(ax) == ["0.25", "0.5", "0.75", "seed 0", "seed 1"]


def test_networks_that_are_projected_are_named_with_their_distance() -> None:
    networks = {
        "points_u": [0.0, 3.0, 1.0, 2.0],
        "points_v": [0.0, 0.0, 2.0, 1.0],
        "points_distance": [0.0, 0.0, 0.0, 4.0],
        "num_bends": 0.0,
        "names": [f"seed {seed}" for seed in range(4)],
    }
    (ax,) = maps(draw(row(seeds=(0, 1), **networks)))
    assert written(ax) == ["seed 0", "seed 1", "seed 2", "seed 3 (4 off)"]
    assert len(marks(ax, "networks")) == 4
    assert marks(ax, "bends") == []
    assert "up to 4 off" in note(ax)


def test_a_training_is_a_line_through_its_networks_in_the_order_of_time() -> None:
    networks = {
        "points_u": [0.0, 1.0, 3.0, 2.0],
        "points_v": [0.0, 2.0, 0.0, 1.0],
        "num_bends": 0.0,
        "names": ["epoch 0", "epoch 3", "epoch 1", "epoch 2"],
        "courses": [[0, 2, 3, 1]],
    }
    (ax,) = maps(draw(row(**networks)))
    assert lines(ax, "training") == [[[0.0, 0.0], [3.0, 0.0], [2.0, 1.0], [1.0, 2.0]]]
    many = {
        name: (values * 4)[:13] for name, values in networks.items() if isinstance(values, list)
    }
    many["courses"] = [list(range(13))]
    (ax,) = maps(draw(row(**{**networks, **many})))
    assert set(written(ax)) <= {"epoch 0"}, "of many networks the first and the last are named"


def test_several_columns_are_rows_of_panels_with_levels_of_their_own() -> None:
    errors = {"test_error_percent": [[10.0 * u for u in U] for _ in V]}
    figure = draw(row(0, **errors), row(1, **errors), columns=("train_loss", "test_error_percent"))
    above, below = maps(figure)[:2], maps(figure)[2:]
    tops = [{contours(ax)[0].levels[-1] for ax in row_of} for row_of in (above, below)]
    assert tops == [{25.0}, {30.0}]
    assert [ax.get_ylabel() for ax in figure.axes[-2:]] == [LOSS, "test_error_percent"]


def test_a_column_that_is_not_measured_is_hatched() -> None:
    (ax,) = maps(draw(row(), columns=("train_regularised_loss",)))
    assert ax.patch.get_hatch() == MISSING.hatch
    assert "not measured" in ax.texts[-1].get_text()


def test_levels_are_shared_and_the_last_colour_is_for_what_lies_above_the_cap() -> None:
    figure = draw(row(0), row(1), cap=10.0)
    first, second = (contours(ax)[0] for ax in maps(figure))
    assert np.array_equal(first.levels, second.levels)
    assert (first.levels[0], first.levels[-1]) == pytest.approx((1.0, 10.0))
    assert first.extend == "max"
    bar = figure.axes[-1]
    assert bar.get_ylabel() == LOSS
    assert [tick.get_text() for tick in bar.get_yticklabels()][-1] == "> 10"


def test_levels_are_as_close_together_as_the_values_are_near_the_lowest() -> None:
    levels = plane_levels([np.array([[2.0, np.nan], [7.0, 1e6]])], 5.0)
    gaps = levels[1:] - 2.0
    np.testing.assert_allclose(gaps[1:] / gaps[:-1], gaps[1] / gaps[0])
    assert (levels[0], levels[-1]) == pytest.approx((2.0, 5.0))


@pytest.mark.parametrize("values", [[[3.0, 3.0]], [[np.nan, np.nan]], [[7.0, 8.0]]])
def test_levels_ascend_whatever_the_values(values: list[list[float]]) -> None:
    assert (np.diff(plane_levels([np.array(values)], 5.0)) > 0).all()


def test_the_first_seeds_stand_for_a_cell_and_ways_of_measuring_for_themselves() -> None:
    figure = draw(row(0, (0, 1)), row(0, (1, 2)), row(0, (0, 1), line="bend=2"))
    notes = [note(ax) for ax in maps(figure)]
    assert notes == ["seeds 0 and 1, 4 × 3 points"] * 2


def test_of_too_many_planes_some_are_drawn_and_the_rest_is_counted() -> None:
    figure = draw(row(0), row(1), row(2), most=2)
    assert [ax.get_title(loc="left") for ax in maps(figure)] == ["width 1", "width 3"]
    assert figure.get_suptitle().startswith(f"{LOSS}; 2 planes of 3; ")


def test_points_that_diverged_are_hatched_and_counted() -> None:
    loss: list[list[float | None]] = [[1.0, 2.0, 3.0, 4.0] for _ in V]
    loss[2][3] = None
    one, none = maps(draw(row(0, train_loss=loss), row(1, train_loss=[[None] * 4] * 3)))
    assert one.patch.get_hatch() == none.patch.get_hatch() == MISSING.hatch
    assert "1 diverged" in note(one)
    assert contours(none) == ()


ACROSS = [{"seed": seed, "model.width": 4, "at": at} for seed, at in ((0, 0), (1, 2), (0, 2))]
SWEEP: dict[str, Any] = {
    "schema": 1,
    "name": "planes",
    "dataset": {"name": "digits"},
    "model": {"name": "mlp", "width": 4},
    "train": {"epochs": 2, "batch_size": 64, "stop": None, "checkpoints": {"every_epochs": 1}},
    "load": {"param": "model.width", "values": [2, 4]},
    "seeds": 2,
    "metrics": [
        {"connectivity": {"id": "bend", "epochs": 1, "points": 3}},
        {"plane": {"of": "bend", "points": 3, "examples": 50, "refresh_examples": 50}},
        {"plane": {"over": "trajectory", "at": [0, 1, 2], "points": 3, "examples": 50}},
        {"plane": {"over": "across", "networks": ACROSS, "points": 2, "examples": 50}},
    ],
}


def test_planes_are_drawn_unasked_and_as_they_are_asked_for(tmp_path: Path) -> None:
    result = phasegrid.run(SWEEP, tmp_path / "store", serial=True, quiet=True)
    assert "not_drawn.csv" not in {path.name for path in phasegrid.plot(result).files}
    drawn = phasegrid.plot(result)["planes"]
    rows = result.results.metric("plane", sweep="planes")
    rows = rows[(rows["seed_a"] == 0) | rows["across"]]
    ordered = rows.sort_values(["cell", "across", "num_bends"])
    for ax, stored in zip(maps(drawn), ordered.to_dict("records"), strict=True):
        filled = contours(ax)[0]
        values = np.array([list(line) for line in stored["train_loss"]])
        assert (filled.zmin, filled.zmax) == (values.min(), values.max())
        names = ["seed 0", "seed 1"] if stored["num_bends"] else ["epoch 0", "epoch 1", "epoch 2"]
        if stored["across"]:
            names = ["seed 0, epoch 0", "seed 1, epoch 2", "seed 0, epoch 2"]
        assert {name.partition(" (")[0] for name in written(ax)} & set(names)
    asked = {
        "planes": {
            "name": "asked",
            "column": ["test_error_percent", "train_regularised_loss"],
            "cap": [50, 4],
            "variants": {"along": "at=0+1+2", "bent": "of=bend"},
        }
    }
    again = phasegrid.run(
        {**SWEEP, "figures": [asked]}, tmp_path / "store", serial=True, quiet=True
    )
    shown = phasegrid.plot(again, output=tmp_path, formats=("png",))
    assert "planes" not in shown.figures
    figure = shown.figures["asked"]
    assert [ax.get_ylabel() for ax in figure.axes[-2:]] == [
        "test error (%)",
        "regularised training loss (nats)",
    ]
    assert [ax.get_title(loc="left").split()[-1] for ax in maps(figure)[:2]] == ["along", "bent"]
    (path,) = [path for path in shown.files if path.name == "asked.csv"]
    points = pd.read_csv(path)
    assert set(points["name"].dropna()) == {"seed 0", "seed 1", "epoch 0", "epoch 1", "epoch 2"}


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"cap": [5, 40]}, "cap: found 2 numbers for 1 column; one each"),
        ({"variant": "of=bend", "variants": {"a": ""}}, "variant: found beside variants"),
        ({"column": "loss"}, "column"),
        ({"column": []}, "column"),
    ],
)
def test_a_figure_of_planes_that_cannot_be_drawn_is_refused(args: Any, told: str) -> None:
    asked = {"planes": {"name": "x", **args}}
    with pytest.raises(SweepError) as caught:
        load_sweep({**SWEEP, "figures": [asked]})
    assert any(told in str(mistake) for mistake in caught.value.mistakes)


def test_networks_of_several_cells_are_named_by_what_differs() -> None:
    row = {"trials": ["a", "b"], "seeds": [0, 0], "cells": [0, 3]}
    read = [["a", "weights@epoch-2"], ["b", "weights"], ["a", "weights@epoch-0"]]
    named = named_networks(
        {**row, "inputs": json.dumps(read)}, {"b": "tune"}, {0: "lr 1", 3: "lr 2"}
    )
    assert [one.name for one in named] == ["lr 1, epoch 2", "lr 2, tune, end", "lr 1, epoch 0"]
    assert courses(named) == [[2, 0]]
    finals = named_networks(row, {}, {0: "lr 1", 3: "lr 2"})
    assert [one.name for one in finals] == ["lr 1", "lr 2"]
    assert (
        named_networks(
            {**row, "trials": ["a"], "seeds": [0], "cells": [0], "inputs": '[["x", "curve"]]'},
            {},
            {},
        )
        == []
    )


def test_what_all_planes_of_complexes_share_is_not_in_their_names() -> None:
    rows = [
        {"line": f"of={of}, points=7, vertices=w0+c0+c1", "corners": ["w0", "c0", "c1"]}
        for of in ("grown", "large")
    ]
    assert list(by_vertices(rows).values()) == ["w₀ θ₀ θ₁, of=grown", "w₀ θ₀ θ₁, of=large"]
