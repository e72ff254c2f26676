"""Figures of fields over two inputs: they hold what was measured."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure

from phasegrid import load_sweep
from phasegrid.analysis.draw.fields import field_maps
from phasegrid.errors import SweepError

X, Y = [-1.0, 0.0, 1.0, 2.0], [0.0, 1.0, 2.0]


def row(cell: int = 0, **changed: object) -> dict[str, Any]:
    """Two networks, one of which is the other turned round."""
    field = [[(x + 1) / 3 for x in X] for _ in Y]
    return {
        "cell": cell,
        "line": "",
        "head": f"width {cell + 1}",
        "axis": np.array(X),
        "axis_2": np.array(Y),
        "field": [[0.5] * 4] * 3,
        "sample_fields": [np.ravel(field), 1 - np.ravel(field)],
        "train_x": [0.0, 1.0, 1.5],
        "train_y": [0.0, 2.0, 1.0],
        "train_labels": [0.0, 1.0, 1.0],
        "label": 1,
        "num_networks": 100,
        "roughness": 0.25,
        "sample_roughness": 1.5,
        **changed,
    }


def maps(figure: Figure) -> list[Axes]:
    return [ax for ax in figure.axes if ax.get_xlabel() == "input 1"]


def titles(ax: Axes) -> str:
    return ax.get_title(loc="left") + " ".join(text.get_text() for text in ax.texts)


def test_each_network_has_a_panel_and_the_mean_the_last() -> None:
    figure = field_maps(pd.DataFrame([row(0), row(1)]), most=6)
    found = maps(figure)
    assert len(found) == 6
    for ax, name in zip(found, ("network 1", "network 2", "mean of 100") * 2, strict=True):
        assert name in titles(ax)
    assert [ax.get_ylabel() for ax in found[::3]] == ["width 1\ninput 2", "width 2\ninput 2"]
    assert "roughness 0.25, of one 1.5" in titles(found[2])


def test_measurements_of_fewer_networks_have_fewer_panels() -> None:
    fields = row()["sample_fields"]
    figure = field_maps(pd.DataFrame([row(0), row(1, sample_fields=[*fields, *fields])]), most=6)
    assert len(maps(figure)) == 3 + 5
    assert figure.axes[-1].get_ylabel() == "probability of class 1"


def test_the_border_is_where_the_probability_is_one_half() -> None:
    first, second, mean = maps(field_maps(pd.DataFrame([row()]), most=6))
    for ax in (first, second):
        *_, line = [item for item in ax.collections if isinstance(item, QuadContourSet)]
        (path,) = line.get_paths()
        np.testing.assert_allclose(path.vertices[:, 0], 0.5)
    assert len([item for item in mean.collections if isinstance(item, QuadContourSet)]) == 1


def test_training_points_lie_on_every_panel_by_class() -> None:
    figure = field_maps(pd.DataFrame([row()]), most=6)
    for ax in maps(figure):
        zero, one = ax.get_lines()
        assert (list(zero.get_xdata()), list(zero.get_ydata())) == ([0.0], [0.0])
        assert (list(one.get_xdata()), list(one.get_ydata())) == ([1.0, 1.5], [2.0, 1.0])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "training point of class 0",
        "training point of class 1",
    ]


def test_of_many_measurements_some_are_drawn_and_that_is_said() -> None:
    figure = field_maps(pd.DataFrame([row(cell) for cell in range(5)]), most=2, title="mine")
    assert len(maps(figure)) == 6
    heading = " ".join(text.get_text() for text in figure.texts)
    assert "mine" in (figure.get_suptitle() + heading)
    assert "2 measurements of 5" in (figure.get_suptitle() + heading)


SWEEP = """
schema: 1
name: mine
dataset: {name: %s}
model: {name: mlp}
train: {epochs: 1, batch_size: 4}
load: {param: model.width, values: [2]}
seeds: 2
metrics: [%s]
figures:
  - fields: {name: answers}
"""


@pytest.mark.parametrize(
    ("data", "metric", "message"),
    [
        (
            "digits",
            "decision",
            r"metrics.0.decision: one input has the shape \(1, 8, 8\); decision",
        ),
        ("two_spirals", "decision: {label: 2}", r"label: found 2; allowed: 0 to 1"),
        ("two_spirals", "decision: {points: 9}", r"points: found 9"),
        ("two_spirals", "accuracy", "decision"),
    ],
)
def test_a_sweep_that_cannot_have_them_is_refused(
    tmp_path: Any, data: str, metric: str, message: str
) -> None:
    (tmp_path / "mine.yaml").write_text(SWEEP % (data, metric))
    with pytest.raises(SweepError, match=message):
        load_sweep(tmp_path / "mine.yaml")
