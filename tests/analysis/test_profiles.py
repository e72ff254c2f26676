"""Lines through networks, drawn."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from phasegrid.analysis.draw.profiles import (
    Profile,
    direction_name,
    profile_panels,
    shapes_in_words,
)

LOSS = Profile("train_loss", "training loss (nats)")


def line(head: str, direction: str, **columns: Any) -> dict[str, Any]:
    axis = np.array([-1.0, 0.0, 1.0])
    usual = {"axis": axis, "train_loss": axis**2, "shape": "v-basin", "num_stationary_points": 1}
    patches = {f"patch_{name}": None for name in ("t", "loss", "slope", "curvature")}
    return {"head": head, "direction": direction, "num_classes": 10, **usual, **patches, **columns}


def test_each_network_has_a_panel_and_each_direction_a_line() -> None:
    rows = [line(head, name) for head in ("a", "b") for name in ("gaussian_0", "to_1")]
    figure = profile_panels(pd.DataFrame(rows), LOSS, most=9)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["a", "b"]
    for ax in figure.axes:
        curves = [one for one in ax.lines if len(one.get_xdata()) == 3]  # type: ignore[arg-type]
        assert len(curves) == 2
        marks = {one.get_xdata()[0] for one in ax.lines if len(one.get_xdata()) == 2}  # type: ignore[arg-type,index]
        assert marks == {0.0, 1.0}, "the network, and the one that the line leads to"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "Gaussian 0",
        "to network 1",
    ]


def test_a_guess_is_a_dotted_line_at_the_log_of_the_classes() -> None:
    what = Profile("train_loss", "training loss", guess=True)
    (ax,) = profile_panels(pd.DataFrame([line("a", "weights")]), what, most=9).axes
    heights = [one.get_ydata()[0] for one in ax.lines if len(one.get_ydata()) == 2]  # type: ignore[arg-type,index]
    assert np.log(10) in heights


def test_patches_are_the_parabolas_of_their_numbers() -> None:
    patches = {
        "patch_t": [0.5],
        "patch_loss": [2.0],
        "patch_slope": [3.0],
        "patch_curvature": [4.0],
    }
    what = Profile("train_loss", "training loss", patches=True)
    (ax,) = profile_panels(pd.DataFrame([line("a", "to_1", **patches)]), what, most=9).axes
    x, y = next(one.get_data() for one in ax.lines if len(one.get_xdata()) > 3)  # type: ignore[arg-type]
    step = np.asarray(x) - 0.5
    np.testing.assert_allclose(y, 2.0 + 3.0 * step + 2.0 * step**2)
    assert np.abs(step).max() == pytest.approx(0.05)


def test_of_many_panels_some_are_drawn_and_the_head_says_so() -> None:
    rows = [line(str(number), "weights") for number in range(9)]
    figure = profile_panels(pd.DataFrame(rows), LOSS, most=4, title="all")
    assert len(figure.axes) == 4
    assert "4 panels of 9" in figure.get_suptitle()


def test_shapes_stand_with_their_mean_number_of_stationary_points() -> None:
    rows = [line("a", "gaussian_0"), line("a", "gaussian_1", num_stationary_points=2)]
    assert shapes_in_words(pd.DataFrame(rows)) == "2 v-basin [1.5]"
    lost = line("a", "to_1", shape=None, num_stationary_points=None)
    assert shapes_in_words(pd.DataFrame([*rows[:1], lost])) == "1 v-basin, 1 not finite [1]"


@pytest.mark.parametrize(
    ("direction", "name"),
    [
        ("gradient", "negative gradient"),
        ("negative_3", "N.E. 3"),
        ("vvv_basin", "mined (vvv-basin)"),
    ],
)
def test_directions_have_names_for_readers(direction: str, name: str) -> None:
    assert direction_name(direction) == name
