"""Draw everything a store holds of one sweep: panels, phases, curves, cuts and tables, into one folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.aggregation import aggregate
from analysis.diagrams import phase_handles, rows_of
from analysis.figures import curve_grid, cuts, seven_panels
from analysis.grid import Grid
from analysis.load import load_grid, open_store
from analysis.panels import COLUMNS, facet_title, rows_of_quantity
from analysis.phases import PhaseMap, Rules, label_phases, rules_from
from analysis.quantities import SEVEN, quantity
from analysis.scales import Axis, Frame, make_frame
from analysis.style import STYLE
from analysis.tables import latex, long_table, markdown, table_title, wide_table
from phasegrid.errors import SweepError

FORMATS = ("png", "pdf", "svg")
BOOTSTRAP_SEED = 0
"""The bootstrap draws from a generator of its own, so that the same store always gives the same figure."""
LINES = 5  # lines in one panel of cuts


@dataclass(frozen=True)
class Findings:
    """A grid with everything derived from it."""

    grid: Grid
    table: pd.DataFrame
    phases: PhaseMap
    frame: Frame


def draw(
    store_path: str | Path,
    sweep: str | None,
    output_dir: str | Path,
    formats: Sequence[str] = ("png", "pdf"),
    thresholds: Mapping[str, float] | None = None,
) -> list[Path]:
    """Draw one sweep of a store (None: its only one) and return the files written, figures first.

    ``diagram.*`` panels and phases, ``further.*`` what else was measured, ``curves.*``, ``cuts_*.*``,
    ``phases.csv``, ``thresholds.csv`` and ``tables/``. Files of the same name are replaced.
    `thresholds` gives thresholds of the phase rules by name; the others have their defaults or are found from the
    data.

    Raises:
        SweepError: for a sweep that is not in the store, an unknown threshold or format, or a sweep with nothing
        stored. StoreError: if the store cannot be read.
    """
    check_formats(formats)
    rules = rules_from(thresholds or {})
    found = findings(load_grid(open_store(store_path), sweep), rules)
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figures = [
            path
            for name, make in _figures(found).items()
            for path in _save(make(), folder / name, formats)
        ]
    return [*figures, *_write_phases(found, folder), *_write_tables(found, folder / "tables")]


def findings(grid: Grid, rules: Rules) -> Findings:
    """Aggregate and label a grid: what the figures and tables are made from.

    Raises:
        SweepError: where the sweep has not a single number.
    """
    table = aggregate(grid)
    if table.empty:
        raise SweepError(f"drawing {grid.sweep!r}: the store holds no finished trial of it yet")
    phases = label_phases(grid, rules, np.random.default_rng(BOOTSTRAP_SEED))
    frame = make_frame(grid.cells, grid.load_path, grid.temperature_path)
    return Findings(grid, table, phases, frame)


def parse_thresholds(texts: Sequence[str]) -> dict[str, float]:
    """Read thresholds written as ``name=value``.

    Raises:
        SweepError: for a text that is not of that form; `draw` checks the names.
    """
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError as error:
            raise SweepError(f"threshold {text!r}: expected NAME=VALUE, as in cka=0.6") from error
    return found


def check_formats(formats: Sequence[str]) -> None:
    """Raise `SweepError` for a figure format that is not offered."""
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        named = f"{unknown[0]!r}" if unknown else "no format"
        raise SweepError(f"figure formats: found {named}; there are: {', '.join(FORMATS)}")


def diagram_figure(found: Findings) -> Figure:
    """Return the figure of the seven panels and the phases."""
    return seven_panels(found.table, found.phases, found.frame, title=found.grid.sweep)


def further_figure(found: Findings) -> Figure:
    """Return a figure of the quantities that were measured beyond the seven."""
    names = [name for name in found.table["quantity"].unique() if name not in SEVEN]
    return seven_panels(found.table, found.phases, found.frame, names, title=found.grid.sweep)


def curves_figure(found: Findings) -> Figure:
    """Return the figure of the connecting curves, facets side by side."""
    facets = found.grid.facets()
    wide = 0.62 * len(found.frame.load.labels) + 1.2
    tall = 0.42 * len(found.frame.temperature.labels) + 1.2
    figure = Figure(
        figsize=(max(wide, 5.4) * len(facets), max(tall, 2.8) + 0.7), layout="constrained"
    )
    top = float(max(found.grid.curves["train_error_percent"].max(), 1.0))
    for ax, facet in zip(figure.subplots(1, len(facets), squeeze=False)[0], facets, strict=True):
        spots = found.phases.table[found.phases.table["facet"] == facet]
        title = facet_title(facet) or "training error along the connecting curve"
        curve_grid(ax, found.grid.curves, spots, found.frame, top=float(np.ceil(top)), title=title)
    if handles := phase_handles(found.phases.table, stippled=False):
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def cuts_figure(found: Findings, along: Literal["load", "temperature"]) -> Figure:
    """Return the quantities of the seven panels as lines against one axis, for up to five values of the other."""
    names = [name for name in SEVEN if rows_of_quantity(found.table, name)["value"].notna().any()]
    facets, frame = found.grid.facets(), found.frame
    others = _spread(frame.temperature if along == "load" else frame.load)
    panels = [(facet, name) for facet in facets for name in names]
    columns = min(COLUMNS, len(names)) if len(facets) == 1 else len(names)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.5 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax, (facet, name) in zip(axes.flat, panels, strict=False):
        table, what = rows_of(found.table, name, facet), quantity(name)
        cuts(ax, table, what, frame, along=along, at=others, legend=False, head=facet_title(facet))
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    lines, labels = axes.flat[0].get_legend_handles_labels()
    if labels:
        figure.legend(lines, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _figures(found: Findings) -> dict[str, Callable[[], Figure]]:
    makers: dict[str, Callable[[], Figure]] = {}
    if found.grid.load_path and found.grid.temperature_path:
        makers["diagram"] = lambda: diagram_figure(found)
        if not set(found.table["quantity"]) <= set(SEVEN):
            makers["further"] = lambda: further_figure(found)
    if not found.grid.curves.empty:
        makers["curves"] = lambda: curves_figure(found)
    if found.grid.load_path:
        makers["cuts_load"] = lambda: cuts_figure(found, "load")
    if found.grid.temperature_path:
        makers["cuts_temperature"] = lambda: cuts_figure(found, "temperature")
    return makers


def _spread(axis: Axis) -> list[str]:
    """Return at most five labels, evenly spread from end to end."""
    places = np.linspace(0, len(axis.labels) - 1, min(LINES, len(axis.labels)))
    return [axis.labels[round(float(place))] for place in places]


def _save(figure: Figure, stem: Path, formats: Sequence[str]) -> list[Path]:
    paths = []
    for extension in formats:
        path = stem.with_suffix(f".{extension}")
        dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(extension)
        figure.savefig(path, format=extension, metadata=dates)
        paths.append(path)
    return paths


def _write_phases(found: Findings, folder: Path) -> list[Path]:
    phases, thresholds = folder / "phases.csv", folder / "thresholds.csv"
    used = {f"{t.name}_threshold": t.value for t in found.phases.thresholds}
    origins = {f"{t.name}_origin": t.origin for t in found.phases.thresholds}
    found.phases.table.assign(**used, **origins).to_csv(phases, index=False)
    pd.DataFrame(found.phases.thresholds).to_csv(thresholds, index=False)
    return [phases, thresholds]


def _write_tables(found: Findings, folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    everything = folder / "all.csv"
    long_table(found.table).to_csv(everything, index=False)
    paths = [everything]
    for name in found.table["quantity"].unique():
        what = quantity(str(name))
        texts: dict[str, list[str]] = {"md": [], "tex": []}
        for facet in found.grid.facets():
            wide = wide_table(rows_of(found.table, what.name, facet), found.frame)
            title = table_title(what, facet_title(facet))
            texts["md"].append(markdown(wide, title))
            texts["tex"].append(latex(wide, title))
        stem = file_stem(what.name)
        csv = folder / f"{stem}.csv"
        long_table(rows_of_quantity(found.table, what.name)).to_csv(csv, index=False)
        paths.append(csv)
        for extension, parts in texts.items():
            path = folder / f"{stem}.{extension}"
            path.write_text("\n".join(parts), encoding="utf-8")
            paths.append(path)
    return paths


def file_stem(name: str) -> str:
    """Return a quantity's name as a file name.

    >>> file_stem("cka[mixup_alpha=0.5]")
    'cka-mixup_alpha-0.5'
    """
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip("-")
