"""A sweep may train narrow networks in one precision and wide ones in another."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import phasegrid
from phasegrid.analysis.phases.rules import Rules
from phasegrid.analysis.report.findings import findings
from phasegrid.analysis.tables.load import load_grid
from phasegrid.analysis.tables.precision import SEVERAL, Axis, in_words, precisions
from phasegrid.errors import SweepError
from phasegrid.store.results import open_results

SWEEP = """\
schema: 1
name: widths
dataset: {name: digits, fraction: 0.1}
model: {name: mlp, depth: 1}
train: {lr: 0.05, epochs: 1, stop: null, keep: last}
load: {param: model.width, values: [4, 8, 16, 32]}
temperature: {param: train.batch_size, values: [32, 64]}
seeds: 1
metrics: [accuracy]
"""
BY_WIDTH = (
    "couple: {train.precision: {by: model.width, values: {4: tf32, 8: tf32, 16: tf32},"
    " otherwise: bf16}}\n"
)
WIDTHS, BATCHES = ["4", "8", "16", "32"], ["32", "64"]


def written(folder: Path, extra: str, *changes: tuple[str, str]) -> Path:
    text = SWEEP
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "sweep.yaml"
    path.write_text(text + extra)
    return path


def run(folder: Path, extra: str, *changes: tuple[str, str]) -> tuple[str, pd.DataFrame]:
    """Return the store of a sweep that has run, and its trials by width and batch size."""
    folder.mkdir()
    sweep = phasegrid.load_sweep(written(folder, extra, *changes))
    store = str(folder / "store")
    assert phasegrid.run(sweep, store, serial=True, device="cpu").exit_code == 0
    return store, phasegrid.open(store).cells("widths").set_index(["load", "temperature"])


def test_each_width_trains_in_its_precision_as_if_it_were_the_sweeps(tmp_path: Path) -> None:
    _, both = run(tmp_path / "both", BY_WIDTH)
    found = both["precision"].groupby("load").unique().map(list).to_dict()
    assert found == {4.0: ["tf32"], 8.0: ["tf32"], 16.0: ["tf32"], 32.0: ["bf16"]}
    for precision, widths in (("tf32", [4, 8, 16]), ("bf16", [32])):
        _, alone = run(
            tmp_path / precision, "", ("epochs: 1", f"epochs: 1, precision: {precision}")
        )
        for width in widths:
            a, b = both.loc[width], alone.loc[width]
            assert list(a["key"]) == list(b["key"])
            assert list(a["train_loss"]) == pytest.approx(list(b["train_loss"]), rel=1e-5)


def test_bfloat16_is_another_arithmetic_and_tf32_on_a_cpu_is_not(tmp_path: Path) -> None:
    losses: dict[str, list[float]] = {}
    for precision in ("fp32", "tf32", "bf16"):
        change = ("epochs: 1", f"epochs: 1, precision: {precision}")
        losses[precision] = list(run(tmp_path / precision, "", change)[1]["train_loss"])
    assert losses["tf32"] == losses["fp32"]
    assert losses["bf16"] != losses["fp32"]
    # bfloat16 has 8 bits: a loss is off by about 2^-8 after a few updates
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=2**-5)


def test_figures_and_phases_say_which_cells_had_which_precision(tmp_path: Path) -> None:
    store, _ = run(tmp_path / "both", BY_WIDTH)
    found = findings(load_grid(open_results(store), "widths"), Rules())
    heading = found.heading("widths")
    assert heading.endswith("mlp on digits (fraction 0.1); tf32 at width 4 to 16, bf16 at width 32")
    phasegrid.plot(store, "widths", output=tmp_path / "figures")
    phases = pd.read_csv(tmp_path / "figures/phases.csv")
    assert dict(zip(phases["load"], phases["precision"], strict=True)) == {
        4.0: "tf32",
        8.0: "tf32",
        16.0: "tf32",
        32.0: "bf16",
    }


def test_a_precision_that_is_an_axis_is_not_told_twice(tmp_path: Path) -> None:
    axis = (
        "param: train.batch_size, values: [32, 64]",
        "param: train.precision, values: [fp32, bf16]",
    )
    store, _ = run(tmp_path / "axis", "", axis)
    heading = findings(load_grid(open_results(store), "widths"), Rules()).heading("widths")
    assert "bf16" not in heading


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("{by: model.width, values: {4: fp16}, otherwise: bf16}", "train.precision: found 'fp16'"),
        ("{by: model.width, values: {4: tf32}, otherwise: half}", "otherwise"),
        ("{by: model.wdth, values: {4: tf32}, otherwise: bf16}", "width"),
        ("{by: model.width, values: {narrow: tf32}, otherwise: bf16}", "narrow"),
        ("{by: model.width, values: {4: tf32, 8: tf32}}", "model.width is 16, for which the table"),
        ("{by: model.width, values: {5: tf32}, otherwise: bf16}", "found the key 5, but model.width is"),
        ("bf16", "not a number; allowed: a table"),
    ],
)  # fmt: skip
def test_mistakes_in_the_table_are_told_at_their_place(
    tmp_path: Path, table: str, told: str
) -> None:
    path = written(tmp_path, f"couple: {{train.precision: {table}}}\n")
    with pytest.raises(SweepError) as raised:
        phasegrid.load_sweep(path)
    text = str(raised.value)
    assert "sweep.yaml:10:" in text
    assert "train.precision" in text
    assert told in text


def stored(rows: list[tuple[int, str | None, str | None]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["cell", "precision", "outcome"])


def test_the_precision_of_a_cell_is_that_of_its_stored_trials() -> None:
    rows = [(0, "fp32", "done"), (0, "fp32", "diverged"), (1, "bf16", "done"), (1, "tf32", "done")]
    assert precisions(stored([*rows, (2, "fp32", None), (3, None, "done")])) == {
        0: "fp32",
        1: SEVERAL,
    }
    assert precisions(stored([])) == {}
    assert precisions(pd.DataFrame({"cell": [1], "outcome": ["done"]})) == {}


def cells(which: Any) -> dict[int, str]:
    """Return a precision for each cell of the grid of `WIDTHS` and `BATCHES`."""
    return {
        i * len(BATCHES) + j: which(width, batch)
        for i, width in enumerate(WIDTHS)
        for j, batch in enumerate(BATCHES)
    }


@pytest.mark.parametrize(
    ("which", "words"),
    [
        (lambda _w, _b: "fp32", ""),
        (lambda _w, _b: "bf16", "bf16"),
        (lambda w, _b: "bf16" if w in "48" else "fp32", "fp32 at width 16 and 32, bf16 at width 4 and 8"),
        (lambda w, _b: "tf32" if w in "432" else "bf16", "tf32 at width 4 and 32, bf16 at width 8 and 16"),
        (lambda _w, b: "tf32" if b == "64" else "fp32", "fp32 at batch size 32, tf32 at batch size 64"),
        (lambda w, b: "tf32" if (w, b) == ("4", "64") else "fp32", "fp32 in 7 of 8 cells, tf32 in 1 of 8 cells"),
    ],
)  # fmt: skip
def test_precisions_are_told_by_the_axis_that_decides(which: Any, words: str) -> None:
    table = pd.DataFrame(
        [
            (i * len(BATCHES) + j, width, batch)
            for i, width in enumerate(WIDTHS)
            for j, batch in enumerate(BATCHES)
        ],
        columns=["cell", "load_label", "temperature_label"],
    )
    axes = [Axis("load_label", "width", WIDTHS), Axis("temperature_label", "batch size", BATCHES)]
    assert in_words(cells(which), table, axes) == words
