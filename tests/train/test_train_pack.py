"""Laws of training a pack."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from train_support import (
    CLASSES,
    MLP,
    PLAIN_CNN,
    SMALL_CNN,
    Kept,
    largest_difference,
    make_data,
    make_trial,
    without_seconds,
)

import phasegrid.train.batches
import phasegrid.train.beginning
import phasegrid.train.family
from phasegrid.jobs import Part
from phasegrid.models.build import build_model
from phasegrid.models.evaluation import evaluate
from phasegrid.tasks.batches import epoch_bounds
from phasegrid.train.loop import train_pack
from phasegrid.train.recipe import Schedule, Stop

NETWORKS = {"mlp": MLP, "cnn": PLAIN_CNN, "cnn with BatchNorm": SMALL_CNN}


def use_module(monkeypatch: pytest.MonkeyPatch, make: Callable[[int], nn.Module]) -> None:
    def build(_part: Part, _data: object, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return make(seed)

    monkeypatch.setattr(phasegrid.train.beginning, "build_begun", build)


@pytest.mark.parametrize("strategy", ["loop", "vmap", "fused", "merged"])
def test_precision_bf16_stays_near_fp32_with_float32_weights(strategy: Any) -> None:
    data, trials = [make_data()] * 2, [make_trial(i, PLAIN_CNN, precision="bf16") for i in range(2)]
    half = train_pack(trials, data, device="cpu", strategy=strategy)[1]
    full = train_pack([make_trial(i, PLAIN_CNN) for i in range(2)], data, device="cpu")[1]
    assert all(value.dtype == torch.float32 for value in half.weights.values())
    assert 0 < largest_difference(half, full) < 0.05  # 8 bits of mantissa


def test_tf32_is_allowed_for_its_own_pack_only(monkeypatch: pytest.MonkeyPatch) -> None:
    flags: list[tuple[bool, tuple[bool, bool]]] = []

    class Spy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            backends = torch.backends
            allowed = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
            flags.append((self.training, allowed))
            return super().forward(x.flatten(1))

    use_module(monkeypatch, lambda _: Spy(64, CLASSES))
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    for precision, expected in (("tf32", True), ("fp32", False)):
        flags.clear()
        trial = make_trial(0, precision=precision, epochs=2, test_every=1)
        train_pack([trial], [make_data()], device="cpu")
        found = {
            training: {allowed for t, allowed in flags if t is training}
            for training in (True, False)
        }
        assert found == {True: {(expected, expected)}, False: {(False, False)}}
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_kept_weights_are_those_of_the_lowest_training_loss() -> None:
    trial, on_the_way = make_trial(0, epochs=6, lr=0.9, keep_every=1), Kept()
    result = train_pack([trial], [make_data()], device="cpu", publisher=on_the_way)[0]
    losses = [record.train_loss for record in result.history]
    assert result.kept_epoch == 1 + losses.index(min(losses))
    kept = on_the_way.at(trial, f"epoch-{result.kept_epoch}")
    assert all(torch.equal(result.weights[name], kept[name]) for name in kept)
    assert list(result.published) == [f"weights@epoch-{epoch}" for epoch in range(7)]


def test_best_test_evaluates_every_epoch_and_the_others_the_last_one() -> None:
    data, on_the_way = make_data(), Kept()
    trial = make_trial(0, keep="best_test", keep_every=1)
    best = train_pack([trial], [data], device="cpu", publisher=on_the_way)[0]
    accuracies = [record.test_accuracy_percent or 0.0 for record in best.history]
    assert best.kept_epoch == 1 + accuracies.index(max(accuracies))
    net = build_model(MLP, (1, 8, 8), CLASSES, seed=0)
    for record in best.history:
        net.load_state_dict(on_the_way.at(trial, f"epoch-{record.epoch}"))
        found = evaluate(net, data.test_inputs, data.test_labels)
        assert (record.test_loss, record.test_accuracy_percent) == (
            found.loss,
            found.accuracy_percent,
        )
    other = train_pack([make_trial(0)], [data], device="cpu")[0]
    assert [record.test_loss is None for record in other.history] == [True, True, False]
    assert other.history[-1].test_loss == best.history[-1].test_loss


@pytest.mark.parametrize("strategy", ["vmap", "fused"])
def test_test_numbers_of_a_stack_are_each_members_own(strategy: Any) -> None:
    data = make_data()
    trials = [make_trial(i, SMALL_CNN, keep="last") for i in range(3)]
    net = build_model(SMALL_CNN, (1, 8, 8), CLASSES, seed=0)
    for result in train_pack(trials, [data] * 3, device="cpu", strategy=strategy):
        net.load_state_dict(result.weights)
        found = evaluate(net, data.test_inputs, data.test_labels)
        assert result.history[-1].test_loss == pytest.approx(found.loss, rel=1e-6)


@pytest.mark.parametrize("strategy", ["loop", "vmap", "fused", "merged"])
def test_a_member_that_stops_leaves_the_others_as_they_were(strategy: Any) -> None:
    stop = Stop(min_delta=0.05, patience=1)
    rates = (1e-6, 0.1, 0.1)
    trials = [make_trial(i, lr=lr, epochs=4, stop=stop, keep="last") for i, lr in enumerate(rates)]
    data = [make_data()] * 3
    results = train_pack(trials, data, device="cpu", strategy=strategy)
    assert results[0].stopped_epoch == results[0].epochs_run == 2
    assert results[0].history[-1].test_loss is not None
    assert max(result.epochs_run for result in results) > 2
    for i in (1, 2):
        alone = train_pack([trials[i]], [data[i]], device="cpu")[0]
        assert results[i].epochs_run == alone.epochs_run
        assert largest_difference(results[i], alone) < 1e-4


def test_the_published_codes_rule_trains_on_but_keeps_the_settled_epoch() -> None:
    stop = Stop("published_code", min_delta=1e9, patience=2)
    result = train_pack([make_trial(0, epochs=32, stop=stop)], [make_data(num=8)], device="cpu")[0]
    assert (result.epochs_run, result.kept_epoch, result.stopped_epoch) == (32, 30, 30)


@pytest.mark.parametrize("strategy", ["loop", "vmap", "fused", "merged"])
def test_divergence_is_a_result_with_its_epoch_and_update(strategy: Any) -> None:
    data = [make_data()] * 3
    trials = [make_trial(i, lr=lr, keep_every=1) for i, lr in enumerate((0.05, 1e30, 0.05))]
    on_the_way = Kept()
    results = train_pack(trials, data, device="cpu", strategy=strategy, publisher=on_the_way)
    assert [r.outcome for r in results] == ["done", "diverged", "done"]
    bad = results[1]
    assert (bad.diverged_epoch, bad.epochs_run, bad.kept_epoch) == (1, 0, 0)
    assert bad.diverged_update in (2, 3)
    assert bad.history == []
    assert list(bad.published) == ["weights@epoch-0"]
    first = on_the_way.at(trials[1], "epoch-0")
    assert all(torch.equal(bad.weights[n], w) for n, w in first.items())
    alone = train_pack([trials[2]], [data[2]], device="cpu")[0]
    assert largest_difference(results[2], alone) < 1e-4


def test_a_later_divergence_keeps_the_best_finite_weights() -> None:
    schedule = Schedule("step", at_epochs=(2,), factor=1e30)
    trial = make_trial(0, epochs=4, lr=0.01, schedule=schedule, keep_every=1)
    result = train_pack([trial], [make_data()], device="cpu")[0]
    assert (result.outcome, result.diverged_epoch, result.epochs_run) == ("diverged", 3, 2)
    assert result.diverged_update in (12, 13)  # five updates an epoch, rate raised before the 11th
    assert result.kept_epoch in (1, 2)
    assert all(value.isfinite().all() for value in result.weights.values())


def test_weights_that_blow_up_in_the_last_update_are_a_divergence() -> None:
    trial = make_trial(0, epochs=1, lr=1e38, batch_size=37, weight_decay=1e38)
    result = train_pack([trial], [make_data()], device="cpu")[0]
    assert (result.outcome, result.diverged_update) == ("diverged", 1)


def test_history_holds_the_rate_of_the_last_update() -> None:
    schedule = Schedule("linear")
    result = train_pack([make_trial(0, lr=0.2, schedule=schedule)], [make_data()], device="cpu")[0]
    assert [record.lr for record in result.history] == pytest.approx(
        [0.2 * (1 - u / 15) for u in (4, 9, 14)]
    )


def test_trials_that_cannot_share_a_stack_train_beside_each_other() -> None:
    trials = [make_trial(0), make_trial(1, SMALL_CNN), make_trial(2), make_trial(3, epochs=1)]
    results = train_pack(trials, [make_data()] * 4, device="cpu", strategy="vmap")
    assert [len(r.history) for r in results] == [3, 3, 3, 1]
    for trial, result in zip(trials, results, strict=True):
        alone = train_pack([trial], [make_data()], device="cpu")[0]
        assert largest_difference(result, alone) < 1e-4


def test_draws_do_not_depend_on_the_gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    data, trial = [make_data(augment="flip_crop")], make_trial(0)
    whole = train_pack([trial], data, device="cpu")[0]
    monkeypatch.setattr(phasegrid.train.batches, "GATHER_BYTES", 1)
    pieces = train_pack([trial], data, device="cpu")[0]
    assert largest_difference(whole, pieces) == 0.0


def test_dropout_draws_do_not_depend_on_the_pack_nor_touch_the_global_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_module(
        monkeypatch,
        lambda _: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, CLASSES)),
    )
    trials, data = [make_trial(0), make_trial(1)], [make_data()] * 2
    before = torch.get_rng_state()
    both = train_pack(trials, data, device="cpu")
    assert torch.equal(before, torch.get_rng_state())
    alone = train_pack(trials[1:], data[1:], device="cpu")[0]
    assert without_seconds(both[1]) == without_seconds(alone)


def test_running_out_of_memory_halves_the_stack_and_changes_no_draw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = [make_data(augment="flip_crop")] * 5
    trials = [make_trial(i, SMALL_CNN) for i in range(5)]
    expected = train_pack(trials, data, device="cpu", strategy="vmap")
    sizes = []
    run_epoch = phasegrid.train.family.run_epoch

    def small_machine(stack: Any, *rest: Any) -> Any:
        sizes.append(stack.network.size)
        numbers = yield from run_epoch(stack, *rest)
        if stack.network.size > 2:
            raise torch.OutOfMemoryError("no room")  # after the work: all of it must be undone
        return numbers

    monkeypatch.setattr(phasegrid.train.family, "run_epoch", small_machine)
    results = train_pack(trials, data, device="cpu", strategy="vmap")
    assert sizes[:5] == [5, 2, 3, 1, 2]
    assert set(sizes[5:]) == {1, 2}
    for a, b in zip(results, expected, strict=True):
        assert largest_difference(a, b) < 1e-4


def test_one_member_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hungry(nn.Linear):
        def forward(self, _x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("no room at all")

    use_module(monkeypatch, lambda _: Hungry(64, CLASSES))
    with pytest.raises(torch.OutOfMemoryError, match="no room at all"):
        train_pack([make_trial(0)], [make_data()], device="cpu")


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match="batches of 40 from 37 training examples"):
        train_pack([make_trial(0, batch_size=40)], [make_data()], device="cpu")


@pytest.mark.parametrize(
    ("num", "drop_last", "join_single", "sizes"),
    [
        (9, False, False, [4, 4, 1]),
        (9, False, True, [4, 5]),
        (9, True, True, [4, 4]),
        (10, False, True, [4, 4, 2]),
        (8, True, False, [4, 4]),
        (4, False, True, [4]),
    ],
)
def test_batches_of_an_epoch(
    num: int, drop_last: bool, join_single: bool, sizes: list[int]
) -> None:
    bounds = epoch_bounds(num, 4, drop_last, join_single)
    assert [b.stop - b.start for b in bounds] == sizes
    assert bounds[0].start == 0
    assert all(a.stop == b.start for a, b in itertools.pairwise(bounds))


def test_epochs_are_announced_and_times_shared() -> None:
    ticks = itertools.count()
    seen: list[tuple[int, int]] = []
    results = train_pack(
        [make_trial(0), make_trial(1)],
        [make_data()] * 2,
        device="cpu",
        strategy="fused",
        on_epoch=lambda done, total: seen.append((done, total)),
        clock=lambda: float(next(ticks)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert [record.seconds for record in results[0].history] == [0.5, 0.5, 0.5]
    assert results[1].seconds == 1.5
    assert results[0].num_parameters == 64 * 8 + 8 + 72 + 8 * CLASSES + CLASSES
    assert math.isclose(results[0].history[0].lr, 0.05)


def test_an_empty_pack_is_done_at_once() -> None:
    assert train_pack([], [], device="cpu") == []


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["loop", "vmap", "fused", "merged"])
def test_a_gpu_draws_what_a_cpu_draws(strategy: Any) -> None:
    trials = [make_trial(seed, PLAIN_CNN, epochs=2) for seed in range(2)]
    data = [make_data(augment="flip_crop")] * 2
    there = train_pack(trials, data, device="cuda", strategy=strategy)
    here = train_pack(trials, data, device="cpu")
    for a, b in zip(there, here, strict=True):
        assert largest_difference(a, b) < 1e-3  # float32 rounding of other kernels over 10 updates
