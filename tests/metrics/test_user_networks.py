"""Laws of networks that do to their inputs, buffers and weights what ours do not."""

import random
from collections.abc import Callable
from typing import Any

import curve_rows as connectivity
import numpy as np
import pytest
import simplex_rows as simplex
import torch
from point_support import dataset, generator, images, mlp, seeded
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.accuracy import compute as accuracy
from phasegrid.metrics.cka import compute as cka
from phasegrid.metrics.distance import compute as distance
from phasegrid.metrics.hessian import compute as hessian
from phasegrid.metrics.network.joining import rest_of, rest_of_complex
from phasegrid.metrics.network.points import live_network, train_mode_without_draws
from phasegrid.metrics.slice import compute as slices
from phasegrid.models.evaluation import evaluate
from phasegrid.models.strategies import products

CURVE: dict[str, Any] = {"epochs": 2, "points": 3, "batch_size": 16}
SIMPLEX: dict[str, Any] = {
    "connectors": 1, "samples": 2, "epochs": 1, "batch_size": 16, "eval_samples": 2
}  # fmt: skip
METRICS: dict[str, tuple[Any, int, dict[str, Any]]] = {
    "accuracy": (accuracy.compute, 1, {}),
    "hessian": (hessian.compute, 1, {"examples": 20, "steps": 5}),
    "hessian, BatchNorm refreshed": (hessian.compute, 1, {"examples": 20, "steps": 5, "batch_norm": "refreshed"}),
    "cka": (cka.compute, 2, {"examples": 20}),
    "cka of the examples": (cka.compute, 2, {"examples": 20, "mixup_alpha": None}),
    "slice": (slices.compute, 1, {"points": 3, "dimensions": 1, "examples": 20}),
    "connectivity": (connectivity.compute, 2, CURVE),
    "simplex": (simplex.compute, 2, SIMPLEX),
}  # fmt: skip


class Shifted(nn.Module):
    """Moves its input by 1/4, in place or not, and gives it to `inner`."""

    def __init__(self, inner: nn.Module, in_place: bool) -> None:
        super().__init__()
        self.inner, self.in_place = inner, in_place

    def forward(self, x: Tensor) -> Tensor:
        if self.in_place:
            x += 0.25
        else:
            x = x + 0.25
        logits: Tensor = self.inner(x)
        return logits


def vectors() -> Dataset:
    rng = generator(3)
    inputs = torch.randn(40, 4, generator=rng, dtype=torch.float64)
    return dataset(inputs, torch.randint(0, 3, (40,), generator=rng))


def pictures() -> Dataset:
    """Of one channel: laying them out channels last copies nothing."""
    return dataset(*images(40, channels=1))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
    )


def shifted(inner: Callable[[], nn.Module], in_place: bool, count: int) -> list[nn.Module]:
    return [seeded(lambda: Shifted(inner(), in_place), seed) for seed in range(count)]


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(("inner", "make_data"), [(mlp, vectors), (convolutional, pictures)])
def test_a_network_that_writes_into_its_input_is_measured_as_one_that_does_not(
    name: str, inner: Callable[[], nn.Module], make_data: Callable[[], Dataset]
) -> None:
    compute, count, args = METRICS[name]
    data = make_data()
    rows = [
        compute(shifted(inner, in_place, count), data, generator(0), **args)
        for in_place in (False, True)
    ]
    assert rows[0] == rows[1]
    assert torch.equal(data.train_inputs, make_data().train_inputs)
    assert torch.equal(data.test_inputs, make_data().test_inputs)


def test_counting_the_work_of_a_network_leaves_the_data_alone() -> None:
    data = vectors()
    products(shifted(mlp, True, 1)[0], data.train_inputs[:1])
    assert torch.equal(data.train_inputs, vectors().train_inputs)


class Frozen(nn.Module):
    """Random features, a statistic of its own and a counter beside what trains, all of its seed."""

    def __init__(self, seed: int, count: int = 0, norm: bool = False) -> None:
        super().__init__()
        self.a = nn.Linear(4, 6).requires_grad_(False)
        self.norm = nn.BatchNorm1d(6) if norm else nn.Identity()
        self.b = nn.Linear(6, 3)
        self.register_buffer("mean", torch.randn(4, generator=generator(seed)))
        self.register_buffer("count", torch.tensor(count))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        logits: Tensor = self.b(torch.relu(self.norm(self.a(x - self.mean))))
        return logits


def frozen(count: int = 2, norm: bool = False) -> list[nn.Module]:
    return [seeded(lambda seed=seed: Frozen(seed, norm=norm), seed) for seed in range(count)]


CURVES: list[dict[str, Any]] = [
    {}, {"bends": 2}, {"curve": "polychain", "bends": 2}, {"init": "random"}, {"updates": 3}
]  # fmt: skip


@pytest.mark.parametrize("more", CURVES)
def test_the_ends_of_a_curve_are_the_networks_with_all_that_they_hold(more: dict[str, Any]) -> None:
    models, data = frozen(), vectors()
    before = [{k: v.clone() for k, v in model.state_dict().items()} for model in models]
    row = connectivity.compute(models, data, generator(0), **{**CURVE, **more})
    for place, model in ((0, models[0]), (-1, models[1])):
        train = evaluate(model, data.train_inputs, data.train_labels)
        test = evaluate(model, data.test_inputs, data.test_labels)
        assert row["train_loss"][place] == pytest.approx(train.loss, abs=1e-12)  # type: ignore[index]
        assert row["test_loss"][place] == pytest.approx(test.loss, abs=1e-12)  # type: ignore[index]
        assert row["train_error_percent"][place] == train.error_percent  # type: ignore[index]
    for model, was in zip(models, before, strict=True):
        assert all(torch.equal(value, was[name]) for name, value in model.state_dict().items())


def test_the_middle_of_a_line_lies_in_the_middle_of_all_that_differs() -> None:
    """A curve that does not train: its point at 1/2 is the network whose every number is the
    mean.
    """
    models, data = frozen(), vectors()
    row = connectivity.compute(models, data, generator(0), **{**CURVE, "lr": 0.0})
    middle = seeded(lambda: Frozen(0))
    states = [model.state_dict() for model in models]
    middle.load_state_dict({k: (v + states[1][k]) / 2 for k, v in states[0].items()})
    expected = evaluate(middle, data.train_inputs, data.train_labels).loss
    assert row["train_loss"][1] == pytest.approx(expected, abs=1e-12)  # type: ignore[index]


def test_frozen_weights_beside_batch_norm_are_joined_and_the_residual_says_what_refreshing_did() -> (
    None
):
    models, data = frozen(norm=True), vectors()
    row = connectivity.compute(models, data, generator(0), **CURVE)
    own = [evaluate(m, data.train_inputs, data.train_labels).error_percent for m in models]
    found = [row["train_error_percent"][place] for place in (0, -1)]  # type: ignore[index]
    change = max(abs(a - b) for a, b in zip(own, found, strict=True))
    assert row["end_residual_percent"] == pytest.approx(change)


def test_pairs_whose_frozen_weights_differ_are_joined_one_by_one() -> None:
    models, groups = frozen(3), [(0, 1), (1, 2)]
    assert connectivity.compute_many(models, groups, vectors(), [generator(0)] * 2, **CURVE) is None


def test_a_simplex_reaches_its_modes_with_all_that_they_hold() -> None:
    models = frozen(3)
    rest = rest_of_complex(models, 2)
    assert sorted(rest.names) == ["a.bias", "a.weight", "mean"]
    network = live_network(seeded(lambda: Frozen(9)))
    for index, model in enumerate(models):
        coefficients = torch.zeros(5, dtype=torch.float64)
        coefficients[index] = 1
        rest.place(network, coefficients)
        for name in rest.names:
            assert torch.equal(network.state()[name], model.state_dict()[name])
    rest.place(network, torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0], dtype=torch.float64))
    mean = torch.stack([model.get_buffer("mean") for model in models]).mean(0)
    assert torch.allclose(network.state()["mean"], mean, atol=1e-15)


def test_a_simplex_of_modes_that_differ_in_frozen_weights_alone_sees_them() -> None:
    """With equal trainable weights the loss over it is that of the networks between, not of the
    first one.
    """
    models = frozen()
    models[1].b.load_state_dict(models[0].b.state_dict())  # type: ignore[union-attr]
    args = {**SIMPLEX, "jitter": 1e-9, "lr": 0.0, "eval_samples": 40}
    row = simplex.compute(models, vectors(), generator(0), **args)
    own = [evaluate(m, vectors().train_inputs, vectors().train_labels).loss for m in models]
    assert abs(float(row["expected_train_loss"]) - own[0]) > 1e-3  # type: ignore[arg-type]


def test_integers_that_differ_are_refused_by_name() -> None:
    models = [seeded(lambda: Frozen(0, count=3)), seeded(lambda: Frozen(0, count=4), 1)]
    for compute, args in ((connectivity.compute, CURVE), (simplex.compute, SIMPLEX)):
        with pytest.raises(MetricError, match=r"'count' \(torch\.int64\) differs between them"):
            compute(models, vectors(), generator(0), **args)


def test_networks_that_differ_in_trainable_weights_alone_have_no_rest() -> None:
    assert rest_of([seeded(convolutional, seed) for seed in (0, 1)]).vertices is None


def test_an_end_that_gives_other_outputs_is_refused() -> None:
    class Scaled(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.inner, self.scale = mlp(), scale

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * self.inner(x)  # type: ignore[no-any-return]

    models = [seeded(lambda: Scaled(1.0)), seeded(lambda: Scaled(2.0), 1)]
    with pytest.raises(
        MetricError, match="the last point of the curve, rebuilt from its parameters"
    ):
        connectivity.compute(models, vectors(), generator(0), **CURVE)


class Drawing(nn.Module):
    """A layer, something random on what it gives, and a layer; 4 inputs, 3 classes."""

    def __init__(self, draw: Callable[[Tensor, bool], Tensor]) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.draw = (
            nn.Linear(4, 8),
            nn.BatchNorm1d(8),
            nn.Linear(8, 3),
            draw,
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(self.draw(self.norm(self.a(x)), self.training))
        return logits


class Sequences(nn.Module):
    """Four inputs as a sequence, for layers whose dropout is inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.e, self.inner, self.o = nn.Linear(1, 8), inner, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(self.e(x.unsqueeze(2)))
        logits: Tensor = self.o((y[0] if isinstance(y, tuple) else y).mean(1))
        return logits


DRAWS: dict[str, Callable[[], nn.Module]] = {
    "a function": lambda: Drawing(lambda h, on: functional.dropout(h, 0.3, on)),
    "RReLU": lambda: nn.Sequential(nn.Linear(4, 8), nn.RReLU(), nn.Linear(8, 3)),
    "attention": lambda: Sequences(nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)),
    "LSTM": lambda: Sequences(nn.LSTM(8, 8, 2, dropout=0.3, batch_first=True)),
    "depth by Python": lambda: Drawing(lambda h, on: h * 0 if on and random.random() < 0.5 else h),
    "depth by NumPy": lambda: Drawing(
        lambda h, on: h * 0 if on and np.random.random() < 0.5 else h  # noqa: NPY002
    ),
}


@pytest.mark.parametrize("name", DRAWS)
def test_joining_networks_draws_nothing_from_the_process(name: str) -> None:
    models = [seeded(DRAWS[name], seed) for seed in (0, 1)]
    for compute, args in ((connectivity.compute, CURVE), (simplex.compute, SIMPLEX)):
        rows = []
        for state in (100, 101):
            torch.manual_seed(state)
            random.seed(state)
            np.random.seed(state)  # noqa: NPY002
            rows.append(compute(models, vectors(), generator(7), **args))
        assert rows[0] == rows[1]


def test_only_the_layer_that_draws_leaves_train_mode() -> None:
    network = seeded(DRAWS["a function"])
    train_mode_without_draws(network, vectors().train_inputs[:2])
    assert not network.training
    assert network.get_submodule("norm").training
    attending = seeded(DRAWS["attention"])
    train_mode_without_draws(attending, vectors().train_inputs[:2])
    assert attending.training
    assert not attending.get_submodule("inner.self_attn").training


def test_networks_that_draw_in_eval_mode_are_refused_by_name() -> None:
    models = [
        seeded(lambda: Drawing(lambda h, _: functional.dropout(h, 0.3)), seed) for seed in (0, 1)
    ]
    for compute, args in ((connectivity.compute, CURVE), (simplex.compute, SIMPLEX)):
        with pytest.raises(
            MetricError, match=r"draws random numbers in eval mode, so.*self\.training"
        ):
            compute(models, vectors(), generator(0), **args)


def pruned() -> nn.Module:
    layer = nn.Linear(4, 6)
    prune.random_unstructured(layer, "weight", 0.5)
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(6, 3))


DERIVED: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3)),
    "spectral norm": lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3)),
    "pruning": pruned,
    "spectral norm, new": lambda: nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3)
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("name", DERIVED)
def test_networks_that_compute_their_weights_can_be_measured(name: str) -> None:
    models, data = [seeded(DERIVED[name], seed) for seed in (0, 1)], vectors()
    for compute, count, args in METRICS.values():
        compute(models[:count], data, generator(0), **args)
    assert distance.compute(models, data, generator(0))["l2_distance"]
