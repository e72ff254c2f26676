"""Laws of the learning-rate schedules."""

import math
from itertools import pairwise

import pytest

from phasegrid.train.recipe import Schedule
from phasegrid.train.schedules import schedule_factor


def factors(schedule: Schedule, per_epoch: int, total: int) -> list[float]:
    return [schedule_factor(schedule, u, u // per_epoch, total) for u in range(total)]


def test_constant_is_one() -> None:
    assert factors(Schedule(), 3, 6) == [1.0] * 6


def test_step_drops_before_the_named_epochs() -> None:
    found = factors(Schedule("step", at_epochs=(1, 3), factor=0.1), 2, 8)
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_starts_at_one_is_half_way_in_the_middle_and_nears_final() -> None:
    found = factors(Schedule("cosine", final=0.2), 10, 100)
    assert found[0] == 1.0
    assert found[50] == pytest.approx(0.6)
    assert found[99] == pytest.approx(0.2, abs=1e-3)
    assert found == sorted(found, reverse=True)


def test_linear_falls_by_equal_amounts() -> None:
    found = factors(Schedule("linear", final=0.5), 5, 10)
    assert found[0] == 1.0
    assert [a - b for a, b in pairwise(found)] == pytest.approx([0.05] * 9)


@pytest.mark.parametrize("name", ["constant", "cosine", "linear", "step"])
def test_warmup_rises_linearly_to_the_schedule(name: str) -> None:
    found = factors(Schedule(name, warmup_updates=4), 50, 50)  # type: ignore[arg-type]
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert found[4] == 1.0


def test_a_warmup_longer_than_the_training_only_rises() -> None:
    found = factors(Schedule("cosine", warmup_updates=10), 5, 5)
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_inverse_sqrt_is_vaswani_scaled_to_a_peak_of_one() -> None:
    warmup = 5
    found = factors(Schedule("inverse_sqrt", warmup_updates=warmup), 10, 40)
    formula = [math.sqrt(warmup) * min(n**-0.5, n * warmup**-1.5) for n in range(1, 41)]
    assert found == pytest.approx(formula)
    assert max(found) == found[warmup - 1] == 1.0


def test_inverse_sqrt_without_warmup_starts_at_its_peak() -> None:
    assert factors(Schedule("inverse_sqrt"), 2, 4) == pytest.approx([1, 2**-0.5, 3**-0.5, 0.5])
