"""Draw fields over the plane of two inputs: a row of maps for each measurement, with the training
points.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from phasegrid.analysis.draw.diagrams import write_title
from phasegrid.analysis.draw.headings import write_heading
from phasegrid.analysis.draw.planes import spread_out
from phasegrid.texts import counted

COLOURS = "RdBu_r"
NUM_LEVELS = 21
SIDE = 2.3  # inches of a panel
MARKERS = ("o", "s", "^", "D", "v", "P")
"""Of the points of a class, in order, again from the first after the last."""

Floats = npt.NDArray[np.float64]


def field_maps(rows: pd.DataFrame, *, most: int, title: str = "") -> Figure:
    """Draw the fields of the first measurement of each cell and way of measuring (of more than
    `most`, an evenly spread selection): those of single networks, and last that of all.

    `rows` are those of the metric ``decision``; `head` names a row, `line` its way of measuring.
    All panels share the colours of a probability, 0 to 1; the border at 1/2 is black.

    Raises:
        ValueError: if there is no row.
    """
    first = rows.drop_duplicates(["cell", "line"])
    shown = first.iloc[spread_out(len(first), most)].to_dict("records")
    across = 1 + max(len(row["sample_fields"]) for row in shown)
    figure = Figure(
        figsize=(SIDE * across + 1.0, (SIDE + 0.2) * len(shown) + 0.8), layout="constrained"
    )
    axes = figure.subplots(len(shown), across, squeeze=False)
    labels: set[int] = set()
    for line, row in zip(axes, shown, strict=True):
        labels |= _draw_row(list(line), row)
    marks = [_mark(label, int(shown[0]["label"])) for label in sorted(labels)]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks))
    colours = ScalarMappable(Normalize(0, 1), COLOURS)
    label = f"probability of class {shown[0]['label']:.0f}"
    figure.colorbar(colours, ax=list(figure.axes), label=label, fraction=0.03, pad=0.01)
    counts = counted(len(shown), "measurement")
    counts += f" of {len(first)}" if len(shown) < len(first) else ""
    write_heading(figure, f"{title}\n{counts}" if title else counts)
    return figure


def _mark(label: int, drawn: int) -> Line2D:
    """Return the mark of the training points of a class; those of the class that is `drawn` are
    white.
    """
    return Line2D(
        [],
        [],
        linestyle="",
        markersize=4,
        marker=MARKERS[label % len(MARKERS)],
        markerfacecolor="white" if label == drawn else "black",
        markeredgecolor="black",
        markeredgewidth=0.5,
        label=f"training point of class {label}",
    )


def _draw_row(axes: list[Axes], row: Mapping[Any, Any]) -> set[int]:
    """Draw the maps of a measurement; return the classes of its training points."""
    shape = len(row["axis_2"]), len(row["axis"])
    singles = [np.asarray(one, dtype=float).reshape(shape) for one in row["sample_fields"]]
    of_all = np.asarray([list(line) for line in row["field"]], dtype=float)
    last = len(singles)
    for index, (ax, field) in enumerate(zip(axes, [*singles, of_all], strict=False)):
        _draw(ax, row, field)
        name = f"mean of {row['num_networks']:.0f}" if index == last else f"network {index + 1}"
        write_title(ax, name, _note(row, index == last))
    axes[0].set_ylabel(f"{row['head']}\ninput 2" if row["head"] else "input 2")
    for ax in axes[last + 1 :]:
        ax.remove()
    return {int(label) for label in row["train_labels"]}


def _draw(ax: Axes, row: Mapping[Any, Any], field: Floats) -> None:
    x, y = (np.asarray(row[axis], dtype=float) for axis in ("axis", "axis_2"))
    ax.contourf(x, y, field, np.linspace(0, 1, NUM_LEVELS), cmap=COLOURS, vmin=0, vmax=1)
    if field.min() < 0.5 < field.max():
        ax.contour(x, y, field, [0.5], colors="black", linewidths=0.7)
    labels = np.asarray(row["train_labels"], dtype=int)
    for label in np.unique(labels):
        own, mark = labels == label, _mark(int(label), int(row["label"]))
        mark.set_data(np.asarray(row["train_x"])[own], np.asarray(row["train_y"])[own])
        ax.add_line(mark)
    ax.set_xlim(x[0], x[-1])
    ax.set_ylim(y[0], y[-1])
    ax.set_aspect("equal")
    ax.set_xlabel("input 1")


def _note(row: Mapping[Any, Any], is_of_all: bool) -> str:
    """Say how rough a field is, or how far the single networks differ."""
    if is_of_all:
        return f"roughness {row['roughness']:.2g}, of one {row['sample_roughness']:.2g}"
    return ""
