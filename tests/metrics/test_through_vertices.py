"""Planes and paths through the vertices of a complex, against those through networks, and against
plain formulas in float64.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.path import Path
from point_support import dataset, generator, mlp, seeded
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.barrier.compute import compute as barrier
from phasegrid.metrics.measured import Source
from phasegrid.metrics.plane.compute import compute as plane
from phasegrid.metrics.plane.surfaces import mean_over, triangles
from phasegrid.metrics.simplex.vertices import edges_among
from phasegrid.metrics.vertex_path.compute import coefficients, summary
from phasegrid.metrics.vertex_path.compute import compute as vertex_path
from phasegrid.models.evaluation import evaluate
from phasegrid.models.weights import parameters_vector

SURFACES = ("train_loss", "train_error_percent", "test_loss", "test_error_percent")


def vectors() -> Dataset:
    inputs = torch.randn(40, 4, generator=generator(3), dtype=torch.float64)
    return dataset(inputs, torch.randint(0, 3, (40,), generator=generator(4)))


def networks(num: int) -> list[nn.Module]:
    return [seeded(mlp, seed) for seed in range(num)]


def complex_of(connectors: Sequence[nn.Module], simplexes: Sequence[Sequence[int]]) -> Source:
    """Return a complex whose connectors have the weights of networks."""
    tensors = {
        "connectors": torch.stack([parameters_vector(one) for one in connectors]),
        "simplexes": torch.tensor(simplexes),
    }
    args = {"batch_size": 16, "connectors": len(connectors), "sampling": "volume"}
    return Source(tensors, "complex", "simplex", args)


def measured_plane(models: Sequence[nn.Module], *sources: Source, **args: Any) -> Any:
    return plane(models, vectors(), generator(0), sources, **{"points": 4, **args})


def test_a_plane_of_vertices_is_that_of_networks_with_their_weights() -> None:
    first, second, third = networks(3)
    found = measured_plane(
        [first, second], complex_of([third], [[0, 2], [1, 2]]), vertices=("w0", "c0", "w1")
    )
    expected = measured_plane([first, second, third])
    for name in SURFACES:
        torch.testing.assert_close(
            torch.tensor(found[name]), torch.tensor(expected[name]), rtol=1e-9, atol=1e-12
        )
        assert found[f"points_{name}"] == pytest.approx(expected[f"points_{name}"])
    assert (found["points_u"], found["points_v"]) == (expected["points_u"], expected["points_v"])
    assert found["points_name"] == ["w0", "w1", "c0"]
    assert found["corners"] == ["w0", "c0", "w1"]
    assert found["edges"] == [[0.0, 2.0], [1.0, 2.0]]


def test_the_highest_on_edges_does_not_count_lines_that_are_none() -> None:
    models = networks(3)
    whole = complex_of(models[2:], [[0, 1, 2]])
    joined = measured_plane(models[:2], whole, vertices=("w0", "c0", "w1"), points=9)
    apart = complex_of(models[2:], [[0, 2, -1], [1, 2, -1]])
    edges = measured_plane(models[:2], apart, vertices=("w0", "c0", "w1"), points=9)
    assert joined["max_path_train_loss"] == pytest.approx(
        max(edges["max_path_train_loss"], edges["max_edge_train_loss"])
    )


def test_all_other_vertices_are_projected_with_their_distance() -> None:
    models = networks(5)
    source = complex_of(models[2:], [[0, 2, 3, 4], [1, 2, 3, 4]])
    row = measured_plane(models[:2], source, vertices=("w1", "c0", "c2"), points=2)
    points = torch.stack([parameters_vector(model) for model in models])
    axes, lengths = torch.linalg.qr((points[[4, 2]] - points[1]).t())
    u, v = ((points - points[1]) @ (axes * lengths.diag().sign())).t()
    torch.testing.assert_close(torch.tensor(row["points_u"], dtype=torch.float64), u)
    torch.testing.assert_close(torch.tensor(row["points_v"], dtype=torch.float64), v)
    squares = (points - points[1]).square().sum(1) - u**2 - v**2
    found = torch.tensor(row["points_distance"], dtype=torch.float64)
    torch.testing.assert_close(found, squares.clamp(min=0).sqrt(), atol=1e-6, rtol=1e-9)
    assert row["points_name"] == ["w0", "w1", "c0", "c1", "c2"]


def test_triangles_are_those_of_the_corners_and_of_their_scaled_copy() -> None:
    corners = torch.tensor([[0.0, 0.0], [1.3, 2.0], [3.0, 0.4]], dtype=torch.float64)
    points = 8 * torch.rand(400, 2, generator=generator(1), dtype=torch.float64) - 2.5
    ones = torch.ones(3, 1, dtype=torch.float64)
    mixes = torch.linalg.solve(
        torch.cat([corners, ones], 1).t(),
        torch.cat([points, torch.ones(400, 1, dtype=torch.float64)], 1).t(),
    ).t()
    inside, outside = triangles(mixes)

    def within(three: Tensor) -> Tensor:
        """Say which points have each side of the triangle on the same hand."""
        hands = []
        for start, end in ((0, 1), (1, 2), (2, 0)):
            along, to = three[end] - three[start], points - three[start]
            hands.append(along[0] * to[:, 1] - along[1] * to[:, 0])
        turns = torch.stack(hands)
        return (turns >= 0).all(0) | (turns <= 0).all(0)

    center = corners.mean(0)
    assert torch.equal(inside, within(corners))
    assert torch.equal(outside, within(center + 1.5 * (corners - center)) & ~inside)
    assert 0 < int(inside.sum()) < int(outside.sum())


def test_means_in_triangles_are_over_points_of_the_grid() -> None:
    models = networks(3)
    source = complex_of(models[2:], [[0, 2], [1, 2]])
    row = measured_plane(models[:2], source, vertices=("w0", "c0", "w1"), points=9, margin=0.4)
    corners = np.array([row["points_u"], row["points_v"]]).T[[0, 2, 1]]
    grid = np.array([[x, y] for y in row["axis_2"] for x in row["axis"]])
    far = corners.mean(0) + 1.5 * (corners - corners.mean(0))
    inside, within = (Path(three).contains_points(grid, radius=1e-9) for three in (corners, far))
    assert 5 < inside.sum() < within.sum() < len(grid)
    losses = np.array(row["test_loss"]).ravel()
    assert row["mean_inside_test_loss"] == pytest.approx(losses[inside].mean())
    assert row["mean_outside_test_loss"] == pytest.approx(losses[within & ~inside].mean())
    chosen = torch.tensor([True, False, True])
    assert mean_over([1.0, 9.0, 2.0, 50.0], chosen) == 1.5
    assert mean_over([1.0, 9.0, None], chosen) is None
    assert mean_over([1.0, 9.0, 2.0], torch.tensor([False] * 3)) is None


def test_only_edges_of_a_simplex_join_vertices() -> None:
    assert edges_among([3, 0, 1], [(0, 2, 3), (1, 2)]) == [(0, 3)]
    assert edges_among([0, 1], []) == []


def test_a_plane_of_a_complex_needs_three_of_its_vertices() -> None:
    models = networks(3)
    source = complex_of(models[2:], [[0, 2], [1, 2]])
    with pytest.raises(MetricError, match="write three vertices of the complex: w0, w1, c0"):
        measured_plane(models[:2], source)
    with pytest.raises(MetricError, match="plane: found the vertex w2, which the complex does not"):
        measured_plane(models[:2], source, vertices=("w0", "c0", "w2"))


def path(models: Sequence[nn.Module], source: Source, **args: Any) -> Any:
    return vertex_path(models, vectors(), generator(0), [source], **args)


def test_a_path_between_two_modes_is_the_segment_between_the_networks() -> None:
    models, data = networks(3), vectors()
    source = complex_of(models[2:], [[0, 2], [1, 2]])
    row = path(models[:2], source, through=("w0", "w1"), points=4)
    expected: Any = barrier(models[:2], data, generator(0), points=5)
    for name in SURFACES:
        assert row[name] == pytest.approx(expected[name], rel=1e-9)
    assert row["distance"] == pytest.approx(
        [t * expected["end_distance"] / 4 for t in range(5)], rel=1e-9
    )


def test_a_path_has_the_numbers_of_its_vertices_at_their_places() -> None:
    models, data = networks(4), vectors()
    source = complex_of(models[2:], [[0, 2, 3], [1, 2, 3]])
    row = path(models[:2], source, points=3)
    assert row["vertex_name"] == ["w0", "c0", "w1", "c1"]
    assert row["vertex_t"] == [0.0, 1.0, 2.0, 3.0]
    assert len(row["t"]) == len(row["test_loss"]) == 10
    for place, model in enumerate((models[0], models[2], models[1], models[3])):
        loss = evaluate(model, data.train_inputs, data.train_labels).loss
        assert row["train_loss"][3 * place] == pytest.approx(loss, rel=1e-12)
    on_path = [parameters_vector(models[i]) for i in (0, 2, 1, 3)]
    lengths = [float((b - a).norm()) for a, b in pairwise(on_path)]
    marks = torch.tensor([0.0, *lengths]).double().cumsum(0)
    assert row["vertex_distance"] == pytest.approx(marks.tolist(), rel=1e-6)
    assert row["distance"][::3] == pytest.approx(row["vertex_distance"], rel=1e-9)


def test_a_path_backwards_has_the_same_summaries() -> None:
    models = networks(4)
    source = complex_of(models[2:], [[0, 2, 3], [1, 2, 3]])
    there = path(models[:2], source, through=("w0", "c1", "w1"), points=5)
    back = path(models[:2], source, through=("w1", "c1", "w0"), points=5)
    assert there["test_loss"] == pytest.approx(back["test_loss"][::-1], rel=1e-9)
    for kind in ("max", "min", "mean", "max_vertex", "min_vertex", "max_between"):
        assert there[f"{kind}_test_loss"] == pytest.approx(back[f"{kind}_test_loss"], rel=1e-9)


def test_a_vertex_on_a_path_is_exact() -> None:
    t = torch.arange(31, dtype=torch.float64) / 10
    weights = coefficients(t, [0, 2, 1, 0], 3)
    assert weights[::10].tolist() == torch.eye(3)[[0, 2, 1, 0]].tolist()
    assert weights.sum(1).sub(1).abs().max() < 1e-15


def test_a_path_with_a_missing_number_has_no_summary() -> None:
    found = summary("x", [1.0, None, 2.0], [1.0, 1.0], 1)
    assert set(found.values()) == {None}
    assert summary("x", [1.0, 2.0], [1.0], 1)["max_between_x"] is None


def test_a_path_needs_vertices_of_its_complex() -> None:
    models = networks(3)
    source = complex_of(models[2:], [[0, 2], [1, 2]])
    with pytest.raises(MetricError, match="vertex_path: found the vertex c1, which the complex"):
        path(models[:2], source, through=("w0", "c1"))
