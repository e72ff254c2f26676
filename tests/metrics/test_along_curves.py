"""The numbers of a whole curve agree with slow transcriptions and with what is known."""

import pytest
import torch
from curve_rows import compute

from phasegrid.datasets.dataset import Dataset
from phasegrid.jobs import Part
from phasegrid.metrics.connectivity import SUMMARISED
from phasegrid.metrics.connectivity.along import summary
from phasegrid.metrics.connectivity.curves import (
    chords,
    curve_length,
    edge_gram,
    squared_norms,
    vertex_weights,
)
from phasegrid.models.build import build_model

T = torch.linspace(0, 1, 41, dtype=torch.float64)


def vertices(num: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, 7, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("curve", ["bezier", "polychain"])
@pytest.mark.parametrize("bends", [0, 1, 3])
def test_chords_are_the_distances_of_the_points(curve: str, bends: int) -> None:
    points = vertex_weights(curve, bends, T) @ vertices(bends + 2)
    expected = (points[1:] - points[:-1]).norm(dim=1)
    gram = edge_gram(vertices(bends + 2))
    torch.testing.assert_close(chords(curve, gram, T), expected)
    fine = vertex_weights(curve, bends, torch.linspace(0, 1, 101, dtype=torch.float64))
    points = fine @ vertices(bends + 2)
    length = float((points[1:] - points[:-1]).norm(dim=1).sum())
    assert curve_length(curve, gram) == pytest.approx(length)


def test_the_means_of_a_constant_are_the_constant() -> None:
    found = summary("x", [2.5] * 6, [0.1, 4.0, 0.0, 2.0, 1.0])
    assert found.pop("gap_x") == 0
    assert found == pytest.approx(dict.fromkeys(found, 2.5))
    assert {"min_x", "max_x", "int_x", "mean_x", "min_end_x", "max_end_x"} == set(found)


def test_the_mean_along_a_curve_is_the_trapezoid_rule_in_length() -> None:
    values, lengths = [0.0, 6.0, 0.0], [1.0, 3.0]
    found = summary("x", values, lengths)
    at = torch.tensor([0.0, 1.0, 4.0])
    expected = float(torch.trapezoid(torch.tensor(values), at)) / 4
    assert found["int_x"] == pytest.approx(expected)
    assert found["mean_x"] == pytest.approx(3.0)
    assert (found["min_x"], found["max_x"]) == (0.0, 6.0)


def test_the_gap_is_what_the_highest_point_is_above_the_worse_end() -> None:
    found = summary("x", [2.0, 7.0, 0.5, 3.0], [1.0, 1.0, 1.0])
    assert (found["min_end_x"], found["max_end_x"], found["gap_x"]) == (2.0, 3.0, 4.0)
    assert summary("x", [2.0, 1.0, 3.0], [1.0, 1.0])["gap_x"] == 0


@pytest.mark.parametrize("curve", ["bezier", "polychain"])
@pytest.mark.parametrize("bends", [0, 1, 3])
def test_squared_norms_are_those_of_the_points(curve: str, bends: int) -> None:
    own = vertices(bends + 2)
    expected = (vertex_weights(curve, bends, T) @ own).square().sum(1)
    torch.testing.assert_close(
        squared_norms(own, vertex_weights(curve, bends, T)), expected, rtol=1e-13, atol=0
    )


def test_ends_have_norms_even_if_a_bend_is_not_a_number() -> None:
    own = vertices(3)
    own[1] = torch.nan
    found = squared_norms(own, vertex_weights("bezier", len(own) - 2, T))
    torch.testing.assert_close(found[[0, -1]], own[[0, -1]].square().sum(1))
    assert bool(found[1:-1].isnan().all())


def test_on_a_segment_both_means_agree() -> None:
    lengths = chords("bezier", edge_gram(vertices(2)), T).tolist()
    found = summary("x", [float(t**2) for t in T], lengths)
    assert found["int_x"] == pytest.approx(found["mean_x"])
    assert found["mean_x"] == pytest.approx(1 / 3, rel=1e-3)


def test_what_lacks_a_number_has_no_summary() -> None:
    assert set(summary("x", [1.0, None, 2.0], [1.0, 1.0]).values()) == {None}
    assert summary("x", [1.0, 2.0], [0.0])["int_x"] is None  # ends that are one network


def test_a_row_summarises_its_own_lists() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 1, 4, 4, generator=generator)
    labels = torch.randint(0, 3, (40,), generator=generator)
    one = torch.ones(1, 1, 1)
    data = Dataset("random", inputs, labels, inputs[:9], labels[:9], 3, one, 0 * one, "none")
    part = Part("mlp", 1, {"width": 6, "depth": 1, "activation": "relu"})
    models = [build_model(part, (1, 4, 4), 3, seed).eval() for seed in range(2)]
    row = compute(models, data, torch.Generator().manual_seed(0), epochs=2, points=5)
    for name in SUMMARISED:
        values = row[name]
        if name.endswith("_perplexity"):  # these are images
            assert row[f"max_{name}"] is values is None
            continue
        assert isinstance(values, list)
        assert row[f"min_{name}"] == min(values)
        assert row[f"max_end_{name}"] == max(values[0], values[-1])
        assert row[f"max_{name}"] == max(values)
        inner = sum(values) - (values[0] + values[-1]) / 2
        assert row[f"mean_{name}"] == pytest.approx(inner / 4)
        assert min(values) <= row[f"int_{name}"] <= max(values)  # type: ignore[operator]
