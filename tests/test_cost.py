"""Cost predictions order jobs sensibly and learn from what was measured."""

import pytest

from phasegrid.cost import UNKNOWN_S, Corrections, guess_seconds, learn_corrections, predict_seconds
from phasegrid.jobs import Cell, MetricJob, Part, Trial, Work

RECIPE = {"epochs": 10, "batch_size": 100}


def cell(work: Work | None) -> Cell:
    return Cell(0, (), None, None, (), (), work)


def trial(**recipe: int) -> Trial:
    return Trial("a", Part("d", 1, {}), Part("m", 1, {}), {**RECIPE, **recipe}, 0)


SMALL, LARGE = Work(1000, 500, 10, 100, 10_000), Work(1000, 500, 10, 100_000, 10_000_000)


def test_more_work_costs_more() -> None:
    assert guess_seconds(cell(LARGE), trial()) > guess_seconds(cell(SMALL), trial())
    assert guess_seconds(cell(SMALL), trial(epochs=20)) > guess_seconds(cell(SMALL), trial())
    assert guess_seconds(cell(SMALL), trial(batch_size=10)) > guess_seconds(cell(SMALL), trial())


def test_what_says_nothing_costs_the_stated_guess() -> None:
    assert guess_seconds(cell(None), trial()) == UNKNOWN_S
    assert guess_seconds(cell(SMALL), MetricJob("k", Part("mine", 1, {}), ("a",))) == UNKNOWN_S


def test_predictions_follow_measurements() -> None:
    guess = guess_seconds(cell(SMALL), trial())
    learned = learn_corrections({"trial": [(guess, 3 * guess)] * 5})
    assert learned.factor["trial"] == pytest.approx(3)
    assert predict_seconds(cell(SMALL), trial(), learned) == pytest.approx(3 * guess)


def test_two_measurements_are_too_few_to_learn_from() -> None:
    assert learn_corrections({"trial": [(1.0, 9.0)] * 2}) == Corrections()
