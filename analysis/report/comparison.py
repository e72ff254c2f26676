"""Compare two sweeps of one or two stores: write tables and figures of the differences into one
folder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from phasegrid.analysis.draw.differences import difference_panels
from phasegrid.analysis.draw.gain import gain_figure
from phasegrid.analysis.draw.scales import axis_name, make_frame
from phasegrid.analysis.report.report import check_formats, save_figures
from phasegrid.analysis.stats.compare import compare_grids, one_sided_cells, summary_lines
from phasegrid.analysis.stats.gain import best_per_load, gain_table
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.analysis.tables.load import load_grid, open_store
from phasegrid.analysis.tables.quantities import quantity

GAIN = "test_accuracy"


@dataclass(frozen=True, slots=True)
class Compared:
    """The written files, figures first, and a line on the findings for each quantity."""

    paths: tuple[Path, ...]
    summary: tuple[str, ...]


def compare(
    store_a: str | Path,
    a: str,
    store_b: str | Path,
    b: str,
    output_dir: str | Path,
    formats: Sequence[str] = ("png", "pdf"),
) -> Compared:
    """Compare sweep `b` of `store_b` with sweep `a` of `store_a`; differences are b - a.

    Writes ``comparison.*`` (a diagram of differences per quantity), ``gain.*`` and ``gain.csv``
    (the best test accuracy of each load over all temperatures, b over a, if both measured it at a
    shared load), ``comparison.csv`` (`compare_grids`) and ``cells_in_one.csv`` (cells that only one
    of them plans). Files of the same name are replaced. If a sweep has no numbers because every
    training diverged, there are tables but no figures.

    Raises:
        SweepError: for a sweep that is not in its store, an unknown format, or sweeps that have
        nothing in common.
        StoreError: if a store cannot be read.
    """
    check_formats(formats)
    one, other = load_grid(open_store(store_a), a), load_grid(open_store(store_b), b)
    names = (a, b) if a != b else (f"{a} ({store_a})", f"{b} ({store_b})")
    labels = (one.with_stage(names[0]), other.with_stage(names[1]))
    comparison = compare_grids(one, other)
    cells = pd.concat([one.cells, other.cells], ignore_index=True)
    frame = make_frame(cells, one.load_path, one.temperature_path, one.axis_names)
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[], Figure]] = {}
    if not comparison.empty:
        makers["comparison"] = lambda: difference_panels(comparison, frame, labels, one.quantities)
    tables = {"comparison": comparison, "cells_in_one": one_sided_cells(one, other)}
    gains = _gains(one, other)
    if gains["gain"].notna().any():
        tables["gain"] = gains
        makers["gain"] = lambda: gain_figure(
            gains,
            quantity(GAIN),
            (labels[1], labels[0]),
            one.load_path,
            axis_name(one.temperature_path, one.axis_names),
            names=one.axis_names,
        )
    paths = save_figures(makers, folder, formats)
    for name, table in tables.items():
        paths.append(folder / f"{name}.csv")
        table.to_csv(paths[-1], index=False)
    return Compared(tuple(paths), tuple(summary_lines(comparison)))


def _gains(one: SweepTables, other: SweepTables) -> pd.DataFrame:
    return gain_table(best_per_load(other, GAIN), best_per_load(one, GAIN))
