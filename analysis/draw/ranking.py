"""Draw a ranking of quantities from a table of rank correlations."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phasegrid.analysis.draw.headings import write_heading
from phasegrid.texts import counted

MARKS = {
    "spearman": ("Spearman's ρ", "o", "#17606e"),
    "kendall": ("Kendall's τ", "s", "#c0643a"),
    "partial": ("ρ given the axes", "D", "#6f6a7d"),
}
"""The name, the mark and the colour of each statistic."""

APART = 0.26  # rows between the marks of a quantity


def ranking_figure(
    table: pd.DataFrame, labels: Sequence[str], target: str, *, title: str = ""
) -> Figure:
    """Draw the rows of `rank_correlations`, one of `labels` each, the first at the top."""
    figure = Figure(figsize=(6.2, 1.3 + 0.42 * len(table)), layout="constrained")
    ax = ranking_axes(figure.subplots(), table, labels)
    ax.set_xlabel(f"rank correlation with {target}\n({_cells(table)}; bars: 95% of a bootstrap)")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=len(MARKS))
    write_heading(figure, title)
    return figure


def ranking_axes(ax: Axes, table: pd.DataFrame, labels: Sequence[str]) -> Axes:
    """Draw the correlations of each quantity in a row, with intervals."""
    rows = np.arange(len(table))
    for place, (name, (called, mark, colour)) in enumerate(MARKS.items()):
        value, low, high = (table[f"{name}{end}"].to_numpy() for end in ("", "_low", "_high"))
        ax.errorbar(
            value,
            rows + APART * (place - 1),
            xerr=np.clip([value - low, high - value], 0, None),
            fmt=mark,
            color=colour,
            label=called,
            markersize=3.6,
            linewidth=1.0,
        )
    ax.axvline(0, color="black", linewidth=0.6)
    ax.set_yticks(rows, labels)
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.set_xlim(-1.04, 1.04)
    ax.grid(axis="x", linewidth=0.3, alpha=0.6)
    return ax


def _cells(table: pd.DataFrame) -> str:
    least, most = int(table["n_cells"].min()), int(table["n_cells"].max())
    return counted(most, "cell") if least == most else f"{least} to {most} cells"
