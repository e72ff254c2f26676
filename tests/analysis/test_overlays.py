"""Ways of measuring against each other, as lines and in tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import phasegrid
from phasegrid.analysis.draw.line_panels import Layout, line_panels
from phasegrid.analysis.report.report import Drawn
from phasegrid.analysis.tables.quantities import BUILT_IN
from phasegrid.analysis.tables.variants import ways
from phasegrid.errors import SweepError
from phasegrid.run.result import RunResult

SWEEP: Mapping[str, Any] = {
    "schema": 1,
    "name": "ways",
    "dataset": {"name": "digits", "fraction": 0.1},
    "model": {"name": "mlp", "depth": 1, "width": 4},
    "train": {"lr": 0.05, "batch_size": 32, "epochs": 2, "stop": None, "keep": "last"},
    "temperature": {"param": "train.lr", "values": [0.02, 0.1]},
    "seeds": 3,
    "metrics": [
        {"connectivity": {"bends": 0, "points": 5, "pairs": "all"}},
        {"connectivity": {"id": "bend", "epochs": 2, "points": 5, "pairs": "all"}},
        {"ensemble": {"of": "bend", "points": 3}},
    ],
}
LINES = {
    "name": "lines",
    "metric": "connectivity",
    "x": "t",
    "y": ["test_error_percent", "train_loss"],
    "variants": {"segment": "bends=0", "Bezier": "bends=1", "spline": "bends=7"},
    "cell": 1,
    "dashed": {"test_error_percent": {"Bezier ensemble": "ensemble_test_error_percent[of=bend]"}},
    "marks": {"middle": [0.5]},
}
BOTH = {
    "name": "both",
    "metric": "connectivity",
    "x": "member",
    "y": ["train_error_percent", "test_error_percent"],
    "variants": {"segment": "bends=0", "Bezier": "bends=1"},
    "cell": 0,
    "together": True,
}
CELLS = {
    "name": "cells",
    "metric": "ensemble",
    "x": "temperature",
    "y": ["test_error_percent"],
    "variants": {"ensemble": "of=bend"},
}
ALONG = {
    "name": "along",
    "columns": ["loss", "error"],
    "most": 1,
    "rows": {"all": ["train_loss", "ensemble_test_error_percent[of=bend]"]},
    "along": "temperature",
}
NUMBERS = {
    "name": "numbers",
    "columns": ["highest", "of the ends"],
    "rows": {"Single": ["train_loss", None]},
    "metric": "connectivity",
    "variants": {"segment": "bends=0", "Bezier": "bends=1", "spline": "bends=7"},
    "statistics": ["max_train_loss", "mode_connectivity"],
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    sweep = {
        **SWEEP,
        "figures": [
            {"overlay": LINES},
            {"overlay": BOTH},
            {"overlay": CELLS},
            {"table": NUMBERS},
            {"table": ALONG},
            {"table": {**ALONG, "name": "few", "along": None}},
        ],
    }
    return phasegrid.run(sweep, tmp_path_factory.mktemp("ways") / "store", serial=True, quiet=True)


@pytest.fixture(scope="module")
def drawn(ran: RunResult, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return phasegrid.plot(ran, output=tmp_path_factory.mktemp("drawn"), formats=("png",))


@pytest.fixture(scope="module")
def folder(drawn: Drawn) -> Path:
    return drawn.files[0].parent


def measured(ran: RunResult, cell: int, bends: int) -> pd.DataFrame:
    rows = ran.results.metric("connectivity", ran.sweep)
    return rows[(rows["cell"] == cell) & (rows["num_bends"] == bends)]


def test_each_way_of_measuring_has_a_line_of_means(ran: RunResult, drawn: Drawn) -> None:
    error, loss = drawn["lines"].axes
    assert (error.get_ylabel(), loss.get_ylabel()) == ("test error (%)", "train loss (nats)")
    for ax, column in ((error, "test_error_percent"), (loss, "train_loss")):
        for bends, label in enumerate(("segment", "Bezier")):
            rows = measured(ran, 1, bends)
            (line,) = [line for line in ax.lines if line.get_label() == label]
            assert len(rows) == 3
            np.testing.assert_allclose(line.get_ydata(), np.mean(list(rows[column]), axis=0))
            np.testing.assert_array_equal(line.get_xdata(), rows["t"].iloc[0])


def test_the_figure_of_curves_names_sweep_and_way_and_counts(drawn: Drawn) -> None:
    figure = drawn["curves"]
    (ax,) = figure.axes
    title = ax.get_title(loc="left").replace("\n", " ")
    assert title == "training error along the connecting curve, epochs=2"
    assert "3 curves a cell" in ax.texts[0].get_text().replace("\n", " ")
    assert figure.get_suptitle().startswith("ways\n")


def test_columns_share_a_panel_against_the_numbers_of_their_items(
    ran: RunResult, drawn: Drawn
) -> None:
    (ax,) = drawn["both"].axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("member", "error (%)")
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines) == [
        f"{way}: {name}" for way in ("segment", "Bezier") for name in ("train", "test")
    ]
    for bends, way in enumerate(("segment", "Bezier")):
        for name in ("train", "test"):
            line = lines[f"{way}: {name}"]
            values = list(measured(ran, 0, bends)[f"{name}_error_percent"])
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4, 5])
            np.testing.assert_allclose(line.get_ydata(), np.mean(values, axis=0))


def test_cells_along_an_axis_share_a_panel(ran: RunResult, drawn: Drawn) -> None:
    (ax,) = drawn["cells"].axes
    (line,) = [line for line in ax.lines if line.get_label() == "ensemble"]
    rows = ran.results.metric("ensemble", ran.sweep)
    means = rows.groupby("temperature")["test_error_percent"].mean()
    np.testing.assert_array_equal(line.get_xdata(), means.index)
    np.testing.assert_allclose(line.get_ydata(), means)
    assert ax.get_xlabel() == "learning rate"


def test_a_level_has_the_colour_of_the_line_that_its_label_begins_with(
    ran: RunResult, drawn: Drawn
) -> None:
    error, loss = ({line.get_label(): line for line in ax.lines} for ax in drawn["lines"].axes)
    level = error["Bezier ensemble"]
    rows = ran.results.metric("ensemble", ran.sweep)
    mean = rows.loc[rows["cell"] == 1, "test_error_percent"].mean()
    np.testing.assert_allclose(level.get_ydata(), [mean, mean])
    np.testing.assert_array_equal(level.get_color(), error["Bezier"].get_color())
    assert "Bezier ensemble" not in loss


def test_marks_are_on_the_lines(ran: RunResult, drawn: Drawn) -> None:
    marks = [line for line in drawn["lines"].axes[0].lines if line.get_label() == "middle"]
    found = [(*line.get_xdata(), *line.get_ydata()) for line in marks]  # type: ignore[misc]
    for bends, (x, y) in enumerate(found):
        values = list(measured(ran, 1, bends)["test_error_percent"])
        assert (x, y) == (0.5, pytest.approx(np.mean(values, axis=0)[2]))
    assert len(found) == 2


def test_the_points_of_lines_are_tabulated_exactly(ran: RunResult, folder: Path) -> None:
    table = pd.read_csv(folder / "lines.csv")
    own = table[(table["line"] == "segment") & (table["column"] == "train_loss")]
    stored = {row["key"]: row for row in measured(ran, 1, 0).to_dict("records")}
    assert set(own["key"]) == set(stored)
    for key, points in own.groupby("key"):
        np.testing.assert_allclose(points["y"], stored[key]["train_loss"], rtol=1e-14)


def test_numbers_of_a_table_are_those_of_the_store(ran: RunResult, folder: Path) -> None:
    table = pd.read_csv(folder / "numbers.csv").set_index(["cell", "row", "column"])
    trials = ran.results.trials()
    for cell, lr in enumerate((0.02, 0.1)):
        single = table.loc[(cell, "Single", "highest")]
        assert single["value"] == pytest.approx(trials.loc[trials["lr"] == lr, "train_loss"].mean())
        for bends, row in enumerate(("segment", "Bezier")):
            rows = measured(ran, cell, bends)
            for column, name in zip(NUMBERS["columns"], NUMBERS["statistics"], strict=True):
                found = table.loc[(cell, row, column)]
                assert found["value"] == pytest.approx(rows[name].mean())
                assert (found["n"], found["n_pairs"], found["status"]) == (3, 3, "done")
    assert len(table) == 2 * (1 + 2 * 3)


def test_the_cells_along_an_axis_are_rows_of_one_block(folder: Path) -> None:
    text = (folder / "along.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert rows[2:] == ["| learning rate 0.02", "| learning rate 0.1"]
    assert text.count("###") == 1


def test_blocks_beyond_the_most_are_in_the_files_only(drawn: Drawn, folder: Path) -> None:
    written = [text.get_text() for text in drawn["few"].axes[0].texts]
    assert "learning rate 0.02" in written
    assert "learning rate 0.1" not in written
    assert (folder / "few.md").read_text(encoding="utf-8").count("###") == 2
    assert ("few", "1 block left out of the figure; the files have all") in drawn.notes


def test_what_is_not_measured_is_visible(drawn: Drawn, folder: Path) -> None:
    notes = [why for name, why in drawn.notes if name == "lines"]
    assert any(why.startswith("spline is not measured") for why in notes)
    (why,) = [why for name, why in drawn.notes if name == "numbers"]
    assert why.startswith("spline is not measured"), "said once, not for each column too"
    text = (folder / "numbers.md").read_text(encoding="utf-8")
    assert "| spline | not measured | not measured |" in text
    assert text.count("### ways, learning rate") == 2
    latex = (folder / "numbers.tex").read_text(encoding="utf-8")
    assert latex.count(r"\begin{table}") == 2
    written = {text.get_text() for text in drawn["numbers"].axes[0].texts}
    assert {"segment", "not measured", "highest (nats)", "learning rate 0.02"} <= written


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("overlay", {"y": ["loss"]}, "overlay.y.0: found 'loss'; allowed: a column"),
        (
            "overlay",
            {"variants": {"segment": "bend=0"}},
            "overlay.variants.segment: found 'bend'; allowed: an argument of connectivity: curve, bends,",
        ),
        (
            "overlay",
            {"dashed": {"train_loss": {"all": "ensemble_test_loss[off=bend]"}}},
            "overlay.dashed.train_loss.all: found 'off'; allowed: an argument of ensemble",
        ),
        (
            "overlay",
            {"y": ["test_loss", "length"]},
            "overlay.y.1: found 'length', which holds single numbers, over t, lists; allowed: lists: t,",
        ),
        (
            "overlay",
            {"x": "at"},
            "overlay.y.0: found 'test_error_percent', which holds lists, over at",
        ),
        ("overlay", {"x": "member", "y": ["t_star"]}, "which holds single numbers, over members"),
        (
            "table",
            {"statistics": ["t_star", "t"]},
            "table.statistics.1: found 't', which holds lists; allowed: single numbers: mode_conn",
        ),
        (
            "table",
            {"rows": {"one": ["connectivity.test_loss[bends=0]", None]}},
            "table.rows.one.0: found 'test_loss', which holds lists; allowed: single numbers",
        ),
        ("matrix", {"number": "connectivity.t"}, "matrix.number: found 't', which holds lists"),
        ("overlay", {"diagonal": True, "y_scale": "log"}, "overlay.diagonal: found true, with two"),
        ("overlay", {"cell": 2}, "overlay.cell: found 2; allowed: 0 to 1"),
        ("overlay", {"dashed": {"loss": {}}}, "overlay.dashed.loss: found 'loss', which no panel"),
        (
            "overlay",
            {"dashed": {"train_loss": {"a.b": "lambda_max"}}},
            "overlay.dashed.train_loss.a.b: found 'lambda_max', which metric hessian gives",
        ),
        ("table", {"along": "load"}, "table.along: found load, but the sweep has no such axis"),
        ("table", {"rows": {"one": ["trace", None]}}, "table.rows.one.0: found 'trace', which"),
        ("table", {"rows": {"one": [None]}}, "table.rows.one: found 1 items; allowed: 2"),
        (
            "table",
            {"columns": ["low", "low"]},
            "table.columns.1: found 'low' twice; allowed: a head",
        ),
        ("table", {"metric": None}, "found one of metric and statistics; allowed: both"),
        (
            "table",
            {"metric": None, "statistics": None, "rows": None},
            "found no rows; allowed: rows, or metric and statistics",
        ),
        ("table", {"statistics": ["t_star", "end"]}, "table.statistics.1: found 'end'; allowed"),
        ("table", {"rows": {"one": ["hessian.trace", None]}}, "reads rows of metric hessian"),
    ],
)
def test_mistakes_are_named_where_they_are_written(
    kind: str, changes: Mapping[str, Any], said: str
) -> None:
    figure = {"overlay": LINES, "table": NUMBERS, "matrix": {"name": "pairs"}}[kind]
    with pytest.raises(SweepError) as found:
        phasegrid.load_sweep({**SWEEP, "figures": [{kind: {**figure, **changes}}]})
    assert said in str(found.value)


def layout(**given: Any) -> Layout:
    return Layout(**{"x": "t", "y": ["loss"], "panels": [""], "lines": ["one"], **given})


def one_row(t: Sequence[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"cell": [0], "key": "a", "panel": "", "line": "one", "t": [t], "loss": [t]}
    )


def test_a_diagonal_goes_from_the_lowest_to_the_highest_number() -> None:
    rows = one_row([0.2, 0.6]).assign(loss=[[0.1, 0.9]])
    (ax,) = line_panels(rows, layout(diagonal=True), {}).axes
    line = ax.lines[-1]
    np.testing.assert_array_equal([line.get_xdata(), line.get_ydata()], [[0.1, 0.9]] * 2)
    assert len(line_panels(rows, layout(), {}).axes[0].lines) == len(ax.lines) - 1


def test_a_mark_without_a_point_is_refused() -> None:
    with pytest.raises(SweepError, match=r"marks\.here: no line has a point at t = 0\.3"):
        line_panels(one_row([0.0, 1.0]), layout(marks={"here": [0.3]}), {})


def test_a_grid_of_one_row_is_a_line_over_a_list() -> None:
    line = one_row([-1.0, 0.0, 1.0]).assign(loss=[[[3.0, 1.0, 2.0]]])
    (ax,) = line_panels(line, layout(), {}).axes
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [3.0, 1.0, 2.0])
    plane = line.assign(loss=[[[3.0, 1.0, 2.0]] * 2])
    with pytest.raises(SweepError, match="loss over t cannot be drawn"):
        line_panels(plane, layout(), {})


def mixed(first: float, second: float, **args: Any) -> dict[str, Any]:
    networks = [{"seed": 0, "train.lr": first}, {"seed": 1, "train.lr": second}]
    return {"connectivity": {"over": "across", "networks": networks, "points": 3, **args}}


def test_what_is_measured_across_cells_has_lines_and_a_table_of_its_own(tmp_path: Path) -> None:
    line = {
        **LINES,
        "cell": "across",
        "y": ["train_loss"],
        "variants": {"one": "id=a", "two": "id=b"},
    }
    table = {**NUMBERS, "cell": "across", "rows": None, "statistics": ["max_train_loss", None]}
    wanted = {k: line[k] for k in ("name", "metric", "x", "y", "variants", "cell")}
    sweep = {
        **SWEEP,
        "seeds": 2,
        "metrics": [
            {"connectivity": {"bends": 0, "points": 3}},
            mixed(0.02, 0.1, id="a", bends=0),
            mixed(0.1, 0.02, id="b", bends=0),
        ],
        "figures": [
            {"overlay": wanted},
            {"table": {**table, "variants": {"1": "id=a", "2": "id=b", "3": "id=c"}}},
        ],
    }
    ran = phasegrid.run(sweep, tmp_path / "store", serial=True, quiet=True)
    drawn = phasegrid.plot(ran, output=tmp_path, formats=("png",))
    rows = ran.results.metric("connectivity", sweep="ways")
    stored = {row["request"]: row for row in rows[rows["across"]].to_dict("records")}
    assert set(stored) == {"a", "b"}
    (ax,) = drawn["lines"].axes
    for found, name in zip(ax.lines, "ab", strict=True):
        np.testing.assert_array_equal(found.get_ydata(), stored[name]["train_loss"])
    numbers = pd.read_csv(tmp_path / "numbers.csv").set_index("row")["value"]
    for row, name in ((1, "a"), (2, "b")):
        assert numbers[row] == stored[name]["max_train_loss"]
    assert "3 is not measured" in dict(drawn.notes)["numbers"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "table.rows.Single.0: found 'train_loss' with cell: across; allowed: a column"),
        ({"rows": None, "along": "temperature"}, "table.along: found with cell: across"),
        ({"cell": "acros"}, "cell"),
    ],
)
def test_a_table_across_cells_has_neither_quantities_nor_axes(
    changes: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(SweepError) as found:
        phasegrid.load_sweep(
            {**SWEEP, "figures": [{"table": {**NUMBERS, "cell": "across", **changes}}]}
        )
    assert said in str(found.value)


def test_no_way_across_cells_has_the_plain_name() -> None:
    args = ['{"over":"across","points":3}', '{"over":"across","points":5}']
    found = ways(BUILT_IN["plane"], pd.DataFrame({"args": args, "cell": [0, 0]}))
    assert list(found.suffixes.values()) == ["over=across, points=3", "over=across, points=5"]
    assert found.plain == ""


def test_lines_through_vertices_have_a_dot_at_each_and_no_other_markers() -> None:
    t = [n / 30 for n in range(31)]
    rows = one_row(t).assign(places=[[0.0, 0.5, 1.0]])
    (ax,) = line_panels(rows, layout(dots="places"), {}).axes
    line, dots = ax.lines
    assert line.get_marker() in ("", "None")
    assert dots.get_gid() == "dots"
    np.testing.assert_array_equal([dots.get_xdata(), dots.get_ydata()], [[0.0, 0.5, 1.0]] * 2)
