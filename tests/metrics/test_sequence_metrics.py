"""Accuracy, Hessian and distance of translation models, and what holds for all metrics on sentence
pairs.
"""

import copy
import math
from typing import Any

import pytest
import torch
from oracles import expected_calibration_error
from sequence_support import (
    END,
    PAIRS,
    MixingTranslator,
    Translator,
    dense_token_hessian,
    generator,
    sentence_pairs,
    sentences,
    token_loss,
    translator,
)
from torch import Tensor, nn

from phasegrid.declare import import_function
from phasegrid.errors import MetricError
from phasegrid.metrics import METRICS
from phasegrid.metrics.accuracy.compute import compute as accuracy
from phasegrid.metrics.hessian.compute import compute as hessian
from phasegrid.metrics.hessian.operator import HessianOperator
from phasegrid.metrics.hessian.piecewise import is_piecewise_linear
from phasegrid.models.evaluation import evaluate
from phasegrid.tasks import positions, translation
from phasegrid.tasks.tokens import IGNORE
from phasegrid.tasks.translation import length_batches, positions_used

num_scored, scored = translation.OPERATIONS.num_scored, translation.OPERATIONS.scored

QUICK: dict[str, dict[str, Any]] = {
    "accuracy": {},
    "distance": {},
    "hessian": {"examples": 9, "steps": 5, "trace_probes": 2},
    "cka": {"examples": 16, "layers": ("softmax", "logits", "hidden")},
    "connectivity": {"epochs": 2, "batch_size": 6, "points": 3, "lr": 0.1},
    "simplex": {
        "epochs": 2,
        "samples": 2,
        "batch_size": 6,
        "eval_samples": 2,
        "lr": 0.1,
        "every_connector": True,
    },
}
MODELS = {"accuracy": 1, "hessian": 1, "simplex": 3}


def measure(name: str, models: list[nn.Module], more_padding: int = 0) -> Any:
    compute: Any = import_function(METRICS[name].compute)
    found = compute(models, sentences(more_padding=more_padding), generator(5), **QUICK[name])
    return getattr(found, "rows", found)  # of a metric that leaves artifacts too


OF_EXACT_TRACES = {"layers", "layer_traces"}
OF_BATCH_NORM = {"batch_norm", "refresh_batch_size", "refresh_augmented", "num_refreshed"}


def models_for(name: str, **args: Any) -> list[nn.Module]:
    return [translator(seed, **args) for seed in range(MODELS.get(name, 2))]


def numbers_of(row: Any) -> list[float]:
    """Flatten a row, or rows, into its numbers."""
    if isinstance(row, dict):
        row = list(row.values())
    if isinstance(row, list):
        return [number for value in row for number in numbers_of(value)]
    return [row] if isinstance(row, int | float) else []


@pytest.mark.parametrize("name", QUICK)
def test_rows_have_the_declared_columns_and_no_null(name: str) -> None:
    found = measure(name, models_for(name))
    for row in found if isinstance(found, list) else [found]:
        assert set(row) == {column.name for column in METRICS[name].columns}
        nulls = {key for key, value in row.items() if value is None}
        absent = OF_BATCH_NORM | OF_EXACT_TRACES
        assert {key for key in nulls if not key.endswith("_perplexity")} <= absent


@pytest.mark.parametrize("name", QUICK)
def test_more_padding_changes_nothing(name: str) -> None:
    plain = numbers_of(measure(name, models_for(name)))
    padded = numbers_of(measure(name, models_for(name), more_padding=7))
    assert plain
    assert padded == pytest.approx(plain, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", QUICK)
def test_equal_calls_give_equal_rows_and_leave_models_and_random_state_alone(name: str) -> None:
    models = [model.train() for model in models_for(name, dropout=0.5)]
    before = [copy.deepcopy(model.state_dict()) for model in models]
    state = torch.get_rng_state()
    assert measure(name, models) == measure(name, models)
    assert torch.equal(torch.get_rng_state(), state)
    for model, kept in zip(models, before, strict=True):
        assert all(layer.training for layer in model.modules())
        assert not any(layer._forward_hooks for layer in model.modules())
        assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())


def test_accuracy_is_that_of_weights_evaluate_over_scored_tokens() -> None:
    data, module = sentences(), translator()
    row = accuracy([module], data, generator())
    for name, x, y in (
        ("train", data.train_inputs, data.train_labels),
        ("test", data.test_inputs, data.test_labels),
    ):
        found = evaluate(module, x, y, data.scoring)
        assert row[f"{name}_loss"] == pytest.approx(found.loss, rel=1e-13)
        assert row[f"{name}_loss"] == pytest.approx(token_loss(module, x, y).item(), rel=1e-13)
        assert row[f"{name}_accuracy_percent"] == found.accuracy_percent
        assert row[f"num_{name}"] == found.num == int((y != IGNORE).sum())


@pytest.mark.parametrize("bins", [1, 15])
def test_calibration_is_that_of_the_loop_over_tokens_and_bins(bins: int) -> None:
    data, module = sentences(), translator()
    with torch.no_grad():
        outputs = module(data.train_inputs).unsqueeze(0)
        logits, labels = (v[0] for v in scored(outputs, data.train_labels.unsqueeze(0)))
    expected = expected_calibration_error(logits.softmax(1).tolist(), labels.tolist(), bins)
    row = accuracy([module], data, generator(), ece_bins=bins)
    assert row["train_ece"] == pytest.approx(expected, abs=1e-14)


def test_a_model_that_always_says_end_is_right_once_a_sentence() -> None:
    data, module = sentences(), translator()
    module.out.weight.data.zero_()
    module.out.bias.data = torch.zeros(7).double()
    module.out.bias.data[END] = math.log(4)
    row = accuracy([module], data, generator())
    ends = len(data.train_labels) / num_scored(data.train_labels)
    assert row["train_accuracy_percent"] == pytest.approx(100 * ends)
    # Four tenths for the end token, one tenth for each of six others.
    assert row["train_loss"] == pytest.approx(math.log(10) - ends * math.log(4), rel=1e-14)
    assert row["train_ece"] == pytest.approx(abs(ends - 0.4), abs=1e-14)


def test_logits_are_never_larger_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    data, module = sentences(), translator()
    plain = accuracy([module], data, generator())
    monkeypatch.setattr(positions, "LOGIT_BYTES", 3 * 9 * 7 * 8)  # three of the longest pairs
    seen: list[int] = []
    module.register_forward_hook(lambda *call: seen.append(call[2].numel() * 8))
    assert accuracy([module], data, generator()) == pytest.approx(plain, rel=1e-13)
    assert len(seen) >= 7
    assert max(seen) <= positions.LOGIT_BYTES


def test_batches_of_sentences_are_a_partition_by_length() -> None:
    lengths = torch.tensor([4, 9, 1, 9, 2, 30])
    bytes_of_nine = positions.LOGIT_BYTES // 18  # two of nine positions fit, one of thirty does not
    batches = [batch.tolist() for batch in length_batches(lengths, bytes_of_nine // 8, 8)]
    assert batches == [[5], [1, 3], [0, 4, 2]]


def test_length_is_that_of_the_longer_sentence() -> None:
    inputs = torch.tensor([[[3, 2, 0, 0], [1, 0, 0, 0]], [[2, 0, 0, 0], [1, 3, 3, 3]]])
    assert positions_used(inputs).tolist() == [2, 4]


@pytest.mark.parametrize(("most", "chunks"), [(7, 1), (3, 3), (1, 7)])
def test_products_are_those_of_the_dense_hessian_whole_or_in_chunks(most: int, chunks: int) -> None:
    module, (inputs, labels) = translator(), sentence_pairs(7)
    H = dense_token_hessian(module, inputs, labels)
    memory_bytes = (
        most * HessianOperator(module, inputs, labels, scoring=PAIRS)._bytes_per_example()
    )
    operator = HessianOperator(module, inputs, labels, memory_bytes, scoring=PAIRS)
    assert len(operator._chunks) == chunks
    assert operator.loss == pytest.approx(token_loss(module, inputs, labels).item(), rel=1e-13)
    for seed in range(3):
        v = torch.randn(operator.size, generator=generator(seed), dtype=torch.float64)
        torch.testing.assert_close(operator(v), H @ v, rtol=1e-10, atol=1e-13)


def test_a_pair_counts_by_its_tokens() -> None:
    module, (inputs, labels) = translator(), sentence_pairs(2)
    counts = [num_scored(labels[i : i + 1]) for i in range(2)]
    assert counts[0] != counts[1]
    v = torch.randn(
        len(dense_token_hessian(module, inputs, labels)), generator=generator()
    ).double()
    both = HessianOperator(module, inputs, labels, scoring=PAIRS)(v)
    alone = [
        HessianOperator(module, inputs[i : i + 1], labels[i : i + 1], scoring=PAIRS)(v)
        for i in range(2)
    ]
    expected = (counts[0] * alone[0] + counts[1] * alone[1]) / sum(counts)
    torch.testing.assert_close(both, expected, rtol=1e-11, atol=1e-14)


def test_the_row_is_that_of_the_dense_spectrum() -> None:
    data, module = sentences(), translator()
    values = torch.linalg.eigvalsh(
        dense_token_hessian(module, data.train_inputs, data.train_labels)
    )
    row = hessian([module], data, generator(), examples=16, steps=len(values))
    assert row["num_examples"] == 16
    assert row["lambda_max"] == pytest.approx(float(values[-1]), rel=1e-9)
    assert row["lambda_min"] == pytest.approx(float(values[0]), rel=1e-6)
    estimate = hessian([module], data, generator(), examples=16, steps=6)
    assert estimate["trace_method"] == "hutchinson_deflated"
    assert abs(estimate["trace"] - float(values.sum())) < 4 * estimate["trace_stderr"]


def test_float32_agrees_with_float64_to_1e_4() -> None:
    data, module = sentences(), translator()
    double = hessian([module], data, generator(), examples=16)
    single = hessian([module.float()], data, generator(), examples=16)
    for name in ("lambda_max", "trace", "loss"):
        assert single[name] == pytest.approx(double[name], rel=1e-4), name


class _Attention(nn.Module):
    """Softmax attention written out."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return (self.q(x) @ self.k(x).transpose(1, 2)).softmax(2) @ self.v(x)


class _FusedAttention(_Attention):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))


class _SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


@pytest.mark.parametrize(
    "make",
    [
        _Attention, _FusedAttention, _SelfAttention, Translator, MixingTranslator,
        lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)),
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Softmax(1), nn.Linear(4, 3)),
        lambda: nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3)),
        lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.0),
    ],
)  # fmt: skip
def test_attention_layer_norm_and_embeddings_are_not_taken_for_piecewise_linear(make: Any) -> None:
    assert not is_piecewise_linear(make().eval())


class _Affine(nn.Module):
    """A piecewise-linear token model: a line through the number of the word."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 7)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.line((inputs[:, 1] + 0.5).reshape(inputs.size(0), -1, 1))


def test_the_exact_trace_of_classifiers_is_never_taken_for_tokens() -> None:
    data, module = sentences(), translator(make=_Affine).float()
    assert is_piecewise_linear(module)
    values = torch.linalg.eigvalsh(
        dense_token_hessian(module, data.train_inputs, data.train_labels)
    )
    row = hessian([module], data, generator(), examples=16)
    assert row["trace_method"] == "exact_spectrum"
    assert row["trace"] == pytest.approx(float(values.sum()), rel=1e-4)


def test_outputs_that_are_not_a_word_a_position_are_an_error() -> None:
    class Last(Translator):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs)[:, -1]

    message = r"maps 8 examples with labels of shape \(8, \d\) to outputs of shape \(8, 7\)"
    with pytest.raises(MetricError, match=message):
        hessian([translator(make=Last)], sentences(), generator(), examples=16)


def test_words_for_a_classifier_are_an_error() -> None:
    module, (inputs, _) = translator(), sentence_pairs(4)
    message = r"4 examples with labels of shape \(4,\) to outputs of shape \(4, 9, 7\)"
    with pytest.raises(MetricError, match=message):
        HessianOperator(module, inputs, torch.full((4,), END))


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    module = translator()
    module.out.bias.data[0] = float("nan")
    with pytest.raises(MetricError, match="the loss is nan"):
        hessian([module], sentences(), generator(), examples=4)
    with pytest.raises(MetricError, match="accuracy: the train loss is nan"):
        accuracy([module], sentences(), generator())


def test_distance_is_that_of_all_embeddings_and_layers() -> None:
    models = models_for("distance")
    a, b = (nn.utils.parameters_to_vector(m.parameters()).detach() for m in models)
    row = measure("distance", models)
    assert row["l2_distance"] == pytest.approx(float((a - b).norm()), rel=1e-14)
    assert row["num_parameters"] == len(a)
