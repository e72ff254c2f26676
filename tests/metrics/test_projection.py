"""The projection of a complex onto the principal axes of its vertices."""

from typing import Any

import pytest
import torch
from point_support import dataset, generator, mlp, seeded
from torch import Tensor

from phasegrid.metrics.simplex.compute import compute as simplex
from phasegrid.metrics.simplex.projection import principal_axes
from phasegrid.models.evaluation import evaluate
from phasegrid.models.weights import parameters_vector


def points(num: int, size: int = 30) -> Tensor:
    return torch.randn(num, size, generator=generator(num), dtype=torch.float64)


def test_coordinates_are_those_of_a_singular_value_decomposition() -> None:
    vertices = points(6)
    places, shares = principal_axes(vertices)
    left, values, _ = torch.linalg.svd(vertices - vertices.mean(0), full_matrices=False)
    torch.testing.assert_close(places.abs(), (left * values)[:, :3].abs())
    torch.testing.assert_close(shares, (values**2 / values.square().sum())[:3])
    assert (places.amax(0) >= -places.amin(0)).all()


@pytest.mark.parametrize("num", [2, 3, 4])
def test_few_vertices_keep_their_distances(num: int) -> None:
    vertices = points(num)
    places, shares = principal_axes(vertices)
    assert places.shape == (num, num - 1)
    torch.testing.assert_close(torch.cdist(places, places), torch.cdist(vertices, vertices))
    assert float(shares.sum()) == pytest.approx(1)


def test_neither_moving_nor_turning_the_vertices_moves_their_projection() -> None:
    vertices = points(5)
    turn, _ = torch.linalg.qr(points(30))
    places, shares = principal_axes(vertices)
    moved, same = principal_axes(3 + vertices @ turn)
    torch.testing.assert_close(moved, places)
    torch.testing.assert_close(same, shares)


def test_vertices_in_a_plane_have_two_axes_whatever_their_number() -> None:
    places, _ = principal_axes((100 + points(7, 2) @ points(2)).float())
    assert places.shape[1] in (2, 3)  # float32 vertices lie in a plane to rounding only
    places, shares = principal_axes(points(7, 2) @ points(2))
    assert places.shape == (7, 2)
    assert len(shares) == 2


def test_rows_of_complexes_say_where_points_are_and_what_they_lost() -> None:
    models = [seeded(mlp, seed) for seed in range(2)]
    inputs = torch.randn(30, 4, generator=generator(3), dtype=torch.float64)
    data = dataset(inputs, torch.randint(0, 3, (30,), generator=generator(4)))
    args = {"connectors": 2, "epochs": 1, "samples": 2, "batch_size": 16, "eval_samples": 40}
    found: Any = simplex(
        models, data, generator(0), wiring=(("w0", "c0"), ("w1", "c0", "c1")), **args
    )
    row, left = found.rows, found.artifacts["complex"]
    vertices = torch.cat([torch.stack([parameters_vector(m) for m in models]), left["connectors"]])
    places = torch.tensor([row[f"vertex_{axis}"] for axis in "xyz"], dtype=torch.float64).t()
    torch.testing.assert_close(torch.cdist(places, places), torch.cdist(vertices, vertices))
    assert row["vertex_name"] == ["w0", "w1", "c0", "c1"]
    assert row["simplexes"] == [[0.0, 2.0], [1.0, 2.0, 3.0]]
    losses = [evaluate(one, data.train_inputs, data.train_labels).loss for one in models]
    assert row["vertex_train_loss"][:2] == pytest.approx(losses, rel=1e-12)
    for part in ("train", "test"):
        mean = sum(row[f"sample_{part}_loss"]) / 40
        assert row[f"expected_{part}_loss"] == pytest.approx(mean, rel=1e-12)
    points = torch.tensor([row[f"sample_{axis}"] for axis in "xyz"], dtype=torch.float64).t()
    start, end = places[0], places[2]
    along = ((points - start) @ (end - start)) / (end - start).square().sum()
    on_edge = (points - start - along.outer(end - start)).norm(dim=1) < 1e-9
    assert 0 < int(on_edge.sum()) < 40
    own = torch.tensor(row["sample_test_loss"])[on_edge].mean()
    assert row["simplex_test_loss"][0] == pytest.approx(float(own), rel=1e-6)
