import copy
import math
import random

import pytest
import torch
from curve_rows import compute
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import import_function
from phasegrid.errors import MetricError
from phasegrid.metrics import METRICS
from phasegrid.metrics.connectivity import ConnectivityArgs
from phasegrid.metrics.connectivity.compute import compute as declared
from phasegrid.metrics.connectivity.compute import place_vertices
from phasegrid.metrics.connectivity.farthest import farthest_from_ends
from phasegrid.models.evaluation import evaluate
from phasegrid.models.weights import refresh_batch_norm

NUM_TRAIN = 60


def clusters(shape: tuple[int, ...], num: int = NUM_TRAIN) -> Dataset:
    """Three Gaussian clusters, float64: two thirds to train on, one third to test on."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3 * num // 2) % 3
    centers = 2 * torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(labels), *shape, generator=generator, dtype=torch.float64)
    inputs = centers[labels] + noise
    unit = torch.ones(1, dtype=torch.float64)
    return Dataset(
        "clusters", inputs[:num], labels[:num], inputs[num:], labels[num:], 3, unit, 0 * unit
    )


def network(kind: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = {
            "mlp": lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)),
            "dropout": lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)),
            "bn": lambda: nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
            ),
        }[kind]()
    return net.double().eval()


def pair(kind: str = "mlp") -> list[nn.Module]:
    return [network(kind, 0), network(kind, 1)]


def data_for(kind: str = "mlp") -> Dataset:
    return clusters((1, 4, 4) if kind == "bn" else (4,))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def train_set(data: Dataset) -> tuple[Tensor, Tensor]:
    return data.train_inputs, data.train_labels


@pytest.mark.parametrize("kind", ["mlp", "bn"])
def test_row_has_exactly_the_declared_columns(kind: str) -> None:
    row = compute(pair(kind), data_for(kind), seeded(), epochs=1, batch_size=20)
    assert list(row) == [column.name for column in METRICS["connectivity"].columns]
    absent = {name for name, value in row.items() if value is None}
    of_text = {name for name in row if "perplexity" in name}
    of_batch_norm = {"num_refreshed", "refresh_batch_size", "refresh_augmented"}
    assert absent == of_text | (of_batch_norm if kind == "mlp" else set())


def test_declaration_names_this_function() -> None:
    assert import_function(METRICS["connectivity"].compute) is declared


@pytest.mark.parametrize("curve", ["bezier", "polychain"])
def test_ends_of_the_curve_are_the_models_themselves(curve: str) -> None:
    models, data = pair(), data_for()
    row = compute(models, data, seeded(), curve=curve, bends=2, epochs=2, points=3)
    for end, model in ((0, models[0]), (-1, models[1])):
        train = evaluate(model, data.train_inputs, data.train_labels)
        test = evaluate(model, data.test_inputs, data.test_labels)
        assert row["train_loss"][end] == train.loss
        assert row["train_error_percent"][end] == train.error_percent
        assert row["test_loss"][end] == test.loss
        assert row["test_error_percent"][end] == test.error_percent
    assert row["end_residual_percent"] == 0.0


def test_with_batch_norm_the_ends_are_the_refreshed_models() -> None:
    models, data = pair("bn"), data_for("bn")
    row = compute(models, data, seeded(), epochs=1, batch_size=NUM_TRAIN)
    saved = [evaluate(m, *train_set(data)).error_percent for m in models]
    refreshed = []
    for end, model in ((0, models[0]), (-1, models[1])):
        fresh = copy.deepcopy(model)
        refresh_batch_norm(fresh, data.train_inputs, NUM_TRAIN)  # one batch: its order is nothing
        result = evaluate(fresh, *train_set(data))
        refreshed.append(result.error_percent)
        assert row["train_loss"][end] == pytest.approx(result.loss, rel=1e-9)
    residual = max(abs(a - b) for a, b in zip(saved, refreshed, strict=True))
    assert residual > 0
    assert row["end_residual_percent"] == residual


def test_refreshing_uses_as_many_examples_as_asked() -> None:
    models, data = pair("bn"), data_for("bn")
    args = {"epochs": 1, "lr": 1e-12}
    few = compute(models, data, seeded(), refresh_examples=8, **args)
    many = compute(models, data, seeded(), refresh_examples=None, **args)
    assert few["train_loss"][0] != pytest.approx(many["train_loss"][0], rel=1e-4)


@pytest.mark.parametrize(
    ("errors", "mc", "index"),
    [
        ([10.0, 30.0, 12.0], -19.0, 1),  # a barrier
        ([40.0, 20.0, 5.0, 20.0, 40.0], 35.0, 2),  # ends badly trained
        ([24.4, 19.5, 25.4, 19.6, 23.4], 4.4, 1),  # W-shaped: a bump hides behind the dips
        ([7.0, 7.0, 7.0], 0.0, 1),
        ([10.0, 11.0, 14.0], 2.0, 0),  # nothing is farther than the ends: the first counts
        ([14.0, 11.0, 10.0], -2.0, 0),
        ([10.0, 14.0, 12.0, 14.0], -2.0, 1),  # an inner point as far as the ends
    ],
)
def test_connectivity_is_the_signed_farthest_distance_from_the_mean_of_the_ends(
    errors: list[float], mc: float, index: int
) -> None:
    found, where = farthest_from_ends(errors)
    assert found == pytest.approx(mc)
    assert where == index


@pytest.mark.parametrize("num", [37, 1297, 50_000, 1_281_167])
def test_no_rounding_decides_which_end_of_a_monotone_curve_counts(num: int) -> None:
    def errors(*right: int) -> list[float]:
        return [100 - 100 * k / num for k in right]

    rng = random.Random(0)
    curves = [sorted(rng.sample(range(num + 1), 3)) for _ in range(2000)]
    for low, middle, high in curves:
        for curve in (errors(low, middle, high), errors(high, middle, low)):
            mc, index = farthest_from_ends(curve)
            assert index == 0
            assert mc == pytest.approx((curve[-1] - curve[0]) / 2)


def test_one_example_more_is_farther_than_the_ends() -> None:
    num = 1_281_167
    first, last = 100 * 10 / num, 100 * 40 / num
    assert farthest_from_ends([first, 100 * 41 / num, last])[1] == 1


def test_connectivity_columns_follow_from_the_lists() -> None:
    row = compute(pair(), data_for(), seeded(), epochs=2, points=7)
    assert row["t"] == pytest.approx([i / 6 for i in range(7)])
    mc, index = farthest_from_ends(row["train_error_percent"])
    assert (row["mode_connectivity"], row["t_star"]) == (mc, row["t"][index])
    assert row["mode_connectivity_loss"] == farthest_from_ends(row["train_loss"])[0]
    assert row["mode_connectivity_test"] == farthest_from_ends(row["test_error_percent"])[0]


def test_model_joined_to_itself_by_a_still_curve_is_connected_with_length_zero() -> None:
    model = network("mlp", 0)
    row = compute([model, model], data_for(), seeded(), epochs=1, lr=1e-300)
    assert row["mode_connectivity"] == 0.0
    assert row["length"] == 0.0
    assert row["length_ratio"] is None


def test_still_linear_curve_is_the_segment() -> None:
    row = compute(pair(), data_for(), seeded(), bends=3, epochs=1, lr=1e-300)
    assert row["length_ratio"] == pytest.approx(1.0)
    assert row["num_bends"] == 3


def test_training_lowers_the_loss_along_the_curve() -> None:
    models, data = pair(), data_for()
    args = {"batch_size": 20, "weight_decay": 0.0, "points": 9}
    segment = compute(models, data, seeded(), epochs=1, lr=1e-300, **args)
    trained = compute(models, data, seeded(), epochs=30, lr=0.05, **args)
    inner = slice(1, -1)
    assert sum(trained["train_loss"][inner]) < 0.8 * sum(segment["train_loss"][inner])
    assert trained["length_ratio"] > 1


def test_final_curve_loss_counts_the_weights() -> None:
    models, data = pair(), data_for()
    args = {"epochs": 1, "lr": 1e-300, "batch_size": NUM_TRAIN}
    plain = compute(models, data, seeded(), weight_decay=0.0, **args)["final_curve_loss"]
    decayed = compute(models, data, seeded(), weight_decay=0.2, **args)["final_curve_loss"]
    rng = seeded()
    torch.randperm(NUM_TRAIN, generator=rng)
    t = float(torch.rand(1, generator=rng, dtype=torch.float64))
    ends = [nn.utils.parameters_to_vector(m.parameters()).detach() for m in models]
    point = torch.lerp(ends[0], ends[1], t)
    assert decayed - plain == pytest.approx(0.1 * float(point.dot(point)), rel=1e-9)


@pytest.mark.parametrize("init", ["linear", "random"])
def test_same_generator_gives_the_same_row(init: str) -> None:
    rows = [compute(pair("bn"), data_for("bn"), seeded(7), epochs=2, init=init) for _ in range(2)]
    assert rows[0] == rows[1]
    other = compute(pair("bn"), data_for("bn"), seeded(8), epochs=2, init=init)
    assert other != rows[0]


@pytest.mark.parametrize("kind", ["mlp", "bn", "dropout"])
def test_neither_models_nor_global_random_state_are_touched(kind: str) -> None:
    models, data = pair(kind), data_for(kind)
    before = [copy.deepcopy(model.state_dict()) for model in models]
    state = torch.get_rng_state()
    compute(models, data, seeded(), epochs=1, init="random")
    assert torch.equal(torch.get_rng_state(), state)
    for model, kept in zip(models, before, strict=True):
        assert not any(module.training for module in model.modules())
        assert all(p.grad is None for p in model.parameters())
        for name, value in model.state_dict().items():
            assert torch.equal(value, kept[name])


def test_random_bends_are_networks_initialised_anew() -> None:
    settings = ConnectivityArgs(bends=2, init="random")
    models = pair("bn")
    vertices = place_vertices(models, settings, seeded())
    assert not torch.equal(vertices[1], vertices[2])
    # conv 4x1x3x3 and 4 biases come first, in U(-1/3, 1/3); then 4 BatchNorm weights in U(0, 1) and
    # 4 zero biases
    assert float(vertices[1:3, :40].abs().max()) <= 1 / 3
    gammas = vertices[1:3, 40:44]
    assert bool(((gammas > 0) & (gammas < 1)).all())
    assert not bool(vertices[1:3, 44:48].any())


class Bare(nn.Module):
    """A layer that cannot say how it is initialised."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


def test_layer_that_cannot_be_initialised_is_named() -> None:
    models = [nn.Sequential(nn.Linear(4, 3), Bare()) for _ in range(2)]
    with pytest.raises(MetricError, match=r"layer '1' \(Bare\).*use init: linear"):
        compute(models, data_for(), seeded(), init="random")


@pytest.mark.parametrize("num", [1, 3])
def test_connectivity_is_between_two_models(num: int) -> None:
    with pytest.raises(MetricError, match=f"between two models, got {num}"):
        compute([network("mlp", 0)] * num, data_for(), seeded())


@pytest.mark.parametrize("curve", ["bezier", "polychain"])
def test_diverged_curve_is_a_row_with_nulls_and_its_ends(curve: str) -> None:
    row = compute(pair(), data_for(), seeded(), curve=curve, lr=1e200, epochs=20, points=3)
    assert row["train_loss"][1] is None
    assert row["train_error_percent"][1] is None
    assert None not in (row["train_loss"][0], row["train_loss"][2])
    for name in (
        "mode_connectivity",
        "t_star",
        "mode_connectivity_loss",
        "mode_connectivity_test",
        "final_curve_loss",
        "length",
        "length_ratio",
    ):
        assert row[name] is None
    numbers = [v for value in row.values() for v in (value if isinstance(value, list) else [value])]
    assert all(value is None or math.isfinite(value) for value in numbers)
