"""Laws of the learning-rate schedules."""

import math
from itertools import pairwise
from typing import Any

import pytest

from phasegrid.train.recipe import Schedule
from phasegrid.train.schedules import factors_of, lowest_updates


def factors(schedule: Schedule, per_epoch: int, total: int) -> list[float]:
    return factors_of(schedule, total, per_epoch)


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
    found = factors(Schedule(name, warmup_updates=4), 50, 50)
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


def garipov(i: int, c: int, low: float) -> float:
    """The rate of update i, from 1, over alpha_1 (Garipov et al. 2018, section 4)."""
    t = ((i - 1) % c + 1) / c
    return (1 - 2 * t) + 2 * t * low if t <= 0.5 else (2 - 2 * t) * low + (2 * t - 1)


@pytest.mark.parametrize("length", [{"cycle_updates": 8}, {"cycle_epochs": 2.0}, {"cycles": 3}])
def test_cyclic_is_the_triangle_of_garipov(length: dict[str, Any]) -> None:
    found = factors(Schedule("cyclic", low=0.05, **length), 4, 24)
    assert found == pytest.approx([garipov(i, 8, 0.05) for i in range(1, 25)], abs=1e-15)
    assert min(found) == pytest.approx(0.05)
    assert found[7] == found[15] == found[23] == 1.0


def test_a_cosine_with_cycles_is_the_rate_of_snapshot_ensembles() -> None:
    total, cycles = 23, 4
    length = math.ceil(total / cycles)
    formula = [(math.cos(math.pi * ((i - 1) % length) / length) + 1) / 2 for i in range(1, 24)]
    assert factors(Schedule("cosine_restarts", cycles=cycles), 5, total) == pytest.approx(formula)


def test_restarts_at_growing_intervals_are_those_of_loshchilov_and_hutter() -> None:
    found = factors(Schedule("cosine_restarts", cycle_epochs=1, growth=2.0, low=0.1), 4, 28)
    cycles = [factors(Schedule("cosine", final=0.1), 4, length) for length in (4, 8, 16)]
    assert found == pytest.approx([value for cycle in cycles for value in cycle])


def test_pieces_are_straight_lines_between_their_points() -> None:
    found = factors(Schedule("pieces", pieces=((0.5, 1.0), (0.9, 0.01))), 1, 50)
    assert found[:25] == [1.0] * 25
    assert [a - b for a, b in pairwise(found[24:45])] == pytest.approx([0.99 / 20] * 20)
    assert found[44:] == pytest.approx([0.01] * 6)


@pytest.mark.parametrize("name", ["cyclic", "cosine_restarts"])
def test_cycles_begin_after_the_warmup(name: str) -> None:
    plain = factors(Schedule(name, cycle_updates=6), 4, 18)
    warmed = factors(Schedule(name, cycle_updates=6, warmup_updates=5), 4, 23)
    assert warmed[5:] == plain
    assert warmed[:5] == pytest.approx([plain[0] * n / 5 for n in range(1, 6)])


def test_published_models_of_fge_are_as_many_as_the_paper_has() -> None:
    # Garipov et al. 2018: 22 epochs give 11 models at c = 2 and 6 at c = 4, 5 epochs at c = 2 give
    # 3
    batches = 10
    for epochs, cycle, num in ((22, 2, 11), (22, 4, 6), (5, 2, 3)):
        schedule = Schedule("cyclic", cycle_epochs=cycle, low=0.05)
        found = lowest_updates(schedule, epochs * batches, batches)
        middles = [batches * e for e in range(cycle // 2, epochs + 1, cycle)]
        assert list(found) == middles
        assert len(found) == num


def test_the_lowest_rate_of_restarts_is_at_the_end_of_each_whole_cycle() -> None:
    assert lowest_updates(Schedule("cosine_restarts", cycles=4), 20, 5) == (5, 10, 15, 20)
    cut = Schedule("cosine_restarts", cycle_updates=6)
    assert lowest_updates(cut, 20, 5) == (6, 12, 18)


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(),
        Schedule("step", at_epochs=(2,)),
        Schedule("cosine", warmup_updates=3),
        Schedule("linear", final=0.5),
        Schedule("inverse_sqrt", warmup_updates=4),
    ],
    ids=lambda schedule: schedule.name,
)
def test_a_rate_without_cycles_is_lowest_at_the_end(schedule: Schedule) -> None:
    assert lowest_updates(schedule, 20, 5) == (20,)


def test_cycles_that_grow_are_rounded_to_whole_updates() -> None:
    found = factors_of(Schedule("cosine_restarts", cycle_updates=3, growth=1.5, low=0.1), 24, 24)
    restarts = [update for update, factor in enumerate(found) if factor == 1.0]
    assert restarts == [0, 3, 7, 14]  # cycles of 3, 4.5 and 6.75 updates
