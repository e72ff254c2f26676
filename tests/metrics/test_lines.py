"""The loss along lines, its shapes, and its second-order approximations."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from point_support import Residual, cnn, dataset, generator, images, mlp, seeded
from torch import Tensor, nn

from phasegrid.analysis.draw.schematics import SHAPES
from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.directions.scaling import normalise
from phasegrid.metrics.lines import LINES, LinesArgs
from phasegrid.metrics.lines.compute import compute, equally_spaced
from phasegrid.metrics.lines.shapes import extrema_of, falls_to_centre, shape_of
from phasegrid.metrics.measured import Source
from phasegrid.models.evaluation import evaluate
from phasegrid.models.weights import (
    parameter_slices,
    parameters_vector,
    refresh_batch_norm,
)


def flat_data(num: int = 30) -> Dataset:
    rng = generator(3)
    inputs = torch.randn(num, 4, generator=rng, dtype=torch.float64)
    return dataset(inputs, torch.randint(0, 3, (num,), generator=rng))


def left(model: nn.Module, **vectors: Tensor) -> Source:
    tensors = {"directions": torch.stack([*vectors.values()]), "weights": parameters_vector(model)}
    return Source(tensors, "directions", "directions", {"along": [*vectors]})


def measure(model: nn.Module, data: Dataset, source: Source, **args: Any) -> list[dict[str, Any]]:
    asked = {"points": 5, "examples": None, "refresh_examples": None, **args}
    settings = dataclasses.asdict(LinesArgs(**asked))
    rows: list[dict[str, Any]] = compute([model], data, generator(0), [source], **settings)  # type: ignore[assignment]
    return rows


def moved(model: nn.Module, weights: Tensor) -> nn.Module:
    torch.nn.utils.vector_to_parameters(weights, model.parameters())
    return model.eval()


@pytest.mark.parametrize("policy", ["as_saved", "refreshed"])
@pytest.mark.parametrize("make", [mlp, cnn, Residual])
def test_a_line_is_that_of_networks_moved_one_by_one(
    make: Callable[[], nn.Module], policy: str
) -> None:
    model, data = seeded(make), flat_data() if make is mlp else dataset(*images(12))
    weights = parameters_vector(model).clone()
    draw = torch.randn(len(weights), generator=generator(1), dtype=weights.dtype)
    source = left(model, gaussian_0=draw, gradient=0.1 * draw)
    args = {"low": -0.5, "high": 1.0, "points": 4, "scale": 0.5, "test": True}
    rows = measure(model, data, source, batch_norm=policy, **args)
    steps = {"gaussian_0": 0.5 * draw * weights.norm() / draw.norm(), "gradient": 0.05 * draw}
    assert [row["direction"] for row in rows] == list(steps)
    for row, step in zip(rows, steps.values(), strict=True):
        assert set(row) == {column.name for column in LINES.columns}
        assert row["length"] == pytest.approx(float(step.norm()), rel=1e-6)
        for place, t in enumerate((-0.5, 0.0, 0.5, 1.0)):
            network = moved(seeded(make), weights + t * step)
            network.load_state_dict(
                {
                    name: b
                    for name, b in model.state_dict().items()
                    if name not in dict(model.named_parameters())
                },
                strict=False,
            )
            if policy == "refreshed":
                refresh_batch_norm(network, data.train_inputs)
            for name, inputs, labels in (
                ("train", data.train_inputs, data.train_labels),
                ("test", data.test_inputs, data.test_labels),
            ):
                expected = evaluate(network, inputs, labels)
                assert row[f"{name}_loss"][place] == pytest.approx(expected.loss, rel=1e-5)
                error = 100 - expected.accuracy_percent
                assert row[f"{name}_error_percent"][place] == pytest.approx(error)
    assert torch.equal(parameters_vector(model), weights)


def test_a_line_to_another_network_ends_there() -> None:
    model, data = seeded(mlp), flat_data()
    other = seeded(mlp, 1)
    refresh_batch_norm(other, data.train_inputs)
    source = left(model, to_1=parameters_vector(other) - parameters_vector(model))
    (row,) = measure(model, data, source, low=0.0, points=3)
    expected = evaluate(other.eval(), data.train_inputs, data.train_labels)
    assert row["train_loss"][-1] == pytest.approx(expected.loss, rel=1e-9)
    assert row["normalize"] == "raw"


@pytest.mark.parametrize("how", ["norm", "layer", "filter", "raw"])
@pytest.mark.parametrize("keep", [True, False])
def test_scaled_directions_have_the_norms_of_the_weights(how: Any, keep: bool) -> None:
    model = seeded(cnn)
    weights, slices = parameters_vector(model), parameter_slices(model)
    drawn = torch.randn(2, len(weights), generator=generator(5), dtype=weights.dtype)
    scaled = normalise(drawn, weights, slices, how, keep_biases=keep)
    for part in slices:
        own, here = (v[..., part.start : part.stop] for v in (weights, scaled[0]))
        if len(part.shape) == 1 and not keep:
            assert not here.any()
        elif how == "raw":
            assert torch.equal(here, drawn[0, part.start : part.stop])
        elif how == "layer" or (how == "filter" and len(part.shape) == 1):
            assert float(here.norm()) == pytest.approx(float(own.norm()))
        elif how == "filter":
            rows = (own.view(part.shape[0], -1), here.view(part.shape[0], -1))
            assert torch.allclose(*(row.norm(dim=1) for row in rows))
    if how == "norm":
        assert float(scaled[0].norm()) == pytest.approx(float(weights.norm()))


class Quadratic(nn.Module):
    """Logits of one class and of 0 whose loss is nearly quadratic: see `squares`."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        score = x @ self.weight.pow(2)
        return torch.stack([score, torch.zeros_like(score)], dim=1)


def test_patches_are_the_derivatives_along_the_line() -> None:
    model, rng = Quadratic(), generator(7)
    inputs = torch.randn(40, 3, generator=rng, dtype=torch.float64)
    data = dataset(inputs, torch.randint(0, 2, (40,), generator=rng))
    direction = torch.randn(3, generator=rng, dtype=torch.float64)
    source = left(model, gradient=direction)
    (row,) = measure(model, data, source, patches=3, patch_radius=0.1, scale=2.0)
    start = model.weight.detach().clone()

    def loss(t: Tensor) -> Tensor:
        score = data.train_inputs.double() @ (start + 2.0 * t * direction).pow(2)
        logits = torch.stack([score, torch.zeros_like(score)], dim=1)
        return nn.functional.cross_entropy(logits, data.train_labels)

    assert row["patch_t"] == [-1.0, 0.0, 1.0]
    for place, t in enumerate(row["patch_t"]):
        at = torch.tensor(t, dtype=torch.float64)
        slope = torch.func.grad(loss)(at)
        curvature = torch.func.grad(torch.func.grad(loss))(at)
        assert row["patch_loss"][place] == pytest.approx(float(loss(at)), rel=1e-10)
        assert row["patch_slope"][place] == pytest.approx(float(slope), rel=1e-8)
        assert row["patch_curvature"][place] == pytest.approx(float(curvature), rel=1e-8)
        off = [
            abs(float(loss(at + step) - loss(at) - slope * step - curvature * step**2 / 2))
            for step in (-0.1, 0.1)
        ]
        assert row["patch_error"][place] == pytest.approx(max(off), rel=1e-5, abs=1e-12)


def losses_of(means: list[float], noise: float = 0.0, num: int = 400) -> Tensor:
    """Losses (T, N) of examples with these means, to which each point adds noise of its own."""
    rows = torch.tensor(means, dtype=torch.float64).unsqueeze(1)
    drawn = torch.randn(len(means), num, generator=generator(0), dtype=torch.float64)
    return rows + noise * (drawn - drawn.mean(dim=1, keepdim=True))


@pytest.mark.parametrize("name", SHAPES)
def test_schematic_lines_have_the_shapes_that_they_are_named_after(name: str) -> None:
    shape = SHAPES[name]
    axis = equally_spaced(*shape.ends, 61)
    values = shape.loss(torch.tensor(axis, dtype=torch.float64).numpy())
    assert shape_of(losses_of(values.tolist()), axis, 2.0) == name


@pytest.mark.parametrize(
    ("means", "shape"),
    [
        ([3.0, 2.0, 1.0, 0.5, 0.2], "v-side"),
        ([1.0, 2.0, 3.0, 2.0, 1.0], "other"),
        ([3.0, 1.0, 2.0, 1.5, 4.0], "w-peak"),
        ([3.0, 1.0, 2.0, 1.2, 0.9, 1.5, 4.0], "w-basin"),
        ([3.0, 1.0, 2.0, 1.7, 0.9, 1.5, 4.0], "w-peak"),
        ([3.0, 1.0, 0.2, 1.0, 0.5, 1.0, 0.3, 2.0, 0.1], "other"),
        ([1.0] * 5, "v-side"),
    ],
)
def test_other_lines_have_the_shape_of_their_turns(means: list[float], shape: str) -> None:
    axis = equally_spaced(-1, 1, len(means))
    assert shape_of(losses_of(means), axis, 2.0) == shape


def test_wiggles_within_noise_do_not_count() -> None:
    means = [4.0, 2.0, 1.0, 1.02, 1.01, 2.0, 4.0]
    axis = equally_spaced(-1, 1, len(means))
    assert len(extrema_of(losses_of(means), 2.0)) == 3
    quiet, noisy = losses_of(means, noise=0.01), losses_of(means, noise=0.5)
    assert len(extrema_of(quiet, 2.0)) == 3, "differences of .01 are 14 standard errors"
    assert len(extrema_of(noisy, 2.0)) == 1
    assert shape_of(noisy, axis, 2.0) == "v-basin"


def test_a_loss_falls_to_the_centre_if_it_rises_on_neither_side() -> None:
    axis = equally_spaced(-1, 1, 5)
    assert falls_to_centre(losses_of([3.0, 2.0, 1.0, 4.0, 5.0]), axis, 2.0)
    assert not falls_to_centre(losses_of([3.0, 2.0, 1.0, 5.0, 4.0]), axis, 2.0)
    assert not falls_to_centre(losses_of([0.0, 0.5, 1.0, 5.0, 6.0]), axis, 2.0)
    assert falls_to_centre(losses_of([3.0, 2.0]), [0.5, 1.0], 2.0) is None


def test_a_line_into_the_infinite_has_nulls_and_no_shape() -> None:
    model = Quadratic()
    data = dataset(torch.randn(9, 3, generator=generator(0)), torch.arange(9) % 2)
    huge = torch.full_like(parameters_vector(model), 1e200)
    (row,) = measure(model, data, left(model, gradient=huge))
    assert row["train_loss"][0] is None
    assert row["shape"] is row["num_stationary_points"] is row["highest_train_loss"] is None
    assert math.isfinite(row["centre_loss"])


def test_directions_through_other_weights_are_refused() -> None:
    model, data = seeded(mlp), flat_data()
    source = left(mlp(), gradient=parameters_vector(model))
    with pytest.raises(MetricError, match="through other weights"):
        measure(model, data, source)


def test_a_direction_that_was_not_stored_is_refused() -> None:
    model, data = seeded(mlp), flat_data()
    source = left(model, gradient=parameters_vector(model))
    with pytest.raises(MetricError, match="found the direction weights, which was not stored"):
        measure(model, data, source, along=("weights",))


def test_weights_of_no_successful_training_are_refused() -> None:
    model, data = seeded(mlp), flat_data()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    weights = parameters_vector(model).clone()
    source = left(model, gradient=torch.ones_like(weights))
    with pytest.raises(MetricError, match=r"through other weights|trained weights is nan"):
        measure(model, data, source)
