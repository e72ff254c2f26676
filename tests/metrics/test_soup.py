"""Means of weights: of equal networks, of a convex loss, greedy ones, aligned ones."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from point_support import cnn, dataset, generator, images, mlp, seeded
from test_barrier import fitted, small_cnn
from test_matching import shuffled
from torch import nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.soup import SOUP
from phasegrid.metrics.soup.compute import compute
from phasegrid.models.evaluation import evaluate
from phasegrid.models.weights import refresh_batch_norm

VECTORS = torch.randn(40, 4, generator=generator(3), dtype=torch.float64)
LABELS = torch.randint(0, 3, (40,), generator=generator(4))
DATA = dataset(VECTORS, LABELS)


def measure(models: list[nn.Module], data: Dataset = DATA, **args: Any) -> dict[str, Any]:
    return dict(compute(models, data, generator(0), **args))


def with_aside(data: Dataset) -> Dataset:
    return replace(data, aside_inputs=data.train_inputs[:20], aside_labels=data.train_labels[:20])


def test_row_has_exactly_the_declared_columns() -> None:
    row = measure([seeded(mlp), seeded(mlp, 1)])
    assert list(row) == [column.name for column in SOUP.columns]


@pytest.mark.parametrize("args", [{}, {"align": "weights"}, {"recipe": "greedy"}])
def test_a_soup_of_equal_networks_is_the_network(args: dict[str, Any]) -> None:
    data = with_aside(dataset(*images(30)))
    model = fitted(seeded(small_cnn), data)
    refresh_batch_norm(model, data.train_inputs)
    row = measure([copy.deepcopy(model) for _ in range(3)], data, batch_size=30, **args)
    for name, inputs, labels in (
        ("train", data.train_inputs, data.train_labels),
        ("test", data.test_inputs, data.test_labels),
    ):
        known = evaluate(model, inputs, labels)
        assert row[f"{name}_loss"] == pytest.approx(known.loss, rel=1e-9)
        assert row[f"{name}_error_percent"] == row[f"mean_{name}_error_percent"]
        assert row[f"mean_{name}_loss"] == pytest.approx(known.loss, rel=1e-12)
    assert row["test_gain"] == 0
    assert row["num_averaged"] == row["num_networks"] == 3


def test_a_soup_is_the_network_with_the_mean_of_the_weights() -> None:
    models = [seeded(cnn, seed) for seed in range(3)]
    data = dataset(*images(30))
    row = measure(models, data, batch_size=30)
    mean = copy.deepcopy(models[0])
    for own, *others in zip(mean.parameters(), *(m.parameters() for m in models), strict=True):
        own.data = sum(other.data for other in others) / 3
    refresh_batch_norm(mean, data.train_inputs)
    known = evaluate(mean, data.train_inputs, data.train_labels)
    assert row["train_loss"] == pytest.approx(known.loss, rel=1e-10)
    assert row["train_error_percent"] == known.error_percent


def test_the_soup_of_a_convex_loss_is_at_most_the_mean_of_its_networks() -> None:
    models = [seeded(lambda: nn.Linear(4, 3), seed) for seed in range(4)]
    row = measure(models)
    assert row["train_loss"] <= row["mean_train_loss"]
    assert row["test_loss"] <= row["mean_test_loss"]


def test_the_soup_of_copies_in_other_orders_is_the_network_after_alignment() -> None:
    data = dataset(*images(30))
    model = fitted(seeded(small_cnn), data)
    copies = [shuffled(model, data.train_inputs, seeded(small_cnn, 1), seed) for seed in (3, 4)]
    known = measure([model] * 3, data, batch_size=30)
    raw = measure([model, *copies], data, batch_size=30)
    found = measure([model, *copies], data, batch_size=30, align="weights")
    assert raw["train_loss"] > 1.1 * known["train_loss"]
    assert found["train_loss"] == pytest.approx(known["train_loss"], rel=1e-9)


def test_a_greedy_soup_leaves_out_what_raises_the_error_on_examples_kept_aside() -> None:
    data = with_aside(dataset(*images(40)))
    good = fitted(seeded(small_cnn), data)
    spoiled = copy.deepcopy(good)
    for parameter in spoiled.parameters():
        parameter.data *= -1
    models = [spoiled, good, copy.deepcopy(good)]
    row = measure(models, data, recipe="greedy", batch_size=40)
    alone = measure([good, good], data, batch_size=40)
    assert (row["num_networks"], row["num_averaged"]) == (3, 2)
    assert row["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-12)
    uniform = measure(models, data, batch_size=40)
    assert uniform["num_averaged"] == 3
    assert uniform["train_error_percent"] > row["train_error_percent"]


def test_models_do_not_change() -> None:
    data = dataset(*images(20))
    models = [seeded(small_cnn), seeded(small_cnn, 1)]
    before = copy.deepcopy([model.state_dict() for model in models])
    measure(models, data, align="weights")
    for model, state in zip(models, before, strict=True):
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name])


def test_a_greedy_soup_needs_examples_kept_aside() -> None:
    with pytest.raises(MetricError, match="no examples are kept aside; allowed: uniform"):
        measure([seeded(mlp), seeded(mlp, 1)], recipe="greedy")
    assert SOUP.fits
    found = SOUP.fits({"recipe": "greedy", "align": "none"}, {}, DATA.facts)
    assert found is not None
    assert found[0] == "recipe"
    assert SOUP.fits({"recipe": "greedy", "align": "none"}, {}, with_aside(DATA).facts) is None


def test_one_network_is_no_soup() -> None:
    with pytest.raises(MetricError, match="got 1 networks, need at least 2"):
        measure([seeded(mlp)])
