"""Laws of what a training leaves on the way, and of one that starts from it."""

from typing import Any

import pytest
import torch
from test_snapshots import Killed, Memory, kill_after
from train_support import SMALL_CNN, Kept, largest_difference, make_data, make_trial

from phasegrid.jobs import Artifact, Start, Trial
from phasegrid.train.beginning import Beginning
from phasegrid.train.loop import train_pack
from phasegrid.train.recipe import Checkpoints, Schedule

STRATEGIES = ["loop", "vmap", "fused"]


def train(trials: list[Trial], kept: Kept, **settings: Any) -> list[Any]:
    return train_pack(trials, [make_data()] * len(trials), device="cpu", publisher=kept, **settings)


def along(**changes: Any) -> dict[str, Any]:
    """Five updates an epoch; a checkpoint in the middle and at the end of the second one."""
    return {"checkpoints": Checkpoints(updates=(0, 7, 10), epochs=(2,), **changes)}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_checkpoint_at_an_update_is_where_a_training_of_so_many_updates_ends(
    strategy: str,
) -> None:
    trials, kept = [make_trial(i, SMALL_CNN, **along()) for i in range(3)], Kept()
    results = train(trials, kept, strategy=strategy)
    short = [make_trial(i, SMALL_CNN, updates=7, keep="last") for i in range(3)]
    for trial, result, end in zip(trials, results, train(short, Kept()), strict=True):
        names = ["update-0", "update-7", "update-10", "epoch-2"]
        assert list(result.published) == [f"weights@{name}" for name in names]
        for name, value in kept.at(trial, "update-7").items():
            assert torch.allclose(value, end.weights[name], atol=1e-5)
        twice = kept.at(trial, "update-10"), kept.at(trial, "epoch-2")
        assert all(torch.equal(twice[0][name], twice[1][name]) for name in twice[0])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_checkpoints_are_those_of_their_epochs_though_the_first_of_a_stack_diverges(
    strategy: str,
) -> None:
    wish = {"checkpoints": Checkpoints(every_epochs=1)}
    trials = [make_trial(0, SMALL_CNN, lr=1e12, **wish), make_trial(1, SMALL_CNN, **wish)]
    kept, alone = Kept(), Kept()
    assert train(trials, kept, strategy=strategy)[0].outcome == "diverged"
    train(trials[1:], alone)
    names = [name for key, name in kept.tensors if key == trials[1].key]
    assert names == [f"weights@epoch-{epoch}" for epoch in range(4)]
    for at in ("epoch-0", "epoch-1", "epoch-3"):
        for name, value in kept.at(trials[1], at).items():
            assert torch.allclose(value, alone.at(trials[1], at)[name], atol=1e-4)


def test_checkpoints_are_published_when_the_rate_has_been_at_its_lowest() -> None:
    schedule = Schedule("cyclic", cycle_updates=6, low=0.1)
    trial = make_trial(0, epochs=3, schedule=schedule, checkpoints=Checkpoints(at="lowest_rate"))
    (result,) = train([trial], Kept())
    assert list(result.published) == ["weights@update-3", "weights@update-9", "weights@update-15"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_kept_optimizer_goes_on_as_if_nothing_had_happened(optimizer: str) -> None:
    """One update from a checkpoint, on the batch that the other training saw next."""
    recipe = {"optimizer": optimizer, "batch_size": 37, "lr": 0.01, "keep": "last"}
    checkpoints = Checkpoints(epochs=(2,), optimizer=("epoch-2",))
    trial, kept = make_trial(0, epochs=3, checkpoints=checkpoints, **recipe), Kept()
    (whole,) = train([trial], kept)
    slots = dict(kept.tensors[trial.key, "optimizer@epoch-2"])
    start = Beginning(kept.at(trial, "epoch-2"), slots, int(slots.pop("updates")))
    (going_on,) = train([make_trial(1, epochs=1, **recipe)], Kept(), starts=[start])
    assert largest_difference(whole, going_on) < 1e-5  # the same examples in another order
    fresh = Beginning(start.weights)
    (afresh,) = train([make_trial(1, epochs=1, **recipe)], Kept(), starts=[fresh])
    assert largest_difference(whole, afresh) > 1e-4


def test_the_optimizer_of_the_end_is_that_of_the_kept_weights() -> None:
    recipe = {"lr": 0.9, "epochs": 6, "keep": "best_test"}
    moments = tuple(f"epoch-{epoch}" for epoch in range(1, 7))
    checkpoints = Checkpoints(every_epochs=1, optimizer=("end", *moments))
    trial, kept = make_trial(0, checkpoints=checkpoints, **recipe), Kept()
    (result,) = train([trial], kept)
    assert result.kept_epoch < 6
    last, then = (
        kept.tensors[trial.key, name]
        for name in ("optimizer", f"optimizer@epoch-{result.kept_epoch}")
    )
    assert all(torch.equal(last[name], then[name]) for name in last)
    assert int(last["updates"]) == 5 * result.kept_epoch


def test_a_continued_training_draws_from_streams_of_its_own() -> None:
    parent = make_trial(3)
    starts = [Start(Artifact("a" * 32, f"weights@epoch-{epoch}")) for epoch in (1, 2)]
    children = [Trial("c", parent.dataset, parent.model, {}, 3, start) for start in starts]
    assert parent.stream == 3
    assert len({trial.stream for trial in (parent, *children)}) == 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_killed_training_publishes_the_same_checkpoints(strategy: str) -> None:
    wish = Checkpoints(every_updates=3, every_epochs=1, optimizer=("end", "update-6"))
    trials = [make_trial(i, SMALL_CNN, epochs=4, checkpoints=wish) for i in range(2)]
    whole, kept, memory = Kept(), Kept(), Memory()
    undisturbed = train(trials, whole, strategy=strategy)
    on_epoch: Any = kill_after(2)
    with pytest.raises(Killed):
        train(trials, kept, strategy=strategy, snapshots=memory, on_epoch=on_epoch)
    before = len(kept.tensors)
    resumed = train(trials, kept, strategy=strategy, snapshots=memory)
    assert 0 < before < len(kept.tensors)
    for a, b in zip(undisturbed, resumed, strict=True):
        assert a.published == b.published
    assert whole.tensors.keys() == kept.tensors.keys()


def test_a_snapshot_whose_checkpoints_are_lost_is_not_gone_on_from() -> None:
    trial = make_trial(0, checkpoints=Checkpoints(epochs=(1,)))
    kept, memory = Kept(), Memory()
    on_epoch: Any = kill_after(2)
    with pytest.raises(Killed):
        train([trial], kept, snapshots=memory, on_epoch=on_epoch)
    kept.tensors.clear()
    train([trial], kept, snapshots=memory)
    assert kept.has(trial.key, "weights@epoch-1")


def test_no_checkpoint_is_published_of_weights_that_are_not_finite() -> None:
    schedule = Schedule("step", at_epochs=(1,), factor=1e38)
    wish = Checkpoints(every_updates=1)
    trials = [make_trial(i, schedule=schedule, checkpoints=wish) for i in range(2)]
    kept = Kept()
    results = train(trials, kept, strategy="fused")
    assert [result.outcome for result in results] == ["diverged", "diverged"]
    assert all(v.isfinite().all() for found in kept.tensors.values() for v in found.values())
    assert "weights@update-5" in results[0].published
