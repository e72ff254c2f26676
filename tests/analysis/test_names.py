"""Names beside points can be read: they cover neither each other nor a point, and stay inside."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from phasegrid.analysis.draw.names import lay_out, write_names


def drawn(places: list[list[float]], texts: list[str]) -> tuple[Figure, list[Annotation]]:
    """Return a figure of two inches with names beside some places."""
    figure = Figure(figsize=(2.6, 2.4), layout="constrained")
    ax = figure.subplots()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    lay_out(figure)
    write_names(ax, np.array(places), texts)
    figure.draw_without_rendering()
    return figure, [text for text in ax.texts if isinstance(text, Annotation)]


def boxes(names: list[Annotation]) -> list[Bbox]:
    """Return the boxes of texts, without the lines to their points."""
    return [Text.get_window_extent(name) for name in names]


@pytest.mark.parametrize("spread", [0.4, 0.02, 0.0], ids=["apart", "close", "one place"])
def test_names_cover_neither_each_other_nor_a_point(spread: float) -> None:
    places = 0.5 + spread * np.random.default_rng(0).uniform(-1, 1, (7, 2))
    figure, names = drawn(places.tolist(), [f"θ{n} ({n}.5 off)" for n in range(7)])
    (ax,) = figure.axes
    for one, other in combinations(boxes(names), 2):
        shared = Bbox.intersection(one, other)
        assert shared is None or shared.width * shared.height < 0.02 * one.width * one.height
    points = ax.transData.transform(places)
    for box in boxes(names):
        assert not any(box.padded(-1).contains(*point) for point in points)
    assert len(names) == 7, "no name is left out"


def test_a_name_stays_inside_the_frame() -> None:
    figure, names = drawn([[0, 0], [1, 0], [0, 1], [1, 1]], ["seed 10", "seed 11", "seed 12", "w"])
    frame = figure.axes[0].get_window_extent()
    for box in boxes(names):
        assert frame.padded(2).contains(box.x0, box.y0)
        assert frame.padded(2).contains(box.x1, box.y1)


def test_only_a_name_that_is_not_next_to_its_point_is_joined_to_it() -> None:
    _, alone = drawn([[0.5, 0.5]], ["w"])
    assert alone[0].arrow_patch is None
    _, many = drawn([[0.5, 0.5]] * 12, [f"seed {n} (3 off)" for n in range(12)])
    assert many[0].arrow_patch is None
    assert many[-1].arrow_patch is not None
