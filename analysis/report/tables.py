"""Make tables of every quantity: long and wide, as CSV, Markdown and LaTeX. They are returned as
text; nothing is written here.
"""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd

from phasegrid.analysis.draw.scales import Frame, GridAxis
from phasegrid.analysis.tables.quantities import QUANTITIES, Quantity, quantity

LONG_COLUMNS = (
    "quantity",
    "unit",
    "facet",
    "load_label",
    "temperature_label",
    "value",
    "stderr",
    "n",
    "n_pairs",
    "n_planned",
    "n_diverged",
    "n_collapsed",
    "not_trained",
    "status",
    "n_failed",
    "n_blocked",
    "error",
)
DASH = "–"
DAGGER = "†"


def long_table(table: pd.DataFrame, known: Mapping[str, Quantity] = QUANTITIES) -> pd.DataFrame:
    """Return one row per quantity and cell with full precision, for spreadsheets and tests. `known`
    are the declared quantities.
    """
    units = {name: quantity(str(name), known).unit for name in table["quantity"].unique()}
    return table.assign(unit=table["quantity"].map(units))[list(LONG_COLUMNS)]


def wide_table(table: pd.DataFrame, frame: Frame) -> pd.DataFrame:
    """Return one quantity of one facet as text, a row per temperature (the hottest first) and a
    column per load.

    A cell reads ``81.40 ± 0.21 (5)``: mean, standard error, seeds; or, without a number, its status
    (``missing``, ``diverged``, ``negative``, ``zero``, ``failed (2)`` with the number of jobs).
    """
    rows, columns = _hottest_first(frame.temperature), list(frame.load.drawn_labels())
    wide = pd.DataFrame(
        DASH, index=pd.Index(rows, name=_corner(frame)), columns=columns, dtype=object
    )
    for cell in table.to_dict("records"):
        place = str(cell["temperature_label"]), str(cell["load_label"])
        wide.loc[place] = _cell_text(cell)
    return wide


def wide_along(table: pd.DataFrame, frame: Frame) -> pd.DataFrame:
    """Return one quantity along trainings, of one facet and temperature, as text: a row for each
    place (``unit_of_at``, ``at``) in the order of time, a column for each load, as in `wide_table`.
    """
    places = list(dict.fromkeys(zip(table["unit_of_at"], table["at"], strict=True)))
    rows = [f"{unit} {at}" for unit, at in sorted(places)]
    columns = list(frame.load.drawn_labels())
    head = f"along trainings \\ {frame.load.name}" if frame.load.name else "along trainings"
    wide = pd.DataFrame(DASH, index=pd.Index(rows, name=head), columns=columns, dtype=object)
    for cell in table.to_dict("records"):
        wide.loc[f"{cell['unit_of_at']} {cell['at']}", str(cell["load_label"])] = _cell_text(cell)
    return wide


def text_table(cells: pd.DataFrame, column: str, frame: Frame) -> pd.DataFrame:
    """Return a column of the phase table of one facet in the layout of `wide_table`, with a dash
    for missing entries.

    The column ``niceness`` combines mu and beta, with a star if globally nice: ``0.81, -0.3 *``.
    """
    rows, columns = _hottest_first(frame.temperature), list(frame.load.drawn_labels())
    wide = pd.DataFrame(
        DASH, index=pd.Index(rows, name=_corner(frame)), columns=columns, dtype=object
    )
    for cell in cells.to_dict("records"):
        text = _niceness(cell) if column == "niceness" else cell[column]
        if isinstance(text, str):
            wide.loc[str(cell["temperature_label"]), str(cell["load_label"])] = text
    return wide


def format_cell(value: float, stderr: float, n: int) -> str:
    """Write mean ± standard error (n), to two significant digits of the error; without an error, to
    three of the mean, or as a whole number if it is one.

    >>> format_cell(81.3951, 0.2144, 5), format_cell(-0.3302, float("nan"), 2)
    ('81.40 ± 0.21 (5)', '-0.330 (2)')
    """
    if not np.isfinite(stderr):
        return f"{_alone(value)} ({n})"
    if stderr == 0:
        return f"{_alone(value)} ± 0 ({n})"
    digits = max(0, 1 - int(np.floor(np.log10(stderr))))
    if digits > 6:
        return f"{value:.4g} ± {stderr:.2g} ({n})"
    return f"{value:.{digits}f} ± {stderr:.{digits}f} ({n})"


def _alone(value: float) -> str:
    """Write a number without an error."""
    if not np.isfinite(value) or (value.is_integer() and abs(value) < 1e6):
        return f"{value:.0f}"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:.{max(0, 2 - int(np.floor(np.log10(abs(value)))))}f}"


def markdown(wide: pd.DataFrame, title: str) -> str:
    """Return a wide table as a Markdown table under its title."""
    head = [str(wide.index.name or ""), *map(str, wide.columns)]
    body = [
        [str(label), *map(str, row)] for label, row in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    lines = [head, ["---", *["---:"] * len(wide.columns)], *body]
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return f"### {title}\n\n" + "\n".join(rows) + "\n"


def latex(wide: pd.DataFrame, title: str) -> str:
    """Return a wide table as a LaTeX ``table`` (packages: booktabs)."""
    head = [_tex(str(wide.index.name or "")), *(_tex(str(column)) for column in wide.columns)]
    body = [
        " & ".join([_tex(str(label)), *(_tex(str(cell)) for cell in row)]) + r" \\"
        for label, row in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(title)}}}",
            rf"\begin{{tabular}}{{l{'r' * len(wide.columns)}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def table_title(what: Quantity, facet: str) -> str:
    """Return the heading of a table: the quantity in words, its unit, the facet, and what a cell
    shows.
    """
    name = what.title().replace(r"$\ell_2$", "L2")
    shown = f"mean ± standard error (seeds), {DAGGER} not trained"
    return f"{name}{', ' + facet if facet else ''}: {shown}"


_TEX: Sequence[tuple[str, str]] = (
    ("\\", r"\textbackslash{}"),
    ("&", r"\&"),
    ("%", r"\%"),
    ("$", r"\$"),
    ("#", r"\#"),
    ("_", r"\_"),
    ("±", r"$\pm$"),
    (DASH, "--"),
    (DAGGER, r"\dag{}"),
)


def _tex(text: str) -> str:
    return "".join(dict(_TEX).get(letter, letter) for letter in text)


def _cell_text(cell: Mapping[Hashable, object]) -> str:
    value, stderr, n = (float(str(cell[name])) for name in ("value", "stderr", "n"))
    text = format_cell(value, stderr, int(n)) if cell["status"] == "done" else _status(cell)
    return f"{text} {DAGGER}" if cell["not_trained"] else text


def _status(cell: Mapping[Hashable, object]) -> str:
    if cell["status"] != "failed":
        return str(cell["status"])
    return f"failed ({int(str(cell['n_failed'])) + int(str(cell['n_blocked']))})"


def _niceness(cell: Mapping[Hashable, object]) -> str | None:
    mu, beta = float(str(cell["mu"])), float(str(cell["beta"]))
    if np.isnan(mu) and np.isnan(beta):
        return None
    known = [DASH if np.isnan(level) else f"{level:.3g}" for level in (mu, beta)]
    return ", ".join(known) + (" *" if cell["globally_nice"] is True else "")


def _hottest_first(axis: GridAxis) -> list[str]:
    return list(axis.drawn_labels()[::-1])


def _corner(frame: Frame) -> str:
    return f"{frame.temperature.name} \\ {frame.load.name}"
