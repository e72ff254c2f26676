"""Barriers on segments: known heights, laws, what happens to BatchNorm, alignment."""

import copy
import math
from typing import Any

import pytest
import torch
from point_support import cnn, dataset, generator, images, mlp, seeded
from test_matching import shuffled
from torch import nn
from torch.nn.functional import cross_entropy

from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import DatasetFacts, Windows
from phasegrid.errors import MetricError
from phasegrid.metrics.barrier import BARRIER
from phasegrid.metrics.barrier.compute import barrier, compute
from phasegrid.models.evaluation import evaluate
from phasegrid.models.weights import batch_norm_modules, refresh_batch_norm

VECTORS = torch.randn(40, 4, generator=generator(3), dtype=torch.float64)
LABELS = torch.randint(0, 3, (40,), generator=generator(4))
DATA = dataset(VECTORS, LABELS)
KINDS = ("train_loss", "train_error", "test_loss", "test_error")


def measure(one: nn.Module, other: nn.Module, data: Any = DATA, **args: Any) -> dict[str, Any]:
    return dict(compute([one, other], data, generator(0), **args))


def heights(row: dict[str, Any]) -> list[float]:
    return [row[f"{kind}_barrier"] for kind in KINDS]


def fitted(module: nn.Module, data: Dataset) -> nn.Module:
    """Train a network until its loss is small: one that is not trained has no barrier."""
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    for _ in range(40):
        optimizer.zero_grad()
        cross_entropy(module(data.train_inputs), data.train_labels).backward()
        optimizer.step()
    return module


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def test_row_has_exactly_the_declared_columns() -> None:
    row = measure(seeded(mlp), seeded(mlp, 1))
    assert list(row) == [column.name for column in BARRIER.columns]
    assert row["moved_percent"] is None
    assert len(row["t"]) == len(row["test_loss"]) == 11


def test_a_barrier_is_the_height_above_the_line_between_the_ends() -> None:
    assert barrier([1.0, 5.0, 3.0], [0, 0.5, 1]) == 3.0
    assert barrier([1.0, 1.5, 3.0], [0, 0.5, 1]) == 0.0  # below the line
    assert barrier([0.0, 3.0, 0.0, 4.0], [0, 0.25, 0.5, 1]) == 2.0
    assert barrier([1.0, None, 3.0], [0, 0.5, 1]) is None


def test_points_are_networks_with_mixed_weights() -> None:
    one, other = seeded(mlp), seeded(mlp, 1)
    row = measure(one, other, points=5)
    for t, loss in zip(row["t"], row["train_loss"], strict=True):
        mixed = copy.deepcopy(one)
        for own, a, b in zip(*(m.parameters() for m in (mixed, one, other)), strict=True):
            own.data = (1 - t) * a.data + t * b.data
        assert loss == pytest.approx(evaluate(mixed, VECTORS, LABELS).loss, rel=1e-12)
    height = max(
        loss - (1 - t) * row["train_loss"][0] - t * row["train_loss"][-1]
        for t, loss in zip(row["t"], row["train_loss"], strict=True)
    )
    assert row["train_loss_barrier"] == pytest.approx(height, abs=1e-12)


def test_a_convex_loss_has_no_barrier() -> None:
    def linear() -> nn.Module:
        return nn.Linear(4, 3)

    row = measure(seeded(linear), seeded(linear, 1))
    assert row["train_loss_barrier"] == row["test_loss_barrier"] == 0


@pytest.mark.parametrize("batch_norm", ["saved", "refreshed"])
@pytest.mark.parametrize("align", ["none", "weights"])
def test_equal_networks_have_no_barrier(align: str, batch_norm: str) -> None:
    data = dataset(*images(30))
    row = measure(seeded(small_cnn), seeded(small_cnn), data, align=align, batch_norm=batch_norm)
    assert heights(row) == [0, 0, 0, 0]
    assert row["end_distance"] == 0


@pytest.mark.parametrize("batch_norm", ["saved", "refreshed"])
def test_an_aligned_copy_has_no_barrier_and_no_distance(batch_norm: str) -> None:
    data = dataset(*images(30))
    one = fitted(seeded(small_cnn), data)
    other = shuffled(one, data.train_inputs, seeded(small_cnn, 1))
    raw = measure(one, other, data, batch_norm=batch_norm)
    found = measure(one, other, data, batch_norm=batch_norm, align="weights")
    assert raw["train_loss_barrier"] > 0.01
    assert raw["end_distance"] > 1
    assert heights(found) == [0, 0, 0, 0]
    assert found["end_distance"] == 0
    assert found["moved_percent"] > 0


def test_turning_the_pair_around_mirrors_the_segment() -> None:
    data = dataset(*images(30))
    one, other = seeded(cnn), seeded(cnn, 1)
    there = measure(one, other, data, batch_norm="saved")
    back = measure(other, one, data, batch_norm="saved")
    assert there["train_loss"] == pytest.approx(back["train_loss"][::-1], rel=1e-12)
    assert heights(there) == pytest.approx(heights(back), abs=1e-12)


def test_saved_statistics_are_interpolated_and_refreshed_ones_are_new() -> None:
    data = dataset(*images(30))
    one, other = seeded(cnn), seeded(cnn, 1)
    saved = measure(one, other, data, points=3, batch_norm="saved")
    fresh = measure(one, other, data, points=3, batch_size=30)
    middle = copy.deepcopy(one)
    for own, a, b in zip(*(m.parameters() for m in (middle, one, other)), strict=True):
        own.data = (a.data + b.data) / 2
    for layer, a, b in zip(*map(batch_norm_modules, (middle, one, other)), strict=True):
        layer.running_mean = (a.running_mean + b.running_mean) / 2
        layer.running_var = (a.running_var + b.running_var) / 2
    known = evaluate(middle, data.train_inputs, data.train_labels).loss
    assert saved["train_loss"][1] == pytest.approx(known, rel=1e-12)
    end = evaluate(one, data.train_inputs, data.train_labels).loss
    assert saved["train_loss"][0] == pytest.approx(end, rel=1e-12)
    refresh_batch_norm(middle, data.train_inputs)
    known = evaluate(middle, data.train_inputs, data.train_labels).loss
    assert fresh["train_loss"][1] == pytest.approx(known, rel=1e-10)


def test_models_do_not_change() -> None:
    data = dataset(*images(20))
    models = [seeded(small_cnn), seeded(small_cnn, 1)]
    before = copy.deepcopy([model.state_dict() for model in models])
    measure(models[0], models[1], data, align="weights")
    for model, state in zip(models, before, strict=True):
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name])


def test_outputs_that_are_not_finite_are_null() -> None:
    one, other = seeded(mlp), seeded(mlp, 1)
    row = measure(one, scaled(other, 1e200), points=3)
    assert None in row["train_loss"]
    assert row["train_loss_barrier"] is None
    assert row["train_error_barrier"] is None


def scaled(module: nn.Module, factor: float) -> nn.Module:
    for parameter in module.parameters():
        parameter.data *= factor
    return module


def test_three_networks_are_refused() -> None:
    with pytest.raises(MetricError, match="two models, got 3"):
        compute([seeded(mlp)] * 3, DATA, generator(0))


def test_error_barriers_are_in_points() -> None:
    row = measure(seeded(mlp), seeded(mlp, 1))
    line = [
        (1 - t) * row["train_error_percent"][0] + t * row["train_error_percent"][-1]
        for t in row["t"]
    ]
    rises = [e - x for e, x in zip(row["train_error_percent"], line, strict=True)]
    assert math.isclose(row["train_error_barrier"], max(0, *rises), abs_tol=1e-12)


def test_channels_of_networks_for_text_are_not_matched() -> None:
    text = DatasetFacts(10, 10, (4,), 9, "language", Windows(4, 9))
    told = BARRIER.fits and BARRIER.fits({"align": "weights"}, {}, text)
    assert told == (
        "align",
        "found weights, but the networks are for language, and channels are matched for"
        " classification only; allowed: none",
    )
    assert BARRIER.fits
    assert BARRIER.fits({"align": "none"}, {}, text) is None
    assert BARRIER.fits({"align": "weights"}, {}, DATA.facts) is None
