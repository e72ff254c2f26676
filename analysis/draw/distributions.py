"""Draw histograms of stored samples, and spectral densities."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from phasegrid.analysis.draw.diagrams import write_title
from phasegrid.analysis.draw.headed import headed_panels
from phasegrid.analysis.draw.profiles import direction_name

POINTS = 1001
"""Points of a line that is a density."""

SEEN = 0.1
"""The lowest density that is shown, of that at a single eigenvalue far from others."""

Floats = NDArray[np.float64]


def histogram_panels(
    rows: pd.DataFrame,
    label: str,
    *,
    bins: int,
    most: int,
    columns: int | None = None,
    title: str = "",
) -> Figure:
    """Draw a panel for each ``head``, with a histogram of the ``samples`` of each row in it, named
    by its ``label``, and the Gaussian with its ``mean`` and ``deviation``, if there is one.
    """
    labels = list(dict.fromkeys(rows["label"]))
    colours = _colours(len(labels))
    handles: list[Patch | Line2D] = [
        Patch(color=colours[i], alpha=0.55, label=direction_name(name))
        for i, name in enumerate(labels)
        if name
    ]
    if rows["deviation"].notna().any():
        handles.append(Line2D([], [], color="black", linewidth=1, label="theory"))
    return headed_panels(
        list(dict.fromkeys(rows["head"])),
        lambda ax, head: histogram_axes(ax, rows[rows["head"] == head], labels, label, bins, head),
        handles,
        most=most,
        columns=columns,
        title=title,
    )


def histogram_axes(
    ax: Axes, rows: pd.DataFrame, labels: list[str], label: str, bins: int, head: str = ""
) -> Axes:
    """Draw the histograms of some rows, with common bins; the colour of each is that of its place
    in `labels`.
    """
    colours = _colours(len(labels))
    samples = [np.array(one, dtype=float) for one in rows["samples"]]
    finite = [one[np.isfinite(one)] for one in samples]
    edges = np.histogram_bin_edges(np.concatenate(finite), bins)
    for own, row in zip(finite, rows.to_dict("records"), strict=True):
        colour = colours[labels.index(str(row["label"]))]
        ax.hist(own, bins=edges.tolist(), color=colour, alpha=0.55)
        if pd.notna(row["mean"]) and pd.notna(row["deviation"]):
            x, share = np.linspace(edges[0], edges[-1], POINTS), len(own) * (edges[1] - edges[0])
            ax.plot(x, share * _gaussian(x, row["mean"], row["deviation"]), color="black")
    ax.locator_params(axis="x", nbins=4)
    ax.ticklabel_format(axis="x", scilimits=(-2, 4))
    ax.set_xlabel(label, labelpad=9)  # beside the power of ten of the ticks
    ax.set_ylabel("draws")
    write_title(ax, head, "")
    return ax


def density_panels(
    rows: pd.DataFrame,
    *,
    smoothing: float,
    most: int,
    columns: int | None = None,
    title: str = "",
) -> Figure:
    """Draw a panel for each ``place``, with the density of each row of ``hessian`` in it."""
    ways = list(dict.fromkeys(rows["line"]))
    colours = _colours(len(ways))
    alone = rows["place"].nunique() == 1
    handles = [
        Line2D([], [], color=colours[i], label=_way(rows[rows["line"] == way], alone))
        for i, way in enumerate(ways)
    ]
    return headed_panels(
        list(dict.fromkeys(rows["place"])),
        lambda ax, place: density_axes(ax, rows[rows["place"] == place], ways, smoothing, place),
        handles,
        most=most,
        columns=columns,
        title=title,
    )


def density_axes(
    ax: Axes, rows: pd.DataFrame, ways: list[str], smoothing: float, head: str = ""
) -> Axes:
    """Draw smoothed spectral densities on a log scale, from a tenth of a single eigenvalue's up."""
    nodes = [np.array(one, dtype=float) for one in rows["density_nodes"]]
    low, high = min(one.min() for one in nodes), max(one.max() for one in nodes)
    width = smoothing * max(high - low, np.finfo(float).tiny)
    x, highest = np.linspace(low - 5 * width, high + 5 * width, POINTS), 0.0
    for own, row in zip(nodes, rows.to_dict("records"), strict=True):
        y = smoothed(x, own, np.array(row["density_weights"], dtype=float), width)
        place = ways.index(str(row["line"]))
        ax.plot(x, y, color=_colours(len(ways))[place], linewidth=1.1)
        highest = max(highest, float(y.max()))
    single = _gaussian(np.zeros(1), 0.0, width)[0] / float(rows["num_parameters"].max())
    ax.set_yscale("log")
    ax.set_ylim(SEEN * single, 2 * highest)
    ax.set_xlabel("eigenvalue of the Hessian")
    ax.set_ylabel("density")
    write_title(ax, head, _lowest(rows) if head else "")
    return ax


def smoothed(x: Floats, nodes: Floats, weights: Floats, width: float) -> Floats:
    """Return sum_i weights_i N(x; nodes_i, width^2) for `x` (n,)."""
    found: Floats = _gaussian(x[:, None], nodes, width) @ weights
    return found


def _gaussian(x: Floats, mean: Floats | float, deviation: float) -> Floats:
    z = (x - mean) / deviation
    found: Floats = np.exp(-z * z / 2) / (deviation * np.sqrt(2 * np.pi))
    return found


def _way(rows: pd.DataFrame, alone: bool) -> str:
    way = str(rows["line"].iloc[0])
    return f"{way} {_lowest(rows)}" if alone else way


def _lowest(rows: pd.DataFrame) -> str:
    """Name the smallest eigenvalues in brackets."""
    return "[" + ", ".join(f"{value:.2g}" for value in rows["lambda_min"]) + "]"


def _colours(num: int) -> Floats:
    found: Floats = colormaps["viridis"](np.linspace(0.0, 0.85, max(num, 1)))
    return found
