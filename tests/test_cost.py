"""Cost predictions order jobs sensibly and learn from what was measured."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phasegrid.errors import SweepError
from phasegrid.estimates import OVERHEAD_S, RATE, Guess, Workload
from phasegrid.jobs import Artifact, MetricJob, Part, Trial
from phasegrid.plan.contents import Cell, Plan
from phasegrid.plan.cost import (
    UNKNOWN_S,
    Corrections,
    guess_cost,
    learn_corrections,
    num_networks,
    predict_seconds,
    predictor,
)
from phasegrid.plan.devices import CPU
from phasegrid.registry import resolve
from phasegrid.run.forecast import forecast

RECIPE = {"epochs": 10, "batch_size": 100}


def cell(work: Workload | None) -> Cell:
    return Cell(0, (), None, None, (), (), work)


def trial(**recipe: Any) -> Trial:
    return Trial("a", Part("d", 1, {}), Part("m", 1, {}), {**RECIPE, **recipe}, 0)


SMALL, LARGE = Workload(1000, 500, 10, 100, 10_000), Workload(1000, 500, 10, 100_000, 10_000_000)


def test_more_work_costs_more() -> None:
    assert guess_cost(cell(LARGE), trial()).seconds > guess_cost(cell(SMALL), trial()).seconds
    assert (
        guess_cost(cell(SMALL), trial(epochs=20)).seconds > guess_cost(cell(SMALL), trial()).seconds
    )
    assert (
        guess_cost(cell(SMALL), trial(batch_size=10)).seconds
        > guess_cost(cell(SMALL), trial()).seconds
    )


@pytest.mark.parametrize(
    ("fields", "examples", "factor", "num_tests"),
    [
        ({}, 10_000, 3, 0),
        ({"sam": {"rho": 0.1}}, 10_000, 6, 0),  # two gradients an update
        ({"test_every": 2}, 10_000, 3, 5),
        ({"updates": 50}, 5_000, 3, 0),
        ({"updates": 50, "test_every": 1}, 5_000, 3, 5),
    ],
)
def test_a_training_costs_its_passes_over_batches(
    fields: dict[str, Any], examples: int, factor: int, num_tests: int
) -> None:
    evaluated = 500 * num_tests + 1500  # in batches of 500; both sets once at the end
    launches = factor * examples / 100 + evaluated / 500
    flops = 10_000 * (factor * examples + evaluated)
    seconds = guess_cost(cell(SMALL), trial(**fields)).seconds
    assert seconds == pytest.approx(launches * OVERHEAD_S + flops / RATE)


PLUG_INS = """
from dataclasses import dataclass
from phasegrid.declare import Metric
from phasegrid.estimates import Guess, passes

@dataclass(frozen=True)
class Args:
    examples: int = 100

def metric(cost=None):
    return Metric("trial", Args, (), print, cost=cost)

QUIET = metric()
THRICE = metric(lambda job: 3 * passes(job.work, job.args["examples"], 50, 1))
NUMBER = metric(lambda job: 3.0)
FAILS = metric(lambda job: job.args["sise"])
"""


@pytest.fixture
def job_of(tmp_path: Path) -> Callable[[str], MetricJob]:
    (tmp_path / "costly.py").write_text(PLUG_INS)

    def job(name: str) -> MetricJob:
        resolve("metric", f"costly.py:{name}", tmp_path)
        return MetricJob("k", Part(f"costly.py:{name}", 1, {"examples": 200}), ("a",))

    return job


def test_what_says_nothing_costs_the_stated_guess(job_of: Callable[[str], MetricJob]) -> None:
    assert guess_cost(cell(None), trial()).seconds == UNKNOWN_S
    assert guess_cost(cell(SMALL), job_of("QUIET")).seconds == UNKNOWN_S
    assert guess_cost(cell(None), job_of("THRICE")).seconds == UNKNOWN_S


def test_a_users_metric_costs_what_it_declares(job_of: Callable[[str], MetricJob]) -> None:
    guess = guess_cost(cell(SMALL), job_of("THRICE"))
    assert guess.overhead_s == pytest.approx(3 * 4 * OVERHEAD_S)
    assert guess.arithmetic_s == pytest.approx(3 * 200 * 10_000 / RATE)


def test_a_predictor_predicts_every_job_as_it_would_be_alone(
    job_of: Callable[[str], MetricJob],
) -> None:
    learned = learn_corrections({"trial": [(Guess(1.0), 3.0)] * 5})
    predict = predictor(learned)
    pair = replace(job_of("THRICE"), trials=("a", "b"))
    jobs = [trial(), trial(epochs=20), job_of("THRICE"), pair, job_of("QUIET"), trial()]
    for _ in range(2):
        for where in (cell(SMALL), cell(LARGE), cell(None)):
            for job in jobs:
                assert predict(where, job) == predict_seconds(where, job, learned)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NUMBER", r"costly.py:NUMBER: its cost returned 3.0; allowed: Guess"),
        ("FAILS", r"costly.py:FAILS: its cost raises KeyError: 'sise'"),
    ],
)
def test_a_cost_that_cannot_be_had_is_refused_by_name(
    job_of: Callable[[str], MetricJob], name: str, message: str
) -> None:
    with pytest.raises(SweepError, match=message):
        guess_cost(cell(SMALL), job_of(name))


def test_predictions_follow_measurements() -> None:
    guess = guess_cost(cell(SMALL), trial())
    learned = learn_corrections({"trial": [(guess, 3 * guess.seconds)] * 5})
    assert predict_seconds(cell(SMALL), trial(), learned) == pytest.approx(3 * guess.seconds)
    assert learned.of("trial").low == pytest.approx(1)
    assert learned.of("trial").high == pytest.approx(1)


def test_overhead_and_arithmetic_are_told_apart() -> None:
    """A machine with four times the overhead and twice the speed of the guess."""
    jobs = [trial(batch_size=size) for size in (10, 50, 250)]
    guesses = [guess_cost(cell(work), job) for work in (SMALL, LARGE) for job in jobs]
    timed = [(guess, 4 * guess.overhead_s + guess.arithmetic_s / 2) for guess in guesses]
    learned = learn_corrections({"trial": timed}).of("trial")
    assert learned.overhead == pytest.approx(4)
    assert learned.arithmetic == pytest.approx(0.5)


def test_one_size_of_network_gives_one_factor() -> None:
    guess = Guess(1.0, 3.0)
    learned = learn_corrections({"trial": [(guess, 8.0 + 0.1 * i) for i in range(5)]}).of("trial")
    assert learned.overhead == learned.arithmetic == pytest.approx(8.2 / 4)
    assert learned.low < 1 < learned.high


def test_no_part_of_a_job_is_ever_predicted_to_take_negative_time() -> None:
    timed = [(Guess(1.0, 0.1), 0.1), (Guess(1.0, 10.0), 30.0), (Guess(1.0, 30.0), 100.0)]
    learned = learn_corrections({"trial": timed}).of("trial")
    assert min(learned.overhead, learned.arithmetic) > 0


def test_two_measurements_are_too_few_to_learn_from() -> None:
    assert learn_corrections({"trial": [(Guess(1.0), 9.0)] * 2}) == Corrections()


def test_a_forecast_of_what_was_never_timed_says_how_little_it_knows() -> None:
    plan = Plan("s", None, None, (Cell(0, (), None, None, (trial(),), (), SMALL),))
    found = forecast(plan, (), Corrections(), 1, 32)
    assert found.work.low == pytest.approx(found.work.expected / CPU.spread)
    assert found.work.high == pytest.approx(found.work.expected * CPU.spread)
    assert found.makespan == found.work
    assert found.num_timings == 0


def test_a_forecast_is_of_what_is_missing() -> None:
    plan = Plan("s", None, None, (Cell(0, (), None, None, (trial(),), (), SMALL),))
    found = forecast(plan, {"a"}, Corrections(), 2, 32)
    assert found.num_packs == 0
    assert found.work.expected == found.makespan.expected == 0


def test_an_ensemble_along_a_training_costs_as_many_networks_as_it_has_checkpoints() -> None:
    def cost(num: int) -> float:
        reads = tuple(Artifact("a", f"weights@epoch-{epoch}") for epoch in range(num))
        args = {"points": 2, "refresh_examples": None, "ece_bins": 15}
        job = MetricJob("k", Part("ensemble", 1, args), ("a",), reads=reads)
        assert num_networks(job) == len(job.networks) == num
        predict = predictor(Corrections())
        assert predict(cell(SMALL), job) == guess_cost(cell(SMALL), job).seconds
        return guess_cost(cell(SMALL), job).seconds

    assert cost(12) == pytest.approx(4 * cost(3))
