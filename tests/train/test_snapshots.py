"""Laws of snapshots: a killed training goes on as if nothing had happened."""

import json
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from train_support import SMALL_CNN, make_data, make_trial, without_seconds

from phasegrid.jobs import Json, Trial
from phasegrid.members import Trained
from phasegrid.snapshots import SNAPSHOT_VERSION, under_prefix, with_prefix
from phasegrid.train import train_pack


@dataclass
class Memory:
    """Snapshots in memory; facts go through JSON text as any store would write them."""

    tensors: dict[str, Tensor] | None = None
    text: str = ""
    saves: int = 0
    epochs: list[int] = field(default_factory=list)

    def load(self) -> tuple[dict[str, Tensor], Json] | None:
        return None if self.tensors is None else (dict(self.tensors), json.loads(self.text))

    def save(self, tensors: dict[str, Tensor], meta: Json) -> None:
        self.tensors, self.text = tensors, json.dumps(meta, allow_nan=False)
        self.saves += 1

    def clear(self) -> None:
        self.tensors = None


class Killed(BaseException):
    """Stands for a signal."""


def kill_after(epochs: int) -> object:
    def on_epoch(done: int, _total: int) -> None:
        if done == epochs:
            raise Killed

    return on_epoch


def assert_same(a: list[Trained], b: list[Trained]) -> None:
    for x, y in zip(a, b, strict=True):
        assert without_seconds(x) == without_seconds(y)
        for mine, other in ((x.weights, y.weights), *zip(
            x.intermediate.values(), y.intermediate.values(), strict=True
        )):  # fmt: skip
            assert mine.keys() == other.keys()
            assert all(torch.equal(mine[name], other[name]) for name in mine)


def pack(**changes: object) -> list[Trial]:
    """Three members, of which the second diverges early."""
    return [
        make_trial(seed, model=SMALL_CNN, lr=lr, epochs=5, keep_every=2, **changes)
        for seed, lr in ((0, 0.05), (1, 1e12), (2, 0.02))
    ]


@pytest.mark.parametrize("strategy", ["loop", "vmap", "fused"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_killed_training_resumes_bit_for_bit(strategy: str, optimizer: str) -> None:
    data = [make_data(augment="flip_crop")] * 3
    trials = pack(optimizer=optimizer)
    settings = {"device": "cpu", "strategy": strategy}
    whole = train_pack(trials, data, **settings)  # type: ignore[arg-type]
    memory = Memory()
    with pytest.raises(Killed):
        train_pack(trials, data, **settings, snapshots=memory, on_epoch=kill_after(3))  # type: ignore[arg-type]
    assert memory.saves == 1
    epochs: list[int] = []
    resumed = train_pack(
        trials,
        data,
        **settings,  # type: ignore[arg-type]
        snapshots=memory,
        on_epoch=lambda done, _: epochs.append(done),
    )
    assert epochs == [4, 5]
    assert_same(whole, resumed)


def test_a_snapshot_of_another_pack_is_ignored() -> None:
    data, memory = [make_data()], Memory()
    with pytest.raises(Killed):
        train_pack([make_trial(0)], data, device="cpu", snapshots=memory, on_epoch=kill_after(1))  # type: ignore[arg-type]
    fresh = train_pack([make_trial(1)], data, device="cpu")
    assert_same(fresh, train_pack([make_trial(1)], data, device="cpu", snapshots=memory))


def test_a_snapshot_of_another_version_is_ignored() -> None:
    data, memory = [make_data()], Memory()
    with pytest.raises(Killed):
        train_pack([make_trial(0)], data, device="cpu", snapshots=memory, on_epoch=kill_after(1))  # type: ignore[arg-type]
    memory.text = memory.text.replace(f'"version": {SNAPSHOT_VERSION}', '"version": 0')
    epochs: list[int] = []
    train_pack(
        [make_trial(0)],
        data,
        device="cpu",
        snapshots=memory,
        on_epoch=lambda done, _: epochs.append(done),
    )
    assert epochs == [1, 2, 3]


def test_snapshots_are_as_far_apart_as_asked_and_none_follows_the_end() -> None:
    ticks = iter(range(0, 100_000, 10))
    memory = Memory()
    train_pack(
        [make_trial(0, epochs=6)],
        [make_data()],
        device="cpu",
        snapshots=memory,
        snapshot_every_s=60.0,
        clock=lambda: float(next(ticks)),
    )
    # An epoch reads the clock three times (begin, end, snapshot due?), 30 s: due after every second epoch, not the last.
    assert memory.saves == 2


def test_saved_tensors_share_no_memory_and_lie_on_the_cpu() -> None:
    value = torch.arange(6.0).view(2, 3).t()
    saved = with_prefix("0/state", {"w": value})
    value.zero_()
    assert saved["0/state/w"].is_contiguous()
    assert saved["0/state/w"].sum() == 15
    assert under_prefix("0", saved).keys() == {"state/w"}
    assert under_prefix("0/state", saved).keys() == {"w"}
