"""CKA against transcriptions of the papers, its invariances, its traps, and the inputs it draws."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from oracles import biased_cka, unbiased_cka
from point_support import dataset, generator, images, seeded
from torch import Tensor, nn

from phasegrid.errors import MetricError
from phasegrid.metrics.cka import CKA, CkaArgs
from phasegrid.metrics.cka.compute import (
    Alignment,
    align,
    compute,
    compute_many,
    represent,
)
from phasegrid.metrics.cka.features import collect_features
from phasegrid.metrics.cka.inputs import draw_probe
from phasegrid.tasks.losses import Criterion, mse


def draw_arrays(data: Any, settings: CkaArgs) -> Tensor:
    probe: Any = draw_probe(data, settings)
    inputs: Tensor = probe.inputs
    return inputs


def features(m: int, d: int, seed: int) -> Tensor:
    """Draw features with a common part, so that similarities are neither 0 nor 1."""
    common = torch.randn(m, 3, generator=generator(99), dtype=torch.float64)
    own = torch.randn(m, d, generator=generator(seed), dtype=torch.float64)
    return own + common @ torch.randn(3, d, generator=generator(seed + 50), dtype=torch.float64)


def aligned(*several: Tensor) -> Alignment:
    return align([represent(X) for X in several])


@pytest.mark.parametrize(("d", "e"), [(4, 4), (5, 9), (60, 60), (7, 60)])
def test_all_pairs_are_those_of_the_papers(d: int, e: int) -> None:
    several = [features(30, width, seed) for seed, width in enumerate((d, e, d))]
    found = aligned(*several)
    for i, X in enumerate(several):
        for j, Y in enumerate(several):
            assert float(found.biased[i, j]) == pytest.approx(biased_cka(X, Y), abs=1e-12)
            assert float(found.unbiased[i, j]) == pytest.approx(unbiased_cka(X, Y), abs=1e-12)


def test_gram_and_feature_forms_agree() -> None:
    # Columns of zeros change the width and with it the form, but no similarity.
    X, Y = features(20, 6, 1), features(20, 6, 2)
    wide = torch.zeros(20, 30, dtype=torch.float64)
    narrow, gram = aligned(X, Y), aligned(torch.cat([X, wide], 1), torch.cat([Y, wide], 1))
    assert represent(torch.cat([X, wide], 1)).is_gram
    assert not represent(X).is_gram
    torch.testing.assert_close(narrow.biased, gram.biased, rtol=1e-13, atol=0)
    torch.testing.assert_close(narrow.unbiased, gram.unbiased, rtol=1e-12, atol=0)


@pytest.mark.parametrize("d", [5, 40])
def test_rotations_scales_and_shifts_are_not_seen(d: int) -> None:
    X, Y = features(25, d, 1), features(25, d, 2)
    Q, _ = torch.linalg.qr(torch.randn(d, d, generator=generator(3), dtype=torch.float64))
    plain, moved = aligned(X, Y), aligned(1e-20 * (X @ Q) + 3e-20, 1e12 * Y)
    torch.testing.assert_close(plain.biased, moved.biased, rtol=1e-10, atol=0)
    torch.testing.assert_close(plain.unbiased, moved.unbiased, rtol=1e-9, atol=0)
    assert aligned(X, X @ Q).biased[0, 1] == pytest.approx(1, rel=1e-12)


def test_similarity_is_symmetric_and_one_with_itself() -> None:
    found = aligned(*(features(25, 6, seed) for seed in range(3)))
    for matrix in (found.biased, found.unbiased):
        torch.testing.assert_close(matrix, matrix.t(), rtol=1e-14, atol=0)
        torch.testing.assert_close(matrix.diagonal(), torch.ones(3, dtype=torch.float64))


def test_unbiased_similarity_of_noise_is_zero_on_average_and_biased_is_not() -> None:
    draws = [torch.randn(32, 64, generator=generator(s), dtype=torch.float64) for s in range(40)]
    found = aligned(*draws)
    off = ~torch.eye(40, dtype=torch.bool)
    unbiased = found.unbiased[off]
    # 780 pairs of 40 draws: taken as 40 independent values the bound is a wide one.
    assert abs(float(unbiased.mean())) < 4 * float(unbiased.std()) / 40**0.5
    assert abs(float(unbiased.mean())) < 0.01
    assert float(found.biased[off].min()) > 0.5


@pytest.mark.parametrize("d", [8, 120])
def test_a_mean_of_300_spreads_does_no_harm_in_float32(d: int) -> None:
    X, Y = (features(100, d, seed).float() + 300 for seed in (1, 2))
    found = aligned(X, Y)
    assert float(found.biased[0, 1]) == pytest.approx(biased_cka(X, Y), abs=1e-6)
    assert float(found.unbiased[0, 1]) == pytest.approx(unbiased_cka(X, Y), abs=1e-6)


@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize("d", [1, 40])
def test_fewer_than_four_examples_have_no_unbiased_similarity(m: int, d: int) -> None:
    X, Y = features(m, d, 1), features(m, d, 2)
    found = aligned(X, Y)
    assert found.unbiased.isnan().all()
    assert float(found.biased[0, 1]) == pytest.approx(biased_cka(X, Y), abs=1e-12)


def test_one_example_has_no_similarity() -> None:
    found = aligned(features(1, 3, 1), features(1, 3, 2))
    assert found.biased.isnan().all()
    assert found.unbiased.isnan().all()


@pytest.mark.parametrize("d", [3, 40])
def test_a_constant_output_has_no_similarity(d: int) -> None:
    X = features(20, d, 1).float()
    found = aligned(X, torch.full((20, d), 0.1))
    assert found.biased[0, 0] == pytest.approx(1, rel=1e-6)
    assert bool(found.biased[0, 1].isnan())
    assert bool(found.unbiased[1, 1].isnan())


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(3),
        nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 3),
    )  # fmt: skip


def args(**changes: Any) -> dict[str, Any]:
    return {name: getattr(CkaArgs(**changes), name) for name in CkaArgs.__dataclass_fields__}


def test_rows_are_those_of_features_taken_pair_by_pair() -> None:
    models = [seeded(network, seed) for seed in range(3)]
    data = dataset(*images(40))
    layers = ("softmax", "logits", "1", "4")
    settings = args(examples=24, layers=layers)
    groups = [(0, 1), (2, 0), (1, 1)]
    tables = compute_many(models, groups, data, [generator(0)] * 3, **settings)
    inputs = draw_arrays(data, CkaArgs(**settings))
    for (a, b), rows in zip(groups, tables, strict=True):
        assert [row["layer"] for row in rows] == list(layers)
        assert [row["num_features"] for row in rows] == [3, 3, 144, 16]
        for row in rows:
            assert set(row) == {column.name for column in CKA.columns}
            assert row["num_examples"] == 24
            X, Y = (layer_by_hand(models[i], inputs, str(row["layer"])) for i in (a, b))
            assert row["cka"] == pytest.approx(biased_cka(X, Y), abs=1e-12)
            # The transcription does not centre: it loses digits where outputs barely vary.
            assert row["cka_unbiased"] == pytest.approx(unbiased_cka(X, Y), abs=1e-9)
        alone = compute([models[a], models[b]], data, generator(1), **settings)
        for row, other in zip(rows, alone, strict=True):
            assert row["cka"] == pytest.approx(other["cka"], rel=1e-12)


def layer_by_hand(module: nn.Module, inputs: Tensor, layer: str) -> Tensor:
    assert isinstance(module, nn.Sequential)
    with torch.no_grad():
        if layer in {"softmax", "logits"}:
            logits = module(inputs)
            return logits.softmax(1) if layer == "softmax" else logits
        return module[: int(layer) + 1](inputs).flatten(1)


def test_the_models_are_not_changed() -> None:
    module = seeded(network).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    compute([module, module], dataset(*images(20)), generator(0), **args(examples=8, layers=("1",)))
    assert module.training
    assert not module[1]._forward_hooks
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_hidden_units_may_be_permuted() -> None:
    module, other = seeded(network), seeded(network)
    order = torch.tensor([2, 0, 3, 1])
    for name in ("weight", "bias"):
        getattr(other[0], name).data = getattr(module[0], name)[order].clone()
        getattr(other[1], name).data = getattr(module[1], name)[order].clone()
    other[1].running_mean.data = module[1].running_mean[order].clone()
    other[1].running_var.data = module[1].running_var[order].clone()
    settings = args(examples=20, layers=("1", "3"))
    for row in compute([module, other], dataset(*images(20)), generator(0), **settings):
        assert row["cka"] == pytest.approx(1, rel=1e-12)


def test_a_collapsed_network_gives_null() -> None:
    dead = seeded(network)
    dead[6].weight.data.zero_()
    data = dataset(*images(20))
    (row,) = compute([seeded(network), dead], data, generator(0), **args(examples=20))
    assert row["cka"] is None
    assert row["cka_unbiased"] is None


def test_outputs_that_are_no_probabilities_have_no_similarity_of_their_softmax() -> None:
    data = dataclasses.replace(dataset(*images(30)), objective=Criterion(mse))
    models = [seeded(network, seed) for seed in (0, 1)]
    settings = args(examples=20, layers=("softmax", "logits"))
    softmax, logits = compute(models, data, generator(0), **settings)
    assert softmax["cka"] is softmax["cka_unbiased"] is None
    assert None not in logits.values()


def test_batches_do_not_change_features() -> None:
    module, probe = seeded(network), draw_probe(dataset(*images(11)), CkaArgs())
    whole = collect_features(module, probe, ("logits", "2"))
    cut = collect_features(module, probe, ("logits", "2"), batch_size=4)
    for name, value in whole.items():
        torch.testing.assert_close(value, cut[name], rtol=1e-12, atol=1e-14)


def test_every_comparison_sees_the_same_inputs() -> None:
    data = dataset(*images(50))
    for changes in (
        {},
        {"mixup": "per_batch"},
        {"mixup_alpha": None},
        {"mixup_alpha": None, "pixel_noise": 3.0},
    ):
        settings = CkaArgs(examples=20, **changes)
        state = torch.random.get_rng_state()
        first = draw_arrays(data, settings)
        assert torch.equal(first, draw_arrays(data, settings))
        other = draw_arrays(data, dataclasses.replace(settings, example_seed=1))
        assert not torch.equal(first, other)
        assert torch.equal(state, torch.random.get_rng_state())
    assert len(draw_arrays(data, CkaArgs(examples=640))) == 50


def indexed(num: int) -> Any:
    """Inputs that say which example they are: unit vectors."""
    return dataset(torch.eye(num, dtype=torch.float64), torch.zeros(num, dtype=torch.int64))


def test_independent_mixup_gives_every_example_its_own_coefficient_and_partner() -> None:
    mixed = draw_arrays(indexed(2000), CkaArgs(examples=1000))
    torch.testing.assert_close(mixed.sum(1), torch.ones(1000, dtype=torch.float64))
    assert int((mixed > 0).sum(1).max()) == 2
    plain = draw_arrays(indexed(2000), CkaArgs(examples=1000, mixup_alpha=None))
    coefficients = (mixed * plain).sum(1)
    coefficients = coefficients[coefficients < 1]
    assert len(set(coefficients.tolist())) == len(coefficients)
    # Beta(16, 16) has mean 1/2 and variance 1 / (4 * 33).
    assert float(coefficients.mean()) == pytest.approx(0.5, abs=4 / 132**0.5 / 1000**0.5)
    assert float(coefficients.var()) == pytest.approx(1 / 132, rel=0.2)


def test_published_mixup_has_one_coefficient_and_one_permutation_per_batch_of_128() -> None:
    settings = CkaArgs(examples=300, mixup="per_batch")
    mixed = draw_arrays(indexed(400), settings)
    plain = draw_arrays(indexed(400), dataclasses.replace(settings, mixup_alpha=None))
    own = (mixed * plain).sum(1)
    seen = []
    for start in range(0, 300, 128):
        batch, part = mixed[start : start + 128], own[start : start + 128]
        values = set(np.round(part[part < 1].tolist(), 12))
        assert len(values) == 1
        seen.extend(values)
        # A permutation of the same batch: every example is used up.
        torch.testing.assert_close(batch.sum(0), plain[start : start + 128].sum(0))
    assert len(set(seen)) == 3


def test_pixel_noise_is_uniform_in_pixel_units() -> None:
    data = dataset(*images(60))
    settings = CkaArgs(examples=50, mixup_alpha=None, pixel_noise=8.0)
    plain = draw_arrays(data, dataclasses.replace(settings, pixel_noise=None))
    noise = (draw_arrays(data, settings) - plain) / 0.01
    assert float(noise.min()) >= -1e-6  # pixel is float32
    assert float(noise.max()) <= 8.001
    assert float(noise.mean()) == pytest.approx(4, abs=4 * 8 / 12**0.5 / noise.numel() ** 0.5)


def test_noise_and_mixup_exclude_each_other() -> None:
    data = dataset(*images(10))
    with pytest.raises(MetricError, match="pixel_noise 2 and mixup_alpha 16 were both given"):
        compute([seeded(network)] * 2, data, generator(0), **args(pixel_noise=2.0))


def test_an_unknown_layer_names_those_there_are() -> None:
    data = dataset(*images(10))
    with pytest.raises(MetricError, match=r"no layer 'conv9'; it has softmax, logits, 0, 1, 2"):
        compute([seeded(network)] * 2, data, generator(0), **args(layers=("conv9",)))


def test_a_layer_that_does_not_run_is_an_error() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    data = dataset(torch.ones(9, 4), torch.zeros(9, dtype=torch.int64))
    with pytest.raises(MetricError, match="layer 'idle' gave 0 rows for 9 inputs"):
        compute([Idle(), Idle()], data, generator(0), **args(layers=("idle",)))


def test_a_layer_that_gives_no_tensor_is_an_error() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, x: Tensor) -> Tensor:
            return self.pair(x)[0]

    data = dataset(torch.ones(9, 4), torch.zeros(9, dtype=torch.int64))
    with pytest.raises(MetricError, match="layer 'pair' gives tuple, not one tensor"):
        compute([First(), First()], data, generator(0), **args(layers=("pair",)))


def test_outputs_that_are_not_finite_are_an_error() -> None:
    module = seeded(network)
    module[6].bias.data[0] = float("nan")
    with pytest.raises(MetricError, match="outputs are not finite"):
        compute([module, module], dataset(*images(10)), generator(0), **args())


def test_three_models_are_an_error() -> None:
    with pytest.raises(MetricError, match="two models, got 3"):
        compute([seeded(network)] * 3, dataset(*images(10)), generator(0), **args())


def test_a_pair_is_the_same_bit_for_bit_whatever_it_is_compared_beside() -> None:
    several = [represent(features(24, width, seed)) for seed, width in enumerate((5, 5, 30, 7, 40))]
    pairs = [(0, 1), (0, 2), (2, 4), (3, 1)]
    found = align(several, pairs)
    for i, j in pairs:
        alone = align([several[i], several[j]], [(0, 1)])
        assert alone.biased[0, 1] == found.biased[i, j] == found.biased[j, i]
        assert alone.unbiased[0, 1] == found.unbiased[i, j]
