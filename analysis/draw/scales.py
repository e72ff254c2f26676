"""Make the two axes of a diagram: positions, cell edges, tick labels and direction follow from the
values and the path.

The load grows to the right and the temperature upward. A smaller batch is hotter, so that axis is
inverted; a larger learning rate or weight decay is hotter. (Yang et al. 2021, section 3.) Data with
less noise are further to the right.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

Spacing = Literal["linear", "log", "ordinal"]

NAMES: dict[str, str] = {
    "model.width": "width",
    "model.depth": "depth",
    "train.batch_size": "batch size",
    "train.lr": "learning rate",
    "train.weight_decay": "weight decay",
    "train.momentum": "momentum",
    "train.epochs": "epochs",
    "train.schedule.name": "schedule",
    "dataset.fraction": "fraction of the training set",
    "dataset.label_noise": "label noise",
    "dataset.image_noise": "image noise (pixel units)",
}
DECLARED: dict[str, Spacing] = {"model.width": "log", "train.batch_size": "log"}
"""Spacings that hold even if the values do not span a decade."""
HOTTER_WHEN_SMALLER = frozenset({"train.batch_size"})
BETTER_WHEN_SMALLER = frozenset({"dataset.label_noise", "dataset.image_noise"})
"""Loads of which less is better: less noise means better data, so it is further to the right, as in
Figure 21 of Yang et al. 2021 (appendix D.6: "from the right to the left (meaning adding more
noise)") and in Figure 8, which they call analogous.
"""

LOG_SPAN = 10.0
THINNEST_CELL = 1 / 60


@dataclass(frozen=True, slots=True)
class GridAxis:
    """One axis: the `labels` of the cells, their `centres`, the `edges` at which they meet (one
    more than cells), and how they are spaced.

    Centres are in ascending order of position. `inverted`: the position grows against the direction
    of drawing.
    """

    name: str
    labels: tuple[str, ...]
    centres: tuple[float, ...]
    edges: tuple[float, ...]
    spacing: Spacing
    inverted: bool = False

    def index(self, label: str) -> int:
        """Return the index of a label on the axis."""
        return self.labels.index(label)

    def drawn_labels(self) -> tuple[str, ...]:
        """Return the labels in the direction of drawing: from left to right, or from bottom to
        top.
        """
        return self.labels[::-1] if self.inverted else self.labels

    def at(self, index: float) -> float:
        """Return the position of a fractional index: 0 is the first centre, 0.5 halfway to the
        second.
        """
        grid = np.arange(len(self.centres))
        if self.spacing == "log":
            return float(np.exp(np.interp(index, grid, np.log(self.centres))))
        return float(np.interp(index, grid, self.centres))

    def fraction(self, position: float) -> float:
        """Return how far along the drawn axis a position lies, 0 at its start and 1 at its end."""
        scale = math.log if self.spacing == "log" else float
        low, high = scale(self.edges[0]), scale(self.edges[-1])
        share = (scale(position) - low) / (high - low)
        return 1 - share if self.inverted else share


@dataclass(frozen=True, slots=True)
class Frame:
    """The two axes that all panels of a figure share, and the sweep's `names` for facets, by their
    paths.
    """

    load: GridAxis
    temperature: GridAxis
    names: Mapping[str, str] = field(default_factory=dict)


def make_frame(
    cells: pd.DataFrame,
    load_path: str | None,
    temperature_path: str | None,
    names: Mapping[str, str] | None = None,
) -> Frame:
    """Return the axes of a table of cells (columns load, load_label, temperature,
    temperature_label).

    `names` maps paths to names that replace the usual ones.
    """
    load, temperature = list(cells["load"]), list(cells["temperature"])
    return Frame(
        make_axis(load_path, load, list(cells["load_label"]), names=names),
        make_axis(
            temperature_path, temperature, list(cells["temperature_label"]), hot=True, names=names
        ),
        names or {},
    )


def make_axis(
    path: str | None,
    values: Sequence[float],
    labels: Sequence[str],
    *,
    hot: bool = False,
    spacing: Spacing | None = None,
    names: Mapping[str, str] | None = None,
) -> GridAxis:
    """Return the axis of the distinct `labels` with their `values` (NaN where they are not
    numbers).

    The spacing, unless given, is ordinal if a value is not a number; logarithmic if this is
    declared for the path, or if all values are positive and span more than a factor 10; linear
    otherwise, but ordinal if a cell would be thinner than 1/60 of the axis (0, 1e-5, .., 1e-2).
    Ordinal axes keep the order of the plan. `hot`: this is the temperature.
    """
    table = pd.DataFrame({"label": list(labels), "value": list(values)}).drop_duplicates("label")
    numeric = bool(table["value"].notna().all())
    if numeric:
        table = table.sort_values("value")
    numbers = [float(value) for value in table["value"]]
    chosen = spacing or (_spacing(path, numbers) if numeric else "ordinal")
    centres = [float(i) for i in range(len(numbers))] if chosen == "ordinal" else numbers
    return GridAxis(
        name=axis_name(path, names),
        labels=tuple(str(label) for label in table["label"]),
        centres=tuple(centres),
        edges=cell_edges(centres, chosen),
        spacing=chosen,
        inverted=numeric and path in (HOTTER_WHEN_SMALLER if hot else BETTER_WHEN_SMALLER),
    )


def axis_name(path: str | None, names: Mapping[str, str] | None = None) -> str:
    """Return the name of an axis: that of the sweep (`names`), its declared name, or the last part
    of the path in words.

    >>> axis_name("train.stop.patience")
    'patience'
    >>> axis_name("stages.settle.lr")
    'learning rate (stage settle)'
    >>> axis_name("metrics.simplex.volume_lambda")
    'volume lambda (simplex)'
    """
    if path is None:
        return ""
    if names and path in names:
        return names[path]
    if path.startswith("stages."):
        _, stage, inner = path.split(".", 2)
        return f"{axis_name('train.' + inner)} (stage {stage})"
    if path.startswith("metrics."):
        name, _, argument = path.removeprefix("metrics.").rpartition(".")
        return f"{argument.replace('_', ' ')} ({name.rpartition(':')[2]})"
    return NAMES.get(path, path.rsplit(".", 1)[-1].replace("_", " "))


def cell_edges(centres: Sequence[float], spacing: Spacing) -> tuple[float, ...]:
    """Return the edges of cells around ascending centres: geometric midpoints on a log axis,
    arithmetic otherwise.

    The outer cells are as wide outward as inward. A single cell spans a factor 2 or, on a linear
    axis, 1 (twice its value if rounding would lose the 1).

    >>> cell_edges([1, 2, 4], "linear")
    (0.5, 1.5, 3.0, 5.0)
    """
    points = np.log(centres) if spacing == "log" else np.asarray(centres, dtype=float)
    if len(points) == 1:
        half = math.log(2) / 2 if spacing == "log" else 0.5
        half = half if points[0] + half > points[0] - half else abs(points[0]) / 2
        edges = np.array([points[0] - half, points[0] + half])
    else:
        middles = (points[:-1] + points[1:]) / 2
        edges = np.concatenate(
            [[2 * points[0] - middles[0]], middles, [2 * points[-1] - middles[-1]]]
        )
    return tuple(float(edge) for edge in (np.exp(edges) if spacing == "log" else edges))


def thinned(axis: GridAxis, gaps: Sequence[float]) -> list[int]:
    """Return the indices of the ticks that get a label, so that labels do not touch.

    `gaps[i]` is the room, as a fraction of the axis, that label i needs. The first tick always has
    a label; of the others, those that have room, and the last has priority over its neighbour.
    """
    places = [axis.fraction(centre) for centre in axis.centres]
    kept = [0]
    last = len(places) - 1
    for i in range(1, last + 1):
        if abs(places[i] - places[kept[-1]]) >= (gaps[i] + gaps[kept[-1]]) / 2:
            kept.append(i)
    if kept[-1] != last:
        kept = [*kept[:-1], last] if len(kept) > 1 else kept
    return kept


def _spacing(path: str | None, numbers: Sequence[float]) -> Spacing:
    low, high = min(numbers), max(numbers)
    if low > 0 and (DECLARED.get(path or "") == "log" or high > LOG_SPAN * low):
        return "log"
    if len(numbers) > 1 and min(np.diff(numbers)) < THINNEST_CELL * (high - low):
        return "ordinal"
    return "linear"
