"""Lines that lie on each other are all seen, and each is told from the others in the legend."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from phasegrid.analysis.draw.line_looks import line_look

SHADES = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")


def pixels(num: int, num_points: int, without: int | None) -> np.ndarray:
    """Return the picture of equal lines, one of which is left out."""
    figure = Figure(figsize=(4, 3), dpi=200)
    ax = figure.add_axes((0, 0, 1, 1))
    x = np.linspace(0, 1, num_points)
    for place in range(num):
        if place != without:
            ax.plot(x, x, **line_look(place, num, SHADES[place], num_points))
    ax.set_axis_off()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


@pytest.mark.parametrize("num_points", [8, 200])
@pytest.mark.parametrize("num", [2, 3, 5])
def test_each_of_some_equal_lines_is_seen(num: int, num_points: int) -> None:
    whole = pixels(num, num_points, None)
    for place in range(num):
        change = np.abs(whole - pixels(num, num_points, place)).max(axis=2)
        # 50 of 255 is a difference that an eye sees; a line is about 1000 pixels long at 200 dpi
        assert (change > 50).sum() > 300, f"line {place} of {num}"


def test_lines_differ_in_what_eyes_without_colour_see() -> None:
    looks = [line_look(place, 12, "black") for place in range(12)]
    assert len({look["marker"] for look in looks}) == 12
    widths = [look["linewidth"] for look in looks]
    assert widths == sorted(widths, reverse=True)
    for one, other in pairwise(looks):
        assert one["linestyle"] != other["linestyle"]


def test_lines_through_many_points_have_no_markers() -> None:
    looks = [line_look(place, 5, "black", num) for num in (20, 21) for place in range(5)]
    assert all(look["marker"] for look in looks[:5])
    assert not any(look["marker"] for look in looks[5:])
