"""Components of ensembles, their reliability and one temperature for all, against transcriptions."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from point_support import generator, mlp, seeded
from test_ensemble_and_plane import convolutional, pictures
from test_ensembles_of_predictions import vectors
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.accuracy.compute import calibration_error, confidence_bins
from phasegrid.metrics.ensemble.compute import compute as ensemble
from phasegrid.metrics.ensemble.scaling import fitted_temperature
from phasegrid.metrics.measured import Source
from phasegrid.metrics.predictions.compute import compute as predict
from phasegrid.metrics.simplex.compute import compute as simplex
from phasegrid.metrics.simplex.compute import compute_espro as espro
from phasegrid.metrics.simplex.left import read_complex
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.weights import refresh_batch_norm
from phasegrid.tasks.losses import Criterion, mse

WHOLE = ("test_loss", "test_error_percent", "test_ece", "test_brier", "test_disagreement")


def component(num: int, seed: int, data: Dataset, passes: dict[str, float] | None = None) -> Source:
    """Return the predictions of `num` networks that are right more often than not."""
    rng = generator(seed)
    tensors = {}
    for name, labels in (("test", data.test_labels), ("aside", data.aside_labels)):
        noise = torch.randn(num, len(labels), 3, generator=rng, dtype=torch.float64)
        tensors[name] = 3 * noise + 3 * torch.nn.functional.one_hot(labels, 3)
    return Source(tensors, "predictions", "predictions", {}, passes or {})


def judged(sources: list[Source], data: Dataset, **args: Any) -> Any:
    return ensemble([], data, generator(0), sources, train=False, **args)


def mean_p(sources: list[Source], name: str = "test") -> Tensor:
    return torch.cat([one.tensors[name] for one in sources]).softmax(dim=2).mean(dim=0)


def test_the_first_components_are_ensembles_of_all_their_points() -> None:
    data = vectors()
    sources = [component(num, seed, data) for seed, num in enumerate((2, 3, 1))]
    row = judged(sources, data)
    assert row["components"] == [1, 2, 3]
    for j in range(3):
        p = mean_p(sources[: j + 1])
        wrong = 100 * float((p.argmax(dim=1) != data.test_labels).double().mean())
        assert row["first_components_test_error_percent"][j] == pytest.approx(wrong, rel=1e-12)
        right = p.gather(1, data.test_labels.unsqueeze(1))
        expected = -float(right.log().mean())
        assert row["first_components_test_loss"][j] == pytest.approx(expected, rel=1e-12)
    assert row["first_components_test_error_percent"][-1] == row["test_error_percent"]
    assert row["first_components_test_loss"][-1] == pytest.approx(row["test_loss"], rel=1e-12)


def test_members_that_are_components_have_the_lists_of_members() -> None:
    data = vectors()
    row = judged([component(1, seed, data) for seed in range(4)], data)
    assert row["first_components_test_error_percent"] == row["first_test_error_percent"]


def test_the_order_of_components_changes_no_number_of_the_whole() -> None:
    data = vectors()
    sources = [component(num, seed, data) for seed, num in enumerate((2, 3, 1))]
    one, other = judged(sources, data), judged(sources[::-1], data)
    for name in WHOLE:
        assert one[name] == pytest.approx(other[name], rel=1e-12)


def test_what_several_components_took_counts_once() -> None:
    data = vectors()
    behind = ({"a": 3.0, "x": 5.0}, {"a": 4.0, "y": 5.0}, {"b": 2.0})
    sources = [component(2, seed, data, passes) for seed, passes in enumerate(behind)]
    row = judged(sources, data)
    assert row["first_components_passes"] == [8, 14, 16]
    assert "first_epochs" not in row
    unknown = judged([*sources, component(2, 3, data)], data)
    assert "first_components_passes" not in unknown


def test_bins_of_confidence_are_those_of_a_slow_transcription() -> None:
    data = vectors()
    sources = [component(2, seed, data) for seed in range(2)]
    row, p = judged(sources, data, ece_bins=10), mean_p(sources)
    found: list[list[tuple[float, bool]]] = [[] for _ in range(10)]
    for one, label in zip(p.tolist(), data.test_labels.tolist(), strict=True):
        found[math.ceil(max(one) * 10) - 1].append((max(one), one.index(max(one)) == label))
    assert [] in found
    for place, some in enumerate(found):
        sure, right = (
            [
                pytest.approx(sum(column) / len(some), rel=1e-12)
                for column in zip(*some, strict=True)
            ]
            if some
            else (None, None)
        )
        assert row["test_bin_confidence"][place] == sure
        assert row["test_bin_accuracy"][place] == right
        assert row["test_bin_share"][place] == pytest.approx(len(some) / len(p), rel=1e-12)


def test_the_calibration_error_is_the_mean_gap_of_a_reliability_diagram() -> None:
    sure = torch.rand(200, generator=generator(1), dtype=torch.float64)
    right = torch.rand(200, generator=generator(2)) < sure**2
    bins = confidence_bins(sure, right, 15)
    gaps = [
        share * abs(accuracy - confidence)
        for share, accuracy, confidence in zip(
            bins["share"], bins["accuracy"], bins["confidence"], strict=True
        )
        if share and accuracy is not None and confidence is not None
    ]
    assert calibration_error(sure, right, 15) == pytest.approx(sum(gaps), rel=1e-12)


def test_one_temperature_for_all_changes_no_choice_and_lowers_the_loss_where_it_is_fitted() -> None:
    data = vectors()
    sources = [component(3, seed, data) for seed in range(2)]
    row = judged(sources, data, scaling="pooled")
    assert row["scaled_test_error_percent"] == row["test_error_percent"]
    assert row["pooled_scale"] == fitted_temperature(
        mean_p(sources, "aside").log(), data.aside_labels
    )
    there = replace(data, test_inputs=data.aside_inputs, test_labels=data.aside_labels)
    same = [replace(s, tensors={**s.tensors, "test": s.tensors["aside"]}) for s in sources]
    where_fitted = judged(same, there, scaling="pooled")
    assert where_fitted["scaled_test_loss"] < where_fitted["test_loss"]


def test_one_temperature_divides_the_logarithms_of_the_mean_probabilities() -> None:
    data = vectors()
    sources = [component(3, seed, data) for seed in range(2)]
    row = judged(sources, data, scaling="pooled")
    p = (mean_p(sources).log() / row["pooled_scale"]).softmax(dim=1)
    right = p.gather(1, data.test_labels.unsqueeze(1))
    assert row["scaled_test_loss"] == pytest.approx(-float(right.log().mean()), rel=1e-12)
    brier = (p - torch.nn.functional.one_hot(data.test_labels, 3)).square().sum(dim=1).mean()
    assert row["scaled_test_brier"] == pytest.approx(float(brier), rel=1e-12)


def test_one_network_has_one_temperature_whichever_way_it_is_fitted() -> None:
    data = vectors()
    pooled, each = (
        judged([component(1, 0, data)], data, scaling=scaling)
        for scaling in ("pooled", "temperature")
    )
    assert pooled["pooled_scale"] == pytest.approx(each["member_scale"][0], rel=1e-9)
    assert pooled["scaled_test_loss"] == pytest.approx(each["scaled_test_loss"], rel=1e-9)


def test_outputs_without_probabilities_have_neither_bins_nor_a_temperature() -> None:
    data = vectors(Criterion(mse))
    assert "test_bin_share" not in judged([component(2, 0, data)], data)
    with pytest.raises(MetricError, match="objective has no probabilities, so nothing can be"):
        judged([component(2, 0, data)], data, scaling="pooled")


ARGS: dict[str, Any] = {
    "connectors": 2,
    "samples": 2,
    "epochs": 2,
    "batch_size": 60,  # one batch: its order is rounding
    "eval_samples": 2,
    "lr": 0.05,
}


def grown(models: list[nn.Module], data: Dataset) -> Source:
    compute = simplex if len(models) > 1 else espro
    found = compute(models, data, generator(0), **ARGS)
    return Source(found.artifacts["complex"], "complex", "simplex", ARGS)


@pytest.mark.parametrize("num", [1, 2])
def test_predictions_of_a_complex_are_the_outputs_of_the_networks_at_its_points(num: int) -> None:
    data, models = vectors(), [seeded(mlp, seed) for seed in range(num)]
    source = grown(models, data)
    left = predict(models, data, generator(3), [source], points=4).artifacts["predictions"]
    complex_ = read_complex(models, [source], "a test")
    assert torch.equal(left["coefficients"], complex_.coefficients(4, generator(3)))
    for logits, at in zip(left["test"], left["coefficients"], strict=True):
        model = seeded(mlp)
        nn.utils.vector_to_parameters(at @ complex_.vertices, model.parameters())
        torch.testing.assert_close(logits, model(data.test_inputs).detach())
    row = judged([replace(source, tensors=left, metric="predictions")], data)
    assert row["first_components_test_error_percent"] == [row["test_error_percent"]]
    assert "t" not in row


def test_an_ensemble_of_a_complex_is_the_same_from_networks_and_from_predictions() -> None:
    data, models = vectors(), [seeded(mlp)]
    source = grown(models, data)
    left = predict(models, data, generator(3), [source], points=4).artifacts["predictions"]
    stored = judged([Source(left, "predictions", "predictions", {})], data)
    live = ensemble(models, data, generator(3), [source], train=False, points=4)
    assert live["num_networks"] == stored["num_networks"] == 4
    for name in WHOLE:
        assert live[name] == pytest.approx(stored[name], rel=1e-12)


def test_batch_norm_of_a_complex_is_refreshed_at_every_point() -> None:
    data, models = pictures(), [seeded(convolutional, seed) for seed in range(2)]
    source = grown(models, data)
    left = predict(models, data, generator(3), [source], points=3).artifacts["predictions"]
    complex_ = read_complex(models, [source], "a test")
    for logits, at in zip(left["test"], left["coefficients"], strict=True):
        flat = FlatNetwork.of(seeded(convolutional))
        complex_.place(flat, at)
        refresh_batch_norm(flat.module, data.train_inputs, 60)
        torch.testing.assert_close(logits, flat.module.eval()(data.test_inputs).detach())
