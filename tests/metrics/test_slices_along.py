"""Slices along directions that another measurement left: where they lead, their shapes, what is
projected onto them, and grids that are measured only where they bend.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from point_support import Residual, dataset, generator, images, mlp, seeded
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.hessian.operator import HessianOperator
from phasegrid.metrics.measured import Source
from phasegrid.metrics.slice import SLICE, SliceArgs
from phasegrid.metrics.slice.compute import compute
from phasegrid.metrics.slice.refining import Place, refine
from phasegrid.metrics.slice.shapes import curvature
from phasegrid.models.evaluation import evaluate
from phasegrid.models.weights import parameters_vector, refresh_batch_norm


def flat_data(num: int = 30) -> Dataset:
    rng = generator(3)
    inputs = torch.randn(num, 4, generator=rng, dtype=torch.float64)
    return dataset(inputs, torch.randint(0, 3, (num,), generator=rng))


def left(model: nn.Module, **vectors: Tensor) -> Source:
    tensors = {"directions": torch.stack([*vectors.values()]), "weights": parameters_vector(model)}
    return Source(tensors, "directions", "directions", {"along": [*vectors]})


def measure(
    models: Sequence[nn.Module], data: Dataset, source: Source, **args: Any
) -> dict[str, Any]:
    asked = {"points": 3, "examples": None, "refresh_examples": None, **args}
    settings = dataclasses.asdict(SliceArgs(**asked))
    row: dict[str, Any] = compute(models, data, generator(0), [source], **settings)
    return row


def network(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make().double().eval()


def draws(model: nn.Module, num: int) -> Tensor:
    size = len(parameters_vector(model))
    return torch.randn(num, size, generator=generator(7), dtype=torch.float64)


@pytest.mark.parametrize("make", [mlp, Residual])
def test_along_the_way_to_a_network_its_loss_lies_at_1(make: Callable[[], nn.Module]) -> None:
    models = [network(make, seed) for seed in range(2)]
    data = flat_data() if make is mlp else dataset(*images(12))
    to_1 = parameters_vector(models[1]) - parameters_vector(models[0])
    source = left(models[0], to_1=to_1, gaussian_0=draws(models[0], 1)[0])
    args = {"low": -0.5, "high": 1.0, "points": 4, "low_2": 0.0, "points_2": 5, "test": True}
    row = measure(models, data, source, batch_norm="refreshed", **args)
    assert set(row) == {column.name for column in SLICE.columns}
    assert (row["axis"], row["axis_2"]) == ([-0.5, 0.0, 0.5, 1.0], [0.0, 0.25, 0.5, 0.75, 1.0])
    assert np.shape(row["train_loss"]) == (5, 4)
    for place, model in ((1, models[0]), (3, models[1])):
        if make is Residual:
            refresh_batch_norm(model, data.train_inputs)
        for name, inputs, labels in (
            ("train", data.train_inputs, data.train_labels),
            ("test", data.test_inputs, data.test_labels),
        ):
            saved = evaluate(model, inputs, labels)
            assert row[f"{name}_loss"][0][place] == pytest.approx(saved.loss, rel=1e-9)
            error = row[f"{name}_error_percent"][0][place]
            assert error == pytest.approx(saved.error_percent, abs=1e-9)
    assert row["direction_names"] == ["to_1", "gaussian_0"]
    assert row["normalize"] == "raw, none"
    norms = [float(to_1.norm()), row["weight_norm"]]
    np.testing.assert_allclose(row["direction_norms"], norms, rtol=1e-12)


def test_networks_are_projected_by_least_squares() -> None:
    models = [network(mlp, seed) for seed in range(4)]
    offsets = torch.stack([parameters_vector(m) - parameters_vector(models[0]) for m in models])
    mixed = 0.3 * offsets[1] + offsets[2]
    source = left(models[0], to_1=offsets[1], to_2=mixed)
    row = measure(models, flat_data(), source)
    basis = torch.stack([offsets[1], mixed], dim=1)
    wanted = torch.linalg.lstsq(basis, offsets.t()).solution
    np.testing.assert_allclose([row["points_u"], row["points_v"]], wanted, atol=1e-9)
    rest = (offsets.t() - basis @ wanted).norm(dim=0)
    np.testing.assert_allclose(row["points_distance"], rest, atol=1e-7)
    assert [row[f"points_{axis}"][0] for axis in ("u", "v", "distance")] == [0.0, 0.0, 0.0]
    assert row["points_u"][1:3] == pytest.approx([1.0, -0.3])
    assert row["direction_cosine"] == pytest.approx(
        float(offsets[1] @ mixed / offsets[1].norm() / mixed.norm())
    )
    line = measure(models, flat_data(), source, along=("to_2",), dimensions=1)
    assert line["points_v"] == [0.0] * 4
    assert line["points_u"][1] == pytest.approx(float(offsets[1] @ mixed / mixed.square().sum()))
    assert line["shape"] is None


@pytest.mark.parametrize(
    ("pair", "shape"),
    [((-1, -2), "bowl"), ((0, 1), "bottle_bottom"), ((-1, 0), "saddle")],
)
def test_shapes_are_those_of_the_signs_of_eigenvalues(pair: tuple[int, int], shape: str) -> None:
    """The Hessian of an untrained network has eigenvalues of both signs."""
    model, data = seeded(mlp), flat_data()
    H = HessianOperator(model, data.train_inputs, data.train_labels)
    dense = torch.stack([H(e) for e in torch.eye(H.size, dtype=torch.float64)])
    values, vectors = torch.linalg.eigh(dense)
    names = [
        f"{'positive' if values[place] > 0 else 'negative'}_{abs(place) + 1}" for place in pair
    ]
    source = left(
        model, **{name: vectors[:, place] for name, place in zip(names, pair, strict=True)}
    )
    row = measure([model], data, source, curvature_step=1e-6, significance=0.0)
    for name, place in zip(("curvature", "curvature_2"), pair, strict=True):
        assert row[name] / row["weight_norm"] ** 2 == pytest.approx(float(values[place]), rel=1e-2)
    assert row["shape"] == shape
    noisy = measure([model], data, source, curvature_step=1e-6, significance=1e9)
    assert noisy["shape"] == "flat"


def test_a_curvature_that_other_examples_might_not_have_counts_as_none() -> None:
    before, centre = torch.zeros(100).double(), torch.ones(100).double()
    after = 2 + torch.randn(100, generator=generator(0), dtype=torch.float64)
    found = curvature((before, centre, after), 1.0, 2.0)
    assert found.value == pytest.approx(float(after.mean()) - 2)
    assert found.stderr == pytest.approx(float(after.std()) / 10)
    assert found.sign == 0
    assert curvature((before, centre, after + 1), 1.0, 2.0).sign == 1
    rounded = curvature((centre, centre, centre + 1e-9), 1.0, 2.0, rounding=1e-6)
    assert rounded.sign == 0


def surface(places: Sequence[Place], num: int = 41) -> Tensor:
    """A sharp valley in a wide bowl; of two sets and errors."""
    x, y = (torch.tensor([2 * p[axis] / (num - 1) - 1 for p in places]).double() for axis in (1, 0))
    loss = 0.2 + x**2 + y**2 - 0.15 * torch.exp(-((x - 0.3) ** 2 + y**2) / 0.02)
    return torch.stack([torch.stack([scale * loss, 50 * loss], dim=1) for scale in (1.0, 3.0)])


def test_a_refined_grid_is_off_by_less_than_its_tolerance() -> None:
    size, every = (41, 41), [(j, i) for j in range(41) for i in range(41)]
    whole = surface(every).view(2, 41, 41, 2)
    asked = list[Place]()

    def ask(places: Sequence[Place]) -> Tensor:
        asked.extend(places)
        return surface(places)

    found = refine(ask, size, 8, 0.02)
    assert len(asked) == len(set(asked)) == int(found.measured.sum())
    assert 0.05 < float(found.measured.double().mean()) < 0.4
    torch.testing.assert_close(found.values[:, found.measured], whole[:, found.measured])
    scale = (whole[..., 0].amax((1, 2)) / whole[..., 0].amin((1, 2))).log()
    off = (found.values[..., 0] / whole[..., 0]).log().abs().amax((1, 2)) / scale
    assert float(off.max()) < 0.02
    finer = refine(surface, size, 8, 0.002)
    assert finer.measured.sum() > found.measured.sum()
    assert float((finer.values - whole).abs().max()) < float((found.values - whole).abs().max())


@pytest.mark.parametrize("size", [(1, 11), (10, 7), (41, 3)])
def test_without_tolerance_every_point_is_measured(size: Place) -> None:
    found = refine(lambda places: surface(places) + torch.rand(1).double(), size, 4, 1e-12)
    assert bool(found.measured.all())
    assert bool(found.values.isfinite().all())


def test_a_refined_grid_is_measured_where_points_diverge() -> None:
    def edge(places: Sequence[Place]) -> Tensor:
        found = surface(places)
        found[:, [i > 30 for _, i in places]] = torch.inf
        return found

    found = refine(edge, (41, 41), 8, 1.0)
    assert not bool(found.values[:, :, :31].isinf().any())
    assert bool(found.measured[:, 31:].all())
    assert not bool(found.measured.all())


def test_a_slice_says_which_points_were_measured() -> None:
    model, data = seeded(mlp), flat_data()
    one, other = draws(model, 2)
    source = left(model, gaussian_0=one, gaussian_1=other)
    args = {"points": 17, "coarse": 8, "radius": 0.2}
    row, whole = (
        measure([model], data, source, **{**args, **more}) for more in ({}, {"coarse": None})
    )
    measured = np.array(row["measured"], dtype=bool)
    assert row["measured_share"] == pytest.approx(measured.mean())
    assert measured.mean() < 0.5
    assert whole["measured_share"] == 1.0
    losses = [np.array(one["train_loss"]) for one in (row, whole)]
    np.testing.assert_allclose(losses[0][measured], losses[1][measured], rtol=1e-12)
    assert np.abs(losses[0] - losses[1]).max() < 0.02 * np.ptp(losses[1])
    assert row["curvature"] == whole["curvature"]


def test_what_is_no_plane_is_refused() -> None:
    model, data = seeded(mlp), flat_data()
    (one,) = draws(model, 1)
    source = left(model, gaussian_0=one, gradient=-2 * one)
    with pytest.raises(MetricError, match="the two directions lie on a line"):
        measure([model], data, source)
    with pytest.raises(MetricError, match="found the direction to_1, which was not stored"):
        measure([model], data, source, along=("to_1", "gradient"))
    other = network(mlp, 5)
    with pytest.raises(MetricError, match="go through other weights"):
        measure([other], data, source)
    with pytest.raises(MetricError, match="a slice is through one model, got 2"):
        compute([model, other], data, generator(0), **dataclasses.asdict(SliceArgs()))


MISTAKES: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "too few": (
        {"along": ("to_1",)},
        ("along", "found 1 direction with dimensions: 2; allowed: 2"),
    ),
    "a second axis of a line": (
        {"dimensions": 1, "low_2": 0.0},
        ("low_2", "found with dimensions: 1, which has no second axis; leave it out"),
    ),
    "an empty range": (
        {"low": 2.0},
        ("low", "found 2; allowed: less than 1, the other end"),
    ),
    "an empty second range": (
        {"low_2": 0.0, "high_2": 0.0},
        ("high_2", "found 0; allowed: more than 0, the other end"),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_slice_is_told(name: str) -> None:
    args, told = MISTAKES[name]
    given = {**dataclasses.asdict(SliceArgs()), **args}
    assert told in [rule(given) for rule in SLICE.rules]


def test_a_slice_goes_with_the_directions_that_it_reads() -> None:
    rule, usual = SLICE.source_rules["directions"], dataclasses.asdict(SliceArgs())
    two, one = {"along": ["gaussian_0", "to_1"]}, {"along": ["gaussian_0"]}
    assert rule(usual, two) is None
    assert rule(usual, one) == ("dimensions", "found 2, but only 1 direction is read")
    told = rule({**usual, "directions": "hessian"}, two)
    assert told == ("directions", "found hessian beside of, which has directions; leave it out")
    unknown = rule({**usual, "along": ("gaussian_0", "gradient")}, two)
    assert unknown is not None
    assert unknown[0] == "along"
