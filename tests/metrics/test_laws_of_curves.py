"""Laws that every curve between two networks obeys, and those of untrained ones."""

from typing import Any

import pytest
import torch
from curve_rows import compute
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.connectivity import ConnectivityArgs
from phasegrid.metrics.connectivity.compute import compute as measure
from phasegrid.metrics.connectivity.compute import place_vertices
from phasegrid.metrics.connectivity.left import read_curve
from phasegrid.metrics.ensemble.compute import compute as ensemble
from phasegrid.metrics.measured import Source
from phasegrid.metrics.network.points import live_network
from phasegrid.models.weights import parameters_vector

CLASSES = 3


def clusters(num: int = 60) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num + 30) % CLASSES
    centres = torch.randn(CLASSES, 4, generator=generator, dtype=torch.float64)
    inputs = centres[labels] + torch.randn(len(labels), 4, generator=generator).double()
    one = torch.ones(1, dtype=torch.float64)
    sets = inputs[:num], labels[:num], inputs[num:], labels[num:]
    return Dataset("clusters", *sets, CLASSES, one, 0 * one)


def network(seed: int, batch_norm: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        middle = [nn.BatchNorm1d(8)] if batch_norm else []
        layers = [nn.Linear(4, 8), *middle, nn.ReLU(), nn.Linear(8, CLASSES)]
    return nn.Sequential(*layers).double().eval()


def pair(**which: bool) -> list[nn.Module]:
    return [network(0, **which), network(1, **which)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stored(models: list[nn.Module], **args: Any) -> Source:
    """Return the artifact of a curve as metrics read it."""
    found = measure(models, clusters(), seeded(), **args)
    settings = ConnectivityArgs(**args)
    given = {"curve": settings.curve, "batch_size": settings.batch_size}
    return Source(found.artifacts["curve"], "curve", "connectivity", given)


MIRRORED = ["train_loss", "train_regularised_loss", "test_error_percent", "squared_norm"]


@pytest.mark.parametrize("name", MIRRORED)
def test_the_segment_of_the_reversed_pair_has_the_mirrored_numbers(name: str) -> None:
    models = pair()
    there, back = (
        compute(which, clusters(), seeded(), bends=0, points=9) for which in (models, models[::-1])
    )
    assert back[name] == pytest.approx(there[name][::-1], rel=1e-12)
    assert back["max_train_loss"] == pytest.approx(there["max_train_loss"], rel=1e-12)
    assert back["int_train_loss"] == pytest.approx(there["int_train_loss"], rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_a_convex_loss_has_no_barrier_on_the_segment(seed: int) -> None:
    models = [nn.Linear(4, CLASSES, dtype=torch.float64) for _ in range(2)]
    for number, model in enumerate(models):
        for parameter in model.parameters():
            nn.init.normal_(parameter.data, generator=seeded(10 * seed + number))
    row = compute(models, clusters(), seeded(), bends=0, points=11)
    for name in ("train_loss", "test_loss", "train_regularised_loss"):
        assert row[f"gap_{name}"] == 0
        first, last = row[name][0], row[name][-1]
        for t, loss in zip(row["t"], row[name], strict=True):
            assert loss <= (1 - t) * first + t * last + 1e-12


@pytest.mark.parametrize("curve", ["bezier", "polychain"])
@pytest.mark.parametrize("init", ["linear", "midpoint", "random"])
def test_no_curve_is_shorter_than_the_segment(curve: str, init: str) -> None:
    args = {"curve": curve, "init": init, "bends": 2, "epochs": 2, "lr": 0.1}
    row = compute(pair(), clusters(), seeded(), **args)
    assert row["length_ratio"] >= 1 - 1e-12


def test_bends_at_the_midpoint_lie_in_the_middle_of_the_segment() -> None:
    models = pair()
    vertices = place_vertices(models, ConnectivityArgs(bends=3, init="midpoint"), seeded())
    middle = (parameters_vector(models[0]) + parameters_vector(models[1])) / 2
    torch.testing.assert_close(vertices[1:4], middle.expand(3, -1))
    one = ConnectivityArgs(bends=1, init="midpoint")
    linear = ConnectivityArgs(bends=1)
    assert torch.equal(*(place_vertices(models, args, seeded()) for args in (one, linear)))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_regularised_loss_counts_every_trainable_parameter(batch_norm: bool) -> None:
    models = pair(batch_norm=batch_norm)
    row = compute(models, clusters(), seeded(), bends=0, points=3, weight_decay=0.3)
    for place, model in ((0, models[0]), (-1, models[1])):
        square = sum(float(p.detach().square().sum()) for p in model.parameters())
        assert row["squared_norm"][place] == pytest.approx(square, rel=1e-12)
        for part in ("train", "test"):
            expected = row[f"{part}_loss"][place] + 0.15 * square
            assert row[f"{part}_regularised_loss"][place] == pytest.approx(expected, rel=1e-12)


RANDOM: dict[str, Any] = {"curve": "random_segment", "bends": 0, "points": 5}


def test_a_random_segment_is_as_long_as_the_pair_is_apart_and_starts_at_the_first() -> None:
    models = pair()
    source = stored(models, **RANDOM)
    first, second = map(parameters_vector, models)
    curve = read_curve(models, [source], "a test")
    assert torch.equal(curve.vertices[0], first)
    step = curve.vertices[1] - first
    assert float(step.norm()) == pytest.approx(float((second - first).norm()), rel=1e-12)
    row = compute(models, clusters(), seeded(), **RANDOM)
    assert row["length_ratio"] == pytest.approx(1)
    assert row["final_curve_loss"] is None


def test_directions_of_random_segments_are_uniform() -> None:
    models = pair()
    first = parameters_vector(models[0])
    ends = [place_vertices(models, ConnectivityArgs(**RANDOM), seeded(i))[1] for i in range(400)]
    units = torch.stack([(end - first) / (end - first).norm() for end in ends])
    # a coordinate of a uniform direction has mean 0 and variance 1/P; so has the mean of 400, and
    # of P = 67 of these means none is beyond 4 standard errors, nor is their summed square
    scaled = units.mean(0) * (400 * len(first)) ** 0.5
    assert float(scaled.abs().max()) < 4
    assert float(scaled.square().mean()) == pytest.approx(1, abs=4 * (2 / len(first)) ** 0.5)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_what_reads_a_random_segment_gets_the_networks_that_were_measured(batch_norm: bool) -> None:
    models, data = pair(batch_norm=batch_norm), clusters()
    args = {**RANDOM, "batch_size": len(data.train_inputs)}
    row = compute(models, data, seeded(), **args)
    source = stored(models, **args)
    found = ensemble(models, data, seeded(), [source], points=5)
    assert found["mean_test_loss"] == pytest.approx(sum(row["test_loss"]) / 5, rel=1e-9)


@pytest.mark.parametrize("curve", ["bezier", "polychain", "random_segment"])
def test_stored_curves_begin_and_end_with_the_outputs_of_the_networks(curve: str) -> None:
    models, data = pair(), clusters()
    args = RANDOM if curve == "random_segment" else {"curve": curve, "bends": 2, "epochs": 2}
    read = read_curve(models, [stored(models, **args)], "a test")
    flat = live_network(models[0])
    for t, model in ((0.0, models[0]), (1.0, models[1])):
        read.place(flat, read.coefficients(torch.tensor([t]))[0])
        same = bool(torch.equal(outputs(flat.module, data), outputs(model, data)))
        assert same == (t == 0 or curve != "random_segment")


def outputs(module: nn.Module, data: Dataset) -> Tensor:
    with torch.no_grad():
        return module(data.test_inputs)
