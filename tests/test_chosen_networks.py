"""Which networks of trained trials a job has: ``at`` with every ``over``, ``runs``, ``networks``."""

import re
from pathlib import Path
from typing import Any

import pytest

import phasegrid
from phasegrid.analysis.stats.aggregate import aggregate
from phasegrid.analysis.tables.load import load_grid
from phasegrid.errors import SweepError
from phasegrid.jobs import MetricJob
from phasegrid.plan.contents import Plan
from phasegrid.plan.plan import make_plan
from phasegrid.store.artifacts import digests_of

CYCLES = {"name": "cyclic", "cycle_epochs": 2, "low": 0.05}
SWEEP: dict[str, Any] = {
    "schema": 1,
    "name": "chosen",
    "dataset": {"name": "digits"},
    "model": {"name": "mlp"},
    "train": {
        "epochs": 5,
        "batch_size": 512,
        "stop": None,
        "keep": "last",
        "schedule": CYCLES,
        "checkpoints": {"at": "lowest_rate", "epochs": [0]},
    },
    "load": {"param": "model.width", "values": [2, 4]},
    "seeds": 4,
}
LOWEST = ["update-3", "update-9", "update-15"]  # 3 updates in an epoch, 6 in a cycle


def planned(*metrics: dict[str, object], **sections: object) -> Plan:
    return make_plan(phasegrid.load_sweep({**SWEEP, **sections, "metrics": list(metrics)}))


def networks(plan: Plan, job: MetricJob) -> list[str]:
    """Return the networks of a job as ``cell.seed@place``, or ``cell.seed`` for final weights."""
    named = {
        trial.key: f"{cell.index}.{trial.seed}" for cell in plan.cells for trial in cell.trials
    }
    return [named[one.job] + one.name.replace("weights", "") for one in job.networks]


def of_first_cell(*metrics: dict[str, object], **sections: object) -> list[list[str]]:
    plan = planned(*metrics, **sections)
    return [networks(plan, job) for job in asked_for(plan)]


def asked_for(plan: Plan) -> list[MetricJob]:
    """Return the jobs of the first cell without those that only others read."""
    return [job for job in plan.cells[0].metric_jobs if job.metric.name != "predictions"]


def along(seed: int, *more: str) -> list[str]:
    return [f"0.{seed}@{place}" for place in (*more, *LOWEST)]


@pytest.mark.parametrize(
    ("schedule", "epochs", "batch_size"),
    [
        (CYCLES, 5, 512),
        ({"name": "cyclic", "cycle_updates": 4, "low": 0.1}, 3, 300),
        ({"name": "cosine_restarts", "cycles": 3}, 4, 700),
        ({"name": "cosine"}, 2, 512),
    ],
)
def test_the_lowest_rates_are_where_training_publishes_its_weights(
    tmp_path: Path, schedule: dict[str, object], epochs: int, batch_size: int
) -> None:
    train = {**SWEEP["train"], "schedule": schedule, "epochs": epochs, "batch_size": batch_size}
    sweep = {**SWEEP, "train": train, "seeds": 1, "load": {**SWEEP["load"], "values": [2]}}
    sweep["metrics"] = [{"accuracy": {"over": "trajectory", "at": "lowest_rate"}}]
    jobs = make_plan(phasegrid.load_sweep(sweep)).cells[0].metric_jobs
    done = phasegrid.run(sweep, tmp_path, serial=True, quiet=True)
    assert done.exit_code == 0
    left = digests_of(done.results.trials()["artifacts"][0])
    assert left is not None
    published = [name for name in left if "update" in name]
    assert {job.reads[0].name for job in jobs} == set(published)
    assert len(published) > 0
    rows = done.results.metric("accuracy", sweep="chosen")
    assert set(rows["outcome"]) == {"done"}


def test_what_is_over_a_cell_has_all_its_trials_at_all_places() -> None:
    (job,) = of_first_cell({"ensemble": {"over": "cell", "at": [0, "lowest_rate"]}})
    assert job == [name for seed in range(4) for name in along(seed, "epoch-0")]


def test_a_moment_of_two_names_is_one_network_in_what_stands_for_several() -> None:
    train = {**SWEEP["train"], "checkpoints": {"at": "lowest_rate", "epochs": [0, 1, 5]}}
    (every,) = of_first_cell(
        {"ensemble": {"over": "cell", "at": "checkpoints", "runs": 4}}, train=train
    )
    assert every[:4] == ["0.0@epoch-0", "0.0@epoch-1", "0.0@update-9", "0.0@epoch-5"]
    (lowest,) = of_first_cell(
        {"ensemble": {"over": "cell", "at": ["lowest_rate", 5], "runs": 4}}, train=train
    )
    assert lowest[:3] == ["0.0@update-3", "0.0@update-9", "0.0@epoch-5"]


def test_runs_cut_the_seeds_into_disjoint_groups() -> None:
    request = {"ensemble": {"over": "cell", "at": "lowest_rate", "runs": 2}}
    assert of_first_cell(request) == [along(0) + along(1), along(2) + along(3)]
    assert of_first_cell({"ensemble": {"runs": 3}}) == [["0.0", "0.1", "0.2"]]


CURVES = {"connectivity": {"id": "bent", "epochs": 1, "pairs": "all"}}


def joined(*seeds: int, **keys: object) -> list[MetricJob]:
    """Return the ensembles of curves of the first cell of a sweep with these seeds."""
    plan = planned(CURVES, {"ensemble": {"of": "bent", "over": "cell", **keys}}, seeds=[*seeds])
    return [job for job in plan.cells[0].metric_jobs if job.metric.name == "ensemble"]


def test_what_joins_all_curves_of_a_cell_reads_each_once() -> None:
    (job,) = joined(0, 1, 2)
    assert len(set(job.reads)) == len(job.trials) == 3
    places = [job.trials.index(network.job) for network in job.networks]
    assert places == [0, 1, 0, 2, 1, 2]  # the ends of each curve, one after another


def test_runs_cut_what_is_joined_into_disjoint_groups() -> None:
    jobs = joined(0, 1, 2, 3, runs=2)
    assert [len(job.reads) for job in jobs] == [2, 2, 2]
    assert len({one for job in jobs for one in job.reads}) == 6
    assert [len(job.reads) for job in joined(0, 1, 2, runs=2)] == [2]
    assert len(joined(0, 1, 2, runs=1)) == 3


@pytest.mark.parametrize("runs", [None, 2])
def test_what_is_joined_is_the_same_in_whichever_order_a_sweep_lists_its_seeds(
    runs: int | None,
) -> None:
    keys = {} if runs is None else {"runs": runs}
    one, other = (joined(*seeds, **keys) for seeds in ([0, 1, 2], [2, 0, 1]))
    assert [job.key for job in one] == [job.key for job in other]


@pytest.mark.parametrize(
    ("epochs", "cycle", "runs", "num"),
    [(22, 2, 1, 11), (22, 2, 2, 22), (22, 4, 1, 6), (22, 4, 2, 12)],
)
def test_ensembles_of_fge_have_as_many_models_as_the_paper_says(
    epochs: int, cycle: int, runs: int, num: int
) -> None:
    train = {**SWEEP["train"], "epochs": epochs, "schedule": {**CYCLES, "cycle_epochs": cycle}}
    request = {"ensemble": {"over": "cell", "at": "lowest_rate", "runs": runs}}
    jobs = of_first_cell(request, train=train)
    assert [len(job) for job in jobs] == [num] * (4 // runs)
    collected = [int(name.rpartition("-")[2]) for name in jobs[0][: num // runs]]
    assert collected == [3 * epoch for epoch in range(cycle // 2, epochs + 1, cycle)]


def test_fge_from_a_trained_network_has_that_network_and_three_models() -> None:
    """Garipov et al. 2018 on ImageNet: 5 epochs in cycles of 2, the start among the models."""
    stages = [{"name": "fge", "train": {**SWEEP["train"], "epochs": 5}}]
    train = {"epochs": 1, "batch_size": 512, "stop": None, "keep": "last"}
    request = {"ensemble": {"over": "cell", "at": [0, "lowest_rate"], "runs": 1}}
    (job,) = asked_for(planned(request, train=train, stages=stages, seeds=1))
    assert job.networks[0].name == "weights@epoch-0"
    assert len(job.networks) == 4


def test_what_is_over_a_trial_or_a_pair_has_a_job_for_each_place() -> None:
    jobs = of_first_cell({"accuracy": {"at": "lowest_rate"}})
    assert jobs == [[name] for seed in range(4) for name in along(seed)]
    pairs = of_first_cell({"distance": {"at": ["lowest_rate"], "pairs": "first"}})
    assert pairs == [[a, b] for a, b in zip(along(0), along(1), strict=True)]


def test_a_trajectory_of_the_lowest_rates_is_that_of_their_updates() -> None:
    by_rate = planned({"accuracy": {"over": "trajectory", "at": "lowest_rate"}})
    by_update = planned({"accuracy": {"over": "trajectory", "at": LOWEST}})
    assert by_rate.cells[0].metric_jobs[0].reads == by_update.cells[0].metric_jobs[0].reads
    keys = [[job.key for job in plan.cells[0].metric_jobs] for plan in (by_rate, by_update)]
    assert keys[0] == keys[1]


def test_pairs_from_the_first_network_are_its_distances_to_all_others() -> None:
    request = {"over": "trajectory", "at": [0, "lowest_rate"], "pairs": "from_first"}
    pairs = of_first_cell({"distance": request}, seeds=1)
    assert pairs == [["0.0@epoch-0", f"0.0@{place}"] for place in LOWEST]
    of_trials = of_first_cell({"distance": {"pairs": "from_first"}})
    assert of_trials == [["0.0", f"0.{seed}"] for seed in (1, 2, 3)]


def test_cells_with_other_batches_have_other_lowest_rates() -> None:
    axis = {"param": "train.batch_size", "values": [512, 300]}
    plan = planned({"ensemble": {"over": "cell", "at": "lowest_rate"}}, temperature=axis, seeds=1)
    jobs = [job for cell in plan.cells for job in cell.metric_jobs if len(job.networks) > 1]
    of_cell = {job.networks[0].name for job in jobs}
    assert of_cell == {"weights@update-3", "weights@update-5"}


def test_the_networks_that_are_named_are_those_of_the_job_in_their_order() -> None:
    named = [{"seed": 2}, {"seed": 0, "at": "lowest_rate"}, {"seed": 1, "at": 0}]
    assert of_first_cell({"ensemble": {"networks": named}}) == [["0.2", *along(0), "0.1@epoch-0"]]
    pair = {"connectivity": {"networks": [{"seed": 3, "at": 0}, {"seed": 3}], "epochs": 1}}
    assert of_first_cell(pair) == [["0.3@epoch-0", "0.3"]]


def test_final_weights_by_name_are_the_pair_of_these_trials() -> None:
    named = planned({"distance": {"networks": [{"seed": 0}, {"seed": 1}]}})
    pair = planned({"distance": {"pairs": "first"}})
    assert [job.key for job in named.cells[0].metric_jobs] == [
        job.key for job in pair.cells[0].metric_jobs
    ]


def test_networks_across_cells_are_named_by_their_fields() -> None:
    two = [{"seed": 1, "model.width": 4, "at": 0}, {"seed": 0, "model.width": 2}]
    plan = planned({"cka": {"over": "across", "networks": two, "examples": 16}})
    ((_, job),) = plan.across
    assert networks(plan, job) == ["1.1@epoch-0", "0.0"]
    along_both = {"over": "across", "where": {"seed": 0}, "at": "lowest_rate", "examples": 16}
    plan = planned({"cka": along_both})
    assert [networks(plan, job) for _, job in plan.across] == [
        [f"0.0@{place}", f"1.0@{place}"] for place in LOWEST
    ] or [networks(plan, job) for _, job in plan.across] == [
        [f"1.0@{place}", f"0.0@{place}"] for place in LOWEST
    ]


def test_a_stage_begins_with_the_network_that_it_starts_from() -> None:
    stages = [{"name": "tune", "train": {**SWEEP["train"]}}]
    train = {**SWEEP["train"], "checkpoints": None, "schedule": {"name": "constant"}}
    request = {"ensemble": {"over": "cell", "at": [0, "lowest_rate"], "runs": 1}}
    plan = planned(request, train=train, stages=stages, seeds=1)
    (job,) = asked_for(plan)
    tuned = plan.cells[0].trials_of("tune")[0].key
    assert [one.name for one in job.networks] == [
        f"weights@{place}" for place in ("epoch-0", *LOWEST)
    ]
    assert {one.job for one in job.networks} == {tuned}


def test_rows_and_quantities_say_which_networks_they_are_of(tmp_path: Path) -> None:
    metrics = [
        "accuracy",
        {"ensemble": {"over": "cell", "at": "lowest_rate", "runs": 2}},
        {"ensemble": {"over": "cell", "at": "lowest_rate", "runs": 1}},
        {"ensemble": {"networks": [{"seed": 0, "at": 0}, {"seed": 3}]}},
    ]
    load = {**SWEEP["load"], "values": [2]}
    done = phasegrid.run(
        {**SWEEP, "metrics": metrics, "load": load}, tmp_path, serial=True, quiet=True
    )
    rows = phasegrid.open(str(tmp_path)).metric("ensemble", sweep="chosen")
    assert rows.groupby("variant")["key"].nunique().to_dict() == {
        "at=lowest_rate, runs=1": 4,
        "at=lowest_rate, runs=2": 2,
        "networks=0@0+3": 1,
    }
    assert sorted(rows.loc[rows["runs"] == 2, "seed_a"]) == [0, 2]
    table = aggregate(load_grid(done.results, "chosen")).set_index("quantity")
    loss = "ensemble_test_loss[at=lowest_rate, runs={}]".format
    found = [(table["n"][loss(n)], table["stderr"][loss(n)] > 0) for n in (1, 2)]
    assert found == [(4, True), (2, True)]
    assert table["n"]["ensemble_test_loss[networks=0@0+3]"] == 2


BAD: list[tuple[dict[str, object], dict[str, object], str]] = [
    ({"accuracy": {"at": "lowest_rate"}}, {"checkpoints": {"epochs": [0]}},
     "metrics.0.accuracy.at: train publishes no checkpoints where its rate is lowest; add"
     " train.checkpoints: {at: lowest_rate}"),
    ({"accuracy": {"at": "update-4"}}, {}, "publishes no checkpoint after update 4; it publishes 3, 9, 15"),
    ({"ensemble": {"runs": 5}}, {}, "runs: found 5, but a cell has 4 trials"),
    ({"ensemble": {"runs": 0}}, {}, "runs: found 0; allowed: an integer, at least 1"),
    ({"simplex": {"runs": 1}}, {}, "runs: gives a job 1 network; simplex needs at least 2"),
    ({"ensemble": {"runs": 2, "modes": 2}}, {}, "runs: found with modes; it is for over: cell"),
    ({"ensemble": {"runs": 2, "over": "pair"}}, {}, "runs: found with over: pair"),
    ({"distance": {"runs": 2}}, {}, "runs: this metric is over pair; it cannot be over a cell"),
    ({"distance": {"over": "trajectory", "at": 0}}, {}, "at: gives 1 network of each training"),
    ({"distance": {"networks": [{"seed": 0}]}}, {}, "networks: names 1 network; distance needs exactly 2"),
    ({"distance": {"networks": []}}, {}, "networks: found []; allowed: a list of networks"),
    ({"distance": {"networks": [1, {"seed": 0}]}}, {}, "networks.0: found 1; allowed: a network"),
    ({"distance": {"networks": [{"seed": 0}, {"seed": 0}]}}, {}, "networks.1: names the same network twice"),
    ({"distance": {"networks": [{"seed": 0, "at": "update-15"}, {"seed": 0}]}}, {}, "networks.1: names the same network twice"),
    ({"distance": {"networks": [{"seed": 0, "at": 1}, {"seed": 0, "at": "update-3"}]}}, {"checkpoints": {"epochs": [1], "updates": [3]}},
     "networks.1: names the same network twice"),
    ({"ensemble": {"networks": [{"seed": 1}, {"seed": 0, "at": 0}, {"seed": 0, "at": [0, "lowest_rate"]}]}}, {},
     "networks.2: names the same network twice"),
    ({"ensemble": {"networks": [{"seed": 0, "stage": "train"}, {"seed": 0}]}}, {}, "networks.1: names the same network twice"),
    ({"distance": {"networks": [{"seed": 0}, {"seed": 9}]}}, {}, "networks.1.seed: no trial has 9; there are 0, 1"),
    ({"distance": {"networks": [{"seed": 0}, {"at": 0}]}}, {}, "networks.1: chooses 4 trials; name one of them: add seed"),
    ({"distance": {"networks": [{"seed": 0}, {"seed": 1, "at": 2}]}}, {}, "networks.1.at: train publishes no checkpoint after epoch 2"),
    ({"distance": {"networks": [{"seed": 0}, {"seed": 1, "model.width": 2}]}}, {},
     "networks.1.model.width: found the key 'model.width'; allowed: seed, at, stage; others go with over: across"),
    ({"distance": {"networks": [{"seed": 0}, {"seed": 1}], "pairs": "all"}}, {}, "pairs: found beside networks"),
    ({"distance": {"networks": [{"seed": 0}, {"seed": 1}], "over": "trajectory"}}, {},
     "networks: goes with over: pair or across, found over: trajectory"),
    ({"distance": {"over": "across", "networks": [{"seed": 0, "model.width": 2}, {"seed": 0, "model.width": 4}]}}, {},
     "networks: chooses networks with different numbers of parameters"),
    ({"accuracy": {"at": "lowest_rate"}}, {"batch_size": 1296},
     "the last batch of an epoch has one example, which a network with BatchNorm adds to the batch before"),
]  # fmt: skip


@pytest.mark.parametrize(("metric", "train", "told"), BAD)
def test_networks_that_cannot_be_are_a_mistake_with_its_place(
    metric: dict[str, object], train: dict[str, object], told: str
) -> None:
    with pytest.raises(SweepError, match=re.escape(told)):
        planned(metric, train={**SWEEP["train"], **train})
