"""Laws of lanes and memory: as many trainings run at once as fit, and what they took is learned. A
stand-in tells how much memory is free and taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from phasegrid import load_sweep
from phasegrid.jobs import Trial
from phasegrid.packs import Pack
from phasegrid.plan.contents import Cell
from phasegrid.plan.gpu_memory import MARGIN, known_lane_bytes
from phasegrid.plan.packing import make_packs
from phasegrid.plan.plan import make_plan
from phasegrid.plan.shaping import fill_gpus
from phasegrid.run.executors.base import PackOptions
from phasegrid.run.worker import training
from phasegrid.run.worker.lane_memory import (
    MEASURED_MARGIN,
    UNKNOWN_LANES,
    Kind,
    lanes_within,
    memory_of,
)
from phasegrid.run.worker.pack import do
from phasegrid.store.store import Store
from phasegrid.train.stack_plan import StackPlan

KEYS = [letter * 32 for letter in "abcdef"]


@dataclass
class StandIn:
    """Memory of which so much is free, and so much will have been taken."""

    free: int = 10_000
    taken: int = 6_000
    begun: list[str] = field(default_factory=list)

    def free_bytes(self) -> int:
        return self.free

    def begin(self) -> None:
        self.begun.append("begun")

    def taken_bytes(self) -> int:
        return self.taken


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"), create=True)


def lanes_of(store: Store, memory: StandIn, *kinds: Kind) -> int | None:
    with lanes_within(memory, kinds, store.notes) as lanes:
        return lanes


def test_the_first_lanes_are_those_of_the_estimate_with_its_margin(store: Store) -> None:
    assert MARGIN == 1.5
    assert lanes_of(store, StandIn(), Kind(KEYS[0], 1000, 20)) == 6
    assert lanes_of(store, StandIn(), Kind(KEYS[1], 1000, 3)) == 3, "no more than there are"
    assert lanes_of(store, StandIn(), Kind(KEYS[2], 10**6, 3)) == 1, "one is always tried"


def test_a_stack_takes_one_lane_and_the_memory_of_its_members(store: Store) -> None:
    assert lanes_of(store, StandIn(), Kind(KEYS[0], 1000, 20, stack_size=5)) == 1
    assert lanes_of(store, StandIn(), Kind(KEYS[1], 1000, 20, stack_size=2)) == 3


def test_the_lanes_of_a_mixed_pack_hold_the_largest_of_its_kinds(store: Store) -> None:
    wide, narrow = Kind(KEYS[0], 3000, 2), Kind(KEYS[1], 100, 50)
    assert lanes_of(store, StandIn(), wide, narrow) == 2 + 6


def test_what_was_measured_counts_instead_of_the_estimate(store: Store) -> None:
    kind = Kind(KEYS[0], 1000, 20)
    assert lanes_of(store, StandIn(taken=600), kind) == 6  # so each took 100
    assert store.notes.read_timing(KEYS[0]) == {"bytes_of_one": 100, "at_once": 6}
    again = StandIn(free=1000)
    assert lanes_of(store, again, kind) == int(1000 / (100 * MEASURED_MARGIN)) == 8
    assert store.notes.read_timing(KEYS[0]) == {"bytes_of_one": 100, "at_once": 6}


def test_the_peak_of_a_mixed_pack_is_shared_out_by_the_estimates(store: Store) -> None:
    lanes_of(store, StandIn(taken=320), Kind(KEYS[0], 30, 4), Kind(KEYS[1], 10, 4))
    records = [store.notes.read_timing(key) for key in KEYS[:2]]
    assert records == [{"bytes_of_one": 60, "at_once": 4}, {"bytes_of_one": 20, "at_once": 4}]


def test_only_those_that_ran_at_once_are_measured(store: Store) -> None:
    filling = Kind(KEYS[0], 10, 9, share=1 / 4)
    lanes_of(store, StandIn(taken=400), filling, Kind(KEYS[1], 10, 9))
    assert store.notes.read_timing(KEYS[0]) == {"bytes_of_one": 100, "at_once": 4}
    assert store.notes.read_timing(KEYS[1]) is None


def test_what_says_nothing_of_its_memory_runs_in_a_few_lanes_until_it_is_measured(
    store: Store,
) -> None:
    unknown = Kind(KEYS[0], None, 20)
    assert lanes_of(store, StandIn(taken=400), unknown) == UNKNOWN_LANES
    assert lanes_of(store, StandIn(), unknown) == 20, "each took 100"


def test_a_pack_that_fails_measures_nothing(store: Store) -> None:
    with (
        pytest.raises(ValueError, match="no"),
        lanes_within(StandIn(), [Kind(KEYS[0], 10, 2)], store.notes),
    ):
        raise ValueError("no")
    assert store.notes.read_timing(KEYS[0]) is None


def test_a_cpu_has_no_lanes_to_count(store: Store) -> None:
    assert memory_of(torch.device("cpu"), 1.0) is None
    with lanes_within(None, [], store.notes) as lanes:
        assert lanes is None


SWEEP = """\
schema: 1
name: lanes
dataset: {name: digits, fraction: 0.05}
model: {name: mlp, depth: 1}
train: {batch_size: 16, epochs: 1, stop: null, keep: last}
load: {param: model.width, values: [8, 4]}
temperature: {param: train.batch_size, values: [8, 16]}
seeds: 3
metrics: [accuracy]
"""


def seconds_of(_cell: Cell, _job: object) -> float:
    return 100.0


@pytest.fixture
def filled(tmp_path: Path) -> tuple[Pack, dict[str, int]]:
    """Return one pack of all cells, and its estimates."""
    (tmp_path / "lanes.yaml").write_text(SWEEP)
    plan = make_plan(load_sweep(tmp_path / "lanes.yaml"))
    pack, *_ = fill_gpus(make_packs(plan, (), seconds_of), 1)
    works = {trial.key: cell.work for cell in plan.cells for trial in cell.trials}
    return pack, known_lane_bytes(pack, works)


def test_a_pack_gets_the_lanes_that_fit_and_a_plan_for_each_kind(
    filled: tuple[Pack, dict[str, int]], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack, estimates = filled
    train_pack, given, timed = training.train_pack, {}, []

    def noted(trials: Sequence[Trial], *args: object, **named: object) -> object:
        given.update(named, widths=[trial.model.args["width"] for trial in trials])
        return train_pack(trials, *args, **named)  # type: ignore[arg-type]

    def measured(trial: Trial, *_: object) -> tuple[StackPlan, list[object]]:
        timed.append((trial.model.args["width"], trial.recipe["batch_size"]))
        return StackPlan("loop", 1, 8 if trial.model.args["width"] == 4 else 2), []

    memory = StandIn(free=int(MARGIN * sum(estimates.values()) * 0.6))
    monkeypatch.setattr(training, "train_pack", noted)
    monkeypatch.setattr(training, "measure_choice", measured)
    monkeypatch.setattr(training, "memory_of", lambda _device, _share: memory)
    options = PackOptions("cpu", lane_bytes=estimates)
    outcomes = do(pack, store, options)
    assert {outcome.status for outcome in outcomes} == {"done"}
    assert len(outcomes) == len(pack.trials) == 12
    assert 1 < given["lanes"] < 12  # type: ignore[operator]
    assert timed == [(8, 8), (8, 16), (4, 8), (4, 16)], "each kind once"
    lanes_by_plan = [plan.lanes for plan in given["plans"]]  # type: ignore[attr-defined]
    assert lanes_by_plan == [2 if width == 8 else 8 for width in given["widths"]]  # type: ignore[attr-defined]
    assert memory.begun == ["begun"]
