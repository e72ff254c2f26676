"""Laws of shaping packs for the workers there are."""

from itertools import pairwise
from pathlib import Path

import pytest

from phasegrid import load_sweep
from phasegrid.jobs import MetricJob, Trial
from phasegrid.packs import Pack
from phasegrid.plan.contents import Cell
from phasegrid.plan.cost import Corrections, predict_seconds
from phasegrid.plan.packing import PACK_SIZE, make_packs, start_depths
from phasegrid.plan.plan import make_plan
from phasegrid.plan.shaping import (
    FULL,
    MAX_DATASETS,
    PACKS_A_WORKER,
    fill_gpus,
    shape_packs,
    split_heavy,
)
from phasegrid.run.makespan import simulate_makespan
from phasegrid.train.compat import by_kind, pack_signature

SWEEPS = Path(__file__).parents[1] / "sweeps"

SWEEP = """\
schema: 1
name: neighbours
dataset: {name: digits}
model: {name: mlp}
train: {epochs: 2}
load: {param: model.width, values: [2, 4]}
temperature: {param: PARAM, values: VALUES}
seeds: 3
metrics: [accuracy]
"""


def packs_of(tmp_path: Path, param: str, values: str) -> list[Pack]:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.replace("PARAM", param).replace("VALUES", values), encoding="utf-8")
    return make_packs(make_plan(load_sweep(path)), (), lambda _cell, _job: 1.0)


def training(packs: list[Pack]) -> list[Pack]:
    return [pack for pack in packs if pack.kind == "train"]


RATES = "[0.4, 0.2, 0.1, 0.05, 0.025, 0.0125, 0.00625, 0.003125]"


def test_cells_along_a_learning_rate_axis_become_one_pack(tmp_path: Path) -> None:
    packs = packs_of(tmp_path, "train.lr", RATES)
    joined = shape_packs(packs, 1, 32)
    assert len(training(packs)) == 16
    assert [len(pack.trials) for pack in training(joined)] == [12, 12, 12, 12]
    assert all(len({pack_signature(t) for t in pack.trials}) == 1 for pack in training(joined))


def test_measurements_wait_for_no_other_measurement_than_their_own(tmp_path: Path) -> None:
    metrics = "[{connectivity: {id: c}}, {ensemble: {of: c}}, ensemble, accuracy]"
    path = tmp_path / "sweep.yaml"
    text = SWEEP.replace("PARAM", "train.lr").replace("VALUES", "[0.1]")
    path.write_text(text.replace("[accuracy]", metrics), encoding="utf-8")
    packs = make_packs(make_plan(load_sweep(path)), (), lambda _cell, _job: 1.0)
    depths = [{job.request.depth for job in pack.metric_jobs} for pack in packs]
    assert all(len(found) <= 1 for found in depths)
    light = [pack for pack in packs if {j.metric.name for j in pack.metric_jobs} >= {"accuracy"}]
    assert [{j.metric.name for j in pack.metric_jobs} for pack in light] == [
        {"predictions", "accuracy"}
    ] * 2
    assert {1} in depths


def test_a_stage_shares_no_pack_with_the_training_that_it_starts_from(tmp_path: Path) -> None:
    stages = "stages: [{name: tune, train: {lr: 0.01}}, {name: end, train: {lr: 0.001}}]\n"
    path = tmp_path / "sweep.yaml"
    text = SWEEP.replace("PARAM", "train.weight_decay").replace("VALUES", "[0.0, 0.1]")
    path.write_text(text + stages, encoding="utf-8")
    plan = make_plan(load_sweep(path))
    packs = make_packs(plan, (), lambda _cell, _job: 0.0)
    shaped = training(shape_packs(packs, 1, 100, start_depths(plan)))
    assert [len(pack.trials) for pack in shaped] == [6] * 6  # a model and a stage each
    assert all(set(pack.needs).isdisjoint(pack.job_keys()) for pack in shaped)


def test_joined_packs_of_measurements_hold_at_most_256(tmp_path: Path) -> None:
    values = str([0.01 * (i + 1) for i in range(50)])
    path = tmp_path / "sweep.yaml"
    text = SWEEP.replace("PARAM", "train.lr").replace("VALUES", values)
    path.write_text(text, encoding="utf-8")
    plan = make_plan(load_sweep(path))
    stored = {trial.key for cell in plan.cells for trial in cell.trials}
    packs = make_packs(plan, stored, lambda _cell, _job: 0.0)
    assert [len(pack.metric_jobs) for pack in packs] == [255, 45]


def test_no_job_is_lost_and_none_is_done_twice(tmp_path: Path) -> None:
    packs = packs_of(tmp_path, "train.lr", RATES)
    joined = shape_packs(packs, 2, 5)
    before = sorted(key for pack in packs for key in pack.job_keys())
    assert sorted(key for pack in joined for key in pack.job_keys()) == before
    assert sum(pack.cost_s for pack in joined) == sum(pack.cost_s for pack in packs)
    assert len({pack.key for pack in joined}) == len(joined)


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_every_worker_keeps_enough_packs(tmp_path: Path, workers: int) -> None:
    packs = training(packs_of(tmp_path, "train.lr", RATES))
    joined = training(shape_packs(packs, workers, 1000))
    assert len(joined) >= min(len(packs), PACKS_A_WORKER * workers)


def test_a_pack_never_grows_beyond_its_size(tmp_path: Path) -> None:
    packs = packs_of(tmp_path, "train.weight_decay", RATES)
    assert max(len(p.trials) for p in training(shape_packs(packs, 1, 6))) == 6


def test_networks_of_other_shapes_or_batches_stay_apart(tmp_path: Path) -> None:
    packs = packs_of(tmp_path, "train.batch_size", "[8, 16, 32, 64]")
    found = shape_packs(packs, 1, 1000)
    assert sorted(p.key for p in found) == sorted(p.key for p in packs)


def test_a_pack_holds_few_data_sets(tmp_path: Path) -> None:
    values = str([round(0.01 * i, 2) for i in range(40)])
    packs = packs_of(tmp_path, "dataset.label_noise", values)
    joined = training(shape_packs(packs, 1, 1000))
    assert max(len({id(t.dataset) for t in p.trials}) for p in joined) == MAX_DATASETS


def test_measurements_stay_as_they_are(tmp_path: Path) -> None:
    packs = packs_of(tmp_path, "train.lr", RATES)
    joined = shape_packs(packs, 1, 32)
    assert [p for p in joined if p.kind == "measure"] == [p for p in packs if p.kind == "measure"]


def test_a_long_pack_is_split_for_many_workers_and_not_for_few(tmp_path: Path) -> None:
    packs = packs_of(tmp_path, "train.batch_size", "[8, 16]")
    assert [len(p.trials) for p in training(shape_packs(packs, 1, 32))] == [3, 3, 3, 3]
    assert [len(p.trials) for p in training(shape_packs(packs, 8, 32))] == [1] * 12


def test_parts_hold_every_seed_once_in_order_and_share_the_cost(tmp_path: Path) -> None:
    packs = training(packs_of(tmp_path, "train.batch_size", "[8]"))
    parts = training(shape_packs(packs, 2, 32))
    assert sorted(t.key for p in parts for t in p.trials) == sorted(
        t.key for p in packs for t in p.trials
    )
    assert {tuple(t.seed for t in p.trials) for p in parts} == {(0, 1), (2,)}
    assert sum(p.cost_s for p in parts) == pytest.approx(sum(p.cost_s for p in packs))
    assert len({p.key for p in parts}) == len(parts)


def test_seeds_that_train_together_are_not_parted_into_more_than_one_part_a_worker(
    tmp_path: Path,
) -> None:
    packs = packs_of(tmp_path, "train.batch_size", "[8]")
    for workers, sizes in ((1, [3]), (2, [1, 2]), (3, [1, 1, 1]), (64, [1, 1, 1])):
        parts = training(shape_packs(packs[:1], workers, 32))
        assert sorted(len(p.trials) for p in parts) == sizes


CURVES = "metrics: [accuracy, {connectivity: {pairs: all}}, {simplex: {}}]"


def curves_of(tmp_path: Path, seeds: int = 4) -> list[Pack]:
    text = SWEEP.replace("PARAM", "train.lr").replace("VALUES", "[0.1, 0.2]")
    text = text.replace("metrics: [accuracy]", CURVES).replace("seeds: 3", f"seeds: {seeds}")
    path = tmp_path / "curves.yaml"
    path.write_text(text, encoding="utf-8")
    return make_packs(make_plan(load_sweep(path)), (), lambda _cell, _job: 1.0)


def heavy(packs: list[Pack]) -> list[Pack]:
    return [p for p in packs if p.metric_jobs and p.metric_jobs[0].metric.name == "connectivity"]


@pytest.mark.parametrize(("workers", "sizes"), [(1, {6}), (4, {3}), (64, {1})])
def test_curves_part_where_together_they_would_be_waited_for(
    tmp_path: Path, workers: int, sizes: set[int]
) -> None:
    packs = curves_of(tmp_path)  # 4 cells of 4 trainings, 4 accuracies, 6 curves and a simplex
    assert sum(p.cost_s for p in packs) == 60
    assert {len(p.metric_jobs) for p in heavy(packs)} == {6}
    for found in (shape_packs(packs, workers, 32), split_heavy(packs, workers)):
        assert {len(p.metric_jobs) for p in heavy(found)} == sizes
        assert sorted(key for p in found for key in p.job_keys()) == sorted(
            key for p in packs for key in p.job_keys()
        )
        assert sum(p.cost_s for p in found) == pytest.approx(60)
        assert len({p.key for p in found}) == len(found)


def test_a_part_waits_for_the_trainings_of_its_own_curves_only(tmp_path: Path) -> None:
    parts = heavy(split_heavy(curves_of(tmp_path), 64))
    assert len(parts) == 4 * 6
    for pack in parts:
        (job,) = pack.metric_jobs
        assert pack.needs == job.trials
        assert {trial.key for trial in pack.trials} == set(job.trials)


def test_light_measurements_and_single_heavy_ones_are_never_split(tmp_path: Path) -> None:
    packs = curves_of(tmp_path)
    others = [p for p in packs if p not in heavy(packs)]
    assert others
    assert [p for p in split_heavy(packs, 64) if p in others] == others


ALL_CURVES = "metrics=[accuracy, {connectivity: {pairs: all}}]"


@pytest.mark.parametrize("overrides", [(), (ALL_CURVES,)], ids=["as it is", "ten curves a cell"])
@pytest.mark.parametrize("slots", [1, 8, 64])
def test_the_standard_grid_ends_within_a_tenth_of_the_lower_bound(
    slots: int, overrides: tuple[str, ...]
) -> None:
    """Lower bound: all work shared equally, or the longest job with what must follow it, whichever
    is longer.
    """
    plan = make_plan(load_sweep(SWEEPS / "taxonomy" / "f02.yaml", overrides))

    def seconds(cell: Cell, job: Trial | MetricJob) -> float:
        return predict_seconds(cell, job, Corrections())

    packs = shape_packs(make_packs(plan, (), seconds), slots, PACK_SIZE)
    training_s = {t.key: seconds(cell, t) for cell in plan.cells for t in cell.trials}
    chains = [
        seconds(cell, job) + max(training_s[key] for key in job.trials)
        for cell in plan.cells
        for job in cell.metric_jobs
    ]
    bound = max(sum(pack.cost_s for pack in packs) / slots, max(chains))
    assert 0.999999 * bound <= simulate_makespan(packs, (), slots) <= 1.1 * bound


def uneven(_cell: Cell, job: Trial | MetricJob) -> float:
    """Return a cost that differs from cell to cell: wide networks and small rates cost more."""
    if isinstance(job, MetricJob):
        return 1.0
    return 100 * float(job.model.args["width"]) ** 2 / (1 + 4 * float(job.recipe["lr"]))  # type: ignore[arg-type]


def for_gpus(tmp_path: Path, gpus: int, most: int | None = None, seeds: int = 3) -> list[Pack]:
    path = tmp_path / "sweep.yaml"
    text = SWEEP.replace("PARAM", "train.lr").replace("VALUES", RATES)
    text = text.replace("values: [2, 4]", "values: [2, 3, 4, 6, 8]")
    path.write_text(text.replace("seeds: 3", f"seeds: {seeds}"), encoding="utf-8")
    return fill_gpus(make_packs(make_plan(load_sweep(path)), (), uneven), gpus, most)


@pytest.mark.parametrize("gpus", [1, 2, 3, 8])
def test_packs_for_gpus_hold_every_training_once_the_longest_first(
    tmp_path: Path, gpus: int
) -> None:
    packs = for_gpus(tmp_path, gpus)
    trials = [trial for pack in training(packs) for trial in pack.trials]
    assert len({trial.key for trial in trials}) == len(trials) == 5 * 8 * 3
    widths = [trial.model.args["width"] for trial in trials]
    assert widths[0] == 8
    assert widths[-1] == 2
    assert any(len(by_kind(pack.trials)) > 1 for pack in training(packs))
    assert all(pack.layout and pack.layout.trials == pack.trials for pack in training(packs))
    assert sum(p.kind == "measure" for p in packs) == 5 * 8


@pytest.mark.parametrize("gpus", [2, 3, 8])
@pytest.mark.parametrize("seeds", [3, 30])
def test_gpus_are_busy_to_the_end(tmp_path: Path, gpus: int, seeds: int) -> None:
    packs = training(for_gpus(tmp_path, gpus, 100, seeds))
    bound = sum(pack.cost_s for pack in packs) / gpus
    longest = max(pack.cost_s / len(pack.trials) for pack in packs)
    assert bound <= 1.000001 * simulate_makespan(packs, (), gpus)
    assert simulate_makespan(packs, (), gpus) <= bound + longest
    assert len(packs) % gpus == 0


def test_packs_for_several_gpus_become_smaller_until_they_would_not_fill_one(
    tmp_path: Path,
) -> None:
    packs = training(for_gpus(tmp_path, 2, 1000, 30))
    rounds = [a.cost_s + b.cost_s for a, b in zip(packs[::2], packs[1::2], strict=True)]
    assert all(2 * b == pytest.approx(a, rel=0.1) for a, b in pairwise(rounds[:-1]))
    assert rounds[0] > 4 * rounds[-1]
    assert len(packs[-2].trials) + len(packs[-1].trials) >= 2 * FULL


def test_one_gpu_gets_packs_of_one_size(tmp_path: Path) -> None:
    sizes = [len(pack.trials) for pack in training(for_gpus(tmp_path, 1, 50))]
    assert sizes == [40, 40, 40]


def test_a_pack_for_a_gpu_holds_few_data_sets(tmp_path: Path) -> None:
    values = str([round(0.01 * i, 2) for i in range(40)])
    packs = training(fill_gpus(packs_of(tmp_path, "dataset.label_noise", values), 1))
    assert max(len({id(t.dataset) for t in p.trials}) for p in packs) == MAX_DATASETS


def test_a_stage_shares_no_pack_for_a_gpu_with_the_training_that_it_starts_from(
    tmp_path: Path,
) -> None:
    stages = "stages: [{name: tune, train: {lr: 0.01}}, {name: end, train: {lr: 0.001}}]\n"
    path = tmp_path / "sweep.yaml"
    text = SWEEP.replace("PARAM", "train.weight_decay").replace("VALUES", "[0.0, 0.1]")
    path.write_text(text + stages, encoding="utf-8")
    plan = make_plan(load_sweep(path))
    packs = training(fill_gpus(make_packs(plan, (), uneven), 1, None, start_depths(plan)))
    assert [len(pack.trials) for pack in packs] == [12] * 3  # of both models, a stage each
    assert all(set(pack.needs).isdisjoint(pack.job_keys()) for pack in packs)
