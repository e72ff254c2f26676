"""Laws of merge trees: wells of known depth, components counted by SciPy, and invariances."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from point_support import cnn, dataset, images, mlp, seeded
from quadratic_support import quadratic
from scipy.ndimage import label
from test_sharpness import measure, vectors

from phasegrid.errors import MetricError
from phasegrid.metrics.merge_tree.tree import minima_of, saddle_minimum_average_distance


def wells(tilt: float = 0.0) -> NDArray[np.float64]:
    """(x^2 - 1)^2 + y^2 + tilt x: two minima near x = -1 and 1, a saddle near 0."""
    x, y = np.meshgrid(np.linspace(-1.5, 1.5, 61), np.linspace(-1, 1, 41))
    surface: NDArray[np.float64] = (x**2 - 1) ** 2 + y**2 + tilt * x
    return surface


def test_two_wells_have_the_height_of_the_saddle_between_them() -> None:
    minima = minima_of(wells())
    assert [m.birth for m in minima] == pytest.approx([0, 0], abs=1e-12)
    assert sorted(m.death for m in minima) == pytest.approx([1, math.inf])
    assert saddle_minimum_average_distance(minima) == pytest.approx(1)


def test_the_lowest_minimum_counts_with_its_own_height() -> None:
    surface = wells(0.3)
    minima = minima_of(surface)
    row = surface[20]
    saddle, low, high = row[20:41].max(), row[:31].min(), row[31:].min()
    assert [m.birth for m in minima] == pytest.approx([low, high])
    expected = ((saddle - low) + (saddle - high)) / 2
    assert saddle_minimum_average_distance(minima) == pytest.approx(expected)


def test_a_minimum_is_measured_to_its_first_saddle_not_to_its_end() -> None:
    """Minima 0, 2, 1 with saddles 3 and 5 between: the one at 1 ends at 5, that at 0 never, and its
    first saddle is at 3.
    """
    minima = minima_of(np.array([[0.0, 3.0, 2.0, 5.0, 1.0]]))
    assert [(m.birth, m.first, m.death) for m in minima] == [(0, 3, math.inf), (1, 5, 5), (2, 3, 3)]
    assert saddle_minimum_average_distance(minima) == pytest.approx((3 + 4 + 1) / 3)


@pytest.mark.parametrize("neighbours", [4, 8])
def test_components_below_every_level_are_those_that_scipy_counts(neighbours: int) -> None:
    grid = np.random.default_rng(0).normal(size=(13, 17))
    minima = minima_of(grid, neighbours)
    structure = np.ones((3, 3)) if neighbours == 8 else None
    assert len(minima) > 10
    for level in np.linspace(grid.min(), grid.max(), 30):
        alive = sum(m.birth <= level < m.death for m in minima)
        assert alive == label(grid <= level, structure)[1]


def test_shifting_moves_and_scaling_stretches_persistence() -> None:
    grid = np.random.default_rng(1).normal(size=(9, 9))
    one, other = minima_of(grid), minima_of(3 * grid + 7)
    assert [3 * m.birth + 7 for m in one] == pytest.approx([m.birth for m in other])
    distance = saddle_minimum_average_distance(one)
    assert saddle_minimum_average_distance(other) == pytest.approx(3 * distance)
    assert saddle_minimum_average_distance(minima_of(grid.T)) == pytest.approx(distance)


def test_plateaus_and_noise_are_no_minima_nor_saddles() -> None:
    assert len(minima_of(np.zeros((5, 5)))) == 1
    noisy = wells() + 1e-7 * np.random.default_rng(2).normal(size=(41, 61))
    assert len(minima_of(noisy, least=1e-5)) == 2
    distance = saddle_minimum_average_distance(minima_of(noisy, least=1e-5))
    assert distance == pytest.approx(1, abs=1e-5)


def test_points_that_are_not_finite_are_not_part_of_the_grid() -> None:
    minima = minima_of(np.array([[0.0, math.nan, 1.0, 2.0, 1.5]]))
    assert [(m.birth, m.death) for m in minima] == [(0, math.inf), (1, math.inf), (1.5, 2)]


def test_a_quadratic_loss_has_one_minimum() -> None:
    q = quadratic()
    row = measure("merge_tree", q.module, q.data, points=11)
    assert (row["smad"], row["num_minima"], row["total_persistence"]) == (0, 1, 0)
    values = torch.linalg.eigvalsh(q.H)
    assert row["eigenvalues"][0] == pytest.approx(float(values[-1]), rel=1e-6)
    assert row["train_loss"][5][5] == pytest.approx(q.loss) == pytest.approx(row["loss"])


def test_a_network_is_measured_on_a_grid_of_its_own_losses() -> None:
    module, data = seeded(cnn), dataset(*images(9))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    args: dict[str, Any] = {"points": 9, "radius": 2.0, "batch_norm": "refreshed"}
    row = measure("merge_tree", module, data, **args)
    assert row["batch_norm"] == "refreshed"
    grid = np.array(row["train_loss"])
    assert grid[4, 4] == pytest.approx(row["loss"], rel=1e-9)
    minima = minima_of(grid, 4, 1e-5 * (grid.max() - grid.min()))
    assert row["smad"] == pytest.approx(saddle_minimum_average_distance(minima))
    assert row["smad_of_range"] == pytest.approx(row["smad"] / (grid.max() - grid.min()))
    assert row["births"] == [m.birth for m in minima]
    assert row["deaths"].count(None) == 1
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_a_loss_that_is_not_finite_is_refused() -> None:
    broken = seeded(mlp)
    broken[0].weight.data.fill_(math.nan)  # type: ignore[union-attr, index]
    with pytest.raises(MetricError, match="the loss is nan on 40 examples"):
        measure("merge_tree", broken, vectors(), points=3)
