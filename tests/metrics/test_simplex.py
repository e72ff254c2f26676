import copy
import math

import pytest
import torch
from metric_oracles_curves import loss_at
from simplex_rows import compute
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import import_function
from phasegrid.errors import MetricError
from phasegrid.metrics import METRICS
from phasegrid.metrics.network.turns import finished
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex import compute as engine
from phasegrid.metrics.simplex.complexes import Complex, grow, members_of
from phasegrid.metrics.simplex.growing import begin
from phasegrid.metrics.simplex.measuring import FIRST, draw, evaluated, expected_columns
from phasegrid.metrics.simplex.sampling import sample_coefficients
from phasegrid.metrics.simplex.training import Live
from phasegrid.metrics.simplex.wiring import shared
from phasegrid.models.evaluation import evaluate
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.weights import parameters_vector
from phasegrid.tasks.batches import Batch

NUM_TRAIN = 42


def data_for(shape: tuple[int, ...] = (4,)) -> Dataset:
    """Three Gaussian clusters, float64."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    centers = 2 * torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    noise = torch.randn(60, *shape, generator=generator, dtype=torch.float64)
    inputs = centers[labels] + noise
    unit = torch.ones(1, dtype=torch.float64)
    train, test = slice(None, NUM_TRAIN), slice(NUM_TRAIN, None)
    return Dataset(
        "clusters", inputs[train], labels[train], inputs[test], labels[test], 3, unit, 0 * unit
    )


def network(seed: int, batch_norm: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        middle = nn.BatchNorm1d(6) if batch_norm else nn.Tanh()
        net = nn.Sequential(nn.Linear(4, 6), middle, nn.Linear(6, 3))
    return net.double().eval()


def networks(num: int = 3, batch_norm: bool = False) -> list[nn.Module]:
    return [network(seed, batch_norm) for seed in range(num)]


def rows_of(models: list[nn.Module]) -> Tensor:
    return torch.stack([parameters_vector(model) for model in models])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


UNASKED = {f"first_{name}" for name in FIRST} | {"low_loss_dimension"}
"""The columns that are null without ``every_connector``."""
QUICK = {"epochs": 2, "samples": 2, "batch_size": 20, "eval_samples": 3}


def drawn(shares: Tensor, num_connectors: int, num: int, seed: int = 0) -> Tensor:
    """Points of a complex whose simplexes share all connectors."""
    members = members_of(shared(len(shares), num_connectors))
    return sample_coefficients(shares, members, len(shares) + num_connectors, num, seeded(seed))


def test_row_has_exactly_the_declared_columns() -> None:
    row = compute(networks(), data_for(), seeded(), connectors=2, **QUICK)
    assert set(row) == {column.name for column in METRICS["simplex"].columns}
    assert {name for name, value in row.items() if value is None} == UNASKED
    assert (row["dimension"], row["num_modes"], row["num_connectors"]) == (2, 3, 2)
    assert len(row["log_volumes"]) == 3
    assert len(row["connector_losses"]) == 2


def test_declaration_names_this_function() -> None:
    assert import_function(METRICS["simplex"].compute) is engine.compute


def test_sampled_points_lie_in_one_simplex_each() -> None:
    coefficients = drawn(torch.tensor([0.2, 0.5, 0.3]), 2, 50)
    assert coefficients.shape == (50, 5)
    assert bool((coefficients >= 0).all())
    torch.testing.assert_close(coefficients.sum(dim=1), torch.ones(50, dtype=torch.float64))
    assert (coefficients[:, :3] > 0).sum(dim=1).tolist() == [1] * 50


def test_simplexes_are_drawn_by_their_shares() -> None:
    num, shares = 4000, torch.tensor([0.2, 0.5, 0.3])
    found = (drawn(shares, 1, num)[:, :3] > 0).double().mean(dim=0)
    stderr = (shares * (1 - shares) / num).sqrt()
    assert bool(((found - shares).abs() < 4 * stderr).all())


def test_points_are_uniform_in_their_simplex() -> None:
    # A coordinate of Dirichlet(1, 1, 1, 1) has mean 1/4, variance 3/80 and P(a > 1/2) = 1/8.
    num = 4000
    weights = drawn(torch.ones(1), 3, num)
    assert bool(((weights.mean(dim=0) - 0.25).abs() < 4 * math.sqrt(3 / 80 / num)).all())
    above = (weights > 0.5).double().mean(dim=0)
    assert bool(((above - 1 / 8).abs() < 4 * math.sqrt(7 / 64 / num)).all())


def test_new_connector_starts_a_jitter_of_the_rms_edge_off_the_mean() -> None:
    vertices = rows_of(networks(4))
    grown = grow(vertices, range(4), 0.03, seeded())
    edges = [(a - b).square().sum() for i, a in enumerate(vertices) for b in vertices[:i]]
    rms_edge = torch.stack(edges).mean().sqrt()
    step = grown[-1] - vertices.mean(dim=0)
    torch.testing.assert_close(step.norm(), 0.03 * rms_edge)
    assert torch.equal(grown[:-1], vertices)


def test_data_gradient_is_that_of_autograd() -> None:
    data, net = data_for(), network(0)
    vertices = torch.cat([rows_of(networks(2)), rows_of([network(5), network(6)])])
    coefficients = drawn(torch.tensor([0.5, 0.5]), 2, 4)
    x, y = data.train_inputs, data.train_labels
    live, batch = Live(FlatNetwork.of(net)), Batch(x[None], y[None])
    (mean,), (grad,) = live.differentiate(vertices[None], coefficients[None], batch)
    vertices.requires_grad_()
    expected = torch.stack([loss_at(net, a @ vertices, x, y) for a in coefficients]).mean()
    (gradient,) = torch.autograd.grad(expected, vertices)
    torch.testing.assert_close(grad, gradient[-1])
    torch.testing.assert_close(mean, expected.detach())


def test_training_lowers_the_expected_loss() -> None:
    models, data = networks(), data_for()
    args = {"samples": 3, "batch_size": 14, "eval_samples": 20, "volume_lambda": 0.0}
    still = compute(models, data, seeded(), epochs=1, lr=1e-300, **args)
    trained = compute(models, data, seeded(), epochs=15, lr=0.05, **args)
    assert trained["expected_train_loss"] < 0.8 * still["expected_train_loss"]


def test_larger_lambda_gives_a_larger_volume() -> None:
    models, data = networks(), data_for()
    args = {**QUICK, "epochs": 10, "connectors": 2}
    small, large = (
        compute(models, data, seeded(), volume_lambda=value, **args)["log_volume"]
        for value in (0.0, 0.5)
    )
    assert large > small + 1


def test_total_volume_is_the_sum_over_all_simplexes() -> None:
    row = compute(networks(), data_for(), seeded(), connectors=2, **QUICK)
    total = sum(math.exp(value) for value in row["log_volumes"])
    assert math.exp(row["log_volume"]) == pytest.approx(total, rel=1e-12)


def test_still_connector_of_two_modes_has_their_distance_as_volume() -> None:
    models = networks(2)
    row = compute(models, data_for(), seeded(), jitter=1e-9, lr=1e-300, **QUICK)
    w = rows_of(models)
    assert math.exp(row["log_volume"]) == pytest.approx(float((w[0] - w[1]).norm()), rel=1e-8)


def expected(models: list[nn.Module], complex_: Complex, num: int) -> dict[str, float | None]:
    """The columns of points that are drawn equally from the simplexes."""
    settings = SimplexArgs(eval_samples=num, sampling="simplex")
    growing = begin(models, data_for(), settings, seeded(4))
    points = draw(growing, complex_, torch.zeros(len(complex_.simplexes)), settings)
    return expected_columns(finished(evaluated(growing, complex_, points)))


def test_complex_shrunk_to_a_model_has_its_loss_without_error() -> None:
    model, data = network(0), data_for()
    complex_ = Complex(parameters_vector(model).expand(4, -1).clone(), shared(2, 2))
    row = expected([network(1)] * 2, complex_, 5)
    train = evaluate(model, data.train_inputs, data.train_labels)
    test = evaluate(model, data.test_inputs, data.test_labels)
    assert row["expected_train_loss"] == pytest.approx(train.loss, rel=1e-12)
    assert row["expected_train_accuracy_percent"] == pytest.approx(train.accuracy_percent)
    assert row["expected_test_loss"] == pytest.approx(test.loss, rel=1e-12)
    assert row["expected_test_accuracy_percent"] == pytest.approx(test.accuracy_percent)
    # Coefficients sum to 1 within rounding.
    assert row["expected_train_loss_stderr"] == pytest.approx(0.0, abs=1e-14)
    assert row["expected_test_loss_stderr"] == pytest.approx(0.0, abs=1e-14)


def network_at(vector: Tensor) -> nn.Module:
    net = network(0)
    nn.utils.vector_to_parameters(vector, net.parameters())
    return net


def test_expected_loss_is_the_mean_over_points_with_its_standard_error() -> None:
    models, data = networks(), data_for()
    complex_ = Complex(grow(rows_of(models), range(3), 0.1, seeded()), shared(3, 1))
    row = expected(models, complex_, 6)
    points = drawn(torch.full((3,), 1 / 3), 1, 6, seed=4) @ complex_.vertices
    losses = torch.stack(
        [loss_at(models[0], p, data.test_inputs, data.test_labels) for p in points]
    )
    assert row["expected_test_loss"] == pytest.approx(losses.mean().item(), rel=1e-12)
    shares = [evaluate(network_at(p), *(data.test_inputs, data.test_labels)) for p in points]
    accuracies = torch.tensor([share.accuracy_percent for share in shares])
    assert row["expected_test_accuracy_percent"] == pytest.approx(accuracies.mean().item())
    expected_error = accuracies.std().item() / math.sqrt(6)
    assert row["expected_test_accuracy_percent_stderr"] == pytest.approx(expected_error, rel=1e-5)
    stderr = losses.std().item() / math.sqrt(6)
    assert row["expected_test_loss_stderr"] == pytest.approx(stderr, rel=1e-9)


def test_complex_without_volume_has_null_log_volume() -> None:
    model = network(0)
    row = compute([model, model], data_for(), seeded(), lr=1e-300, **QUICK)
    assert row["log_volume"] is None
    assert row["log_volumes"] == [None, None]
    assert row["expected_train_loss"] is not None


def test_batch_norm_is_refreshed_at_every_point() -> None:
    # Statistics of the first model would be wrong for all others by orders of magnitude.
    models, data = networks(2, batch_norm=True), data_for()
    for model in models:
        model[1].running_mean.fill_(1e6)
    args = {**QUICK, "refresh_examples": 30}
    row = compute(models, data, seeded(), **args)
    assert row["expected_train_loss"] < 10


def test_diverged_connector_is_a_row_of_nulls() -> None:
    row = compute(networks(), data_for(), seeded(), connectors=2, **{**QUICK, "lr": 1e308})
    assert row["connector_losses"] == [None, None]
    for name in ("log_volume", "expected_train_loss", "expected_test_accuracy_percent"):
        assert row[name] is None
    row = {key: value for key, value in row.items() if key not in ("vertex_name", "simplexes")}
    numbers = [v for value in row.values() for v in (value if isinstance(value, list) else [value])]
    assert all(value is None or math.isfinite(value) for value in numbers)
    assert "vertex_x" not in row


def test_one_model_spans_no_complex() -> None:
    with pytest.raises(MetricError, match="at least 2 models, got 1; around one, use espro"):
        compute(networks(1), data_for(), seeded())


def test_lambda_schedule_gives_each_connector_its_own() -> None:
    row = compute(networks(), data_for(), seeded(), connectors=2, volume_lambda=(0.0, 0.1), **QUICK)
    assert row["volume_lambdas"] == [0.0, 0.1]


def test_lambda_schedule_of_another_length_is_refused() -> None:
    with pytest.raises(MetricError, match="lists 2 values for 3 connectors"):
        compute(networks(), data_for(), seeded(), connectors=3, volume_lambda=(0.0, 0.1))


def test_same_generator_gives_the_same_row() -> None:
    first, second, other = (
        compute(networks(), data_for(), seeded(seed), connectors=2, **QUICK) for seed in (7, 7, 8)
    )
    assert first == second
    assert first != other


def test_neither_models_nor_global_random_state_are_touched() -> None:
    models = networks(2, batch_norm=True)
    before = [copy.deepcopy(model.state_dict()) for model in models]
    state = torch.get_rng_state()
    compute(models, data_for(), seeded(), **QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    for model, kept in zip(models, before, strict=True):
        assert not any(module.training for module in model.modules())
        for name, value in model.state_dict().items():
            assert torch.equal(value, kept[name])
