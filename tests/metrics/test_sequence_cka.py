"""CKA of translation models: by hand, pair by pair, and the positions and partners it draws."""

import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch
from oracles import biased_cka, unbiased_cka
from sequence_support import (
    END,
    LENGTH,
    MixingTranslator,
    Translator,
    features_by_hand,
    generator,
    sentence_pairs,
    sentences,
    translator,
)
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.cka import CkaArgs
from phasegrid.metrics.cka.compute import compute, compute_many
from phasegrid.metrics.cka.inputs import draw_probe
from phasegrid.tasks import positions
from phasegrid.tasks.positions import PositionProbe, draw_positions
from phasegrid.tasks.tokens import IGNORE


def draw_pairs(data: Dataset, settings: CkaArgs) -> PositionProbe:
    probe = draw_probe(data, settings)
    assert isinstance(probe, PositionProbe)
    return probe


def draw_arrays(data: Dataset, settings: CkaArgs) -> Tensor:
    probe: Any = draw_probe(data, settings)
    inputs: Tensor = probe.inputs
    return inputs


PLAIN: dict[str, Any] = {"mixup_alpha": None}


@pytest.mark.parametrize("changes", [PLAIN, {}, {"mixup": "per_batch"}])
@pytest.mark.parametrize("examples", [16, 6])  # more rows than columns, and fewer
def test_rows_are_those_of_features_taken_pair_by_pair(
    changes: dict[str, Any], examples: int
) -> None:
    models, data = [translator(seed) for seed in range(3)], sentences()
    layers = ("softmax", "logits", "hidden")
    settings = CkaArgs(examples=examples, layers=layers, **changes)
    pairs = draw_pairs(data, settings)
    groups = [(0, 1), (2, 0), (1, 1)]
    tables = compute_many(
        models, groups, data, [generator()] * 3, examples=examples, layers=layers, **changes
    )
    for (a, b), rows in zip(groups, tables, strict=True):
        assert [row["layer"] for row in rows] == list(layers)
        assert [row["num_features"] for row in rows] == [7, 7, 3]
        for row in rows:
            X, Y = (features_by_hand(models[i], pairs, str(row["layer"])) for i in (a, b))
            assert row["num_examples"] == examples
            assert row["cka"] == pytest.approx(biased_cka(X, Y), abs=1e-11)
            # The transcription does not centre: it loses digits where outputs barely vary.
            assert row["cka_unbiased"] == pytest.approx(unbiased_cka(X, Y), abs=1e-8)


def test_a_model_is_like_itself_and_like_its_copy_with_permuted_units() -> None:
    module, other = translator(), translator()
    order = torch.tensor([2, 0, 1])
    for name in ("hidden", "norm"):
        layer, turned = getattr(module, name), getattr(other, name)
        turned.bias.data = layer.bias[order].clone()
        weight = layer.weight[order]
        turned.weight.data = weight[:, order].clone() if name == "hidden" else weight.clone()
    for embedding in ("source", "target"):
        weight = getattr(module, embedding).weight
        getattr(other, embedding).weight.data = weight[:, order].clone()
    other.out.weight.data = module.out.weight[:, order].clone()
    for row in compute([module, other], sentences(), generator(), layers=("softmax", "hidden")):
        assert row["cka"] == pytest.approx(1, rel=1e-12)


def test_batches_do_not_change_similarities_and_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models, data = [translator(seed) for seed in range(2)], sentences()
    plain = compute(models, data, generator(), layers=("softmax", "hidden"))
    monkeypatch.setattr(positions, "LOGIT_BYTES", 2 * LENGTH * 7 * 8)
    seen: list[int] = []
    for model in models:
        model.out.register_forward_hook(lambda *call: seen.append(call[2].numel() * 8))
    cut = compute(models, data, generator(), layers=("softmax", "hidden"))
    assert max(seen) <= positions.LOGIT_BYTES
    assert len(seen) > 10
    for row, other in zip(plain, cut, strict=True):
        assert row["cka"] == pytest.approx(other["cka"], rel=1e-12)
        assert row["cka_unbiased"] == pytest.approx(other["cka_unbiased"], rel=1e-10)


def test_one_scored_position_of_each_pair_is_drawn_every_one_equally_likely() -> None:
    labels = torch.full((6000, 5), IGNORE)
    labels[:, [0, 2, 3]] = END
    positions = draw_positions(labels, 0)
    counts = Counter(positions.tolist())
    assert set(counts) == {0, 2, 3}
    # Binomial: a share of 1/3 of 6000 has a standard deviation of 36.5.
    assert all(abs(count - 2000) < 4 * 36.5 for count in counts.values())
    assert not torch.equal(positions, draw_positions(labels, 1))
    padded = nn.functional.pad(labels, (0, 4), value=IGNORE)
    assert torch.equal(positions, draw_positions(padded, 0))


def test_every_comparison_sees_the_same_pairs_and_positions() -> None:
    data = sentences()
    for changes in ({}, {"mixup": "per_batch"}, PLAIN):
        settings = CkaArgs(examples=10, **changes)
        state = torch.random.get_rng_state()
        first, again = draw_pairs(data, settings), draw_pairs(data, settings)
        assert torch.equal(state, torch.random.get_rng_state())
        assert torch.equal(first.inputs, again.inputs)
        assert torch.equal(first.positions, again.positions)
        # Neither pairs nor positions depend on whether they are mixed.
        plain = draw_pairs(data, dataclasses.replace(settings, mixup_alpha=None))
        assert torch.equal(first.inputs, plain.inputs)
        assert torch.equal(first.positions, plain.positions)
        other = draw_pairs(data, dataclasses.replace(settings, example_seed=1))
        assert not torch.equal(first.inputs, other.inputs)


def numbered(num: int) -> tuple[Any, Any]:
    """The same numbers as sentence pairs and as vectors, to compare what is drawn of them."""
    inputs, labels = sentence_pairs(num)
    inputs[:, 0, 0] = torch.arange(1, num + 1)
    data = dataclasses.replace(sentences(), train_inputs=inputs, train_labels=labels)
    flat = torch.arange(1.0, num + 1, dtype=torch.float64).unsqueeze(1)
    vectors = dataclasses.replace(
        data, train_inputs=flat, train_labels=labels[:, 0], task="classification", form=None
    )
    return data, vectors


@pytest.mark.parametrize("mixup", ["independent", "per_batch"])
def test_pairs_partners_and_coefficients_are_drawn_as_for_images(mixup: Any) -> None:
    data, vectors = numbered(200)
    settings = CkaArgs(examples=150, mixup=mixup)
    pairs = draw_pairs(data, settings)
    assert pairs.mix is not None
    c = pairs.mix.shares
    mixed = c * pairs.inputs[:, 0, 0] + (1 - c) * pairs.mix.partners[:, 0, 0]
    torch.testing.assert_close(mixed, draw_arrays(vectors, settings).squeeze(1))
    assert len(set(c.tolist())) == (150 if mixup == "independent" else 2)


def test_pairs_without_mixup_need_no_method_and_those_with_it_do() -> None:
    models = [translator(seed, Translator) for seed in range(2)]
    assert compute(models, sentences(), generator(), **PLAIN)[0]["cka"] is not None
    with pytest.raises(MetricError, match=r"forward_mixed.*Translator does not.*mixup_alpha: null"):
        compute(models, sentences(), generator())


@pytest.mark.parametrize("alpha", [None, 16.0])
def test_noise_on_words_is_an_error(alpha: float | None) -> None:
    with pytest.raises(MetricError, match="pixel_noise 2 was given for 'sentences'"):
        compute([translator()] * 2, sentences(), generator(), pixel_noise=2.0, mixup_alpha=alpha)


class Odd(MixingTranslator):
    """Has layers that give a row per pair, a pair of tensors, or nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.pooled, self.idle, self.couple = nn.Identity(), nn.Identity(), Couple()

    def forward(self, inputs: Tensor) -> Tensor:
        logits = super().forward(inputs)
        self.pooled(logits.mean(1))
        return self.couple(logits)[0]


class Couple(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("pooled", r"layer 'pooled' gives outputs of shape \(16, 7\) for 16 sentence pairs of 8 pos"),
        ("couple", "layer 'couple' gives tuple, not one tensor"),
        ("idle", "layer 'idle' gave 0 rows for 16 inputs"),
        ("conv9", "no layer 'conv9'; it has softmax, logits, source, target"),
    ],
)  # fmt: skip
def test_layers_that_cannot_be_compared_are_errors(layer: str, message: str) -> None:
    module = translator(make=Odd)
    with pytest.raises(MetricError, match=message):
        compute([module] * 2, sentences(), generator(), layers=(layer,), **PLAIN)
    assert not any(part._forward_hooks for part in module.modules())


def test_an_embedding_that_is_mixed_runs_twice_and_is_an_error() -> None:
    with pytest.raises(MetricError, match="layer 'source' gave 32 rows for 16 inputs"):
        compute([translator()] * 2, sentences(), generator(), layers=("source",))
    assert compute([translator()] * 2, sentences(), generator(), layers=("source",), **PLAIN)


def test_logits_of_another_shape_are_an_error() -> None:
    class Last(Translator):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs)[:, -1]

    with pytest.raises(MetricError, match=r"layer 'logits' gives outputs of shape \(16, 7\)"):
        compute([translator(make=Last)] * 2, sentences(), generator(), **PLAIN)


def test_outputs_that_are_not_finite_are_an_error() -> None:
    module = translator()
    module.out.bias.data[0] = float("nan")
    with pytest.raises(MetricError, match="outputs are not finite"):
        compute([module] * 2, sentences(), generator())
