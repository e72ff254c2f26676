"""Laws of lanes: trainings side by side are those alone, whatever they share a device with.

Streams are stood in for by lanes that know which of them is current, CUDA graphs by tapes.
"""

import gc
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from lane_support import Numbered, give_recorders, trained, unlike
from test_snapshots import Killed, Memory, assert_same
from torch import Tensor
from train_support import Kept, make_trial

import phasegrid.train.epoch
import phasegrid.train.stack
from phasegrid.fallbacks import collected
from phasegrid.run.worker import queues
from phasegrid.train.cuda_graphs import Replay
from phasegrid.train.lanes import STREAMS, Lane, Lanes
from phasegrid.train.member import Trained
from phasegrid.train.stack_plan import StackPlan
from phasegrid.train.updates import Updates
from tests.tape import record_on_tape


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Lane | None, Updates]]:
    """Return the lane and the training of every update."""
    found: list[tuple[Lane | None, Updates]] = []
    run = Updates.run

    def noted(self: Updates, *args: Any) -> None:
        found.append((Numbered.now, self))
        run(self, *args)

    monkeypatch.setattr(Updates, "run", noted)
    return found


def test_trainings_side_by_side_are_bit_for_bit_those_alone(
    alone: list[Trained], launched: list[tuple[Lane | None, Updates]]
) -> None:
    launched.clear()
    assert_same(trained(unlike()), alone)
    assert len({id(updates) for _, updates in launched[:5]}) == 5  # launched in turn
    lane_of: dict[int, Lane | None] = {}
    for lane, updates in launched:
        assert lane is not None
        assert lane_of.setdefault(id(updates), lane) is lane
    assert len(set(map(id, lane_of.values()))) == 5


@pytest.mark.parametrize("most", [1, 2, 3])
def test_those_that_wait_take_the_lanes_of_those_that_end(
    most: int,
    alone: list[Trained],
    launched: list[tuple[Lane | None, Updates]],
    lanes: list[Numbered],
) -> None:
    launched.clear()
    assert_same(trained(unlike(), lanes=most), alone)
    assert len(lanes) == (most if most > 1 else 0)
    first, last = {}, {}
    for at, (_, updates) in enumerate(launched):
        first.setdefault(id(updates), at)
        last[id(updates)] = at
    most_at_once = max(sum(first[i] <= at <= last[i] for i in first) for at in range(len(launched)))
    assert most_at_once == most


def test_no_more_run_than_fill_the_device(
    alone: list[Trained], launched: list[tuple[Lane | None, Updates]], lanes: list[Numbered]
) -> None:
    launched.clear()
    half, quarter = StackPlan("loop", 1, 2), StackPlan("loop", 1, 4)
    assert_same(trained(unlike(), plans=[half, quarter, quarter, half, half]), alone)
    assert len(lanes) == 3


@pytest.mark.usefixtures("lanes")
def test_results_are_handed_over_in_their_lane() -> None:
    where: dict[int, Lane | None] = {}

    def keep(place: int, _result: Trained) -> bool:
        where[place] = Numbered.now
        return True

    assert trained(unlike(), on_trained=keep) == []
    assert sorted(where) == [0, 1, 2, 3, 4]
    assert None not in where.values()
    assert len(set(map(id, where.values()))) == 5


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Count the networks and vectors of weights that are alive, without the garbage collector."""
    found: list[weakref.ref[Any]] = []
    init = phasegrid.train.stack.Stack.__init__

    def noted(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        found.extend([weakref.ref(self.network), weakref.ref(self.network.weights)])

    monkeypatch.setattr(phasegrid.train.stack.Stack, "__init__", noted)
    gc.collect()
    gc.disable()
    yield lambda: sum(each() is not None for each in found)
    gc.enable()


@pytest.mark.usefixtures("lanes")
def test_a_training_that_has_ended_holds_no_memory(
    alive: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waiting for the garbage collector: its lane's next needs the memory."""
    counts: list[int] = []
    init = phasegrid.train.stack.Stack.__init__

    def counted(self: Any, *args: Any, **kwargs: Any) -> None:
        counts.append(alive())
        init(self, *args, **kwargs)

    monkeypatch.setattr(phasegrid.train.stack.Stack, "__init__", counted)
    trained(unlike(), lanes=1)
    assert counts == [0, 0, 0, 0, 0]


@pytest.mark.usefixtures("lanes")
def test_trainings_that_have_failed_together_hold_no_memory(alive: Callable[[], int]) -> None:
    counts: list[int] = []

    def stop(_done: int, _total: int) -> None:
        counts.append(alive())
        raise RuntimeError("stopped")

    with suppress(RuntimeError):
        trained(unlike(), on_epoch=stop)
    assert counts[0] > 0
    assert alive() == 0


class SmallDevice:
    """Records no more than `most` graphs that are alive in different trainings."""

    def __init__(self, most: int) -> None:
        self.most, self.refused = most, 0
        self.places: set[int] = set()

    def record(self, work: Any, *tensors: Tensor) -> Replay:
        self.places.add(tensors[0].data_ptr())
        if len(self.places) > self.most:
            self.places.discard(tensors[0].data_ptr())
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return record_on_tape(work, *tensors)


@pytest.mark.usefixtures("lanes")
def test_a_training_that_does_not_fit_beside_others_gives_its_lane_back(
    alone: list[Trained],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("phasegrid.train.cuda_graphs.in_a_lane", lambda _: Numbered.now is not None)
    device = SmallDevice(2)
    give_recorders(monkeypatch, device.record)
    ended: list[int] = []

    def keep(place: int, result: Trained) -> bool:
        device.most += 1  # what it used is free
        ended.append(place)
        assert_same([result], [alone[place]])
        return True

    with collected() as said:
        trained(unlike(), on_trained=keep)
    assert sorted(ended) == [0, 1, 2, 3, 4]
    assert device.refused == 3, "each waits until another has ended"
    assert list(said) == ["fewer trainings ran side by side, because memory ran out"]


@pytest.mark.usefixtures("lanes")
def test_a_training_that_does_not_fit_alone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phasegrid.train.cuda_graphs.in_a_lane", lambda _: Numbered.now is not None)
    give_recorders(monkeypatch, SmallDevice(0).record)
    with pytest.raises(torch.OutOfMemoryError, match="recording a CUDA graph"):
        trained(unlike())


@pytest.mark.parametrize("turns", [1, 2, 4])
@pytest.mark.parametrize("most", [2, None])
def test_trainings_that_are_stopped_end_their_epochs_and_go_on_bit_for_bit(
    turns: int, most: int | None, alone: list[Trained]
) -> None:
    memory, published, calls = Memory(), Kept(), [0]

    def stop(_done: int, _total: int) -> None:
        calls[0] += 1
        if calls[0] == turns:
            raise Killed

    kept: dict[int, Trained] = {}

    def keep(place: int, result: Trained) -> bool:
        kept[place] = result
        return True

    for on_epoch in (stop, None):
        how = {"snapshots": memory, "publisher": published, "on_epoch": on_epoch, "lanes": most}
        wanted = [i for i in range(5) if i not in kept]
        with suppress(Killed):
            trained(unlike(), wanted=wanted, on_trained=keep, **how)
        if on_epoch is not None:
            saved = {key for key, _ in memory.kept}
            assert saved or most == 2  # those that run then have all just ended
            assert saved.isdisjoint(f"trial-{i}" for i in kept)
    assert sorted(kept) == [0, 1, 2, 3, 4]
    assert_same([kept[i] for i in range(5)], alone)
    assert not memory.kept


@pytest.mark.usefixtures("lanes")
def test_one_that_fails_while_others_are_stopped_costs_them_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory, stopping = Memory(), [False]
    run = Updates.run

    def fails(self: Updates, *args: Any) -> None:
        if stopping[0] and self.recipe.batch_size == 5:
            raise RuntimeError("broken")
        run(self, *args)

    def stop(_done: int, _total: int) -> None:
        stopping[0] = True
        raise Killed

    monkeypatch.setattr(Updates, "run", fails)
    with collected() as said, pytest.raises(Killed):
        trained(unlike(), snapshots=memory, on_epoch=stop)
    assert list(said) == ["a task failed while it was being stopped"]
    assert {key for key, _ in memory.kept} == {"trial-0", "trial-2", "trial-4"}


@pytest.mark.usefixtures("lanes")
def test_the_device_has_done_everything_before_a_failure_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)

    class Failing:
        share = 0.0

        def steps(self, _lane: Lane) -> Iterator[bool]:
            yield False
            raise RuntimeError("broken")

    device = torch.device("cuda")
    with pytest.raises(RuntimeError, match="broken"):
        Lanes(device).run([Failing(), Failing()], lambda _: None)
    assert waited == [device]


class Ticking:
    """A task of some pieces, each a second long."""

    def __init__(self, pieces: int, now: list[float], lanes: Lanes) -> None:
        self.pieces, self.time, self.lanes, self.used = pieces, now, lanes, 0.0
        self.share = 0.0

    def steps(self, _lane: Lane) -> Iterator[bool]:
        begun = self.lanes.now()
        for _ in range(self.pieces):
            self.time[0] += 1
            yield False
        self.used = self.lanes.now() - begun


@pytest.mark.usefixtures("lanes")
def test_each_lane_computes_in_its_own_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    found: set[tuple[int, bool]] = set()
    losses = phasegrid.train.epoch.training_losses

    def noted(operations: Any, objective: Any, logits: Tensor, batch: Any) -> Tensor:
        found.add((logits.shape[1], torch.backends.cuda.matmul.allow_tf32))
        return losses(operations, objective, logits, batch)

    monkeypatch.setattr(phasegrid.train.epoch, "training_losses", noted)
    both = make_trial(0, batch_size=9, precision="tf32"), make_trial(1, batch_size=12)
    trained([replace(trial, recipe=trial.recipe | {"drop_last": True}) for trial in both])
    assert found == {(9, True), (12, False)}


def test_no_more_lanes_run_than_there_are_streams(lanes: list[Numbered]) -> None:
    shared = Lanes(torch.device("cpu"))
    at_once: list[int] = []
    tasks = [Ticking(2, [0.0], shared) for _ in range(STREAMS + 9)]
    shared.run(tasks, lambda _: at_once.append(len(shared._active)))
    assert max(at_once) == len(lanes) == STREAMS


@pytest.mark.usefixtures("lanes")
@pytest.mark.parametrize("num", range(2, STREAMS + 1))
def test_as_many_run_as_fill_the_device_however_shares_are_rounded(num: int) -> None:
    shared = Lanes(torch.device("cpu"))
    at_once: list[int] = []
    tasks = [Ticking(1, [0.0], shared) for _ in range(num + 3)]
    for task in tasks:
        task.share = 1 / num
    shared.run(tasks, lambda _: at_once.append(len(shared._active)))
    assert max(at_once) == num


@pytest.mark.usefixtures("lanes")
def test_those_that_did_not_fit_are_the_next() -> None:
    begun: list[str] = []

    class Hungry:
        share = 0.0

        def __init__(self, name: str) -> None:
            self.name = name

        def steps(self, _lane: Lane) -> Iterator[bool]:
            begun.append(self.name)
            if begun == ["a", "b"]:
                raise torch.OutOfMemoryError
            yield True

    with collected():
        Lanes(torch.device("cpu"), 2).run([Hungry(name) for name in "abc"], lambda _: None)
    assert begun == ["a", "b", "b", "c"]


@pytest.mark.usefixtures("lanes")
def test_the_time_that_tasks_use_adds_up_to_the_time_that_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    time = [100.0]
    shared = Lanes(torch.device("cuda"), 3, lambda: time[0])
    tasks = [Ticking(pieces, time, shared) for pieces in (2, 5, 3, 4)]
    shared.run(tasks, lambda _: None)
    assert time[0] == 114
    assert sum(task.used for task in tasks) == pytest.approx(14, rel=0.2)
    assert tasks[1].used > tasks[0].used


def test_a_gpu_takes_work_from_as_many_streams_as_there_are_lanes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(queues.VARIABLE, raising=False)
    queues.open_queues()
    assert os.environ[queues.VARIABLE] == str(STREAMS)
    monkeypatch.setenv(queues.VARIABLE, "8")
    queues.open_queues()
    assert os.environ[queues.VARIABLE] == "8"  # as the user wants it
