"""Draw everything that a store holds of one sweep into one folder: panels, phases, curves, cuts,
its own figures and tables.
"""

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from phasegrid.analysis.draw.style import STYLE
from phasegrid.analysis.phases.rules import FOUND, check_thresholds, rules_from
from phasegrid.analysis.report.files import file_stem, write_phases, write_requested, write_tables
from phasegrid.analysis.report.findings import Findings, findings
from phasegrid.analysis.report.requested import Requested, requested_figures, unasked_figures
from phasegrid.analysis.report.standard import not_standard, standard_figures
from phasegrid.analysis.tables.across import across_cells
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.analysis.tables.load import load_grid, open_store
from phasegrid.config.figures import with_defaults
from phasegrid.declare import FigureRequest
from phasegrid.errors import StoreError, SweepError

if TYPE_CHECKING:
    from phasegrid.store.results import Results


FORMATS = ("png", "pdf", "svg")
ACROSS = (
    "measured across cells, so that no diagram has a place for it: see tables/across-{name}.csv"
)


def draw(
    store_path: str | Path,
    sweep: str | None,
    output_dir: str | Path,
    formats: Sequence[str] = ("png", "pdf"),
    thresholds: Mapping[str, float | None] | None = None,
) -> Sequence[Path]:
    """Draw one sweep of a store (None: its only one) and return the files written, figures first.

    ``diagram.*`` panels and phases, ``further.*`` what else was measured (``further_1.*``,
    ``further_2.*``, ... where that is much), ``curves.*``, ``planes.*``, ``cuts_*.*``, the figures
    that the sweep requests, under their names (a requested figure replaces one of these that has
    the same name), ``phases.csv``, ``thresholds.csv``, ``not_drawn.csv`` (what is in no figure, and
    why) and ``tables/``. Files of the same name are replaced. `thresholds` gives thresholds of the
    phase rules by name; the others have their defaults or are found from the data.

    Raises:
        SweepError: for a sweep that is not in the store, an unknown threshold or format, or a sweep
        with nothing stored.
        StoreError: if the store cannot be read.
    """
    return draw_sweep(open_store(store_path), sweep, thresholds, output_dir, formats).files


@dataclass(frozen=True)
class Drawn:
    """The drawings of a sweep: `figures` by name, the written `files`, figures first, and `notes`
    on what is in no figure: (figure, reason). `failed` are the names of figures that can never be
    drawn as the sweep requests them.
    """

    figures: Mapping[str, Figure]
    files: Sequence[Path]
    notes: Sequence[tuple[str, str]]
    failed: Sequence[str] = ()

    def __getitem__(self, name: str) -> Figure:
        """Return a figure by its name, for example ``diagram``."""
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
    found = findings(grid, rules_from(given, grid.task, classes, floor, grid.loss_unit))
    requests, absent = _asked_for(results, grid.sweep)
    with matplotlib.rc_context(STYLE):
        rows_of = _rows_of(results, grid.sweep)
        across = _across(results, found.grid)
        asked = requested_figures(found, requests, _other_sweeps(results), rows_of, across)
        others = {k: make for k, make in standard_figures(found).items() if k not in asked.figures}
        unasked = unasked_figures(found, requests, rows_of)
        figures = {name: make() for name, make in others.items()}
    tables = {file_stem(metric): table for metric, table in across.items()}
    told = [(f"{name} across cells", ACROSS.format(name=name)) for name in tables]
    notes = [*asked.notes, *absent, *unasked.notes, *not_standard(found), *told]
    asked = Requested(
        {**figures, **unasked.figures, **asked.figures},
        {**asked.tables, **{f"tables/across-{name}": table for name, table in tables.items()}},
        notes,
        [*asked.failed, *unasked.failed],
        asked.texts,
        {**unasked.films, **asked.films},
    )
    files = [] if folder is None else _write(found, asked, Path(folder), formats)
    return Drawn(asked.figures, files, notes, asked.failed)


def _across(results: "Results", grid: SweepTables) -> dict[str, pd.DataFrame]:
    """Return the tables of what was measured across cells, by metric."""
    plan = results.plan(grid.sweep)
    tables = {
        metric: across_cells(
            results.metric(metric, sweep=grid.sweep), plan, grid.declared.get(metric)
        )
        for metric in results.metrics()
    }
    return {metric: table for metric, table in tables.items() if len(table)}


def _write(found: Findings, asked: Requested, folder: Path, formats: Sequence[str]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        drawn = [
            path
            for name, one in asked.figures.items()
            for path in _save(one, folder / name, formats)
        ]
    tables = [*write_phases(found, folder), *write_tables(found, folder / "tables")]
    return [*drawn, *tables, *write_requested(asked, folder)]


def _png(figure: Figure) -> str:
    with matplotlib.rc_context(STYLE), io.BytesIO() as file:
        figure.savefig(file, format="png")
        return base64.b64encode(file.getvalue()).decode()


def parse_thresholds(texts: Sequence[str]) -> dict[str, float | None]:
    """Read thresholds in the form ``name=value``, or ``name=otsu`` (None) for a threshold that is
    found from the data.

    Raises:
        SweepError: for a text without this form; `draw` checks the names.
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
        path = stem.with_name(f"{stem.name}.{extension}")  # a figure's name may have a dot
        dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(extension)
        figure.savefig(path, format=extension, metadata=dates)
        paths.append(path)
    return paths
