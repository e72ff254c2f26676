"""Laws of recorded work: a replay does what the work does, and what cannot be recorded is
launched.

A CUDA graph is stood in for by a tape of operations.
"""

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from train_support import largest_difference, make_data, make_trial

import phasegrid.train.stack
from phasegrid.fallbacks import collected
from phasegrid.jobs import Part
from phasegrid.train import cuda_graphs
from phasegrid.train.cuda_graphs import (
    WARM_UP,
    Recorder,
    Replay,
    Work,
    on_a_side_stream,
    record_graph,
)
from phasegrid.train.loop import train_pack
from phasegrid.train.member import Trained
from tests.tape import record_on_tape

NETWORK = Part("small_cnn", 1, {"width": 3, "batch_norm": True})
POISONED = {"name": "poisoned", "args": {"share": 0.3, "beta": 0.7}, "version": 1}
NETWORKS = {
    "mlp": Part("mlp", 1, {"width": 8, "depth": 2, "activation": "relu"}),
    "cnn": NETWORK,
    "resnet18": Part("resnet18", 1, {"width": 2}),
}


def new_recorder(record: Callable[..., Replay] = record_on_tape, yields: bool = False) -> Recorder:
    return Recorder(yields, record, around=lambda work: work)


class Launcher(Recorder):
    """Launches everything."""

    def repeat(self, _key: Hashable, work: Work, *fixed: Tensor) -> Tensor:
        return work(*fixed)


def train(
    recorder: Callable[[], Recorder] | None,
    monkeypatch: pytest.MonkeyPatch,
    strategy: Any = "fused",
    epochs: int = 3,
    **recipe: Any,
) -> list[Trained]:
    init = phasegrid.train.stack.Stack.__init__

    def with_recorder(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self.recorder = recorder() if recorder else None

    with monkeypatch.context() as patch:
        patch.setattr(phasegrid.train.stack.Stack, "__init__", with_recorder)
        trials = [make_trial(seed, NETWORK, epochs=epochs, **recipe) for seed in range(2)]
        more = make_data(seed=1)
        aside = {"aside_inputs": more.train_inputs, "aside_labels": more.train_labels}
        data = replace(make_data(augment="flip_crop"), **aside)
        return train_pack(trials, [data] * 2, device="cpu", strategy=strategy)


RECIPES: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "weight_decay": 1e-2},
    "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-2},
    "adam": {"optimizer": "adam", "lr": 1e-2},
    "adamw": {"optimizer": "adamw", "lr": 1e-2, "weight_decay": 1e-1},
    "rmsprop": {"optimizer": "rmsprop", "lr": 1e-3, "rmsprop": {"centered": True}},
    "cosine": {"schedule": {"name": "cosine", "args": {}, "version": 1}},
    "sam": {"sam": {"rho": 0.05}},
    "clipped": {"clip_norm": 0.1},
    "accumulated": {"accumulate": 2},
    "pruned": {"prune": {"density": 0.5}},
    "some updates": {"updates": 7},
    "poisoned": {"objective": POISONED},
    "bf16": {"precision": "bf16"},
}


@pytest.mark.parametrize("strategy", ["loop", "fused"])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_a_training_from_replays_is_the_training(
    recipe: dict[str, Any], strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorders: list[Recorder] = []

    def keep() -> Recorder:
        recorders.append(new_recorder())
        return recorders[-1]

    replayed = train(keep, monkeypatch, strategy, **recipe)
    assert any(recorder._recorded for recorder in recorders)
    launched = train(Launcher, monkeypatch, strategy, **recipe)
    for a, b in zip(replayed, launched, strict=True):
        assert [r.train_loss for r in a.history] == [r.train_loss for r in b.history]
        assert all(torch.equal(a.weights[name], b.weights[name]) for name in b.weights)
    usual = train(None, monkeypatch, strategy, **recipe)
    for a, b in zip(replayed, usual, strict=True):
        assert largest_difference(a, b) < 1e-4  # rates in float32, over a few updates


def doubling(inputs: Tensor, _labels: Tensor) -> Tensor:
    return 2 * inputs


def batch(value: float, size: int = 3) -> tuple[Tensor, Tensor]:
    return torch.full((1, size), value), torch.zeros(1, size, dtype=torch.int64)


def test_a_shape_is_recorded_when_it_has_warmed_up_and_once() -> None:
    made: list[tuple[int, ...]] = []

    def record(work: Work, inputs: Tensor, labels: Tensor) -> Replay:
        made.append(tuple(inputs.shape))
        return record_on_tape(work, inputs, labels)

    recorder = new_recorder(record)
    counts = []
    for value in range(WARM_UP + 3):
        assert torch.equal(recorder.run(doubling, *batch(value)), torch.full((1, 3), 2.0 * value))
        counts.append(len(made))
    assert counts == [*[0] * WARM_UP, 1, 1, 1]
    recorder.run(doubling, *batch(1.0, size=2))  # a last, smaller batch
    assert made == [(1, 3)]


def test_what_a_replay_returned_is_not_overwritten_by_the_next() -> None:
    recorder = new_recorder()
    outputs = [recorder.run(doubling, *batch(value)) for value in range(WARM_UP + 3)]
    assert [float(output[0, 0]) for output in outputs] == [2.0 * v for v in range(WARM_UP + 3)]


def test_what_was_forgotten_warms_up_again() -> None:
    made: list[int] = []

    def record(work: Work, *tensors: Tensor) -> Replay:
        made.append(count)
        return record_on_tape(work, *tensors)

    recorder = new_recorder(record)
    for count in range(2 * WARM_UP + 2):
        if count == WARM_UP + 1:
            recorder.forget()
        recorder.run(doubling, *batch(1.0))
    assert made == [WARM_UP, 2 * WARM_UP + 1]


def test_a_pass_that_cannot_be_recorded_is_launched_and_said() -> None:
    tried = []

    def refuse(*_: Any) -> Replay:
        tried.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    recorder = new_recorder(refuse)
    for value in range(WARM_UP):
        recorder.run(doubling, *batch(value))
    with collected() as said:
        assert float(recorder.run(doubling, *batch(7.0))[0, 0]) == 14
    (fallback,) = said.values()
    assert "launched kernel by kernel (RuntimeError: operation not permitted" in str(fallback)
    assert float(recorder.run(doubling, *batch(8.0))[0, 0]) == 16
    assert len(tried) == 1


def run_out(*_: Any) -> Replay:
    try:
        raise torch.OutOfMemoryError("CUDA out of memory")
    except torch.OutOfMemoryError as error:
        message = "operation failed due to a previous error during capture"
        raise RuntimeError(message) from error


def test_memory_that_runs_out_while_recording_several_members_is_said_to() -> None:
    recorder = new_recorder(run_out, yields=True)
    several = [part.expand(2, *part.shape[1:]) for part in batch(1.0)]
    for _ in range(WARM_UP):
        recorder.run(doubling, *several)
    with pytest.raises(torch.OutOfMemoryError, match="recording a CUDA graph"):
        recorder.run(doubling, *several)


def test_memory_that_cuda_lacks_for_a_graph_is_said_to() -> None:
    def refuse(*_: Any) -> Replay:
        raise RuntimeError("CUDA error: out of memory")

    recorder = new_recorder(refuse, yields=True)
    for _ in range(WARM_UP):
        recorder.run(doubling, *batch(1.0))
    with pytest.raises(torch.OutOfMemoryError, match="recording a CUDA graph"):
        recorder.run(doubling, *batch(1.0))


def test_a_lone_member_that_cannot_be_recorded_for_want_of_memory_is_launched() -> None:
    recorder = new_recorder(run_out)
    for value in range(WARM_UP):
        recorder.run(doubling, *batch(value))
    with collected() as said:
        assert float(recorder.run(doubling, *batch(3.0))[0, 0]) == 6
    assert len(said) == 1


def test_nothing_is_recorded_without_a_gpu() -> None:
    from phasegrid.models.build import build_model
    from phasegrid.train.stack import MemberState, Stack

    module = build_model(NETWORKS["mlp"], (4,), 3, seed=0)
    stack = Stack(module, [MemberState(dict(module.state_dict()))], "loop")
    assert stack.recorder is None


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["loop", "fused", "vmap", "merged"])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_cuda_graphs_give_what_launched_kernels_give(
    name: str, strategy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = [make_trial(seed, NETWORKS[name], epochs=3, batch_size=4) for seed in range(2)]
    data = [make_data()] * 2
    recorded: list[int] = []

    def count(*args: Any) -> Replay:
        recorded.append(1)
        return record_graph(*args)

    monkeypatch.setattr("phasegrid.train.cuda_graphs.record_graph", count)
    replayed = train_pack(trials, data, device="cuda", strategy=strategy)
    assert recorded
    monkeypatch.setattr("phasegrid.train.stack.find_architecture", lambda _module: None)
    launched = train_pack(trials, data, device="cuda", strategy=strategy)
    for a, b in zip(replayed, launched, strict=True):
        for name_of, value in b.weights.items():
            # kernels may be chosen anew and sum in another order: float32 rounding over a few
            # updates
            torch.testing.assert_close(a.weights[name_of], value, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
def test_graphs_that_are_alive_share_one_pool_of_memory() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    inputs, labels = (part.to(device) for part in batch(1.0))
    for _ in range(2):  # the second time after the first graphs are gone
        replays = []
        for _ in range(3):
            on_a_side_stream(doubling)(inputs, labels)
            replays.append(record_graph(doubling, inputs, labels))
        assert len({graph.pool() for graph in cuda_graphs._ALIVE}) == 1
        assert [float(replay()[0, 0]) for replay in replays] == [2.0] * 3
        del replays
        assert not cuda_graphs._ALIVE
