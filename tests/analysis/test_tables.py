"""Tables as text."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from phasegrid.analysis.draw.scales import make_frame
from phasegrid.analysis.report.tables import (
    format_cell,
    latex,
    long_table,
    markdown,
    table_title,
    wide_table,
)
from phasegrid.analysis.stats.aggregate import aggregate
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.analysis.tables.quantities import QUANTITIES

MakeGrid = Callable[..., SweepTables]


def wide(make_grid: MakeGrid) -> pd.DataFrame:
    layout = [["II", "diverged"], [None, "IV-B"]]
    grid = make_grid(layout, loads=[4, 16], temperatures=[16, 64])
    frame = make_frame(grid.cells, grid.load_path, grid.temperature_path)
    return wide_table(aggregate(grid, ["train_loss"]), frame)


def test_a_wide_table_has_loads_across_and_the_hottest_row_first(make_grid: MakeGrid) -> None:
    table = wide(make_grid)
    assert list(table.columns) == ["4", "16"]
    assert list(table.index) == ["16", "64"]
    assert table.index.name == "batch size \\ width"


def test_a_larger_learning_rate_is_the_hotter_row(make_grid: MakeGrid) -> None:
    grid = make_grid(
        [["II"], ["I"]], loads=[4], temperatures=[0.1, 0.2], temperature_path="train.lr"
    )
    frame = make_frame(grid.cells, grid.load_path, grid.temperature_path)
    assert list(wide_table(aggregate(grid, ["train_loss"]), frame).index) == ["0.2", "0.1"]


def test_what_is_not_there_is_said_not_left_blank(make_grid: MakeGrid) -> None:
    table = wide(make_grid)
    assert table.loc["16", "16"] == "diverged"
    assert table.loc["64", "4"] == "missing"
    assert table.loc["16", "4"].endswith("(4)")


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (81.3951, 0.2144, "81.40 ± 0.21 (5)"),
        (2000.4, 35.0, "2000 ± 35 (5)"),
        (-0.33, float("nan"), "-0.330 (5)"),
        (0.000254, float("nan"), "0.000254 (5)"),
        (0.00025412, float("nan"), "0.000254 (5)"),
        (99.7691, float("nan"), "99.8 (5)"),
        (11.0, float("nan"), "11 (5)"),
        (2.5e-9, float("nan"), "2.50e-09 (5)"),
        (0.5, 0.0, "0.500 ± 0 (5)"),
        (1e-9, 2e-10, "1e-09 ± 2e-10 (5)"),
    ],
)
def test_a_mean_is_rounded_to_its_error(value: float, stderr: float, text: str) -> None:
    assert format_cell(value, stderr, 5) == text


def test_the_long_table_keeps_full_precision(make_grid: MakeGrid) -> None:
    table = aggregate(make_grid(), ["cka", "train_loss"])
    long = long_table(table)
    np.testing.assert_array_equal(long["value"], table["value"])
    assert set(long["unit"]) == {"", "nats"}
    assert len(long) == 32


def test_markdown_has_one_line_a_row_and_even_columns(make_grid: MakeGrid) -> None:
    lines = markdown(wide(make_grid), "Loss").splitlines()
    assert lines[0] == "### Loss"
    assert len(lines) == 6
    assert {line.count("|") for line in lines[2:]} == {4}


def test_markdown_escapes_bars() -> None:
    table = pd.DataFrame({"a|b": ["x"]}, index=pd.Index(["r"], name="n"))
    assert "a\\|b" in markdown(table, "t")


def test_latex_escapes_and_closes(make_grid: MakeGrid) -> None:
    text = latex(wide(make_grid), "accuracy (%) & more_")
    assert r"\caption{accuracy (\%) \& more\_}" in text
    assert r"batch size \textbackslash{} width & 4 & 16 \\" in text
    assert r"$\pm$" in text
    assert "±" not in text
    assert text.count(r"\begin") == text.count(r"\end") == 2
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count("&") for line in body} == {2}


def test_a_title_names_quantity_unit_and_facet() -> None:
    title = table_title(QUANTITIES["l2_distance"], "depth = 3")
    assert title == "L2 distance, depth = 3: mean ± standard error (seeds), † not trained"
    assert table_title(QUANTITIES["test_accuracy"], "").startswith("test accuracy (%): ")


def test_a_table_marks_what_is_not_trained(make_grid: Callable[..., SweepTables]) -> None:
    grid = make_grid([["collapsed", "I"]], loads=[4, 16], temperatures=[16])
    frame = make_frame(grid.cells, grid.load_path, grid.temperature_path)
    wide = wide_table(aggregate(grid, ["train_loss"]), frame)
    assert wide.loc["16", "4"].endswith("(4) †")
    assert wide.loc["16", "16"].endswith("(4)")


def test_less_noise_stands_to_the_right_as_it_is_drawn(
    make_grid: Callable[..., SweepTables],
) -> None:
    grid = make_grid(
        [["I", "III"]], loads=[0, 128], temperatures=[16], load_path="dataset.image_noise"
    )
    frame = make_frame(grid.cells, grid.load_path, grid.temperature_path)
    assert frame.load.inverted
    assert list(wide_table(aggregate(grid, ["train_loss"]), frame).columns) == ["128", "0"]
