"""Law of the memory of growing a complex: the estimate is what was alive at the peak."""

from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from point_support import dataset, generator
from torch.profiler import ProfilerActivity, profile

from phasegrid.estimates import Measurement, Workload
from phasegrid.jobs import Part
from phasegrid.metrics.espro import EsproArgs
from phasegrid.metrics.simplex import SimplexArgs, growing, memory
from phasegrid.metrics.simplex.compute import compute, compute_espro
from phasegrid.models.build import build_model
from phasegrid.models.counting import count_work

SHAPE, NUM = (1, 8, 8), 24
NETWORK = Part("mlp", 1, {"width": 192, "depth": 2, "activation": "relu"})

LISTED = (("w0", "c0", "c1"), ("w1", "c0"), ("w1", "w2", "c2"))


def peak(work: Any) -> int:
    """Return the most bytes of tensors that were alive at once; torch tells of each allocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        work()
    events = [
        event for event in told.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    alive = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most


@pytest.mark.parametrize(
    ("num", "args"),
    [
        (1, {"connectors": 1}),
        (1, {"connectors": 5, "optimizer": "adam"}),
        (2, {"connectors": 1, "samples": 30}),
        (4, {"connectors": 4, "samples": 2, "every_connector": True}),
        (3, {"connectors": 3, "wiring": LISTED}),
        (2, {"connectors": 1, "samples": 1, "poison_share": 0.5}),
    ],
    ids=str,
)
def test_the_estimate_is_the_memory_at_the_peak(
    num: int, args: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "choose_stacks", lambda *_: [])  # points in turn, as on a GPU
    models = [build_model(NETWORK, SHAPE, 10, seed).eval() for seed in range(num)]
    rng, many = generator(0), 400 if "poison_share" in args else NUM
    data = dataset(torch.randn(many, *SHAPE, generator=rng), torch.arange(many) % 10, 10)
    if many > NUM:
        data = replace(data, aside_inputs=data.train_inputs, aside_labels=data.train_labels)
    given = {"epochs": 1, "batch_size": 8, "eval_samples": 2, **args}
    counts = count_work(NETWORK, data.facts)
    assert counts is not None
    work = Workload(
        many, many // 2, 10, *counts[:3], 64, 1.0, len(data.aside_labels), counts.layers
    )
    full = asdict(EsproArgs(**given) if num == 1 else SimplexArgs(**given))
    found = peak(lambda: (compute_espro if num == 1 else compute)(models, data, rng, **given))
    assert found <= memory(Measurement(work, full, num)) <= 1.6 * found
