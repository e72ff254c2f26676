"""Figures of complexes hold the vertices, faces and points that were measured."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import proj3d
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from phasegrid.analysis.draw.complexes import Shade, best_view, complex_panels
from phasegrid.analysis.draw.slices import CONTOUR_COLOURS
from phasegrid.analysis.draw.vertices import vertex_text

TRAIN = Shade("train_loss", "training loss (nats)")


def row(cell: int = 0, deep: bool = True, **changed: object) -> dict[str, Any]:
    """Two tetrahedra that share three connectors; or two segments that share one."""
    names = ["w0", "w1", "c0", "c1", "c2"] if deep else ["w0", "w1", "c0"]
    places = np.random.default_rng(cell).normal(size=(len(names), 3))
    coordinates = {f"vertex_{axis}": places[:, n].tolist() for n, axis in enumerate("xyz")}
    return {
        "cell": cell,
        "line": "",
        "head": f"width {cell}",
        "vertex_name": names,
        "simplexes": [[0, 2, 3, 4], [1, 2, 3, 4]] if deep else [[0, 2], [1, 2]],
        "explained_percent": [50.0, 30.0, 10.0] if deep else [70.0, 30.0],
        **coordinates,
        "vertex_train_loss": [0.1 * (n + 1) for n in range(len(names))],
        "sample_x": [0.0, 0.1],
        "sample_y": [0.0, 0.1],
        "sample_z": [0.0, 0.1],
        "sample_train_loss": [0.2, 3.0],
        **changed,
    }


def draw(*rows: dict[str, Any], shades: tuple[Shade, ...] = (TRAIN,), **args: Any) -> Figure:
    figure = complex_panels(pd.DataFrame(list(rows)), shades, **{"most": 6, **args})
    figure.draw_without_rendering()
    return figure


def panels(figure: Figure) -> list[Any]:
    return [ax for ax in figure.axes if ax.get_xlabel().startswith("axis 1")]


def test_a_complex_has_its_vertices_in_space_each_with_its_name() -> None:
    (ax,) = panels(draw(row()))
    texts = {text.get_text(): text for text in ax.texts if text.get_gid() == "name"}
    assert set(texts) == {"w₀", "w₁", "θ₀", "θ₁", "θ₂"}
    place = [row()[f"vertex_{axis}"][4] for axis in "xyz"]
    assert texts["θ₂"].xy == pytest.approx(proj3d.proj_transform(*place, ax.get_proj())[:2])
    assert ax.get_title(loc="left") == "width 0"
    assert "axes hold 50, 30, 10 % of the spread of vertices" in {
        text.get_text() for text in ax.texts
    }


def test_a_complex_on_a_line_is_drawn_on_it() -> None:
    on_line: dict[str, Any] = {"explained_percent": [100.0], "vertex_y": None, "sample_y": None}
    (ax,) = panels(draw(row(deep=False, **on_line)))
    drawn = [one for one in ax.collections if isinstance(one, PathCollection)]
    places = np.concatenate([np.asarray(one.get_offsets()) for one in drawn])
    assert len(places) == 5
    assert not places[:, 1].any()


def test_a_face_that_two_simplexes_share_is_drawn_once() -> None:
    (ax,) = panels(draw(row()))
    faces = [one for one in ax.collections if isinstance(one, Poly3DCollection)]
    assert len(faces[0]._faces) == 7  # four of each, and one of them is shared
    drawn = [one for one in ax.collections if one.get_label() == "edges"]
    assert len(drawn[0]._segments3d) == 9


def test_a_flat_complex_is_drawn_in_the_plane() -> None:
    (ax,) = panels(draw(row(deep=False)))
    assert ax.name == "rectilinear"
    edges = [one for one in ax.collections if isinstance(one, LineCollection)]
    assert len(edges[0].get_segments()) == 2
    assert [len(one.get_paths()) for one in ax.collections if type(one) is PolyCollection] == [0]
    assert "axes hold 70, 30 % of the spread of vertices" in {text.get_text() for text in ax.texts}


def test_colours_are_those_of_the_bar_and_shared_by_all_panels() -> None:
    low, high = row(0), row(1, vertex_train_loss=[0.1, 0.2, 0.3, 0.4, 6.0])
    figure = draw(low, high)
    bar = figure.axes[-1]
    assert bar.get_ylabel() == TRAIN.label
    assert bar.get_ylim() == pytest.approx((0.1, 6.0))
    norm, colours = Normalize(0.1, 6.0), colormaps[CONTOUR_COLOURS]
    for ax, measured in zip(panels(figure), (low, high), strict=True):
        found = {tuple(colour) for colour in ax.collections[-1].get_facecolor()}
        assert found == {tuple(colours(norm(loss))) for loss in measured["vertex_train_loss"][2:]}


def test_points_can_be_left_out_and_then_do_not_count_for_the_colours() -> None:
    figure = draw(row(), points=False)
    assert figure.axes[-1].get_ylim() == pytest.approx((0.1, 0.5))
    counts = [len(one.get_facecolor()) for one in panels(figure)[0].collections[2:]]
    assert counts == [2, 3]


def test_a_vertex_without_a_loss_is_white() -> None:
    (ax,) = panels(draw(row(deep=False, vertex_train_loss=[0.1, None, 0.2])))
    modes = [one for one in ax.collections if isinstance(one, PathCollection)][-2]
    assert modes.get_facecolor()[1].tolist() == [1.0, 1.0, 1.0, 1.0]


def test_each_loss_has_a_row_of_panels_and_its_scale_is_declared() -> None:
    shades = (TRAIN, Shade("test_loss", "test loss (nats)", "log"))
    figure = draw(
        *(row(cell, vertex_test_loss=[1.0] * 5, sample_test_loss=[2.0, 9.0]) for cell in (0, 1)),
        shades=shades,
    )
    assert len(panels(figure)) == 4
    bars = [ax for ax in figure.axes if ax not in panels(figure)]
    assert [bar.get_ylabel() for bar in bars] == ["training loss (nats)", "test loss (nats)"]
    assert [bar.get_yscale() for bar in bars] == ["linear", "log"]


def test_of_too_many_complexes_some_are_drawn_and_the_rest_is_counted() -> None:
    figure = draw(*(row(cell) for cell in range(5)), most=3)
    assert [ax.get_title(loc="left") for ax in panels(figure)] == ["width 0", "width 2", "width 4"]
    assert "3 complexes of 5" in figure.get_suptitle()


def test_the_view_does_not_put_one_vertex_before_another() -> None:
    hidden = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 0.3], [0.0, 3.0, 0.0]])
    elevation, azimuth = np.radians(best_view(hidden))
    ahead = np.array([np.cos(azimuth), np.sin(azimuth)]) * np.cos(elevation)
    sight = np.array([*ahead, np.sin(elevation)])
    edge = hidden[1] - hidden[0]
    assert np.linalg.norm(edge - (edge @ sight) * sight) > 0.8 * np.linalg.norm(edge)


def test_vertices_are_written_as_in_the_papers() -> None:
    assert [vertex_text(name) for name in ("w12", "c0")] == ["w₁₂", "θ₀"]
