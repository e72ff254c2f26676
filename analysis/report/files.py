"""Write the tables and labels of a sweep into files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from phasegrid.analysis.draw.diagrams import rows_of
from phasegrid.analysis.draw.film import write_film
from phasegrid.analysis.draw.panels import facet_title, rows_of_quantity
from phasegrid.analysis.report.findings import Findings
from phasegrid.analysis.report.rankings import in_words, ranked
from phasegrid.analysis.report.requested import Requested
from phasegrid.analysis.report.tables import (
    latex,
    long_table,
    markdown,
    table_title,
    text_table,
    wide_along,
    wide_table,
)
from phasegrid.analysis.tables.along import Along, along_table, measured_along
from phasegrid.analysis.tables.quantities import seven


def write_requested(asked: Requested, folder: Path) -> list[Path]:
    """Write the tables, texts and animations of requested figures, and what could not be drawn;
    nothing without requests.
    """
    paths = []
    for name, table in asked.tables.items():
        paths.append(folder / f"{name}.csv")
        table.to_csv(paths[-1], index=False)
    for file, text in asked.texts.items():
        paths.append(folder / file)
        paths[-1].write_text(text, encoding="utf-8")
    paths += [
        path for name, frames in asked.films.items() for path in write_film(frames, folder / name)
    ]
    if asked.figures or asked.notes:
        paths.append(folder / "not_drawn.csv")
        notes = pd.DataFrame(list(asked.notes), columns=["figure", "reason"])
        notes.to_csv(paths[-1], index=False)
    return paths


def write_phases(found: Findings, folder: Path) -> list[Path]:
    """Write the phases of the cells, their precision, and the thresholds behind them."""
    phases, thresholds = folder / "phases.csv", folder / "thresholds.csv"
    used = {f"{t.name}_threshold": t.value for t in found.phases.thresholds}
    origins = {f"{t.name}_origin": t.origin for t in found.phases.thresholds}
    known = found.phases.table["cell"].map(found.grid.precisions)
    facts = {"precision": known} if known.notna().any() else {}
    found.phases.table.assign(**facts, **used, **origins).to_csv(phases, index=False)
    pd.DataFrame(found.phases.thresholds).to_csv(thresholds, index=False)
    return [phases, thresholds]


def write_tables(found: Findings, folder: Path) -> list[Path]:
    """Write every quantity as CSV, Markdown and LaTeX under its name for readers, all of them in
    one CSV, and the labels and correlations. A quantity along trainings (``NAME-along``) has a row
    for each place.
    """
    folder.mkdir(exist_ok=True)
    everything = folder / "all.csv"
    called = found.table.assign(quantity=found.table["quantity"].map(found.called))
    long_table(called, found.grid.quantities).to_csv(everything, index=False)
    paths = [everything]
    along = measured_along(map(str, found.table["quantity"].unique()))
    places = {name for one in along for name in one.names.values()}
    for name in found.table["quantity"].unique():
        if name not in places:
            paths += _write_quantity(found, found.called(str(name)), called, folder)
    for one in along:
        paths += _write_along(found, one, folder)
    return [*paths, *_write_labels(found, folder), *_write_correlations(found, folder)]


def _write_quantity(found: Findings, name: str, called: pd.DataFrame, folder: Path) -> list[Path]:
    """Write one quantity, under the name that the table has `called` it by."""
    what, rows = found.grid.quantity(name), rows_of_quantity(called, name)
    texts: dict[str, list[str]] = {"md": [], "tex": []}
    for facet in found.grid.facets():
        wide = wide_table(rows_of(called, what.name, facet), found.frame)
        title = table_title(what, facet_title(facet, found.frame.names))
        texts["md"].append(markdown(wide, title))
        texts["tex"].append(latex(wide, title))
    csv = long_table(rows, found.grid.quantities)
    return _write_texts(folder / file_stem(name), csv, texts)


def _write_along(found: Findings, one: Along, folder: Path) -> list[Path]:
    """Write one quantity along trainings, a row for each place, and a block for each facet and
    temperature.
    """
    name = found.called(one.name)
    what, table = found.grid.quantity(name), along_table(found.table, one)
    texts: dict[str, list[str]] = {"md": [], "tex": []}
    for facet in found.grid.facets():
        for label in found.frame.temperature.drawn_labels():
            own = table[(table["facet"] == facet) & (table["temperature_label"] == label)]
            if own.empty:
                continue
            wide = wide_along(own, found.frame)
            axis = found.frame.temperature.name
            cells = [facet_title(facet, found.frame.names), f"{axis} = {label}" if axis else ""]
            title = table_title(what, ", ".join(filter(None, cells)))
            texts["md"].append(markdown(wide, title))
            texts["tex"].append(latex(wide, title))
    csv = long_table(table.assign(quantity=name), found.grid.quantities)
    csv = csv.assign(unit_of_at=table["unit_of_at"], at=table["at"])
    return _write_texts(folder / f"{file_stem(name)}-along", csv, texts)


def _write_texts(stem: Path, csv: pd.DataFrame, texts: Mapping[str, Sequence[str]]) -> list[Path]:
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("csv", *texts)]
    csv.to_csv(paths[0], index=False)
    for path, parts in zip(paths[1:], texts.values(), strict=True):
        path.write_text("\n".join(parts), encoding="utf-8")
    return paths


def _write_correlations(found: Findings, folder: Path) -> list[Path]:
    """Write how each quantity correlates over the cells with performance, the first panel's."""
    table = ranked(found.table, seven(found.grid.task)[0])
    table["quantity"] = table["quantity"].map(found.called)
    csv, text = folder / "correlations.csv", folder / "correlations.md"
    table.to_csv(csv, index=False)
    shown = in_words(table).set_index("quantity")
    text.write_text(markdown(shown, RANKED), encoding="utf-8")
    return [csv, text]


RANKED = (
    "Rank correlations over cells: Spearman's rho, Kendall's tau-b, rho given the axes (95% of a"
    " bootstrap over cells)"
)


def _write_labels(found: Findings, folder: Path) -> list[Path]:
    """Write tables of words for every cell: its phase, its niceness, what limits it."""
    paths = []
    for column, heading in LABELS.items():
        texts: dict[str, list[str]] = {"md": [], "tex": []}
        for facet in found.grid.facets():
            cells = found.phases.table[found.phases.table["facet"] == facet]
            wide = text_table(cells, column, found.frame)
            title = ", ".join(filter(None, [heading, facet_title(facet, found.frame.names)]))
            texts["md"].append(markdown(wide, title))
            texts["tex"].append(latex(wide, title))
        for extension, parts in texts.items():
            paths.append(folder / f"{column}.{extension}")
            paths[-1].write_text("\n".join(parts), encoding="utf-8")
    return paths


LABELS = {
    "phase": "phase (undetermined if its probability is too low)",
    "niceness": "(mu, beta): mean CKA and mean mode connectivity, with * if globally nice",
    "limited_by": "what limits a cell",
}
"""Tables of words, in addition to those of numbers."""


def file_stem(name: str) -> str:
    """Return a quantity's name as a file name.

    >>> file_stem("cka[mixup_alpha=0.5]")
    'cka-mixup_alpha-0.5'
    """
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip("-")
