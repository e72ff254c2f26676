"""What a metric declares of its columns is what figures and tables show, a user's own metric
too.
"""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from phasegrid.analysis.draw.colours import colour_scale
from phasegrid.analysis.phases.rules import Rules
from phasegrid.analysis.report.findings import findings
from phasegrid.analysis.report.standard import further_figures
from phasegrid.analysis.report.tables import long_table
from phasegrid.analysis.stats.aggregate import aggregate
from phasegrid.analysis.stats.gain import best_per_load
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.analysis.tables.load import build_grid
from phasegrid.analysis.tables.quantities import BUILT_IN, base_of
from phasegrid.declare import Column, Shown
from phasegrid.errors import StoreError, SweepError
from phasegrid.registry import resolve
from phasegrid.store.store import Store

NAME = "mine.py:CLASSES"
CLASSES = Shown(
    (
        Column("class", "int64", "", "the class", role="axis", usual=0),
        Column(
            "error",
            "float64",
            "%",
            "test error",
            label="error of a class",
            better="lower",
            scale="log",
            stderr="spread",
        ),
        Column("shift", "float64", "", "", centre=1.0, limits=(0.0, 2.0), colours="PuOr"),
        Column("spread", "float64", "%", "its standard error", role="detail"),
    ),
    {"examples": 100},
)


def grid_of(*rows: dict[str, object], declared: Shown = CLASSES) -> SweepTables:
    """One trial a cell, its rows of the metric."""
    plan = pd.DataFrame(
        [
            {
                "cell": cell,
                "facet": "[]",
                "load_path": "model.width",
                "load": float(cell),
                "load_label": str(cell),
                "temperature_path": None,
                "temperature": None,
                "temperature_label": None,
                "seed": 0,
                "key": f"k{cell}",
            }
            for cell in range(2)
        ]
    )
    trials = pd.DataFrame(
        [
            {"key": f"k{cell}", "dataset": "digits", "dataset_args": "{}", "model": "mlp"}
            | {"outcome": "done", "test_accuracy_percent": 90.0, "train_loss": 0.1}
            | {"train_accuracy_percent": 99.0}
            for cell in range(2)
        ]
    )
    common = {
        "over": "trial",
        "outcome": "done",
        "args": json.dumps({"examples": 100}),
        "seed_a": 0,
        "seed_b": None,
        "num_trials": 1,
    }
    full = [{**common, "key": f"m{row['cell']}", **row} for row in rows]
    return build_grid("s", plan, trials, {NAME: pd.DataFrame(full)}, {**BUILT_IN, NAME: declared})


def rows_of_two_classes() -> list[dict[str, object]]:
    return [
        {"cell": cell, "class": label, "error": 10.0 * cell + label, "spread": 0.5, "shift": 1.0}
        for cell in range(2)
        for label in (0, 1)
    ]


def test_each_value_of_an_axis_is_a_quantity_and_the_usual_one_has_the_plain_name() -> None:
    table = aggregate(grid_of(*rows_of_two_classes()))
    numbers = {name: list(rows["value"]) for name, rows in table.groupby("quantity")}
    assert numbers[f"{NAME}.error"] == [0.0, 10.0]
    assert numbers[f"{NAME}.error[class=1]"] == [1.0, 11.0]


def test_details_and_axes_are_not_shown() -> None:
    shown = set(grid_of(*rows_of_two_classes()).values["quantity"])
    assert {name for name in shown if name.startswith(NAME)} == {
        f"{NAME}.{column}{which}" for column in ("error", "shift") for which in ("", "[class=1]")
    }


def test_a_users_metric_has_the_label_unit_direction_and_colours_it_declares() -> None:
    grid = grid_of(*rows_of_two_classes())
    error, shift = grid.quantity(f"{NAME}.error[class=1]"), grid.quantity(f"{NAME}.shift")
    assert (error.title(), error.better) == ("error of a class, class=1 (%)", "lower")
    assert (error.scale, error.colours) == ("log", "viridis_r")
    assert base_of(error).title() == "error of a class (%)"
    assert (shift.title(), shift.centre, shift.limits) == ("CLASSES shift", 1.0, (0.0, 2.0))
    assert shift.colours == "PuOr"
    units = long_table(aggregate(grid), grid.quantities).groupby("quantity")["unit"].first()
    assert units[f"{NAME}.error[class=1]"] == "%"


def test_a_count_is_shown_if_it_has_a_label() -> None:
    counts = (Column("faces", "int64", "", "", label="faces"), Column("points", "int64", "", ""))
    declared = replace(CLASSES, columns=(CLASSES.columns[0], *counts))
    rows = [{"cell": cell, "class": 0, "faces": cell + 2, "points": 5} for cell in range(2)]
    grid = grid_of(*rows, declared=declared)
    assert {q for q in grid.values["quantity"] if q.startswith(NAME)} == {f"{NAME}.faces"}
    table = aggregate(grid, [f"{NAME}.faces"])
    assert list(table["value"]) == [2.0, 3.0]
    scale = colour_scale(table.assign(value=[2.0, 4.0]), grid.quantity(f"{NAME}.faces"))
    assert scale.ticks == (2.0, 3.0, 4.0)


def test_a_number_that_an_argument_asks_for_is_shown_of_the_jobs_that_have_it() -> None:
    asked = Column("shift", "float64", "", "", asked_by="deep")
    declared = replace(CLASSES, columns=(CLASSES.columns[0], asked))
    rows = [{"cell": c, "class": 0, "shift": 1.0, "arg.deep": c == 1} for c in range(2)]
    shown = grid_of(*rows, declared=declared).values
    assert list(shown.loc[shown["quantity"] == f"{NAME}.shift", "cell"]) == [1]
    never = [{**row, "arg.deep": None} for row in rows]
    assert f"{NAME}.shift" not in set(grid_of(*never, declared=declared).values["quantity"])


def test_a_users_metric_with_a_direction_has_a_best_of_each_load() -> None:
    best = best_per_load(grid_of(*rows_of_two_classes()), f"{NAME}.error[class=1]").table
    assert list(best["best"]) == [1.0, 11.0]


def test_the_declared_standard_error_is_that_of_the_number() -> None:
    values = grid_of(*rows_of_two_classes()).values.groupby("quantity")["stderr"].first()
    assert values[f"{NAME}.error"] == 0.5


def test_the_declared_defaults_are_plain_though_others_cover_more() -> None:
    more = [{**row, "args": '{"examples": 7}', "key": "x"} for row in rows_of_two_classes()]
    grid = grid_of(*rows_of_two_classes()[:2], *more)
    assert f"{NAME}.error[examples=7, class=1]" in set(grid.values["quantity"])


def test_rows_that_no_axis_tells_apart_are_left_out() -> None:
    columns = tuple(column for column in CLASSES.columns if column.role != "axis")
    grid = grid_of(*rows_of_two_classes(), declared=Shown(columns, {}))
    assert not any(name.startswith(NAME) for name in grid.values["quantity"])


def test_of_a_quantity_with_many_rows_some_panels_are_drawn_and_all_tabulated() -> None:
    rows = [
        {"cell": cell, "class": label, "error": 1.0 + label + cell, "spread": 0.5, "shift": None}
        for cell in range(2)
        for label in range(40)
    ]
    found = findings(grid_of(*rows), Rules())
    figure = further_figures(found)["further"]()
    titles = [ax.get_title("left") for ax in figure.axes]
    drawn = [int(title.rpartition("=")[2]) for title in titles if "class=" in title]
    assert drawn == [10, 20, 29, 39]
    assert "error of a class" in titles  # class 0, the usual one
    texts = [text.get_text() for text in figure.texts] + [figure.get_suptitle()]
    assert any("35 panels left out; tables/ has their numbers" in text for text in texts)
    assert len(set(found.table["quantity"])) == 43


def a_curve(leaves: tuple[str, ...]) -> SweepTables:
    lists = {"t": [0.0, 0.5, 1.0], "train_error_percent": [1.0, 9.0, 2.0]}
    rows = [{"cell": 0, "class": 0, "error": 1.0, "spread": 0.5, "shift": 1.0, **lists}]
    return grid_of(*rows, declared=replace(CLASSES, leaves=leaves))


def test_the_curves_of_a_sweep_are_those_of_a_metric_that_declares_that_it_leaves_some() -> None:
    curves = a_curve(("directions", "curve")).curves
    assert curves["t"].tolist() == [0.0, 0.5, 1.0]
    assert curves["train_error_percent"].tolist() == [1.0, 9.0, 2.0]
    assert a_curve(("directions",)).curves.empty


def test_what_a_metric_declares_is_read_back_from_the_store(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path), create=True)
    declared = replace(CLASSES, leaves=("curve",))
    assert store.notes.read_declared() == {}
    assert store.notes.put_declared(NAME, declared)
    assert not store.notes.put_declared(NAME, declared)
    assert store.notes.read_declared() == {NAME: declared}


def test_what_a_newer_release_declares_beyond_that_is_left_out(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path), create=True)
    store.notes.put_declared(NAME, CLASSES)
    (file,) = (tmp_path / "meta" / "columns").iterdir()
    record = json.loads(file.read_text())
    record["columns"][0]["shape"] = "round"
    file.write_text(json.dumps({**record, "more": 1}))
    assert store.notes.read_declared() == {NAME: CLASSES}
    (tmp_path / "meta" / "columns" / "copy of it.json").write_text("{")
    assert set(store.notes.read_declared()) == {NAME}
    file.write_text("[]")
    with pytest.raises(
        StoreError, match=r"what metric mine.py:CLASSES declares: .*run.* writes it again"
    ):
        store.notes.read_declared()


@pytest.mark.parametrize("field", ["stderr", "hidden_by", "asked_by"])
def test_a_column_that_refers_to_no_other_and_no_argument_is_refused(
    tmp_path: Path, field: str
) -> None:
    (tmp_path / "bad.py").write_text(
        "from dataclasses import dataclass\n"
        "from phasegrid.declare import Column, Metric\n"
        "@dataclass(frozen=True)\nclass Args: pass\n"
        f"BAD = Metric('trial', Args, (Column('x', 'float64', '', '', {field}='y'),), print)\n"
    )
    with pytest.raises(SweepError, match=rf"bad.py:BAD', column 'x': {field} is 'y'; allowed: the"):
        resolve("metric", "bad.py:BAD", tmp_path)
