"""Choose the rows of one network for each panel of a figure."""

import pandas as pd

from phasegrid.analysis.draw.panels import cell_heads, headed
from phasegrid.analysis.report.overlays import in_ways
from phasegrid.analysis.report.requested import NotYetError, Tables
from phasegrid.figures.checks import Variants


def rows_of_networks(
    tables: Tables, metric: str, cell: int | None, seed: int | None, variants: Variants
) -> tuple[pd.DataFrame, str, list[str]]:
    """Return the rows of a metric of the networks with this `seed`, or of the first network of each
    way of measuring and cell, in this order, the cells of a temperature one after another; what the
    heads of all panels would share; and a note on each way that is not measured.

    The columns ``row`` and ``column`` are the places of temperature and load, ``line`` names the
    way, ``place`` the cell, and ``head`` the cell, and the way if there are several.

    Raises:
        NotYetError: if none is measured.
    """
    if metric not in tables.rows:
        raise NotYetError(f"{metric} is not measured yet")
    grid, measured = tables.found.grid, tables.rows[metric]
    if cell is not None:
        measured = measured[measured["cell"] == cell]
    if seed is not None:
        measured = measured[(measured["seed_a"] == seed) | measured["seed_a"].isna()]
    if measured.empty:
        raise NotYetError(f"{metric} of such networks is not measured yet")
    chosen, ways, notes = in_ways(grid, metric, measured, variants)
    chosen = chosen.assign(order=chosen["line"].map(ways.index))
    frame = tables.found.frame
    chosen = chosen.assign(
        column=chosen["load_label"].map(list(frame.load.labels).index),
        row=chosen["temperature_label"].map(list(frame.temperature.labels).index),
    )
    by = ["order", "facet", "row", "column", "seed_a", "key"]
    chosen = chosen.sort_values(by, kind="stable")
    first = chosen.groupby(["cell", "order"], sort=False)["key"].transform("first")
    chosen = chosen[chosen["key"] == first]
    heads = cell_heads(grid.cells, frame)
    called = {way: way * (len(ways) > 1) for way in ways}
    rows, shared = headed(chosen, heads, called)
    places, _ = headed(chosen, heads, dict.fromkeys(ways, ""))
    chosen = chosen.assign(
        head=[row["head"] for row in rows], place=[row["head"] for row in places]
    )
    return chosen, shared, notes
