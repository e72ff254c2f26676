"""Draw everything a store holds of one sweep: panels, phases, curves, cuts, its own figures and
tables, into one folder.
"""

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from phasegrid.analysis.draw.diagrams import rows_of
from phasegrid.analysis.draw.lines import curve_panels, cut_panels, spread
from phasegrid.analysis.draw.panels import facet_title, rows_of_quantity, seven_panels
from phasegrid.analysis.draw.style import STYLE
from phasegrid.analysis.phases.phase_map import shows_something
from phasegrid.analysis.phases.rules import FOUND, check_thresholds, rules_from
from phasegrid.analysis.report.findings import BOOTSTRAP_SEED, Findings, findings
from phasegrid.analysis.report.kinds import curve_column
from phasegrid.analysis.report.requested import Requested, requested_figures, unasked_figures
from phasegrid.analysis.report.tables import (
    latex,
    long_table,
    markdown,
    table_title,
    text_table,
    wide_table,
)
from phasegrid.analysis.stats.correlations import rank_correlations
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.analysis.tables.load import load_grid, open_store
from phasegrid.analysis.tables.quantities import base_of, seven
from phasegrid.analysis.tables.variants import way_of
from phasegrid.config.figures import with_defaults
from phasegrid.declare import FigureRequest
from phasegrid.errors import StoreError, SweepError

if TYPE_CHECKING:
    from phasegrid.store.results import Results

MOST_PANELS = 12
FEW_PANELS = 5
"""So many panels of a quantity with more than `MOST_PANELS` rows a job."""

FORMATS = ("png", "pdf", "svg")
LABELS = {
    "phase": "phase (undetermined where its probability is too low)",
    "niceness": "(mu, beta): mean CKA and mean mode connectivity, with * where globally nice",
    "limited_by": "what limits a cell",
}
"""Tables of words, beside those of numbers."""


def draw(
    store_path: str | Path,
    sweep: str | None,
    output_dir: str | Path,
    formats: Sequence[str] = ("png", "pdf"),
    thresholds: Mapping[str, float | None] | None = None,
) -> Sequence[Path]:
    """Draw one sweep of a store (None: its only one) and return the files written, figures first.

    ``diagram.*`` panels and phases, ``further.*`` what else was measured, ``curves.*``,
    ``planes.*``, ``cuts_*.*``, the figures that the sweep asks for under the names it gives them
    (in place of one of these, if it has that name), ``phases.csv``, ``thresholds.csv``,
    ``not_drawn.csv`` (what it asks for and is not measured yet) and ``tables/``. Files of the same
    name are replaced.
    `thresholds` gives thresholds of the phase rules by name; the others have their defaults or are
    found from the data.

    Raises:
        SweepError: for a sweep that is not in the store, an unknown threshold or format, or a sweep
        with nothing stored. StoreError: if the store cannot be read.
    """
    return draw_sweep(open_store(store_path), sweep, thresholds, output_dir, formats).files


@dataclass(frozen=True)
class Drawn:
    """What was drawn of a sweep: `figures` by name, the `files` written, figures first, and
    `notes` on what the sweep asks for and is not measured yet: (figure, reason).
    """

    figures: Mapping[str, Figure]
    files: Sequence[Path]
    notes: Sequence[tuple[str, str]]

    def __getitem__(self, name: str) -> Figure:
        """Return a figure by its name, as ``diagram``."""
        return self.figures[name]

    def _repr_html_(self) -> str:
        return "\n".join(
            f'<h4>{html.escape(name)}</h4><img src="data:image/png;base64,{_png(figure)}">'
            for name, figure in self.figures.items()
        )


def draw_sweep(
    results: "Results",
    sweep: str | None,
    thresholds: Mapping[str, float | None] | None = None,
    folder: Path | str | None = None,
    formats: Sequence[str] = ("png", "pdf"),
) -> Drawn:
    """Draw one sweep of a store (None: its only one); write what `draw` writes if a folder is
    given.

    Raises:
        SweepError, StoreError: as `draw`.
    """
    check_formats(formats)
    given = thresholds or {}
    check_thresholds(given)
    grid = load_grid(results, sweep)
    classes = float(grid.cells["num_classes"].max())
    floor = max(grid.loss_floor.values(), default=0.0)
    found = findings(grid, rules_from(given, grid.task, classes, floor))
    requests, absent = _asked_for(results, grid.sweep)
    with matplotlib.rc_context(STYLE):
        rows_of = _rows_of(results, grid.sweep)
        asked = requested_figures(found, requests, _other_sweeps(results), rows_of)
        others = {k: make for k, make in _figures(found).items() if k not in asked.figures}
        unasked = unasked_figures(found, requests, rows_of)
        figures = {**{name: make() for name, make in others.items()}, **unasked, **asked.figures}
    asked = replace(asked, notes=[*asked.notes, *absent])
    files = [] if folder is None else _write(found, asked, figures, Path(folder), formats)
    return Drawn(figures, files, asked.notes)


def _write(
    found: Findings,
    asked: Requested,
    figures: Mapping[str, Figure],
    folder: Path,
    formats: Sequence[str],
) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        drawn = [p for name, one in figures.items() for p in _save(one, folder / name, formats)]
    tables = [*_write_phases(found, folder), *_write_requested(asked, folder)]
    return [*drawn, *tables, *write_tables(found, folder / "tables")]


def _png(figure: Figure) -> str:
    with matplotlib.rc_context(STYLE), io.BytesIO() as file:
        figure.savefig(file, format="png")
        return base64.b64encode(file.getvalue()).decode()


def parse_thresholds(texts: Sequence[str]) -> dict[str, float | None]:
    """Read thresholds written as ``name=value``, or ``name=otsu`` (None) for one that is to be
    found from the data.

    Raises:
        SweepError: for a text that is not of that form; `draw` checks the names.
    """
    found: dict[str, float | None] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = None if value.strip() == FOUND else float(value)
        except ValueError as error:
            raise SweepError(
                f"threshold {text!r}: expected NAME=VALUE or NAME={FOUND}, as in cka=0.6"
            ) from error
    return found


def _asked_for(results: "Results", sweep: str) -> tuple[list[FigureRequest], list[tuple[str, str]]]:
    try:
        return with_defaults(results.figures(sweep))
    except ValueError as error:
        raise StoreError(
            f"reading the figures of {sweep}: {error}; they are damaged, or were written by a"
            f" newer phasegrid; `phasegrid run` writes them again"
        ) from error


def check_formats(formats: Sequence[str]) -> None:
    """Raise `SweepError` for a figure format that is not offered."""
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        named = f"{unknown[0]!r}" if unknown else "no format"
        raise SweepError(f"figure formats: found {named}; there are: {', '.join(FORMATS)}")


def diagram_figure(found: Findings) -> Figure:
    """Return the figure of the seven panels and the phases."""
    return _panels_figure(found, seven(found.grid.task))


def further_figure(found: Findings) -> Figure:
    """Return a figure of the quantities that were measured beyond the seven: of one with more than
    `MOST_PANELS` rows a job the first, the last and some between.
    """
    names = _further(found)
    few = [name for family in _families(found, names) for name in _spread(family)]
    left_out = len(names) - len(few)
    note = f" ({left_out} panels left out; tables/ has their numbers)" if left_out else ""
    return _panels_figure(found, few, note)


def _panels_figure(found: Findings, names: Sequence[str], note: str = "") -> Figure:
    title = found.grid.heading(f"{found.grid.sweep}{note}")
    return seven_panels(
        found.table,
        found.phases,
        found.frame,
        names,
        title=title,
        labels=found.labels(names),
        with_phases=shows_something(found.phases),
        known=found.grid.quantities,
    )


def curves_figure(found: Findings) -> Figure:
    """Return the figure of the connecting curves, facets side by side."""
    column = curve_column(found.grid)
    return curve_panels(found.grid.curves, found.phases.table, found.frame, column)


def cuts_figure(found: Findings, along: Literal["load", "temperature"]) -> Figure:
    """Return the quantities of the seven panels as lines against one axis, for up to five values of
    the other.
    """
    names = _in_cuts(found)
    others = spread(found.frame.temperature if along == "load" else found.frame.load)
    labels = found.labels(names)
    return cut_panels(
        found.table, found.frame, names, along, others, labels=labels, known=found.grid.quantities
    )


def save_figures(
    makers: Mapping[str, Callable[[], Figure]], folder: Path, formats: Sequence[str]
) -> list[Path]:
    """Draw figures in the house style, save each under its name in every format, and return the
    files.
    """
    with matplotlib.rc_context(STYLE):
        return [
            path for name, make in makers.items() for path in _save(make(), folder / name, formats)
        ]


def _figures(found: Findings) -> dict[str, Callable[[], Figure]]:
    makers: dict[str, Callable[[], Figure]] = {}
    main = _in_cuts(found)
    if found.grid.load_path and found.grid.temperature_path:
        makers["diagram"] = lambda: diagram_figure(found)
        if _further(found):
            makers["further"] = lambda: further_figure(found)
    if found.grid.curves[curve_column(found.grid)].notna().any():
        makers["curves"] = lambda: curves_figure(found)
    if found.grid.load_path and main:
        makers["cuts_load"] = lambda: cuts_figure(found, "load")
    if found.grid.temperature_path and main:
        makers["cuts_temperature"] = lambda: cuts_figure(found, "temperature")
    return makers


def _in_cuts(found: Findings) -> list[str]:
    """Return the quantities of the main figure that have a number."""
    done = set(found.table.loc[found.table["status"] == "done", "quantity"])
    return [name for name in seven(found.grid.task) if name in done]


def _families(found: Findings, names: Sequence[str]) -> list[list[str]]:
    """Return the quantities that are one but for the row of the job, together."""
    families: dict[tuple[str, str], list[str]] = {}
    for name in names:
        what = found.grid.quantity(name)
        families.setdefault((base_of(what).name, way_of(name, what.axes)), []).append(name)
    return list(families.values())


def _spread(family: Sequence[str]) -> list[str]:
    if len(family) <= MOST_PANELS:
        return list(family)
    places = np.linspace(0, len(family) - 1, FEW_PANELS)
    return [family[round(float(place))] for place in places]


def _further(found: Findings) -> list[str]:
    names = [str(name) for name in found.table["quantity"].unique()]
    return [name for name in names if name not in seven(found.grid.task)]


def _rows_of(results: "Results", sweep: str) -> Callable[[str], pd.DataFrame]:
    def load(metric: str) -> pd.DataFrame:
        known = metric in results.metrics()
        return results.metric(metric, sweep=sweep) if known else pd.DataFrame()

    return load


def _other_sweeps(results: "Results") -> Callable[[str], SweepTables | None]:
    def load(name: str) -> SweepTables | None:
        return load_grid(results, name) if name in results.sweeps() else None

    return load


def _save(figure: Figure, stem: Path, formats: Sequence[str]) -> list[Path]:
    paths = []
    for extension in formats:
        path = stem.with_name(f"{stem.name}.{extension}")  # a figure's name may hold a dot
        dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(extension)
        figure.savefig(path, format=extension, metadata=dates)
        paths.append(path)
    return paths


def _write_requested(asked: Requested, folder: Path) -> list[Path]:
    """Write the tables that requested figures show, and what could not be drawn, if anything was
    asked for.
    """
    paths = []
    for name, table in asked.tables.items():
        paths.append(folder / f"{name}.csv")
        table.to_csv(paths[-1], index=False)
    if asked.figures or asked.notes:
        paths.append(folder / "not_drawn.csv")
        notes = pd.DataFrame(list(asked.notes), columns=["figure", "reason"])
        notes.to_csv(paths[-1], index=False)
    return paths


def _write_phases(found: Findings, folder: Path) -> list[Path]:
    phases, thresholds = folder / "phases.csv", folder / "thresholds.csv"
    used = {f"{t.name}_threshold": t.value for t in found.phases.thresholds}
    origins = {f"{t.name}_origin": t.origin for t in found.phases.thresholds}
    found.phases.table.assign(**used, **origins).to_csv(phases, index=False)
    pd.DataFrame(found.phases.thresholds).to_csv(thresholds, index=False)
    return [phases, thresholds]


def write_tables(found: Findings, folder: Path) -> list[Path]:
    """Write every quantity as CSV, Markdown and LaTeX under the name a reader calls it, all in one
    CSV, labels, correlations.
    """
    folder.mkdir(exist_ok=True)
    everything = folder / "all.csv"
    called = found.table.assign(quantity=found.table["quantity"].map(found.called))
    long_table(called, found.grid.quantities).to_csv(everything, index=False)
    paths = [everything]
    for name in called["quantity"].unique():
        what = found.grid.quantity(str(name))
        texts: dict[str, list[str]] = {"md": [], "tex": []}
        for facet in found.grid.facets():
            wide = wide_table(rows_of(called, what.name, facet), found.frame)
            title = table_title(what, facet_title(facet))
            texts["md"].append(markdown(wide, title))
            texts["tex"].append(latex(wide, title))
        stem = file_stem(what.name)
        csv = folder / f"{stem}.csv"
        long_table(rows_of_quantity(called, what.name), found.grid.quantities).to_csv(
            csv, index=False
        )
        paths.append(csv)
        for extension, parts in texts.items():
            path = folder / f"{stem}.{extension}"
            path.write_text("\n".join(parts), encoding="utf-8")
            paths.append(path)
    return [*paths, *_write_labels(found, folder), *_write_correlations(found, folder)]


def _write_correlations(found: Findings, folder: Path) -> list[Path]:
    """Write how every quantity goes with performance over the cells: the first panel's quantity."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    table = rank_correlations(found.table, seven(found.grid.task)[0], rng)
    table["quantity"] = table["quantity"].map(found.called)
    csv, text = folder / "correlations.csv", folder / "correlations.md"
    table.to_csv(csv, index=False)
    shown = table.set_index("quantity").map(lambda x: f"{x:.2f}" if isinstance(x, float) else x)
    text.write_text(markdown(shown, "Spearman's rank correlation over cells"), encoding="utf-8")
    return [csv, text]


def _write_labels(found: Findings, folder: Path) -> list[Path]:
    """Write the words of every cell as tables: its phase, its niceness, what limits it."""
    paths = []
    for column, heading in LABELS.items():
        texts: dict[str, list[str]] = {"md": [], "tex": []}
        for facet in found.grid.facets():
            cells = found.phases.table[found.phases.table["facet"] == facet]
            wide = text_table(cells, column, found.frame)
            title = f"{heading}{', ' if facet_title(facet) else ''}{facet_title(facet)}"
            texts["md"].append(markdown(wide, title))
            texts["tex"].append(latex(wide, title))
        for extension, parts in texts.items():
            paths.append(folder / f"{column}.{extension}")
            paths[-1].write_text("\n".join(parts), encoding="utf-8")
    return paths


def file_stem(name: str) -> str:
    """Return a quantity's name as a file name.

    >>> file_stem("cka[mixup_alpha=0.5]")
    'cka-mixup_alpha-0.5'
    """
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip("-")
