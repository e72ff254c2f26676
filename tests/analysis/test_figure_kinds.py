"""Kinds of figures: any metric's rows, and kinds of a user's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import phasegrid
from phasegrid.analysis.draw.line_looks import MARKERS
from phasegrid.analysis.draw.rows import Line, row_panels
from phasegrid.analysis.draw.scales import make_frame
from phasegrid.analysis.report.report import Drawn
from phasegrid.declare import Column, FigureRequest
from phasegrid.errors import SweepError
from phasegrid.run.result import RunResult
from phasegrid.store.store import Store
from tests.test_python import SMALL

CELLS = pd.DataFrame(
    {
        "cell": [0, 1],
        "facet": "[]",
        "load": [1.0, 2.0],
        "load_label": ["1", "2"],
        "temperature": [0.1, 0.1],
        "temperature_label": ["0.1", "0.1"],
    }
)
FRAME = make_frame(CELLS, "model.width", "train.lr")
T = np.array([0.0, 0.5, 1.0])


def rows_of(**columns: object) -> pd.DataFrame:
    """Two measurements of each of two cells."""
    keys = pd.DataFrame({"cell": [0, 0, 1, 1], "key": list("abcd")})
    return keys.merge(CELLS, on="cell").assign(**columns)


def line(y: str, x: str = "t", at: tuple[str, ...] | None = None) -> Line:
    return Line(x, (y,), "load", at, ("linear", "linear"))


def test_measurements_that_share_their_x_are_a_mean_with_its_standard_error() -> None:
    rows = rows_of(t=[T] * 4, loss=[T + k for k in (0.0, 2.0, 5.0, 5.0)])
    figure = row_panels(
        rows, FRAME, line("loss"), {"loss": Column("loss", "list<float64>", "nats", "")}
    )
    (ax,) = figure.axes
    np.testing.assert_allclose(np.asarray(ax.lines[0].get_ydata(), float), T + 1)
    low, high = (f(ax.collections[0].get_paths()[0].vertices[:, 1]) for f in (np.min, np.max))
    assert (low, high) == pytest.approx((0.0, 3.0)), "mean 1 to 2, standard error 1"
    assert ax.get_ylabel() == "loss (nats)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["1", "2"]
    assert figure.get_suptitle().split() == [
        "2",
        "measurements",
        "a",
        "line;",
        "band:",
        "standard",
        "error",
    ]


def test_measurements_of_other_x_have_a_line_each() -> None:
    grids = [T, T + 0.1, T, T + 0.2]
    (ax,) = row_panels(rows_of(t=grids, loss=grids), FRAME, line("loss"), {}).axes
    assert len(ax.lines) == 4
    assert not ax.collections


def test_names_stand_in_the_order_in_which_they_are_stored() -> None:
    rows = pd.concat([rows_of(t=name, loss=i) for i, name in enumerate(["stem", "body", "head"])])
    (ax,) = row_panels(rows, FRAME, line("loss"), {}).axes
    assert [text.get_text() for text in ax.get_xticklabels()] == ["stem", "body", "head"]


@pytest.mark.parametrize(
    ("columns", "asked", "said"),
    [
        ({"t": [T] * 4, "loss": [T[:2]] * 4}, line("loss"), "loss over t cannot be drawn"),
        ({"t": [T] * 4, "loss": ["a"] * 4}, line("loss"), "loss over t cannot be drawn"),
        ({"t": [T] * 4, "loss": [T] * 4}, line("loss", at=("7",)), "at: found '7'; there are: 0.1"),
    ],
)
def test_what_is_no_line_is_refused(columns: Mapping[str, Any], asked: Line, said: str) -> None:
    with pytest.raises(SweepError, match=said):
        row_panels(rows_of(**columns), FRAME, asked, {})


PLUGIN = '''\
"""A figure of one's own: the accuracy of each seed as a dot."""
from dataclasses import dataclass
from matplotlib.figure import Figure
from phasegrid.declare import FigureKind, Needs

@dataclass(frozen=True)
class Args:
    name: str
    colour: str = "black"
    broken: bool = False

def draw(tables, args):
    if args.broken:
        return "no figure"
    figure = Figure()
    ax = figure.subplots()
    rows = tables.rows["accuracy"]
    ax.scatter(rows["load"], rows["test_accuracy_percent"], color=args.colour)
    values = tables.found.grid.values
    ax.set_title(f"{len(values[values['quantity'] == tables.quantities[0]])} {tables.labels[0]}")
    return figure

def fits(args, grid):
    if args["colour"] == "load" and "load" not in grid.labels:
        yield "colour", "found load; the sweep has none"

DOTS = FigureKind(
    Args, draw, needs=lambda args: Needs(quantities=("train_loss",), rows=("accuracy",)), fits=fits
)
NAMELESS = FigureKind(dataclass(frozen=True)(type("Bare", (), {})), draw)
'''


def dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *figures: object) -> dict[str, Any]:
    (tmp_path / "dots.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    return {**SMALL, "seeds": 1, "metrics": ["accuracy"], "figures": list(figures)}


def test_a_kind_of_ones_own_is_drawn_and_left_out_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = dots(tmp_path, monkeypatch, {"dots.py:DOTS": {"name": "mine", "colour": "red"}})
    result = phasegrid.run(sweep, tmp_path / "store", serial=True, quiet=True)
    notes = Store.open(str(tmp_path / "store")).notes
    spectrum = {"name": "spectrum", "metric": "hessian", "x": "density_grid", "y": ["density"]}
    later = FigureRequest("slices", {"name": "planes"}), FigureRequest("rows", spectrum)
    notes.put_figures(sweep["name"], [*notes.read_figures(sweep["name"]), *later])
    drawn = phasegrid.plot(result)
    assert drawn["mine"].axes[0].get_title() == "4 training loss"
    assert len(drawn["mine"].axes[0].collections[0].get_offsets()) == 4
    assert dict(drawn.notes) == {
        "planes": "slice is not measured yet",
        "spectrum": "hessian is not measured yet",
    }
    (tmp_path / "dots.py").unlink()
    monkeypatch.delenv("PHASEGRID_PLUGIN_PATH", raising=False)
    ((name, why), *_rest) = [note for note in phasegrid.plot(result).notes if note[0] == "mine"]
    assert (name, "there is no file dots.py" in why) == ("mine", True)


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        ({"dots.py:DOTS": {"name": "a", "color": "red"}}, "did you mean 'colour'"),
        ({"dots.py:DOTS": {"name": "a", "colour": "load"}}, "found load; the sweep has none"),
        ({"dots.py:DOT": {"name": "a"}}, "dots.py has no 'DOT'; did you mean 'DOTS'"),
        ({"dots.py:NAMELESS": {}}, "declares args without a name"),
        ({"slices": {"name": "a", "cell": 4}}, "slices.cell: found 4; allowed: 0 to 1, the cells"),
        ({"rows": {"name": "a", "metric": "cka", "x": "t", "y": []}}, "rows.y"),
        (
            {"dots": {"name": "a"}},
            "found figure 'dots'; allowed: panels, lines, curves, gain, rows",
        ),
    ],
)
def test_mistakes_of_figures_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Mapping[str, Any], said: str
) -> None:
    sweep = {**dots(tmp_path, monkeypatch, figure), "load": None}
    with pytest.raises(SweepError) as found:
        phasegrid.load_sweep(sweep)
    assert said in str(found.value)


TRAJECTORY = {
    **SMALL,
    "train": {**SMALL["train"], "epochs": 4, "checkpoints": {"every_epochs": 2}},
    "metrics": [
        "accuracy",
        {"accuracy": {"over": "trajectory", "at": [0, 2, 4]}},
        {"distance": {"over": "across", "where": {"model.width": 2, "seed": 0}}},
    ],
    "figures": [{"rows": {"name": "loss", "metric": "accuracy", "x": "at", "y": ["train_loss"]}}],
}


@pytest.fixture(scope="module")
def along(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("along")
    return phasegrid.run(TRAJECTORY, folder / "store", serial=True, quiet=True)


@pytest.fixture(scope="module")
def drawn(along: RunResult, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return phasegrid.plot(along, output=tmp_path_factory.mktemp("drawn"), formats=("png",))


@pytest.fixture(scope="module")
def folder(drawn: Drawn) -> Path:
    return drawn.files[0].parent


def test_a_line_joins_the_epochs_of_each_training(along: RunResult, drawn: Drawn) -> None:
    figure = drawn["loss"]
    lines = [line for ax in figure.axes for line in ax.lines]
    rows = along.results.metric("accuracy", along.sweep)
    rows = rows[rows["epoch"].notna()]
    assert lines
    for line in lines:
        assert list(np.asarray(line.get_xdata(), float)) == [0.0, 2.0, 4.0]
        assert line.get_marker() in MARKERS
        assert line.get_markevery() is None, "a marker at each epoch"
    shown = sorted(y for line in lines for y in np.asarray(line.get_ydata(), float))
    means = rows.groupby(["cell", "epoch"])["train_loss"].mean()
    assert shown == pytest.approx(sorted(means))
    assert {ax.get_xlabel() for ax in figure.axes} == {"epoch"}
    assert "trainings a line" in figure.get_suptitle()


def test_what_trials_say_at_their_end_is_tabulated_along_them(
    along: RunResult, folder: Path
) -> None:
    table = pd.read_csv(folder / "tables" / "all.csv").set_index("quantity")
    rows = along.results.metric("accuracy", along.sweep)
    for epoch in (0, 2, 4):
        means = rows[rows["epoch"] == epoch].groupby("cell")["train_loss"].mean()
        found = table.loc[f"train_loss[at={epoch}]", "value"]
        assert list(found) == pytest.approx(list(means))
    assert table.loc["train_loss", "unit"].iloc[0] == table.loc["train_loss[at=0]", "unit"].iloc[0]


def test_what_is_measured_across_cells_is_tabulated_and_noted(
    along: RunResult, drawn: Drawn, folder: Path
) -> None:
    (row,) = pd.read_csv(folder / "tables" / "across-distance.csv").to_dict("records")
    assert sorted(row["cells"].split("+")) == ["0", "1"]
    assert (row["loads"], row["seeds"]) == ("2+2", "0+0")
    assert sorted(row["temperatures"].split("+")) == ["0.01", "0.1"]
    (stored,) = along.results.metric("distance", along.sweep)["l2_distance"]
    assert row["l2_distance"] == pytest.approx(stored)
    assert "tables/across-distance.csv" in dict(drawn.notes)["distance across cells"]
    assert "distance across cells" in (folder / "not_drawn.csv").read_text()
