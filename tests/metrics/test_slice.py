"""The slice metric: against networks loaded point by point, known functions, and what rescaling
must not change.
"""

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from point_support import Residual, cnn, dataset, generator, images, mlp, seeded
from sequence_support import sentences, token_loss, translator
from store_support import bare
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import import_function
from phasegrid.errors import MetricError
from phasegrid.estimates import Workload
from phasegrid.jobs import MetricJob, Part
from phasegrid.metrics import METRICS
from phasegrid.metrics.directions.drawing import draw_directions
from phasegrid.metrics.directions.eigenvectors import top_eigenvectors
from phasegrid.metrics.directions.scaling import cosine, normalise
from phasegrid.metrics.hessian.operator import HessianOperator
from phasegrid.metrics.lines.shapes import count_stationary
from phasegrid.metrics.slice import SLICE, SliceArgs
from phasegrid.metrics.slice.compute import compute, symmetric_axis
from phasegrid.metrics.slice.evaluation import MovingNetwork, make_examples, measure_slice
from phasegrid.models import resnet, transformer
from phasegrid.models.evaluation import evaluate
from phasegrid.models.weights import (
    batch_norm_modules,
    parameter_slices,
    parameters_vector,
)
from phasegrid.plan.contents import Cell
from phasegrid.plan.cost import guess_cost
from phasegrid.store.records import to_table
from phasegrid.store.schemas import metric_schema

POINTS = 3


def measure(module: nn.Module, data: Dataset, seed: int = 0, **args: Any) -> dict[str, Any]:
    settings = dataclasses.asdict(SliceArgs(**{"points": POINTS, "examples": None, **args}))
    row: dict[str, Any] = compute([module], data, generator(seed), **settings)
    return row


def flat_data(num: int = 12) -> Dataset:
    rng = generator(3)
    inputs = torch.randn(num, 4, generator=rng, dtype=torch.float64)
    return dataset(inputs, torch.randint(0, 3, (num,), generator=rng))


def image_data(num: int = 12) -> Dataset:
    return dataset(*images(num))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Dataset]]] = {
    "mlp": (mlp, flat_data),
    "cnn": (cnn, image_data),
    "residual": (Residual, image_data),
    "resnet18": (lambda: resnet.make((2, 6, 6), 3, width=2), image_data),
}


def naive_normalise(
    direction: Sequence[Tensor], weights: Sequence[Tensor], how: str
) -> list[Tensor]:
    """Filter by filter, as published (Li et al. 2018, ``ignore=biasbn``), or as a whole."""
    if how == "none":
        total, own = (
            math.sqrt(sum(float(x.square().sum()) for x in parts)) for parts in (weights, direction)
        )
        return [d * total / own for d in direction]
    scaled = []
    for d, w in zip(direction, weights, strict=True):
        if d.dim() < 2:
            scaled.append(torch.zeros_like(d))
        else:
            scaled.append(torch.stack([f * v.norm() / f.norm() for f, v in zip(d, w, strict=True)]))
    return scaled


def naive_slice(
    module: nn.Module,
    data: Dataset,
    refresh: Tensor | None,
    how: str,
    dimensions: int,
    seed: int = 0,
) -> tuple[list[list[float]], list[list[float]]]:
    """Build a state for every point, load it, refresh BatchNorm by torch's cumulative average,
    evaluate whole.
    """
    weights = [p.detach() for p in module.parameters()]
    rng = generator(seed)
    flat = [torch.randn(sum(map(torch.numel, weights)), generator=rng, dtype=torch.float64) for _ in range(dimensions)]  # fmt: skip
    directions = []
    for one in flat:
        parts = one.split([w.numel() for w in weights])
        shaped = [part.view(w.shape) for part, w in zip(parts, weights, strict=True)]
        directions.append(naive_normalise(shaped, weights, how))
    names = [name for name, _ in module.named_parameters()]
    losses, errors = [], []
    for b in torch.linspace(-1, 1, POINTS).tolist() if dimensions == 2 else [0.0]:
        loss_row, error_row = [], []
        for a in torch.linspace(-1, 1, POINTS).tolist():
            state = copy.deepcopy(module.state_dict())
            for i, name in enumerate(names):
                moved = weights[i] + a * directions[0][i]
                state[name] = moved + b * directions[1][i] if dimensions == 2 else moved
            point = copy.deepcopy(module)
            point.load_state_dict(state)
            _refresh(point, refresh)
            with torch.no_grad():
                logits = point(data.train_inputs)
            loss_row.append(float(cross_entropy(logits, data.train_labels)))
            wrong = (logits.argmax(1) != data.train_labels).double().mean()
            error_row.append(100 * float(wrong))
        losses.append(loss_row)
        errors.append(error_row)
    return losses, errors


def _refresh(module: nn.Module, inputs: Tensor | None) -> None:
    if inputs is None:
        return
    for layer in batch_norm_modules(module):
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    with torch.no_grad():
        module(inputs)
    module.eval()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("how", "dimensions", "policy"),
    [("filter", 2, "as_saved"), ("none", 1, "as_saved"), ("filter", 1, "refreshed"), ("none", 2, "refreshed")],
)  # fmt: skip
def test_a_slice_is_that_of_networks_loaded_point_by_point(
    name: str, how: str, dimensions: int, policy: str
) -> None:
    make, draw = NETWORKS[name]
    module, data = seeded(make), draw()
    refresh = data.train_inputs if policy == "refreshed" else None
    args = {"normalize": how, "dimensions": dimensions, "batch_norm": policy}
    row = measure(module, data, **args)
    losses, errors = naive_slice(module, data, refresh, how, dimensions)
    np.testing.assert_allclose(row["train_loss"], losses, rtol=1e-10)
    np.testing.assert_allclose(row["train_error_percent"], errors, atol=1e-9)
    assert row["batch_norm"] == (policy if batch_norm_modules(module) else None)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_centre_is_the_saved_network(name: str) -> None:
    make, draw = NETWORKS[name]
    module, data = seeded(make), draw()
    row = measure(module, data, test=True)
    train = evaluate(module, data.train_inputs, data.train_labels, data.scoring)
    test = evaluate(module, data.test_inputs, data.test_labels, data.scoring)
    assert row["train_loss"][1][1] == pytest.approx(train.loss, rel=1e-12)
    assert row["train_error_percent"][1][1] == pytest.approx(train.error_percent, abs=1e-10)
    assert row["test_loss"][1][1] == pytest.approx(test.loss, rel=1e-12)
    assert row["test_error_percent"][1][1] == pytest.approx(test.error_percent, abs=1e-10)
    assert row["centre_loss"] == row["train_loss"][1][1]
    assert (row["num_examples"], row["num_test_examples"]) == (12, 6)


class Quadratic(nn.Module):
    """A loss of q(w) = 1 + w^T A w / 2 on label 0: log(1 + e^z) = q where z = log(e^q - 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.3, -0.2, 0.5]))
        self.register_buffer("A", torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 0.7]]))

    def forward(self, x: Tensor) -> Tensor:
        q = 1 + self.w @ self.A @ self.w / 2
        z = torch.log(torch.expm1(q)).expand(len(x))
        return torch.stack([torch.zeros_like(z), z], dim=1)


def zeros_data(num: int = 5) -> Dataset:
    zeros = torch.zeros(num, 1, dtype=torch.float64)
    return dataset(zeros, torch.zeros(num, dtype=torch.int64), classes=2)


def test_a_quadratic_loss_gives_its_parabola() -> None:
    module = seeded(Quadratic)
    row = measure(module, zeros_data(), dimensions=1, normalize="none", points=9, radius=0.5)
    w, A = module.w.detach(), module.A
    assert isinstance(w, Tensor)
    d = torch.randn(3, generator=generator(0), dtype=torch.float64)
    d = d * w.norm() / d.norm()
    wanted = [1 + float((w + a * d) @ A @ (w + a * d)) / 2 for a in row["axis"]]
    np.testing.assert_allclose(row["train_loss"][0], wanted, rtol=1e-12)
    second = np.diff(row["train_loss"][0], 2) / 0.125**2
    np.testing.assert_allclose(second, float(d @ A @ d), rtol=1e-9)


def test_the_plane_of_eigenvectors_bends_by_the_eigenvalues() -> None:
    module = seeded(Quadratic)
    row = measure(module, zeros_data(), directions="hessian", points=5, radius=0.1)
    values = np.linalg.eigvalsh(module.A.numpy())[::-1]
    np.testing.assert_allclose(row["eigenvalues"], values[:2], rtol=1e-9)
    assert max(row["eigenvalue_residuals"]) < 1e-9
    assert row["normalize"] == "none"
    np.testing.assert_allclose(row["direction_norms"], row["weight_norm"], rtol=1e-12)
    assert row["direction_cosine"] == pytest.approx(0, abs=1e-9)
    grid, scale = np.array(row["train_loss"]), row["weight_norm"] ** 2 * 0.05**2
    np.testing.assert_allclose(np.diff(grid, 2, axis=1) / scale, values[0], rtol=1e-7)
    np.testing.assert_allclose(np.diff(grid, 2, axis=0) / scale, values[1], rtol=1e-7)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_along_the_weights_the_loss_is_that_of_scaled_weights(name: str) -> None:
    make, data = NETWORKS[name][0], NETWORKS[name][1]()
    module = seeded(make)
    row = measure(module, data, directions="weights", dimensions=1, points=5, radius=0.2)
    for x, found in zip(row["axis"], row["train_loss"][0], strict=True):
        scaled = copy.deepcopy(module).eval()
        with torch.no_grad():
            for w in scaled.parameters():
                w *= 1 + x
            wanted = float(cross_entropy(scaled(data.train_inputs), data.train_labels))
        assert found == pytest.approx(wanted, rel=1e-12)
    assert row["normalize"] == "none"
    np.testing.assert_allclose(row["direction_norms"], row["weight_norm"], rtol=1e-12)
    assert row["eigenvalues"] is None


def test_weights_span_no_plane() -> None:
    rule = SLICE.rules[0]
    given = dataclasses.asdict(SliceArgs(directions="weights"))
    found = rule(given)
    assert found == ("dimensions", "found 2 with directions: weights, which are one direction; allowed: 1")  # fmt: skip
    assert rule({**given, "dimensions": 1}) is None
    assert rule({**given, "directions": "random"}) is None


def test_one_logit_moves_along_a_known_function() -> None:
    module = seeded(lambda: nn.Linear(1, 2, bias=False))
    data = dataset(torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, dtype=torch.int64), 2)
    row = measure(module, data, normalize="none")
    w = parameters_vector(module)
    d = normalise(
        draw_directions(2, w, generator(0)), w, parameter_slices(module), "norm", keep_biases=True
    )
    for (j, b), (i, a) in itertools.product(enumerate(row["axis_2"]), enumerate(row["axis"])):
        z = w + a * d[0] + b * d[1]
        wanted = float(nn.functional.softplus(z[1] - z[0]))
        assert row["train_loss"][j][i] == pytest.approx(wanted, rel=1e-12)


def test_eigenvectors_are_those_of_the_hessian_and_orthonormal() -> None:
    module, data = seeded(mlp), flat_data()
    H = HessianOperator(module, data.train_inputs, data.train_labels)
    found = top_eigenvectors(H, 2, generator(0))
    torch.testing.assert_close(found.vectors @ found.vectors.t(), torch.eye(2, dtype=torch.float64))
    for v, value, residual in zip(found.vectors, found.eigenvalues, found.residuals, strict=True):
        assert float((H(v) - value * v).norm()) == pytest.approx(residual, rel=1e-3, abs=1e-9)
    dense = torch.stack([H(e) for e in torch.eye(H.size, dtype=torch.float64)])
    top = torch.linalg.eigvalsh(dense)
    assert found.eigenvalues[0] == pytest.approx(float(top[-1]), rel=1e-3)
    assert found.eigenvalues[1] == pytest.approx(float(top[-2]), abs=found.residuals[1] + 1e-9)


@pytest.mark.parametrize("policy", ["as_saved", "refreshed"])
def test_directions_of_the_hessian_go_through_the_network_measured(policy: str) -> None:
    module, data = seeded(Residual), image_data()
    row = measure(module, data, directions="hessian", batch_norm=policy, refresh_examples=8)
    assert row["train_loss"][1][1] == pytest.approx(row["centre_loss"], rel=1e-12)
    assert row["eigenvalues"][0] >= row["eigenvalues"][1]
    filtered = measure(module, data, directions="hessian", batch_norm=policy, normalize="filter")
    assert (filtered["normalize"], filtered["eigenvalues"] is not None) == ("filter", True)


def test_every_filter_of_a_direction_has_the_norm_of_its_filter() -> None:
    module = seeded(cnn)
    with torch.no_grad():
        module[0].weight[1] = 0.0  # type: ignore[index]
    w, slices = parameters_vector(module), parameter_slices(module)
    directions = normalise(
        draw_directions(2, w, generator(0)), w, slices, "filter", keep_biases=False
    )
    seen = 0
    for d in directions:
        for part in slices:
            mine, theirs = d[part.start : part.stop], w[part.start : part.stop]
            if len(part.shape) == 1:
                assert not mine.any()
                continue
            norms = [x.view(part.shape[0], -1).norm(dim=1) for x in (mine, theirs)]
            torch.testing.assert_close(norms[0], norms[1], rtol=1e-13, atol=0)
            seen += part.shape[0]
    assert seen == 2 * (4 + 4 + 4 + 3)


def test_filter_normalisation_keeps_what_filters_point_at() -> None:
    module = seeded(mlp)
    w, slices = parameters_vector(module), parameter_slices(module)
    drawn = draw_directions(1, w, generator(0))
    scaled = normalise(drawn, w, slices, "filter", keep_biases=False)
    first = slices[0]
    before, after = (x[0, first.start : first.stop].view(first.shape) for x in (drawn, scaled))
    torch.testing.assert_close(nn.functional.cosine_similarity(before, after), torch.ones(5).double())  # fmt: skip
    rescaled = normalise(7 * drawn, w, slices, "filter", keep_biases=False)
    torch.testing.assert_close(rescaled, scaled, rtol=1e-13, atol=0)


def plain_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )  # fmt: skip


def test_rescaled_layers_of_a_relu_network_give_the_same_slice() -> None:
    """Li et al. 2018, section 4: one layer times 10, the next divided by 10; without normalisation
    the slice changes.
    """
    module, data = seeded(plain_cnn), image_data()
    rescaled = copy.deepcopy(module)
    with torch.no_grad():
        rescaled[0].weight *= 10  # type: ignore[index,operator]
        rescaled[0].bias *= 10  # type: ignore[index,operator]
        rescaled[2].weight /= 10  # type: ignore[index,operator]
    torch.testing.assert_close(rescaled(data.train_inputs), module(data.train_inputs))
    before, after = measure(module, data), measure(rescaled, data)
    np.testing.assert_allclose(after["train_loss"], before["train_loss"], rtol=1e-9)
    plain, moved = (measure(m, data, normalize="none") for m in (module, rescaled))
    assert np.abs(np.array(plain["train_loss"]) / np.array(moved["train_loss"]) - 1).max() > 0.1


def test_rescaled_filters_before_batch_norm_give_the_same_slice() -> None:
    """Each filter by a factor of its own; with statistics refreshed, and eps too small to
    matter.
    """
    module, data = seeded(Residual), image_data()
    for layer in batch_norm_modules(module):
        layer.eps = 1e-14
    rescaled = copy.deepcopy(module)
    with torch.no_grad():
        rescaled.conv1.weight *= torch.tensor([0.1, 2.0, 30.0]).view(3, 1, 1, 1)  # type: ignore[union-attr,operator]
    before, after = (measure(m, data, batch_norm="refreshed") for m in (module, rescaled))
    np.testing.assert_allclose(after["train_loss"], before["train_loss"], rtol=1e-8)


def test_a_line_is_the_middle_row_of_its_plane() -> None:
    module, data = seeded(Residual), image_data()
    line, plane = (measure(module, data, dimensions=d) for d in (1, 2))
    assert len(line["train_loss"]) == 1
    np.testing.assert_allclose(line["train_loss"][0], plane["train_loss"][1], rtol=1e-12)
    assert line["axis_2"] is None
    assert line["direction_cosine"] is None
    assert plane["num_stationary_points"] is None
    assert line["num_stationary_points"] == count_stationary(line["train_loss"][0])


def test_points_are_symmetric_and_ascend() -> None:
    for points, radius in itertools.product((3, 4, 41, 51), (1.0, 0.3)):
        axis = symmetric_axis(points, radius)
        assert axis == [-x for x in reversed(axis)]
        assert axis == sorted(axis)
        assert (len(axis), axis[-1]) == (points, radius)
        assert (0.0 in axis) == (points % 2 == 1)


def test_the_generator_decides_everything() -> None:
    module, data = seeded(cnn), image_data()
    for args in ({}, {"directions": "hessian"}, {"batch_norm": "refreshed"}):
        first, again, other = (measure(module, data, seed, **args) for seed in (0, 0, 1))
        assert first == again
        if not args:
            assert first["train_loss"] != other["train_loss"]


def test_a_measured_model_is_unchanged() -> None:
    module = seeded(Residual)
    module.conv1.train()
    state = copy.deepcopy(module.state_dict())
    modes = [m.training for m in module.modules()]
    random = torch.get_rng_state()
    measure(module, image_data(), batch_norm="refreshed", directions="hessian")
    assert [m.training for m in module.modules()] == modes
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name])
    assert torch.equal(torch.get_rng_state(), random)


def test_the_same_examples_serve_every_trial() -> None:
    data = image_data(30)
    first, second = (measure(seeded(cnn), data, seed, examples=10, dimensions=1) for seed in (0, 1))
    assert first["centre_loss"] == second["centre_loss"]
    assert first["num_examples"] == 10
    other = measure(seeded(cnn), data, examples=10, dimensions=1, example_seed=1)
    assert other["centre_loss"] != first["centre_loss"]
    assert measure(seeded(cnn), data, examples=99, dimensions=1)["num_examples"] == 30


@pytest.mark.parametrize("batch", [1, 5, 12])
def test_batches_do_not_change_a_slice(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module, data = seeded(Residual), image_data()
    whole = measure(module, data)
    monkeypatch.setattr("phasegrid.tasks.classification.evaluation_batch", lambda _: batch)
    np.testing.assert_allclose(measure(module, data)["train_loss"], whole["train_loss"], rtol=1e-12)


class Viewing(nn.Module):
    """Code that cannot take images channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 3, 3), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return self.head(y.view(len(y), -1))


def test_networks_that_view_their_images_flat_are_measured_as_they_are() -> None:
    module, data = seeded(Viewing), image_data()
    network = MovingNetwork(module)
    assert network.lay_out(data.train_inputs) is data.train_inputs
    row = measure(module, data)
    losses, _ = naive_slice(module, data, None, "filter", 2)
    np.testing.assert_allclose(row["train_loss"], losses, rtol=1e-10)


def test_images_are_laid_out_channels_last_and_the_weights_return() -> None:
    module, data = seeded(cnn), image_data()
    network = MovingNetwork(module)
    before = network.flat.rows()
    turned = network.lay_out(data.train_inputs.float())
    assert turned.is_contiguous(memory_format=torch.channels_last)
    assert turned.dtype == torch.float64
    examples = make_examples(network, data.train_inputs, data.train_labels, data.scoring)
    measure_slice(network, torch.ones(1, len(before), dtype=torch.float64), [-1.0, 1.0], [examples])
    assert torch.equal(network.flat.rows(), before)
    at_centre = float(network.measure(examples)[0]) / 12
    assert at_centre == pytest.approx(
        evaluate(module, data.train_inputs, data.train_labels, data.scoring).loss
    )


def test_points_that_overflow_are_null() -> None:
    row = measure(seeded(mlp), flat_data(), radius=1e200, dimensions=1, test=True)
    for column in ("train_loss", "train_error_percent", "test_loss", "test_error_percent"):
        assert row[column][0][0] is None
        assert row[column][0][1] is not None
    assert row["num_stationary_points"] is None
    schema = metric_schema("slice", SLICE.columns)
    assert {"train_loss", "axis_2"} < set(schema.names)


def test_stationary_points_are_counted_inside_only() -> None:
    assert count_stationary([3.0, 1.0, 3.0]) == 1
    assert count_stationary([1.0, 3.0, 1.0, 3.0, 1.0]) == 3
    assert count_stationary([1.0, 1.0, 1.0]) == 0
    assert count_stationary([1.0, None, 1.0]) is None


def test_sentence_pairs_are_measured_over_their_tokens() -> None:
    module, data = translator(), sentences()
    row = measure(module, data, test=True)
    w = parameters_vector(module)
    slices = parameter_slices(module)
    d = normalise(draw_directions(2, w, generator(0)), w, slices, "filter", keep_biases=False)
    for (j, b), (i, a) in itertools.product(enumerate(row["axis_2"]), enumerate(row["axis"])):
        point = w + a * d[0] + b * d[1]
        parts = [point[s.start : s.stop].view(s.shape) for s in slices]
        wanted = float(token_loss(module, data.train_inputs, data.train_labels, *parts))
        assert row["train_loss"][j][i] == pytest.approx(wanted, rel=1e-10)
    test = evaluate(module, data.test_inputs, data.test_labels, data.scoring)
    assert row["test_loss"][1][1] == pytest.approx(test.loss, rel=1e-12)
    assert row["test_error_percent"][1][1] == pytest.approx(test.error_percent, abs=1e-10)
    assert row["num_examples"] == 16


def test_a_transformer_has_eigenvectors_to_go_along() -> None:
    data = sentences()
    assert data.form is not None
    tokens = data.form
    module = translator(
        make=lambda: transformer.make(tokens, width=4, depth=1, heads=2, feed_forward=2)
    )
    row = measure(module, data, directions="hessian", dimensions=1)
    saved = evaluate(module, data.train_inputs, data.train_labels, data.scoring)
    assert row["train_loss"][0][1] == pytest.approx(saved.loss, rel=1e-12)


def test_bfloat16_is_autocast_around_float32_weights() -> None:
    module = seeded(Residual).float()
    inputs, labels = images(40)
    data = dataset(inputs.float(), labels)
    exact, rough = (measure(module, data, precision=p) for p in ("fp32", "bf16"))
    off = np.abs(np.array(rough["train_loss"]) / np.array(exact["train_loss"]) - 1)
    assert (
        0 < off.max() < 0.03
    )  # bfloat16 has 8 bits; a few layers of rounding, averaged over examples
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        loss = float(cross_entropy(module(data.train_inputs).double(), labels))
    # BatchNorm folded and not folded round differently
    assert rough["centre_loss"] == pytest.approx(loss, rel=0.01)


def test_the_row_is_what_is_declared_and_can_be_stored() -> None:
    assert import_function(METRICS["slice"].compute) is compute
    schema = metric_schema("slice", SLICE.columns)
    for args in ({"dimensions": 1}, {"directions": "hessian", "test": True}):
        row = measure(seeded(cnn), image_data(), **args)
        assert set(row) == {column.name for column in SLICE.columns}
        whole = {**bare("metrics/sharpness", "a"), **row}
        found = to_table("metrics/slice", schema, [whole], "a slice").to_pylist()[0]
        assert found["train_loss"] == row["train_loss"]
        assert found["axis_2"] == row["axis_2"]


def test_a_guess_of_the_cost_grows_with_points_and_examples() -> None:
    def seconds(**args: Any) -> float:
        part = Part("slice", 1, dataclasses.asdict(SliceArgs(**args)))
        work = Workload(1000, 500, 10, 100, 10_000)
        cell = Cell(0, (), None, None, (), (), work)
        return guess_cost(cell, MetricJob("k", part, ("a",))).seconds

    usual = seconds()
    assert seconds(dimensions=1) == pytest.approx(usual / 41)
    assert seconds(examples=500) == pytest.approx(usual / 2)
    assert seconds(examples=None) == pytest.approx(usual)
    assert seconds(test=True) == pytest.approx(1.5 * usual)
    assert usual < seconds(batch_norm="refreshed") < 2 * usual


def test_a_slice_is_through_one_model() -> None:
    with pytest.raises(MetricError, match=r"through one model, got 2"):
        compute([seeded(mlp)] * 2, flat_data(), generator(0))


def test_a_network_without_parameters_has_no_slice() -> None:
    with pytest.raises(MetricError, match=r"slice: Flatten has no trainable parameter"):
        measure(nn.Flatten(), flat_data())


def test_outputs_must_be_classes() -> None:
    flat = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    with pytest.raises(MetricError, match=r"12 examples.*to outputs of shape \(12,\).*of classes"):
        measure(seeded(lambda: flat), flat_data())


def test_weights_of_a_diverged_trial_are_refused() -> None:
    module = seeded(mlp)
    with torch.no_grad():
        module[0].weight[0, 0] = float("nan")  # type: ignore[index]
    with pytest.raises(MetricError, match=r"loss at the trained weights is nan.*diverged\?"):
        measure(module, flat_data())


def test_a_direction_with_nothing_left_is_refused() -> None:
    with pytest.raises(MetricError, match="normalize: filter makes a direction zero"):
        measure(seeded(Quadratic), zeros_data())


def test_a_plane_needs_two_eigenvectors() -> None:
    module = seeded(lambda: nn.Sequential(nn.Linear(1, 1, bias=False), Doubling()))
    data = dataset(torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, dtype=torch.int64), 2)
    with pytest.raises(MetricError, match=r"2 eigenvectors were asked for.*ask for at most 1"):
        measure(module, data, directions="hessian")
    assert measure(module, data, directions="hessian", dimensions=1)["eigenvalues"]


class Doubling(nn.Module):
    """Logits z and -z."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, -x], dim=1)


def test_a_cosine_is_that_of_the_angle() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])
    assert cosine(a, b) == pytest.approx(0.5**0.5)
    assert cosine(a, -3 * a) == pytest.approx(-1)
