"""Laws of choosing how members train together."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from train_support import CLASSES, MLP, SMALL_CNN, make_data, make_trial

from phasegrid.jobs import Part
from phasegrid.keys import text_key
from phasegrid.models.strategies import Strategy
from phasegrid.packs import Pack
from phasegrid.run.executors.base import PackOptions
from phasegrid.run.worker import training
from phasegrid.store.store import Store
from phasegrid.train import autotune
from phasegrid.train.autotune import (
    BUDGET_S,
    LARGEST,
    from_record,
    measure_choice,
    search,
    timing_key,
    to_record,
)
from phasegrid.train.lanes import Lane
from phasegrid.train.loop import train_pack
from phasegrid.train.recipe import SAM, Prune
from phasegrid.train.stack_plan import StackPlan


def test_the_fastest_size_per_member_is_chosen() -> None:
    costs = {1: 1e-3, 2: 6e-4, 4: 4e-4, 8: 3e-4, 16: 5e-4, 32: 1e-9}
    choice, timings = search(lambda _strategy, size: costs[size])
    assert choice == StackPlan("fused", 8, 1)
    assert [t.size for t in timings] == [1, 2, 4, 8, 16]  # it has turned: larger ones are not tried


def test_where_stacking_loses_members_loop() -> None:
    choice, timings = search(
        lambda strategy, size: 1e-3 * (1.0 if strategy == "loop" else 1 + size)
    )
    assert choice == StackPlan("loop", 1, 1)
    assert [t.size for t in timings] == [1, 2, 4]


def test_a_gain_within_the_noise_is_not_taken() -> None:
    choice, _ = search(lambda _strategy, size: 1e-3 * (1.0 if size < 4 else 0.97))
    assert choice == StackPlan("loop", 1, 1)


def test_the_search_ends_at_the_largest_size() -> None:
    choice, timings = search(lambda _strategy, size: 1e-4 / size)
    assert choice == StackPlan("fused", LARGEST, 1)
    assert timings[-1].size == LARGEST


def test_the_search_keeps_to_its_budget() -> None:
    spent: list[float] = []

    def seconds(_strategy: Strategy, size: int) -> float:
        spent.append(4 * 0.1)
        return 0.1 / size

    search(seconds)
    assert sum(spent) <= BUDGET_S + 0.4


def test_running_out_of_memory_ends_the_search() -> None:
    def seconds(_strategy: Strategy, size: int) -> float:
        if size > 4:
            raise torch.OutOfMemoryError
        return 1e-3 / size

    assert search(seconds)[0] == StackPlan("fused", 4, 1)


Costs = dict[tuple[str, int], float]


def in_lanes(costs: Costs) -> tuple[StackPlan, list[tuple[str, int]]]:
    """Choose where stacks never pay; return which lanes were timed too."""

    def seconds(strategy: Strategy, count: int) -> float:
        tried.append((strategy, count))
        if (strategy, count) not in costs:
            raise torch.OutOfMemoryError
        return costs[strategy, count]

    tried: list[tuple[str, int]] = []
    choice, timings = search(lambda _strategy, size: 1e-4 * size, "fused", seconds)
    assert [t.seconds for t in timings[-len(costs) :]] == [costs[t] for t in tried if t in costs]
    return choice, tried


def test_more_lanes_of_the_faster_kernels_are_timed_if_some_pay() -> None:
    costs = {("loop", 8): 5e-5, ("merged", 8): 3e-5, ("merged", 32): 2e-5}
    choice, tried = in_lanes(costs)
    assert choice == StackPlan("merged", 1, 32)
    assert tried == [("loop", 8), ("merged", 8), ("merged", 32)]


def test_fewer_lanes_are_timed_if_some_do_not_pay_or_fit() -> None:
    costs = {("loop", 8): 2e-4, ("loop", 2): 8e-5, ("merged", 1): 1e-4}
    assert in_lanes(costs)[0] == StackPlan("loop", 1, 2)


def test_lanes_are_taken_unless_stacks_are_clearly_faster() -> None:
    def chosen(stack: float, lane: float) -> StackPlan:
        return search(
            lambda _strategy, size: 1e-3 if size == 1 else stack,
            "fused",
            lambda strategy, _count: lane if strategy == "loop" else 1.0,
        )[0]

    assert chosen(stack=1e-4, lane=1.04e-4).lanes > 1
    assert chosen(stack=1e-4, lane=1.1e-4) == StackPlan("fused", 2, 1)


def test_what_is_timed_in_lanes_is_what_runs_there(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[Lane] = []

    class Beside(Lane):
        gives_back = True

        def enter(self) -> None:
            entered.append(self)

    monkeypatch.setattr(autotune, "new_lane", lambda _device: Beside())
    choice, timings = measure_choice(make_trial(0), make_data(), torch.device("cpu"))
    assert {(t.strategy, t.lanes) for t in timings} >= {("loop", 1), ("loop", 8), ("merged", 8)}
    assert len(entered) >= 16, "each waits for what is on the device"
    assert from_record(to_record(choice, timings)) == choice


@pytest.mark.parametrize("stacked", ["fused", "vmap"])
def test_a_stack_that_fails_ends_the_search(stacked: Strategy) -> None:
    def seconds(_strategy: Strategy, size: int) -> float:
        if size > 2:
            raise RuntimeError("no kernel for so many groups")
        return 1e-3 / size

    assert search(seconds, stacked)[0] == StackPlan(stacked, 2, 1)


@pytest.mark.parametrize("model", [MLP, SMALL_CNN])
def test_a_measurement_times_real_updates(model: Part) -> None:
    choice, timings = measure_choice(make_trial(0, model=model), make_data(), torch.device("cpu"))
    assert choice.stack_size in {t.size for t in timings}
    assert all(t.seconds > 0 for t in timings)


def test_a_record_gives_back_its_choice_and_anything_else_none() -> None:
    choice = StackPlan("fused", 8, 1)
    assert from_record(to_record(choice, [])) == choice
    for other in (None, 3, {}, {"choice": {"strategy": "other", "stack_size": 2}}, {"choice": {}}):
        assert from_record(other) is None
    assert from_record({"choice": {"strategy": "fused", "stack_size": 0}}) is None


def test_the_key_is_that_of_the_kind_of_update_not_of_the_trial() -> None:
    data, cpu = make_data(), torch.device("cpu")
    key = timing_key(make_trial(0), data, cpu)
    assert key == timing_key(make_trial(1, lr=0.3, epochs=9), data, cpu)
    assert key != timing_key(make_trial(0, batch_size=16), data, cpu)
    assert key != timing_key(make_trial(0, model=SMALL_CNN), data, cpu)


def test_what_changes_the_cost_of_an_update_has_a_key_of_its_own() -> None:
    data, cpu = make_data(), torch.device("cpu")
    mse = {"name": "mse", "args": {"reduction": "half_sum"}, "version": 2}
    others = [
        {"objective": mse},
        {"objective": {**mse, "version": 3}},
        {"objective": {"name": "poisoned", "args": {"share": 0.5, "beta": None}, "version": 1}},
        {"prune": Prune(0.5)},
        {"sam": SAM()},
    ]
    keys = {timing_key(make_trial(0, **recipe), data, cpu) for recipe in [{}, *others]}
    assert len(keys) == 1 + len(others)
    means = {**mse, "args": {"reduction": "mean"}}
    assert timing_key(make_trial(0, objective=means), data, cpu) in keys
    assert timing_key(make_trial(0, label_smoothing=0.1), data, cpu) in keys


@pytest.mark.parametrize(
    "recipe",
    [
        {"objective": {"name": "mse", "args": {"reduction": "half_sum"}, "version": 2}},
        {"objective": {"name": "poisoned", "args": {"share": 0.5, "beta": None}, "version": 1}},
        {"prune": Prune(0.5)},
    ],
    ids=["mse", "poisoned", "prune"],
)
def test_updates_of_every_kind_are_timed(recipe: dict[str, Any]) -> None:
    choice, timings = measure_choice(make_trial(0, **recipe), make_data(), torch.device("cpu"))
    assert choice.stack_size in {timing.size for timing in timings}


@pytest.mark.parametrize(("size", "strategies"), [(2, "fused"), (1, "loop"), (None, "fused")])
def test_a_stack_is_no_larger_than_asked_and_numbers_agree(
    size: int | None, strategies: str
) -> None:
    trials, data = [make_trial(seed) for seed in range(5)], [make_data()] * 5
    how = "loop" if size == 1 else "auto"
    found = train_pack(trials, data, device="cpu", strategy=how, stack_size=size)  # type: ignore[arg-type]
    assert found[0].strategy == strategies
    alone = train_pack(trials[:1], data[:1], device="cpu")[0]
    assert found[0].history[-1].train_loss == pytest.approx(alone.history[-1].train_loss, rel=1e-4)


def test_a_choice_is_measured_once_for_long_packs_and_kept_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(str(tmp_path / "store"), create=True)
    calls: list[str] = []

    def measured(*_args: object) -> tuple[StackPlan, list[autotune.Timing]]:
        calls.append("measured")
        return StackPlan("fused", 2, 1), [autotune.Timing("fused", 2, 1e-3)]

    monkeypatch.setattr(training, "measure_choice", measured)
    trials = tuple(make_trial(seed) for seed in range(3))
    data, cpu = [make_data()] * 3, torch.device("cpu")
    pack = Pack(text_key("p"), "train", 0, trials, cost_s=1000.0)
    for _ in range(2):
        plans = training._plans(pack, store, PackOptions(), trials, data, cpu)
        assert plans == [StackPlan("fused", 2, 1)] * 3
    assert calls == ["measured"]
    short = Pack(text_key("p"), "train", 0, trials, cost_s=1.0)
    unknown = [None] * 3
    assert training._plans(short, store, PackOptions(), trials, data, cpu) == unknown
    assert training._plans(pack, store, PackOptions(strategy="loop"), trials, data, cpu) == unknown


def test_a_damaged_timing_is_as_none(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"), create=True)
    key = text_key("timing")
    assert store.notes.read_timing(key) is None
    store.notes.put_timing(key, {"choice": {"strategy": "fused", "stack_size": 3}})
    assert from_record(store.notes.read_timing(key)) == StackPlan("fused", 3, 1)
    (file,) = (tmp_path / "store" / "meta" / "timings").iterdir()
    file.write_text("{", encoding="utf-8")
    assert store.notes.read_timing(key) is None


class Odd(nn.Module):
    """Stackable by torch.func alone: a layer that has no grouped kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, CLASSES) / 8)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).sin() @ self.weight


def test_a_network_without_grouped_kernels_is_timed_under_vmap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(autotune, "initial_network", lambda *_args: Odd())
    choice, timings = measure_choice(make_trial(0), make_data(), torch.device("cpu"))
    assert {t.strategy for t in timings} == {"loop", "vmap"}
    assert choice.strategy in ("loop", "vmap")


def test_a_network_that_cannot_be_stacked_loops_untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES), nn.Dropout(0.5))
    monkeypatch.setattr(autotune, "initial_network", lambda *_args: network)
    found = measure_choice(make_trial(0), make_data(), torch.device("cpu"))
    assert found == (StackPlan("loop", 1, 1), [])


def test_code_that_vmap_cannot_run_loops() -> None:
    def seconds(strategy: Strategy, _size: int) -> float:
        if strategy == "vmap":
            raise RuntimeError("data-dependent control flow")
        return 1e-3

    assert search(seconds, "vmap")[0] == StackPlan("loop", 1, 1)
