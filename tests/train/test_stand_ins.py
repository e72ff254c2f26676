"""Laws of stacks on a CPU: the shape of a stack and the place in it decide every bit of a member,
and what the others hold none.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from test_snapshots import Killed, Memory, kill_after
from train_support import MLP, PLAIN_CNN, SMALL_CNN, make_data, make_trial, without_seconds

from phasegrid.jobs import Part, Trial
from phasegrid.train.loop import train_pack
from phasegrid.train.member import Trained

RESNET = Part("resnet18", 1, {"width": 2})
TANH = replace(MLP, args={**MLP.args, "activation": "tanh", "width": 5})


def assert_bits(one: Trained, other: Trained) -> None:
    assert without_seconds(one) == without_seconds(other)
    assert one.weights.keys() == other.weights.keys()
    for name, value in one.weights.items():
        assert torch.equal(value, other.weights[name]), name


def trained(trials: Sequence[Trial], strategy: str, **how: object) -> list[Trained]:
    return train_pack(
        trials, [make_data(augment="flip_crop")] * len(trials), device="cpu", strategy=strategy, **how  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("strategy", ["fused", "vmap"])
@pytest.mark.parametrize("model", [MLP, TANH, SMALL_CNN, PLAIN_CNN, RESNET], ids=lambda m: m.name)
def test_what_the_others_of_a_stack_hold_changes_no_bit_of_a_member(
    model: Part, strategy: str
) -> None:
    epochs = 1 if model is RESNET else 3
    seeds = (0, 1, 2, 3)
    one = trained([make_trial(s, model, epochs=epochs) for s in seeds], strategy)
    others = [make_trial(s, model, epochs=epochs) for s in (0, 11, 2, 13)]
    for place, result in enumerate(trained(others, strategy)):
        if place in (0, 2):
            assert_bits(result, one[place])


@pytest.mark.parametrize("strategy", ["fused", "vmap"])
def test_nor_do_numbers_that_are_not_finite(strategy: str) -> None:
    def with_rate_of_the_other(lr: float) -> Trained:
        trials = [make_trial(s, SMALL_CNN, epochs=1, lr=r) for s, r in ((0, 0.05), (1, lr))]
        return trained(trials, strategy)[0]

    assert_bits(with_rate_of_the_other(0.06), with_rate_of_the_other(1e30))


def uneven() -> list[Trial]:
    """Five members of one stack, which they leave one after another: the second diverges, the
    others stop.
    """
    stop = {"rule": "plateau", "min_delta": 0.02, "patience": 1}
    rates = (0.05, 1e12, 0.02, 0.1, 0.001)
    return [
        make_trial(s, MLP, lr=lr, epochs=12, stop=stop, keep="best_test", keep_every=3)
        for s, lr in enumerate(rates)
    ]


@pytest.fixture(scope="module")
def whole() -> list[Trained]:
    found = trained(uneven(), "fused")
    assert len({result.epochs_run for result in found}) >= 3
    assert [result.outcome for result in found].count("diverged") == 1
    return found


@pytest.mark.parametrize("wanted", [w for n in (1, 2, 4) for w in combinations(range(5), n)])
def test_a_trial_that_others_stand_in_for_the_stored_ones_of_is_that_of_the_whole_stack(
    whole: list[Trained], wanted: tuple[int, ...]
) -> None:
    kept: dict[int, Trained] = {}

    def keep(place: int, result: Trained) -> bool:
        kept[place] = result
        return True

    epochs: list[int] = []
    trained(
        uneven(), "fused", wanted=wanted, on_trained=keep, on_epoch=lambda done, _: epochs.append(done)
    )  # fmt: skip
    assert sorted(kept) == list(wanted)
    for place, result in kept.items():
        assert_bits(result, whole[place])
    longest = max(r.epochs_run + (r.outcome == "diverged") for r in (whole[i] for i in wanted))
    assert len(epochs) == longest  # stand-ins train no longer than they are needed


def test_what_trains_alone_has_no_stand_in() -> None:
    trials = [make_trial(seed) for seed in (0, 1, 2)]
    found = trained(trials, "loop", wanted=[1])
    assert [result.epochs_run for result in found] == [0, 3, 0]


def interrupted(at: Sequence[int], done: Collection[int] = ()) -> dict[int, Trained]:
    """Train until everything is kept, killed after each of these epochs; what is kept is not asked
    for again.
    """
    memory, kept = Memory(), {}

    def keep(place: int, result: Trained) -> bool:
        kept[place] = result
        return True

    trials = uneven()
    for epoch in [*at, None]:
        wanted = [i for i in range(len(trials)) if i not in kept and i not in done]
        if not wanted:
            break
        with suppress(Killed):
            trained(
                trials,
                "fused",
                wanted=wanted,
                on_trained=keep,
                snapshots=memory,
                same_stacks=True,
                on_epoch=kill_after(epoch) if epoch else None,
            )
    assert not memory.kept
    return kept


@pytest.mark.parametrize("at", [(1,), (2,), (3,), (5,), (1, 2, 3), (2, 4, 5), (4, 6, 7)])
def test_a_stack_killed_again_and_again_ends_as_if_it_had_not_been(
    whole: list[Trained], at: tuple[int, ...]
) -> None:
    kept = interrupted(at)
    assert sorted(kept) == [0, 1, 2, 3, 4]
    for place, result in kept.items():
        assert_bits(result, whole[place])


def test_so_does_one_in_which_some_stand_in(whole: list[Trained]) -> None:
    kept = interrupted((2, 3), done=(0, 3))
    assert sorted(kept) == [1, 2, 4]
    for place, result in kept.items():
        assert_bits(result, whole[place])


def killed(memory: Memory, trials: list[Trial], stop: int, **how: object) -> None:
    with pytest.raises(Killed):
        trained(trials, "fused", snapshots=memory, on_epoch=kill_after(stop), **how)


def epochs_of(memory: Memory, trials: list[Trial], **how: object) -> tuple[int, list[Trained]]:
    """Train to the end; return from which epoch on, and the results."""
    epochs: list[int] = []
    found = trained(
        trials, "fused", snapshots=memory, on_epoch=lambda done, _: epochs.append(done), **how
    )
    return epochs[0], found


def test_the_snapshots_of_another_company_or_of_a_part_of_one_are_not_gone_on_from() -> None:
    trials = [make_trial(seed, epochs=4) for seed in (0, 1, 2)]
    for lost in (None, ("trial-1", 2)):
        memory = Memory()
        killed(memory, trials[:2] if lost is None else trials, 2)
        memory.kept.pop(lost, None)  # type: ignore[arg-type]
        first, found = epochs_of(memory, trials, same_stacks=True)
        assert first == 1
        for result, fresh in zip(found, trained(trials, "fused"), strict=True):
            assert_bits(result, fresh)
        assert not memory.kept


def test_halves_that_memory_made_go_on_as_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    from phasegrid.train import family as train

    run_epoch, full = train.run_epoch, [True]

    def only_pairs(stack, *args):  # type: ignore[no-untyped-def]
        if full[0] and stack.network.size > 2:
            raise torch.OutOfMemoryError
        return run_epoch(stack, *args)

    monkeypatch.setattr(train, "run_epoch", only_pairs)
    trials = [make_trial(seed, epochs=4) for seed in range(4)]
    halves, memory = trained(trials, "fused"), Memory()
    killed(memory, trials, 2, same_stacks=True)
    full[0] = False
    first, found = epochs_of(memory, trials, same_stacks=True)
    assert first == 3
    for result, half in zip(found, halves, strict=True):
        assert_bits(result, half)


def test_a_kill_without_warning_after_some_of_a_stack_were_kept_costs_no_bit(
    whole: list[Trained],
) -> None:
    """Snapshots are of epoch 1, from which a trial that was kept since stands in for itself."""
    memory, kept, now = Memory(), {}, [0.0]

    def keep(place: int, result: Trained) -> bool:
        if len(kept) == 2:
            raise Killed
        kept[place], now[0] = result, 100.0
        return True

    with pytest.raises(Killed):
        trained(
            uneven(),
            "fused",
            on_trained=keep,
            snapshots=memory,
            same_stacks=True,
            clock=lambda: now[0],
        )
    saved = {key for key, epoch in memory.kept if epoch == 1}
    assert {f"trial-{place}" for place in kept} & saved  # kept after epoch 1, and needed once more
    wanted = [i for i in range(5) if i not in kept]
    first, found = epochs_of(memory, uneven(), wanted=wanted, same_stacks=True)
    assert first == 2
    for place in wanted:
        assert_bits(found[place], whole[place])
    assert not memory.kept
