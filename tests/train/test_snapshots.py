"""Laws of snapshots: a killed training goes on as if nothing had happened."""

import json
from collections.abc import Collection
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from train_support import (
    SMALL_CNN,
    Kept,
    largest_difference,
    make_data,
    make_trial,
    without_seconds,
)

from phasegrid.jobs import Trial
from phasegrid.keys import Json
from phasegrid.train.loop import train_pack
from phasegrid.train.member import Trained
from phasegrid.train.snapshots import SNAPSHOT_VERSION, under_prefix, with_prefix


@dataclass
class Memory:
    """Snapshots in memory; facts go through JSON text as any store would write them. A write may be
    the last one.
    """

    kept: dict[tuple[str, int], tuple[dict[str, Tensor], str]] = field(default_factory=dict)
    saves: int = 0
    last_save: int | None = None

    def epochs(self, trial: str) -> list[int]:
        return [epoch for name, epoch in self.kept if name == trial]

    def load(self, trial: str, epoch: int) -> tuple[dict[str, Tensor], Json] | None:
        found = self.kept.get((trial, epoch))
        return None if found is None else (dict(found[0]), json.loads(found[1]))

    def save(self, trial: str, epoch: int, tensors: dict[str, Tensor], meta: Json) -> None:
        if self.saves == self.last_save:
            raise Killed
        self.kept[trial, epoch] = tensors, json.dumps(meta, allow_nan=False)
        self.saves += 1

    def delete(self, trial: str, epochs: Collection[int]) -> None:
        for epoch in epochs:
            self.kept.pop((trial, epoch), None)


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
        assert x.weights.keys() == y.weights.keys()
        assert all(torch.equal(x.weights[name], y.weights[name]) for name in x.weights)


def pack(**changes: object) -> list[Trial]:
    """Three members, of which the second diverges early."""
    return [
        make_trial(seed, model=SMALL_CNN, lr=lr, epochs=5, keep_every=2, **changes)
        for seed, lr in ((0, 0.05), (1, 1e12), (2, 0.02))
    ]


@pytest.mark.parametrize("strategy", ["loop", "vmap", "fused", "merged"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_killed_training_resumes_bit_for_bit(strategy: str, optimizer: str) -> None:
    data = [make_data(augment="flip_crop")] * 3
    trials = pack(optimizer=optimizer)
    settings = {"device": "cpu", "strategy": strategy}
    whole = train_pack(trials, data, **settings, publisher=Kept())  # type: ignore[arg-type]
    memory = Memory()
    settings["publisher"] = Kept()  # type: ignore[assignment]
    with pytest.raises(Killed):
        train_pack(trials, data, **settings, snapshots=memory, on_epoch=kill_after(3))  # type: ignore[arg-type]
    in_progress = [
        trial.key for trial, end in zip(trials, whole, strict=True) if end.epochs_run > 3
    ]
    assert sorted(memory.kept) == [(key, 3) for key in in_progress]
    epochs: list[int] = []
    resumed = train_pack(
        trials,
        data,
        **settings,  # type: ignore[arg-type]
        snapshots=memory,
        on_epoch=lambda done, _: epochs.append(done),
    )
    assert epochs[-2:] == [4, 5]
    assert_same(whole, resumed)
    assert not memory.kept


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
    tensors, text = memory.kept["trial-0", 1]
    older = text.replace(f'"version": {SNAPSHOT_VERSION}', '"version": 0')
    memory.kept["trial-0", 1] = tensors, older
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
    # An epoch reads the clock three times (begin, end, snapshot due?), 30 s: due after every second
    # epoch, not the last.
    assert memory.saves == 2


def test_saved_tensors_share_no_memory_and_lie_on_the_cpu() -> None:
    value = torch.arange(6.0).view(2, 3).t()
    saved = with_prefix("0/state", {"w": value})
    value.zero_()
    assert saved["0/state/w"].is_contiguous()
    assert saved["0/state/w"].sum() == 15
    assert under_prefix("0", saved).keys() == {"state/w"}
    assert under_prefix("0/state", saved).keys() == {"w"}


def trained_alone(memory: Memory, trials: list[Trial], stop: int) -> None:
    with pytest.raises(Killed):
        train_pack(
            trials,
            [make_data()] * len(trials),
            device="cpu",
            strategy="fused",
            snapshots=memory,
            on_epoch=kill_after(stop),  # type: ignore[arg-type]
        )


def test_a_kill_between_the_snapshots_of_a_stack_loses_no_more_than_one_round_of_them() -> None:
    trials, data = [make_trial(seed, epochs=6) for seed in (0, 1, 2)], [make_data()] * 3
    whole = train_pack(trials, data, device="cpu", strategy="fused")
    memory = Memory()
    trained_alone(memory, trials, 2)
    memory.last_save = memory.saves + 1  # one of three is written, then the process is gone
    trained_alone(memory, trials, 4)
    assert sorted(memory.kept) == [("trial-0", 2), ("trial-0", 4), ("trial-1", 2), ("trial-2", 2)]
    memory.last_save = None
    epochs: list[int] = []
    resumed = train_pack(
        trials,
        data,
        device="cpu",
        strategy="fused",
        snapshots=memory,
        on_epoch=lambda done, _: epochs.append(done),
    )
    assert epochs[0] == 3
    assert_same(whole, resumed)


def test_a_trial_goes_on_from_its_snapshot_in_another_pack() -> None:
    memory, data = Memory(), make_data()
    trained_alone(memory, [make_trial(0), make_trial(1)], 2)
    epochs: list[int] = []
    alone = train_pack(
        [make_trial(1)],
        [data],
        device="cpu",
        strategy="fused",
        snapshots=memory,
        on_epoch=lambda done, _: epochs.append(done),
    )
    assert epochs == [3]
    fresh = train_pack([make_trial(1)], [data], device="cpu", strategy="fused")
    assert largest_difference(alone[0], fresh[0]) < 1e-5


def test_members_are_handed_over_when_they_are_finished_while_others_go_on() -> None:
    events: list[str] = []

    def taken(index: int, result: Trained) -> bool:
        events.append(f"trial {index}: {result.outcome} after {result.epochs_run}")
        return True

    train_pack(
        pack(),
        [make_data()] * 3,
        device="cpu",
        on_trained=taken,
        on_epoch=lambda done, _: events.append(f"epoch {done}"),
    )
    assert events[0].startswith("trial 1: diverged")
    assert "epoch 1" in events[:3]
    assert events[-3:] == ["trial 0: done after 5", "trial 2: done after 5", "epoch 5"]


@pytest.mark.parametrize(("kept", "left"), [(True, 0), (False, 1)])
def test_the_snapshot_of_a_result_that_could_not_be_kept_stays(kept: bool, left: int) -> None:
    memory = Memory()
    trained_alone(memory, [make_trial(0)], 2)
    train_pack(
        [make_trial(0)],
        [make_data()],
        device="cpu",
        strategy="fused",
        snapshots=memory,
        on_trained=lambda _index, _result: kept,
    )
    assert len(memory.kept) == left
