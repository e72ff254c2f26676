"""Settings that can never act are mistakes, with their place; those that act in some cell are not."""

from pathlib import Path

import pytest

from phasegrid import load_sweep
from phasegrid.errors import SweepError

SWEEP = """\
schema: 1
name: s
dataset: {name: digits}
model: {name: mlp}
train: {TRAIN}
load: {param: model.width, values: [2, 4]}
seeds: 2
"""
LOWEST = "found lowest_rate, but the rate is constant; write a schedule, or epochs or updates"


def read(tmp_path: Path, train: str, *more: str) -> list[str]:
    path = tmp_path / "s.yaml"
    path.write_text(SWEEP.replace("TRAIN", train) + "".join(f"{line}\n" for line in more))
    try:
        load_sweep(path)
    except SweepError as error:
        return [f"{m.line}:{m.column}: {m.path}: {m.message}" for m in error.mistakes]
    return []


HUGE = 99_999_999_999_999_999_999


@pytest.mark.parametrize(
    ("train", "path"),
    [
        (f"epochs: {HUGE}", "train.epochs"),
        (f"updates: {HUGE}", "train.updates"),
        (f"collect: {{name: swag, rank: {HUGE}}}", "train.collect.rank"),
        (f"checkpoints: {{updates: [{HUGE}]}}", "train.checkpoints.updates.0"),
    ],
)
def test_counts_that_nobody_means_are_mistakes(tmp_path: Path, train: str, path: str) -> None:
    (told,) = read(tmp_path, train)
    assert f": {path}: found {HUGE}; allowed: at most 1000000000" in told


def test_counts_of_metrics_are_bounded_too(tmp_path: Path) -> None:
    metrics = (f"  - slice: {{points: {HUGE}}}", f"  - hessian: {{examples: {HUGE}}}")
    told = read(tmp_path, "epochs: 2", "metrics:", *metrics)
    assert [line.partition("; ")[2] for line in told] == ["allowed: at most 1000000000"] * 2


IDLE = {
    "an epoch that is never reached": (
        "epochs: 6, checkpoints: {epochs: [2, 7]}",
        "5:42: train.checkpoints.epochs: found 7, but a training has 6 epochs; allowed: at most that",
    ),
    "an update that is never reached": (
        "epochs: 6, checkpoints: {updates: [100000000]}",
        "5:43: train.checkpoints.updates: found 100000000, but a training has 66 updates; allowed: at"
        " most that",
    ),
    "an interval longer than the training": (
        "epochs: 6, stop: null, checkpoints: {every_epochs: 100}",
        "5:60: train.checkpoints.every_epochs: found 100, but a training has 6 epochs; allowed: at"
        " most that",
    ),
    "a collector that never begins": (
        "epochs: 3, collect: {name: swa, from_epoch: 10}",
        "5:53: train.collect.from_epoch: found 10, but a training has 3 epochs; allowed: at most that",
    ),
    "a collector whose interval never ends": (
        "epochs: 10, collect: {name: swa, from_epoch: 9, every_epochs: 4}",
        "5:54: train.collect.from_epoch: found 9 with every_epochs 4, but a training has 10 epochs;"
        " allowed: at most 8",
    ),
    "weights to keep after the end": (
        "epochs: 30, keep_every: 50",
        "5:33: train.keep_every: found 50, but a training has 30 epochs; allowed: at most that",
    ),
    "weights to keep after the end, the short way": (
        "epochs: 30, keep: {every: 50}",
        "5:35: train.keep_every: found 50, but a training has 30 epochs; allowed: at most that",
    ),
    "a rate that falls after the end": (
        "epochs: 30, schedule: {name: step, at_epochs: [10, 30]}",
        "5:55: train.schedule.at_epochs: found 30, but a training has 30 epochs, counted from 0;"
        " allowed: at most 29",
    ),
    "an optimizer after the end": (
        "epochs: 1, checkpoints: {epochs: [1], optimizer: [epoch-2]}",
        "5:58: train.checkpoints.optimizer: found epoch-2, but a training has 1 epoch; allowed: at"
        " most that",
    ),
    "an epoch after the last update": (
        "updates: 20, keep_every: 3",
        "5:34: train.keep_every: found 3, but a training has 2 epochs; allowed: at most that",
    ),
    "the lowest of a constant rate": (
        "checkpoints: {at: lowest_rate}",
        f"5:27: train.checkpoints.at: {LOWEST}",
    ),
    "nothing to publish": (
        "checkpoints: {}",
        "5:22: train.checkpoints: found nothing to publish; allowed: epochs, updates, every_epochs,"
        " ..., or null",
    ),
    "no epochs to publish": (
        "checkpoints: {epochs: []}",
        "5:22: train.checkpoints: found nothing to publish; allowed: epochs, updates, every_epochs,"
        " ..., or null",
    ),
    "an epoch twice": (
        "checkpoints: {epochs: [1, 1]}",
        "5:31: train.checkpoints.epochs: found 1 twice; each once",
    ),
    "a rank that is not read": (
        "collect: {name: swa, rank: 5}",
        "5:36: train.collect.rank: found 5 for swa; it is swag's",
    ),
    "a radius of nothing": (
        "sam: {rho: 0}",
        "5:20: train.sam.rho: found 0, which changes nothing at twice the cost; allowed: more, or sam:"
        " null",
    ),
    "a field of another schedule": (
        "schedule: {name: step, at_epochs: [3], low: 0.1}",
        "5:53: train.schedule.low: found with schedule step, which ignores it; it is for cyclic,"
        " cosine_restarts",
    ),
}


@pytest.mark.parametrize("name", IDLE)
def test_a_setting_that_never_acts_is_a_mistake(tmp_path: Path, name: str) -> None:
    train, told = IDLE[name]
    assert read(tmp_path, train) == [told]


@pytest.mark.parametrize(
    ("train", "axis", "why"),
    [
        ("lr: 0.1", "schedule.low, values: [0, 0.1]", "found with schedule constant"),
        ("optimizer: adam", "momentum, values: [0, 0.9]", "found with optimizer adam"),
        ("optimizer: sgd", "adam_eps, values: [0.1, 0.2]", "found with optimizer sgd"),
    ],
)
def test_an_axis_over_a_field_that_nothing_reads_is_a_mistake(
    tmp_path: Path, train: str, axis: str, why: str
) -> None:
    (told,) = read(tmp_path, train, f"temperature: {{param: train.{axis}}}")
    assert told.startswith(f"8:{told.split(':')[1]}: train.{axis.partition(',')[0]}: {why}")
    assert ", which ignores it; it is " in told


@pytest.mark.parametrize(
    ("train", "more"),
    [
        ("epochs: 3, checkpoints: {epochs: [7]}", "temperature: {param: train.epochs, values: [3, 9]}"),
        ("sam: {rho: 0}", "temperature: {param: train.sam.rho, values: [0, 0.1]}"),
        ("optimizer: sgd", "temperature: {param: train.optimizer, values: [sgd, adam]}\n"
         "facets: [{param: train.momentum, values: [0, 0.9]}]"),
        ("epochs: 9, stop: {patience: 1}, checkpoints: {epochs: [9]}", ""),
        ("epochs: 9, stop: {patience: 1}, keep_every: 9", ""),
        ("epochs: 9, schedule: {name: step, at_epochs: [8]}", ""),
        ("epochs: 3, schedule: {name: step, at_epochs: [8]}",
         "temperature: {param: train.epochs, values: [3, 9]}"),
        ("epochs: 9, collect: {name: swa, from_epoch: 8, every_epochs: 4}", ""),
        ("schedule: {name: cyclic, cycle_epochs: 2, low: 0.1}, checkpoints: {at: lowest_rate}", ""),
    ],
)  # fmt: skip
def test_a_setting_that_acts_in_some_cell_or_may_act_is_none(
    tmp_path: Path, train: str, more: str
) -> None:
    assert read(tmp_path, train, more) == []


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ("epochs: 9, schedule: {name: cyclic, cycle_epochs: 10}",
         "train.schedule.cycle_epochs: found 10.0, but a training has 9 epochs; allowed: at most that"),
        ("updates: 40, schedule: {name: cyclic, cycle_updates: 42}",
         "train.schedule.cycle_updates: found 42, but a training has 40 updates; allowed: at most that"),
        ("updates: 40, schedule: {name: cosine_restarts, cycle_updates: 38, warmup_updates: 5}",
         "train.schedule.cycle_updates: found 38, but a training has 35 updates; allowed: at most that"),
        ("updates: 40, schedule: {name: cosine_restarts, cycles: 21}",
         "train.schedule.cycles: found 21, but a training has 40 updates; allowed: half of that"),
        ("updates: 40, schedule: {name: cyclic, cycle_updates: 5}",
         "train.schedule.cycle_updates: found 5; allowed for cyclic: an even number of updates"),
        ("updates: 40, schedule: {name: cosine_restarts, cycle_updates: 1}",
         "train.schedule.cycle_updates: found 1; allowed for cosine_restarts: 2 updates or more"),
    ],
)  # fmt: skip
def test_a_cycle_without_a_low_is_a_mistake(tmp_path: Path, train: str, told: str) -> None:
    (found,) = read(tmp_path, f"{train}, stop: null")
    assert told in found


def test_a_stage_answers_for_its_own_settings_only(tmp_path: Path) -> None:
    stages = (
        "stages:",
        "  - {name: next, train: {epochs: 2}}",
        "  - {name: last, train: {epochs: 2, checkpoints: {epochs: [3]}}}",
    )
    (told,) = read(tmp_path, "epochs: 4, stop: null, checkpoints: {epochs: [4]}", *stages)
    assert told.startswith(
        "10:59: stages.last.checkpoints.epochs: found 3, but a training has 2 epochs"
    )


def test_a_stage_does_not_answer_for_a_schedule_that_it_inherits(tmp_path: Path) -> None:
    stages = ("stages:", "  - {name: next, train: {epochs: 2}}")
    assert read(tmp_path, "epochs: 9, schedule: {name: step, at_epochs: [5]}", *stages) == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ("[4, 4]", "9:50: metrics.0.cka.where.model.width: found 4 twice; each once"),
        (
            "[]",
            "9:46: metrics.0.cka.where.model.width: found an empty list; allowed: at least one value",
        ),
    ],
)
def test_values_are_chosen_once_and_some_are(tmp_path: Path, values: str, told: str) -> None:
    metric = f"  - cka: {{over: across, where: {{model.width: {values}}}}}"
    assert read(tmp_path, "epochs: 2", "metrics:", metric) == [told]
