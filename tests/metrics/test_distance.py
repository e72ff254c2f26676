"""Distances in weight space: known values, metric axioms, what counts as a weight."""

import math

import pytest
import torch
from point_support import cnn, dataset, generator, mlp, seeded
from torch import nn

from phasegrid.errors import MetricError
from phasegrid.metrics.distance import DISTANCE
from phasegrid.metrics.distance.compute import compute, compute_many

DATA = dataset(torch.zeros(4, 4), torch.zeros(4, dtype=torch.int64))


def linear(values: list[float]) -> nn.Module:
    module = nn.Linear(2, 1)
    module.weight.data = torch.tensor([values[:2]], dtype=torch.float32)
    module.bias.data = torch.tensor(values[2:], dtype=torch.float32)
    return module


def test_known_distance_and_angle() -> None:
    row = compute([linear([1, 2, 2]), linear([1, -2, 2])], DATA, generator(0))
    assert row == {
        "l2_distance": 4.0,
        "cosine_similarity": pytest.approx(1 / 9, rel=1e-15),
        "num_parameters": 3,
    }
    assert set(row) == {column.name for column in DISTANCE.columns}


def test_near_models_keep_their_distance() -> None:
    # |a|^2 + |b|^2 - 2 a.b in float32 would give 0 here.
    a, b = linear([1000, 0, 0]), linear([1000.001, 0, 0])
    expected = float(torch.tensor(1000.001).double()) - 1000
    row = compute([a, b], DATA, generator(0))
    assert row["l2_distance"] == pytest.approx(expected, rel=1e-14)
    assert row["cosine_similarity"] == 1.0


def test_distance_is_a_metric_and_groups_are_answered_in_order() -> None:
    models = [seeded(mlp, seed) for seed in range(3)]
    groups = [(0, 1), (1, 0), (1, 2), (0, 2), (1, 1)]
    rows = [r[0] for r in compute_many(models, groups, DATA, [generator(0)] * 5)]
    there, back, second, direct, same = (float(row["l2_distance"] or 0) for row in rows)
    assert there == back > 0
    assert direct <= there + second
    assert same == 0
    assert rows[4]["cosine_similarity"] == pytest.approx(1, rel=1e-15)
    for group, row in zip(groups, rows, strict=True):
        assert row == compute([models[i] for i in group], DATA, generator(0))


def test_distance_scales_with_the_weights_and_the_angle_does_not() -> None:
    a, b = seeded(mlp, 0), seeded(mlp, 1)
    plain = compute([a, b], DATA, generator(0))
    for module in (a, b):
        for p in module.parameters():
            p.data *= 3
    scaled = compute([a, b], DATA, generator(0))
    assert scaled["l2_distance"] == pytest.approx(3 * float(plain["l2_distance"] or 0), rel=1e-14)
    assert scaled["cosine_similarity"] == pytest.approx(plain["cosine_similarity"], rel=1e-13)


def test_running_statistics_do_not_count_and_affine_does() -> None:
    a, b = seeded(cnn), seeded(cnn)
    b[1].running_mean += 5
    assert compute([a, b], DATA, generator(0))["l2_distance"] == 0
    b[1].bias.data[0] += 2
    assert compute([a, b], DATA, generator(0))["l2_distance"] == pytest.approx(2, rel=1e-14)


def test_a_zero_vector_has_no_angle() -> None:
    row = compute([linear([0, 0, 0]), linear([3, 0, 4])], DATA, generator(0))
    assert row["l2_distance"] == 5
    assert row["cosine_similarity"] is None


def test_networks_of_different_size_cannot_be_compared() -> None:
    with pytest.raises(MetricError, match="73 and 3 trainable parameters"):
        compute([seeded(mlp), linear([1, 2, 3])], DATA, generator(0))


def test_weights_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(MetricError, match="not finite"):
        compute([linear([1, 2, math.nan]), linear([1, 2, 3])], DATA, generator(0))


def test_three_models_are_an_error() -> None:
    with pytest.raises(MetricError, match="two models, got 3"):
        compute([linear([1, 2, 3])] * 3, DATA, generator(0))
