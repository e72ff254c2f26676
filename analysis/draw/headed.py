"""Panels with a head each and one legend below."""

import math
from collections.abc import Callable, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phasegrid.analysis.draw.headings import write_heading
from phasegrid.analysis.draw.panels import grid_shape, trim_panels
from phasegrid.analysis.draw.planes import spread_out
from phasegrid.texts import counted

PANEL = (2.35, 1.75)  # inches
ENTRY = 1.6  # inches of an entry of the legend


def headed_panels(
    heads: Sequence[str],
    draw: Callable[[Axes, str], object],
    handles: Sequence[Artist],
    *,
    most: int,
    columns: int | None = None,
    share_y: bool = False,
    title: str = "",
) -> Figure:
    """Draw a panel for each of `heads`; of more than `most` an evenly spread selection, and the
    title then says so.
    """
    shown = [heads[place] for place in spread_out(len(heads), most)]
    down, across = grid_shape(len(shown), 1, columns)
    wide = max(4.2, PANEL[0] * across + 0.4)
    side_by_side = max(1, min(len(handles), int(wide // ENTRY)))
    legend = 0.19 * math.ceil(len(handles) / side_by_side)
    size = (wide, PANEL[1] * down + legend + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharey=share_y)
    for head, ax in zip(shown, axes.flat, strict=False):
        draw(ax, head)
    trim_panels(list(axes.flat), across, len(shown))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=side_by_side)
    left = len(heads) - len(shown)
    more = f"{counted(len(shown), 'panel')} of {len(heads)}" if left else ""
    write_heading(figure, "\n".join(filter(None, [title, more])))
    return figure
