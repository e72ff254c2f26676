"""Laws of memory in lanes: no lane reads, writes or gets what another may still use."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from lane_support import DATA, Numbered, give_recorders, unlike
from test_snapshots import Killed, Memory
from train_support import SMALL_CNN, Kept, make_data, make_trial

import phasegrid.train.lanes
from phasegrid.datasets.dataset import TENSORS, Dataset
from phasegrid.jobs import Trial
from phasegrid.train.lanes import Lanes
from phasegrid.train.loop import train_pack
from phasegrid.train.recipe import Checkpoints, Collect, Prune
from phasegrid.train.updates import Updates
from tests.streams import Streams
from tests.tape import record_on_tape


class Streamed(Numbered):
    """A lane on a stream of `streams`; careless, it does not wait."""

    def __init__(self, streams: Streams, careless: bool) -> None:
        self.streams, self.careless = streams, careless

    @contextmanager
    def _as_current(self) -> Iterator[None]:
        with super()._as_current():
            self.streams.current = id(self)
            try:
                yield
            finally:
                self.streams.current = None

    def enter(self) -> None:
        if not self.careless:
            self.streams.wait(id(self), None)

    def leave(self) -> None:
        self.streams.wait(None, id(self))


def use(streams: Streams, monkeypatch: pytest.MonkeyPatch, careless: bool = False) -> None:
    """Let the lanes of this device be `streams`, onto which data sets are copied."""
    lanes: list[Streamed] = []  # kept, so that each has an id of its own

    def new_lane(_device: torch.device) -> Streamed:
        lanes.append(Streamed(streams, careless))
        return lanes[-1]

    def copied(data: Dataset, _device: Any) -> Dataset:
        return replace(data, **{name: getattr(data, name).clone() for name in TENSORS})

    monkeypatch.setattr(phasegrid.train.lanes, "new_lane", new_lane)
    monkeypatch.setattr(Dataset, "to", copied)
    monkeypatch.setattr(Lanes, "wait", lambda _: streams.synchronize())
    give_recorders(monkeypatch, record_on_tape)


def run(trials: list[Trial], **how: Any) -> None:
    more = make_data(seed=1)
    aside = {"aside_inputs": more.train_inputs, "aside_labels": more.train_labels}
    data = [replace(DATA, **aside)] * len(trials)
    train_pack(trials, data, device="cpu", strategy="loop", **how)


def all_kinds() -> list[Trial]:
    """Return trainings that together use all that a training can."""
    wish = {"collect": Collect("swag", every_updates=2), "checkpoints": Checkpoints(every_epochs=1)}
    poisoned = {"name": "poisoned", "args": {"share": 0.3, "beta": 0.7}, "version": 1}
    more = [
        make_trial(5, SMALL_CNN, batch_size=16, keep="best_test", **wish),
        make_trial(6, SMALL_CNN, batch_size=16, objective=poisoned),
        make_trial(7, SMALL_CNN, batch_size=16, objective=poisoned, prune=Prune(0.5)),
        make_trial(8, SMALL_CNN, batch_size=16, sam={"rho": 0.05}, clip_norm=0.1),
        make_trial(9, SMALL_CNN, batch_size=16, precision="bf16", updates=4),
    ]
    return unlike() + [replace(trial, key=f"trial-{5 + i}") for i, trial in enumerate(more)]


@pytest.mark.parametrize("most", [None, pytest.param(3, marks=pytest.mark.slow)])
def test_trainings_in_lanes_share_no_memory_without_waiting(
    most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = Streams()
    use(streams, monkeypatch)
    with streams:
        run(all_kinds(), lanes=most, publisher=Kept(), snapshots=Memory(), snapshot_every_s=0.0)
    assert not streams.races, streams.races[:3]


def test_a_lane_that_does_not_wait_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams()
    use(streams, monkeypatch, careless=True)
    with streams:
        run(unlike())
    assert any("that None may still use" in race for race in streams.races)


def fail_once(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one of the `unlike` trainings fail once within its second epoch."""
    left, made = [12], Updates.run

    def failing(self: Updates, *args: Any) -> None:
        if self.recipe.batch_size == 5:
            left[0] -= 1
            if left[0] == 0:
                raise kind
        made(self, *args)

    monkeypatch.setattr(Updates, "run", failing)


def test_memory_is_whole_where_trainings_are_stopped_fail_or_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams, snapshots, epochs = Streams(), Memory(), [0]
    use(streams, monkeypatch)

    def stop(_done: int, _total: int) -> None:
        epochs[0] += 1
        if epochs[0] == 3:
            raise Killed

    with streams:
        fail_once(torch.OutOfMemoryError, monkeypatch)
        run(unlike())
        fail_once(RuntimeError, monkeypatch)
        with suppress(RuntimeError):
            run(unlike(), snapshots=snapshots)
        with suppress(Killed):
            run(unlike(), snapshots=snapshots, on_epoch=stop)
        assert snapshots.kept
        run(unlike(), snapshots=snapshots)
    assert not streams.races, streams.races[:3]
