"""Plans: keys, pairs, packs. Everything here is pure."""

from dataclasses import replace
from pathlib import Path

import pytest

from phasegrid import load_sweep
from phasegrid.config.networks import choose_pairs
from phasegrid.jobs import MetricJob, Trial
from phasegrid.keys import canonical_json, content_key
from phasegrid.plan.contents import Cell, all_keys, plan_hash
from phasegrid.plan.packing import is_laid_out, make_packs
from phasegrid.plan.plan import make_plan
from phasegrid.run.makespan import simulate_makespan
from phasegrid.train.recipe import RECIPE_VERSION, hashed_recipe

SWEEP = """\
schema: 1
name: s
dataset: {name: digits}
model: {name: mlp}
train: {batch_size: 32, epochs: 2}
load: {param: model.width, values: [2, 4, 8]}
temperature: {param: train.lr, values: [0.01, 0.1]}
seeds: 3
metrics: [accuracy, cka, {connectivity: {epochs: 2, pairs: ring}}, {simplex: {modes: 2}}]
"""


def plan_of(tmp_path: Path, text: str = SWEEP):  # type: ignore[no-untyped-def]
    path = tmp_path / "s.yaml"
    path.write_text(text)
    return make_plan(load_sweep(path))


def one_second(_cell: Cell, _job: Trial | MetricJob) -> float:
    return 1.0


def test_counts_follow_the_formula(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert len(plan.cells) == 6
    assert [len(c.trials) for c in plan.cells] == [3] * 6
    # accuracy 3, cka 3 pairs, connectivity a ring of 3, simplex 1
    assert [len(c.metric_jobs) for c in plan.cells] == [10] * 6
    assert len(all_keys(plan)) == 6 * 13


def test_fast_keys_equal_the_definition(tmp_path: Path) -> None:
    for cell in plan_of(tmp_path).cells:
        for trial in cell.trials:
            spec = {
                "dataset": trial.dataset.spec(),
                "model": trial.model.spec(),
                "recipe": hashed_recipe(trial.recipe),
                "seed": trial.seed,
            }
            assert trial.key == content_key("trial", RECIPE_VERSION, spec)
        for job in cell.metric_jobs:
            spec = {"name": job.metric.name, "args": job.metric.args, "trials": list(job.trials)}
            assert job.key == content_key("metric", job.metric.version, spec)


def test_names_comments_and_resources_do_not_change_a_key(tmp_path: Path) -> None:
    other = (
        SWEEP.replace("name: s\n", "name: other  # a comment\ndescription: text\n")
        + "resources: {num_cpus: 2}\n"
    )
    assert plan_hash(plan_of(tmp_path)) == plan_hash(plan_of(tmp_path, other))


def test_an_explicit_default_equals_an_omitted_one(tmp_path: Path) -> None:
    explicit = SWEEP.replace(
        "batch_size: 32", "batch_size: 32, momentum: 0.9, weight_decay: 0.0005"
    )
    assert plan_hash(plan_of(tmp_path)) == plan_hash(plan_of(tmp_path, explicit))


def test_extending_an_axis_keeps_the_old_cells(tmp_path: Path) -> None:
    longer = SWEEP.replace("[2, 4, 8]", "[2, 4, 8, 16]")
    old, new = all_keys(plan_of(tmp_path)), all_keys(plan_of(tmp_path, longer))
    assert old < new
    assert len(new - old) == 2 * 13


@pytest.mark.parametrize(
    ("how", "count", "expected"),
    [
        ("first", 4, [(0, 1)]),
        ("ring", 4, [(0, 1), (1, 2), (2, 3), (0, 3)]),
        ("ring", 2, [(0, 1)]),
        ("all", 3, [(0, 1), (0, 2), (1, 2)]),
    ],
)
def test_pairs(how: str, count: int, expected: list[tuple[int, int]]) -> None:
    assert choose_pairs(range(count), how) == expected


def test_a_pair_is_the_same_whatever_the_order_of_the_seeds(tmp_path: Path) -> None:
    forward = SWEEP.replace("seeds: 3", "seeds: [1, 2, 5]")
    backward = SWEEP.replace("seeds: 3", "seeds: [5, 1, 2]")
    pairs = [
        {
            j.key
            for c in plan_of(tmp_path, text).cells
            for j in c.metric_jobs
            if j.metric.name == "cka"
        }
        for text in (forward, backward)
    ]
    assert pairs[0] == pairs[1]


def test_a_measurement_of_many_trials_is_the_same_whatever_the_order_of_the_seeds() -> None:
    def jobs(seeds: list[int]) -> list[tuple[str, tuple[int, ...]]]:
        plan = make_plan(
            load_sweep(
                {
                    "schema": 1,
                    "name": "many",
                    "dataset": {"name": "digits"},
                    "model": {"name": "mlp"},
                    "train": {"epochs": 1},
                    "load": {"param": "train.lr", "values": [0.1, 0.2]},
                    "seeds": seeds,
                    "metrics": ["ensemble", {"ensemble": {"over": "across"}}],
                }
            )
        )
        seed_of = {trial.key: trial.seed for cell in plan.cells for trial in cell.trials}
        found = [job for _, job in plan.metric_jobs() if job.metric.name == "ensemble"]
        return [(job.key, tuple(seed_of[key] for key in job.trials)) for job in found]

    forward = jobs([1, 2, 5])
    assert [len(seeds) for _, seeds in forward] == [3, 3, 6]
    assert all(list(seeds) == sorted(seeds) for _, seeds in forward)
    assert jobs([5, 1, 2]) == forward


def test_packs_hold_every_missing_job_once(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    keys = all_keys(plan)
    for stored in (set(), set(sorted(keys)[::3]), keys):
        packs = make_packs(plan, stored, one_second)
        packed = [key for pack in packs for key in pack.job_keys()]
        assert sorted(packed) == sorted(keys - stored)


def test_heavy_jobs_of_a_cell_share_a_pack_where_their_metric_can_do_them_together(
    tmp_path: Path,
) -> None:
    packs = make_packs(plan_of(tmp_path), set(), one_second)
    assert [len(p.trials) for p in packs if p.kind == "train"] == [3] * 6
    heavy = [p for p in packs if any(job.request.heavy for job in p.metric_jobs)]
    found = [(p.metric_jobs[0].metric.name, len(p.metric_jobs), len(p.needs)) for p in heavy]
    assert found == [("connectivity", 3, 3), ("simplex", 1, 2)] * 6


def test_heavy_jobs_with_other_arguments_do_not_share_a_pack(tmp_path: Path) -> None:
    both = "{connectivity: {epochs: 2, pairs: ring}}, {connectivity: {epochs: 3, pairs: ring}}"
    text = SWEEP.replace("{connectivity: {epochs: 2, pairs: ring}}", both)
    packs = make_packs(plan_of(tmp_path, text), set(), one_second)
    curves = [p for p in packs if any(j.metric.name == "connectivity" for j in p.metric_jobs)]
    assert len(curves) == 6 * 2
    assert all(len({canonical_json(j.metric.args) for j in p.metric_jobs}) == 1 for p in curves)


def test_small_measurements_of_stored_trials_are_joined(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    trained = {trial.key for cell in plan.cells for trial in cell.trials}
    packs = make_packs(plan, trained, lambda _cell, _job: 0.01)
    joined = [pack for pack in packs if not is_laid_out(pack)]
    assert len(joined) == 1
    assert set(joined[0].needs) == trained
    assert len(packs) == 1 + 6, "curves of a cell keep to themselves: they are laid out by cell"


def test_makespan_is_the_lower_bound_when_jobs_divide_evenly(tmp_path: Path) -> None:
    packs = [
        replace(p, cost_s=3.0)
        for p in make_packs(plan_of(tmp_path), set(), one_second)
        if p.kind == "train"
    ]
    assert simulate_makespan(packs, set(), 2) == 9.0
    assert simulate_makespan(packs, set(), 1) == 18.0
