"""The metrics on the built-in transformer: against dense Hessians and features by hand, and that
padding is not seen.
"""

import dataclasses
from typing import Any

import pytest
import torch
from oracles import biased_cka
from sequence_support import (
    PAIRS,
    dense_token_hessian,
    features_by_hand,
    generator,
    sentence_pairs,
    sentences,
    token_loss,
    translator,
)
from torch import nn

from phasegrid.declare import Tokens, import_function
from phasegrid.metrics import METRICS
from phasegrid.metrics.cka import CkaArgs
from phasegrid.metrics.cka.compute import compute as cka
from phasegrid.metrics.cka.inputs import draw_probe
from phasegrid.metrics.connectivity import ConnectivityArgs
from phasegrid.metrics.connectivity.compute import place_vertices
from phasegrid.metrics.hessian.compute import compute as hessian
from phasegrid.metrics.hessian.operator import HessianOperator
from phasegrid.metrics.hessian.piecewise import is_piecewise_linear
from phasegrid.models import transformer
from phasegrid.models.weights import parameter_slices


def network(seed: int = 0, width: int = 16, feed_forward: int = 4) -> nn.Module:
    tokens = Tokens(30, 6, 7)

    def make() -> nn.Module:
        return transformer.make(tokens, width=width, depth=1, heads=2, feed_forward=feed_forward)

    module: nn.Module = translator(seed, make)
    return module


@pytest.mark.parametrize(("most", "chunks"), [(5, 1), (2, 3)])
def test_products_are_those_of_the_dense_hessian(most: int, chunks: int) -> None:
    module, (inputs, labels) = network(width=4, feed_forward=1), sentence_pairs(5)
    H = dense_token_hessian(module, inputs, labels)
    memory_bytes = (
        most * HessianOperator(module, inputs, labels, scoring=PAIRS)._bytes_per_example()
    )
    operator = HessianOperator(module, inputs, labels, memory_bytes, scoring=PAIRS)
    assert len(operator._chunks) == chunks
    v = torch.randn(operator.size, generator=generator(), dtype=torch.float64)
    torch.testing.assert_close(operator(v), H @ v, rtol=1e-9, atol=1e-12)


def test_the_row_is_that_of_the_dense_spectrum() -> None:
    data = sentences()
    module = network(width=4, feed_forward=1)
    values = torch.linalg.eigvalsh(
        dense_token_hessian(module, data.train_inputs, data.train_labels)
    )
    row = hessian([module], data, generator(), examples=16)
    assert not is_piecewise_linear(module)
    assert row["trace_method"] == "hutchinson_deflated"
    assert row["lambda_max"] == pytest.approx(float(values[-1]), rel=1e-4)
    assert abs(row["trace"] - float(values.sum())) < 4 * row["trace_stderr"]
    assert row["loss"] == pytest.approx(
        token_loss(module, data.train_inputs, data.train_labels).item(), rel=1e-12
    )


def test_float32_agrees_with_float64_to_1e_3() -> None:
    data, module = sentences(), network()
    double = hessian([module], data, generator(), examples=16)
    single = hessian([module.float()], data, generator(), examples=16)
    for name in ("lambda_max", "trace", "loss"):
        assert single[name] == pytest.approx(double[name], rel=1e-3), name


@pytest.mark.parametrize("changes", [{}, {"mixup": "per_batch"}, {"mixup_alpha": None}])
def test_similarities_are_those_of_features_taken_pair_by_pair(changes: dict[str, Any]) -> None:
    models, data = [network(0), network(1)], sentences()
    layers = ("softmax", "decoder_norm", "encoder.0.attention")
    settings = CkaArgs(examples=12, layers=layers, **changes)
    pairs = draw_probe(data, settings)
    for row in cka(models, data, generator(), **dataclasses.asdict(settings)):
        X, Y = (features_by_hand(model, pairs, row["layer"]) for model in models)
        assert row["cka"] == pytest.approx(biased_cka(X, Y), abs=1e-11)


def test_random_bends_are_transformers_drawn_anew() -> None:
    models = [network(0), network(1)]
    vertices = place_vertices(models, ConnectivityArgs(bends=2, init="random"), generator())
    slices = parameter_slices(models[0])
    for bend in vertices[1:3]:
        for part in slices:
            values = bend[part.start : part.stop]
            if part.name.endswith("embedding.weight"):
                bound = (6 / sum(part.shape)) ** 0.5  # Glorot's
                assert 0.5 * bound < float(values.abs().max()) <= bound
            if part.name == "encoder_norm.weight":
                assert bool((values == 1).all())
    assert not torch.equal(vertices[1], vertices[2])


QUICK: dict[str, dict[str, Any]] = {
    "accuracy": {},
    "hessian": {"examples": 9, "steps": 5, "trace_probes": 2},
    "cka": {"examples": 16, "layers": ("softmax", "decoder_norm")},
    "connectivity": {"updates": 5, "batch_size": 6, "points": 3, "lr": 0.1},
    "simplex": {"epochs": 1, "samples": 2, "batch_size": 6, "eval_samples": 2, "lr": 0.1},
    "distance": {},
}
ONE = {"accuracy", "hessian"}


def measure(name: str, more_padding: int) -> list[float]:
    compute: Any = import_function(METRICS[name].compute)
    models = [network(seed) for seed in range(1 if name in ONE else 2)]
    found = compute(models, sentences(more_padding=more_padding), generator(), **QUICK[name])
    found = getattr(found, "rows", found)  # of a metric that leaves artifacts too
    rows = found if isinstance(found, list) else [found]
    values = [value for row in rows for value in row.values()]
    spread = [v for value in values for v in (value if isinstance(value, list) else [value])]
    return [value for value in spread if isinstance(value, int | float)]


@pytest.mark.parametrize("name", QUICK)
def test_more_padding_changes_nothing(name: str) -> None:
    plain = measure(name, 0)
    assert plain
    assert measure(name, 9) == pytest.approx(plain, rel=1e-9, abs=1e-12)
