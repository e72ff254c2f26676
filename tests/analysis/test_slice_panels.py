"""Panels of planes along named directions, without pixels."""

from typing import Any

import numpy as np
import pytest
from mpl_toolkits.mplot3d import Axes3D

from phasegrid.analysis.draw.slice_panels import View, slice_panels
from phasegrid.declare import Grid
from phasegrid.figures.slices import SLICES, SliceColumn

AXIS = [-1.0, 0.0, 1.0, 2.0]
LOSS: dict[SliceColumn, str] = {"train_loss": "training loss (nats)"}
BOTH: dict[SliceColumn, str] = {**LOSS, "test_loss": "test loss (nats)"}


def plane(head: str = "", **columns: Any) -> dict[str, Any]:
    loss = [[0.1 + a * a + b * b for a in AXIS] for b in AXIS[:3]]
    usual = {
        "cell": 0,
        "seed_a": 0,
        "args": "{}",
        "head": head,
        "axis": AXIS,
        "axis_2": AXIS[:3],
        "train_loss": loss,
        "test_loss": loss,
        "first": "P.E. 1",
        "second": "to epoch 20",
        "shape": "bottle_bottom",
        "measured_share": 0.25,
        "names": ["epoch 2", "epoch 5", "epoch 20"],
        "points_u": [0.0, 0.5, 0.0],
        "points_v": [0.0, 0.5, 1.0],
        "points_distance": [0.0, 0.9, 0.0],
        "courses": [[0, 1, 2]],
        "num_bends": 0,
    }
    return {**usual, **columns}


@pytest.mark.parametrize("view", ["contour", "surface"])
def test_each_plane_has_a_panel_for_each_column(view: View) -> None:
    figure = slice_panels([plane("a"), plane("b")], BOTH, view=view, most=9)
    panels = [ax for ax in figure.axes if ax.get_title(loc="left")]
    assert [ax.get_title(loc="left") for ax in panels] == ["a", "b", "a", "b"]
    assert {ax.get_xlabel() for ax in panels} == {"P.E. 1"}
    assert {ax.get_ylabel() for ax in panels} == {"to epoch 20"}
    assert [isinstance(ax, Axes3D) for ax in panels] == [view == "surface"] * 4


def test_a_panel_is_headed_by_its_directions_and_its_shape() -> None:
    ax = slice_panels([plane()], LOSS, view="contour", most=9).axes[0]
    assert ax.get_title(loc="left") == "P.E. 1 × to epoch 20"
    written = " ".join(text.get_text() for text in ax.texts)
    assert "bottle bottom, 25% measured" in written.replace("\n", " ")


@pytest.mark.parametrize("view", ["contour", "surface"])
def test_networks_lie_on_a_plane_joined_in_the_order_of_time(view: View) -> None:
    ax = slice_panels([plane()], LOSS, view=view, most=9).axes[0]
    (course,) = [line for line in ax.lines if len(line.get_xdata()) == 3]  # type: ignore[arg-type]
    spot: Any = course.get_data_3d() if hasattr(course, "get_data_3d") else course.get_data()
    np.testing.assert_allclose(np.asarray(spot)[:2], [[0.0, 0.5, 0.0], [0.0, 0.5, 1.0]])
    texts = {text.get_text().strip() for text in ax.texts}
    assert {"epoch 2", "epoch 5 (0.9 off)", "epoch 20"} <= texts


def test_a_surface_is_as_high_as_the_loss_on_the_scale_of_its_colours() -> None:
    ax = slice_panels([plane()], LOSS, view="surface", most=9).axes[0]
    assert isinstance(ax, Axes3D)
    low, high = ax.get_zlim()
    assert low <= np.log10(0.1) < np.log10(5.1) <= high
    assert high < 1.0, "it is the logarithm, as the loss spans more than a factor 10"


def test_of_many_planes_some_are_drawn_and_the_head_says_so() -> None:
    figure = slice_panels([plane(str(n)) for n in range(7)], LOSS, view="contour", most=3)
    assert "3 planes of 7" in figure.get_suptitle()


def test_what_is_for_planes_is_a_mistake_with_lines() -> None:
    assert SLICES.fits is not None
    given = {
        "dimensions": 1,
        "view": "surface",
        "variants": {"a": ""},
        "variant": "b",
        "cell": None,
    }
    found = list(SLICES.fits({**given, "column": ("train_loss",)}, Grid({}, 1)))
    assert [one[0] for one in found] == ["view", "variants", "column", "variant"]
    fine = {**given, "dimensions": 2, "variant": None, "column": "train_loss"}
    assert not list(SLICES.fits(fine, Grid({}, 1)))
