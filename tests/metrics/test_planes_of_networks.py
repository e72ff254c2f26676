"""Planes through networks, and projections onto them, against plain formulas in float64."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from point_support import dataset, generator, images, mlp, seeded
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.measured import Source
from phasegrid.metrics.plane.compute import compute
from phasegrid.metrics.plane.frame import make_frame, project
from phasegrid.metrics.plane.surfaces import Grid, line
from phasegrid.models.evaluation import evaluate
from phasegrid.models.weights import parameters_vector, refresh_batch_norm

THREE = (0, 2, 1)
"""The places of w_0, w_1 (above the line) and w_2 among three networks."""


def plane(models: Sequence[nn.Module], data: Dataset, *sources: Source, **args: object) -> Any:
    return compute(models, data, generator(0), sources, **{"points": 3, **args})


def vectors() -> Dataset:
    inputs = torch.randn(40, 4, generator=generator(3), dtype=torch.float64)
    return dataset(inputs, torch.randint(0, 3, (40,), generator=generator(4)))


def networks(num: int) -> list[nn.Module]:
    return [seeded(mlp, seed) for seed in range(num)]


def weights(num: int = 6, size: int = 50) -> Tensor:
    return torch.randn(num, size, generator=generator(1), dtype=torch.float64)


def orthonormal(points: Tensor) -> Tensor:
    """Return u and v (2, P) of the plane through the first three rows, by a QR decomposition."""
    edges = points[1:3] - points[0]
    columns, lengths = torch.linalg.qr(edges.t())
    return (columns * lengths.diag().sign()).t()


def test_projections_are_inner_products_with_orthonormal_axes() -> None:
    points = weights()
    frame, axes = make_frame(points[list(THREE)]), orthonormal(points)
    found = project(points, THREE, frame)
    expected = (points - points[0]) @ axes.t()
    torch.testing.assert_close(torch.stack([found.u, found.v], 1), expected)
    # Pythagoras: what is left of an edge and its two coordinates make up its length
    squares = (points - points[0]).square().sum(1)
    torch.testing.assert_close(found.u**2 + found.v**2 + found.rest.diag(), squares)
    assert found.rest[:3].abs().max() == 0
    assert frame.width == pytest.approx(float((points[1] - points[0]).norm()), rel=1e-12)


def test_projections_do_not_depend_on_how_parameters_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = weights()
    frame = make_frame(points[list(THREE)])
    whole = project(points, THREE, frame)
    monkeypatch.setattr("phasegrid.metrics.plane.frame._CHUNK", 7)
    cut = project(points, THREE, frame)
    for name in ("u", "v", "rest"):
        torch.testing.assert_close(getattr(cut, name), getattr(whole, name))


def test_a_point_of_the_plane_is_its_own_projection() -> None:
    points = weights()
    frame = make_frame(points[list(THREE)])
    mixes = torch.randn(4, 3, generator=generator(2), dtype=torch.float64)
    mixes[:, 0] = 1 - mixes[:, 1:].sum(1)
    inside = mixes @ points[:3]
    found = project(torch.cat([points[:3], inside]), THREE, frame)
    assert found.rest.diag().abs().max().sqrt() < 1e-12
    u, v, distance = found.mixed(torch.cat([mixes, torch.zeros(4, 4)], 1))
    torch.testing.assert_close(u, found.u[3:])
    torch.testing.assert_close(v, found.v[3:])
    assert distance.max() == 0


def test_a_mix_is_as_far_from_the_plane_as_what_is_left_of_it() -> None:
    points, axes = weights(), orthonormal(weights())
    found = project(points, THREE, make_frame(points[list(THREE)]))
    mixes = torch.rand(3, 6, generator=generator(2), dtype=torch.float64)
    mixes /= mixes.sum(1, keepdim=True)
    edges = mixes @ points - points[0]
    left = edges - edges @ axes.t() @ axes
    torch.testing.assert_close(found.mixed(mixes)[2], left.norm(dim=1))


def test_numbers_between_the_points_of_a_grid_are_linear_in_each_direction() -> None:
    grid = Grid([0.0, 1.0, 4.0], [-1.0, 1.0])
    surface = [[1 + 2 * u - v + 3 * u * v for u in grid.axis] for v in grid.axis_2]
    u, v = torch.tensor([0.0, 0.3, 2.5, 4.0]), torch.tensor([-1.0, 0.5, 0.0, 1.0])
    found = grid.interpolated([list(row) for row in surface], u.double(), v.double())
    torch.testing.assert_close(found, (1 + 2 * u - v + 3 * u * v).double())


def test_the_highest_number_of_lines_is_missing_where_they_leave_the_grid_or_pass_a_null() -> None:
    grid = Grid([0.0, 1.0, 2.0, 3.0], [0.0, 1.0])
    surface: list[list[float | None]] = [[0.0, 5.0, 1.0, 0.0], [0.0, 0.0, 0.0, None]]
    u, v = torch.tensor([0.0, 1.0]).double(), torch.tensor([0.0, 0.5]).double()
    assert grid.highest(surface, [line(u, v)]) == pytest.approx(2.5)
    assert grid.highest(surface, []) is None
    assert grid.highest(surface, [line(u, v - 0.1)]) is None
    assert grid.highest(surface, [line(u + 1.5, v)]) is None


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
    )


def test_networks_have_their_own_numbers_with_refreshed_statistics() -> None:
    """The two on u are corners of a grid without margins that holds no other."""
    models, data = [seeded(convolutional, s) for s in range(4)], dataset(*images(40, channels=1))
    row = plane(models, data)
    for index, model in enumerate(models):
        own = copy.deepcopy(model)
        refresh_batch_norm(own, data.train_inputs)
        train = evaluate(own, data.train_inputs, data.train_labels)
        test = evaluate(own, data.test_inputs, data.test_labels)
        assert row["points_train_loss"][index] == pytest.approx(train.loss, rel=1e-9)
        assert row["points_test_loss"][index] == pytest.approx(test.loss, rel=1e-9)
        assert row["points_test_error_percent"][index] == test.error_percent
    bare = plane(models[:3], data, points=2, margin=0.0)
    assert 0 < bare["shear"] < 1
    assert bare["train_loss"][0] == pytest.approx(row["points_train_loss"][:2], rel=1e-9)


def test_the_surface_is_that_of_the_networks_at_the_coordinates_of_the_grid() -> None:
    models, data = networks(4), vectors()
    row = plane(models, data, points=3, points_2=2, margin=0.1, margin_2=0.3, weight_decay=0.01)
    points = torch.stack([parameters_vector(model) for model in models])
    u, v = orthonormal(points)
    moved = seeded(mlp)
    assert (len(row["axis"]), len(row["axis_2"])) == (3, 2)
    for i, x in enumerate(row["axis"]):
        for j, y in enumerate(row["axis_2"]):
            vector = points[0] + x * u + y * v
            vector_to_parameters(vector, moved.parameters())
            loss = evaluate(moved, data.train_inputs, data.train_labels).loss
            assert row["train_loss"][j][i] == pytest.approx(loss, rel=1e-9)
            penalty = 0.005 * float(vector.square().sum())
            assert row["train_regularised_loss"][j][i] == pytest.approx(loss + penalty, rel=1e-9)


def test_the_grid_holds_the_projections_of_all_networks_and_its_margins() -> None:
    row = plane(networks(6), vectors(), margin=0.5, margin_2=0.0)
    for axis, places, margin in (("axis", "points_u", 0.5), ("axis_2", "points_v", 0.0)):
        low, high = min(row[places]), max(row[places])
        room = margin * (high - low)
        assert (row[axis][0], row[axis][-1]) == pytest.approx((low - room, high + room))


def test_further_networks_change_neither_the_plane_nor_each_other() -> None:
    models, data = networks(5), vectors()
    row, turned = plane(models, data), plane([*models[:3], models[4], models[3]], data)
    for name in ("points_u", "points_v", "points_distance", "points_train_loss"):
        assert turned[name] == pytest.approx([*row[name][:3], row[name][4], row[name][3]])
    alone = plane(models[:3], data)
    assert {name: row[name] for name in ("width", "height", "shear")} == {
        name: alone[name] for name in ("width", "height", "shear")
    }


def test_nothing_changes_if_the_units_of_all_networks_are_permuted_alike() -> None:
    models, data = networks(4), vectors()
    row = plane(models, data)
    order = torch.randperm(5, generator=generator(8))
    for model in models:
        first, second = model[0], model[2]  # type: ignore[index]
        first.weight.data, first.bias.data = first.weight[order], first.bias[order]
        second.weight.data = second.weight[:, order]
    permuted = plane(models, data)
    for name, values in row.items():
        if values is not None:
            torch.testing.assert_close(torch.tensor(permuted[name]), torch.tensor(values))


class Frozen(nn.Module):
    """A network that scales its inputs by a buffer that no training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.rand(4) + 0.5)
        self.net = mlp()

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.net(self.scale * inputs)
        return out


def test_untrained_tensors_are_mixed_by_the_same_weights() -> None:
    models, data = [seeded(Frozen, seed) for seed in range(3)], vectors()
    row = plane(models, data, points=3, margin=0.0)
    frame_x = row["axis"][1] / row["width"]
    y = row["axis_2"][1] / row["height"]
    third = y
    second = frame_x - y * row["shear"]
    mixed = seeded(Frozen)
    state = [model.state_dict() for model in models]
    mixed.load_state_dict(
        {
            name: (1 - second - third) * state[0][name]
            + second * state[1][name]
            + third * state[2][name]
            for name in state[0]
        }
    )
    loss = evaluate(mixed, data.train_inputs, data.train_labels).loss
    assert row["train_loss"][1][1] == pytest.approx(loss, rel=1e-9)


def curve_of(models: list[nn.Module], bends: int, kind: str) -> tuple[Source, Tensor]:
    ends = [parameters_vector(model) for model in models]
    inner = torch.randn(bends, len(ends[0]), generator=generator(9), dtype=torch.float64)
    args = {"curve": kind, "batch_size": 16, "bends": bends, "weight_decay": 0.1}
    return Source({"bends": inner}, "curve", "connectivity", args), torch.stack(
        [ends[0], *inner, ends[1]]
    )


def test_a_curve_of_one_bend_lies_in_its_plane_from_end_to_end() -> None:
    models = networks(2)
    source, _ = curve_of(models, 1, "bezier")
    row = plane(models, vectors(), source, points=5)
    assert row["path_distance"] == [0.0] * 121
    assert (row["path_t"][0], row["path_t"][-1]) == (0.0, 1.0)
    for name in "uv":
        ends = row[f"path_{name}"][0], row[f"path_{name}"][-1]
        assert ends == pytest.approx((row[f"points_{name}"][0], row[f"points_{name}"][2]))
        middle = 0.25 * ends[0] + 0.5 * row[f"points_{name}"][1] + 0.25 * ends[1]
        assert row[f"path_{name}"][60] == pytest.approx(middle)
    assert (row["num_bends"], row["weight_decay"]) == (1, 0.1)
    assert row["max_path_train_loss"] >= max(row["points_train_loss"][::2]) * 0.5


def test_a_chain_of_several_bends_is_projected_with_its_distance() -> None:
    models = networks(2)
    source, vertices = curve_of(models, 3, "polychain")
    row = plane(models, vectors(), source, points=2, bend=1)
    u, v = orthonormal(vertices[[0, 4, 1]])
    t = torch.tensor(row["path_t"], dtype=torch.float64).unsqueeze(1)
    hats = (1 - (4 * t - torch.arange(5)).abs()).clamp(min=0)
    edges = hats @ vertices - vertices[0]
    left = edges - (edges @ u).outer(u) - (edges @ v).outer(v)
    for name, expected in (("u", edges @ u), ("v", edges @ v), ("distance", left.norm(dim=1))):
        found = torch.tensor(row[f"path_{name}"], dtype=torch.float64)
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    assert len(row["points_u"]) == 5


def test_without_a_curve_there_is_no_path_and_without_weight_decay_no_regularised_loss() -> None:
    row = plane(networks(3), vectors())
    assert row["num_bends"] == 0
    assert not [name for name in row if name.startswith("path_")]
    assert row["max_path_train_loss"] is row["weight_decay"] is None
    assert "train_regularised_loss" not in row


def test_networks_on_a_line_span_no_plane() -> None:
    first, second = networks(2)
    middle = seeded(mlp)
    mean = (parameters_vector(first) + parameters_vector(second)) / 2
    vector_to_parameters(mean, middle.parameters())
    for three in ([first, second, middle], [first, first, second], [first, second, second]):
        with pytest.raises(MetricError, match="its three points lie on a line"):
            plane(three, vectors())


def test_what_spans_no_plane_is_refused() -> None:
    with pytest.raises(MetricError, match="goes through three networks, got 2"):
        plane(networks(2), vectors())
    with pytest.raises(MetricError, match="found bend 1, but no curve"):
        plane(networks(3), vectors(), bend=1)
    wide = seeded(lambda: mlp(width=6))
    with pytest.raises(MetricError, match="must have the same architecture"):
        plane([*networks(2), wide], vectors())
