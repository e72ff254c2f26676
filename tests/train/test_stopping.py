"""Laws of the stop rules and of what is kept."""

import pytest

from phasegrid.train.recipe import Recipe, Stop
from phasegrid.train.stopping import Verdict, judge, settled


def run(
    recipe: Recipe,
    losses: list[float],
    accuracies: list[float] | None = None,
    test_losses: list[float] | None = None,
) -> list[Verdict]:
    """Judge every epoch of a history in turn."""
    verdicts: list[Verdict] = []
    for n in range(1, len(losses) + 1):
        before = any(v.held for v in verdicts)
        verdicts.append(
            judge(recipe, losses[:n], (accuracies or [])[:n], (test_losses or [])[:n], before)
        )
    return verdicts


def test_plateau_needs_patience_changes_in_a_row() -> None:
    stop = Stop(min_delta=0.1, patience=2)
    assert not settled([1.0, 1.0], stop)
    assert settled([1.0, 1.0, 1.0], stop)
    assert not settled([1.0, 0.5, 0.5], stop)


def test_plateau_is_two_sided() -> None:
    stop = Stop(min_delta=0.1, patience=1)
    assert not settled([1.0, 1.5], stop)
    assert not settled([1.0, 0.5], stop)
    assert settled([1.0, 1.05], stop)


def test_plateau_is_strict_and_the_published_code_is_not() -> None:
    losses = [1.0] * 29 + [0.75, 0.5]
    assert not settled(losses, Stop("plateau", min_delta=0.25, patience=2))
    assert settled(losses, Stop("published_code", min_delta=0.25, patience=2))


def test_plateau_stops_and_keeps_the_lowest_loss() -> None:
    verdicts = run(Recipe(stop=Stop(min_delta=0.01, patience=2)), [3.0, 1.0, 1.001, 1.002])
    assert [v.keep for v in verdicts] == [True, True, False, False]
    assert [v.stop for v in verdicts] == [False, False, False, True]


def test_without_a_rule_nothing_stops() -> None:
    assert not any(v.stop or v.held for v in run(Recipe(stop=None), [1.0] * 40))


def test_published_code_never_stops_and_keeps_the_first_epoch_that_holds_from_30_on() -> None:
    losses = [100.0 - n for n in range(32)] + [68.0] * 10 + [1.0]
    verdicts = run(Recipe(stop=Stop("published_code", patience=5)), losses)
    held = [n for n, v in enumerate(verdicts, 1) if v.held]
    kept = [n for n, v in enumerate(verdicts, 1) if v.keep]
    assert not any(v.stop for v in verdicts)
    assert held[0] == 38
    assert kept[-1] == 38


def test_published_code_waits_for_30_epochs() -> None:
    verdicts = run(Recipe(stop=Stop("published_code")), [1.0] * 35)
    assert next(n for n, v in enumerate(verdicts, 1) if v.held) == 30
    assert [n for n, v in enumerate(verdicts, 1) if v.keep] == [1, 30]


def test_published_code_that_never_holds_leaves_the_choice_to_keep() -> None:
    losses = [50.0 - n for n in range(40)]
    assert run(Recipe(stop=Stop("published_code")), losses)[-1].keep


def test_of_equal_losses_the_first_is_kept() -> None:
    assert [v.keep for v in run(Recipe(stop=None), [1.0, 0.5, 0.5])] == [True, True, False]


def test_last_keeps_every_epoch() -> None:
    assert all(v.keep for v in run(Recipe(stop=None, keep="last"), [1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    ("accuracies", "kept"), [([10.0, 30.0, 20.0], [1, 2]), ([30.0, 30.0, 40.0], [1, 3])]
)
def test_best_test_follows_the_test_accuracy(accuracies: list[float], kept: list[int]) -> None:
    verdicts = run(Recipe(stop=None, keep="best_test"), [1.0, 2.0, 3.0], accuracies)
    assert [n for n, v in enumerate(verdicts, 1) if v.keep] == kept
