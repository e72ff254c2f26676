"""Compute the geometry of a phase map: where phases meet, and where to write their names. Pure."""

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage

from phasegrid.analysis.draw.scales import GridAxis
from phasegrid.analysis.phases.label import PHASES


def borders(table: pd.DataFrame, load: GridAxis, temperature: GridAxis) -> pd.DataFrame:
    """Return the line segments between neighbouring cells of one facet with different labels.

    Columns x0, y0, x1, y1 in the values of the axes, and ``within_iv``: between IV-A and IV-B, a
    "smooth crossover" in the paper, not a transition. A cell without a label has no borders.
    """
    names = label_array(table, load, temperature)
    rows, columns = names.shape
    x, y = load.edges, temperature.edges
    upright = [
        (x[i + 1], y[j], x[i + 1], y[j + 1], names[j, i], names[j, i + 1])
        for j in range(rows)
        for i in range(columns - 1)
    ]
    level = [
        (x[i], y[j + 1], x[i + 1], y[j + 1], names[j, i], names[j + 1, i])
        for j in range(rows - 1)
        for i in range(columns)
    ]
    frame = pd.DataFrame(upright + level, columns=["x0", "y0", "x1", "y1", "one", "other"])
    frame = frame[(frame["one"] != frame["other"]) & (frame["one"] != "") & (frame["other"] != "")]
    both_iv = frame["one"].str.startswith("IV") & frame["other"].str.startswith("IV")
    return frame.assign(within_iv=both_iv).drop(columns=["one", "other"]).reset_index(drop=True)


def centres(table: pd.DataFrame, load: GridAxis, temperature: GridAxis) -> pd.DataFrame:
    """Return where to write each phase's name: the innermost point of its largest connected region
    (4-neighbours).

    Columns phase, x, y (values of the axes), ``cells`` of that region.
    """
    names = label_array(table, load, temperature)
    found = []
    for phase in [phase for phase in PHASES if (names == phase).any()]:
        regions, _ = ndimage.label(names == phase)
        sizes = np.bincount(regions.ravel())[1:]
        region = regions == 1 + int(np.argmax(sizes))
        j, i = _innermost(region)
        found.append((phase, load.at(i), temperature.at(j), int(sizes.max())))
    return pd.DataFrame(found, columns=["phase", "x", "y", "cells"])


def label_array(table: pd.DataFrame, load: GridAxis, temperature: GridAxis) -> npt.NDArray[np.str_]:
    """Return the ``nearest`` labels as an array (temperature, load); an empty text if there is
    none.
    """
    names = np.full((len(temperature.labels), len(load.labels)), "", dtype="<U11")
    for row in table.to_dict("records"):
        if isinstance(row["nearest"], str):
            place = (
                temperature.index(str(row["temperature_label"])),
                load.index(str(row["load_label"])),
            )
            names[place] = row["nearest"]
    return names


def _innermost(region: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Return the point of a region that is farthest from its edge. Of several such points, return
    their mean if it is inside, otherwise the one nearest to the mean.
    """
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    deepest = np.argwhere(depth > depth.max() - 1e-9)
    mean = deepest.mean(axis=0)
    if region[round(mean[0]), round(mean[1])]:
        return float(mean[0]), float(mean[1])
    nearest = deepest[np.argmin(((deepest - mean) ** 2).sum(axis=1))]
    return float(nearest[0]), float(nearest[1])
