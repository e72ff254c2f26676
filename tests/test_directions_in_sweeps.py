"""Requests for directions: which networks a job has, what it leaves, and every mistake in them."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console
from test_reading_requests import HEAD, mistakes

import phasegrid
from phasegrid.config.load import load_sweep
from phasegrid.errors import SweepError
from phasegrid.estimates import Measurement, Workload
from phasegrid.jobs import Artifact, MetricJob
from phasegrid.metrics.directions import DIRECTIONS, DirectionsArgs
from phasegrid.models.weights import parameters_vector
from phasegrid.plan.plan import make_plan
from phasegrid.run.run import RunTarget, run_sweep
from phasegrid.store.asked import in_words
from phasegrid.store.store import Store


def jobs(folder: Path, *metrics: str) -> list[MetricJob]:
    path = folder / "s.yaml"
    path.write_text(HEAD + "".join(f"  - {metric}\n" for metric in metrics), encoding="utf-8")
    return list(make_plan(load_sweep(path)).cells[0].metric_jobs)


def places(job: MetricJob) -> list[str]:
    return [artifact.name for artifact in job.reads]


BAD = {
    "one network": (
        "directions: {along: [to_1]}",
        "9:26: metrics.0.directions.along.0: found to_1, which needs 2 networks, but a job has"
        " 1 network; write networks, or over: trajectory with at, or over: cell",
    ),
    "two networks": (
        "directions: {along: [gradient, to_2], over: trajectory, at: [2, 4]}",
        "9:36: metrics.0.directions.along.1: found to_2, which needs 3 networks, but a job has"
        " 2 networks; write networks, or over: trajectory with at, or over: cell",
    ),
    "a checkpoint that is not kept": (
        "directions: {along: [to_1], over: trajectory, at: [0, 3]}",
        "9:59: metrics.0.directions.at: train publishes no checkpoint after epoch 3; it publishes"
        " 0, 2, 4, ...",
    ),
    "a checkpoint of a named network that is not kept": (
        "directions: {along: [to_1], networks: [{seed: 0, at: 3}, {seed: 1}]}",
        "9:58: metrics.0.directions.networks.0.at: train publishes no checkpoint after epoch 3; it"
        " publishes 0, 2, 4, ...",
    ),
    "a mining from a second network that is not there": (
        "directions: {along: [vvv_basin], start: to_1}",
        "9:45: metrics.0.directions.start: found to_1, but a job has 1 network; allowed: fresh",
    ),
    "no direction": (
        "directions: {along: [north]}",
        "9:26: metrics.0.directions.along.0: found 'north'; allowed: gradient, weights, w_peak,"
        " vvv_basin, and numbered gaussian_0, gaussian_1, ..., to_1, to_2, ..., positive_1, positive_2, ..., negative_1,"
        " negative_2, ..., component_1, component_2, ..., aligned_1, aligned_2, ...",
    ),
    "fewer steps than eigenvectors": (
        "directions: {along: [positive_3, negative_2], steps: 4}",
        "9:58: metrics.0.directions.steps: found 4, but the directions need 5 eigenvectors; allowed:"
        " at least 5 steps",
    ),
    "one network of which there are no components": (
        "directions: {along: [component_1]}",
        "9:26: metrics.0.directions.along.0: found component_1, which needs 2 networks, but a job"
        " has 1 network; write networks, or over: trajectory with at, or over: cell",
    ),
}


@pytest.mark.parametrize(
    ("reader", "said"),
    [
        (
            "slice: {of: d, along: [gaussian_0, gaussian_0]}",
            "slice.along.1: found gaussian_0 twice",
        ),
        (
            "lines: {of: d, along: [gaussian_1, gaussian_1]}",
            "lines.along.1: found gaussian_1 twice",
        ),
        ("lines: {of: d, along: [to_1]}", "lines.along: found to_1, but the directions are along"),
        ("lines: {of: d, low: 2}", "lines.high: found 1; allowed: more than low, 2"),
    ],
)
def test_a_mistake_in_what_reads_directions_is_told(tmp_path: Path, reader: str, said: str) -> None:
    with pytest.raises(SweepError, match=re.escape(said)):
        jobs(tmp_path, "directions: {id: d, along: [gaussian_0, gaussian_1]}", reader)


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_in_directions_is_told_with_its_place(tmp_path: Path, name: str) -> None:
    metric, told = BAD[name]
    assert mistakes(tmp_path, metric) == [told]


def test_directions_are_over_a_trial_unless_a_request_says_otherwise(tmp_path: Path) -> None:
    by_trial = jobs(tmp_path, "directions")
    assert [len(job.trials) for job in by_trial] == [1, 1]
    assert {job.request.over for job in by_trial} == {"trial"}
    at_places = jobs(tmp_path, "directions: {at: [0, 2]}")
    assert [places(job) for job in at_places] == [["weights@epoch-0"], ["weights@epoch-2"]] * 2
    of_cell = jobs(tmp_path, "directions: {along: [to_1], over: cell}")
    assert [len(job.trials) for job in of_cell] == [2]


def test_directions_to_later_checkpoints_are_one_job_of_a_training(tmp_path: Path) -> None:
    metric = "directions: {along: [to_1, to_2], over: trajectory, at: [2, 0, 4]}"
    found = jobs(tmp_path, metric)
    expected = ["weights@epoch-2", "weights@epoch-0", "weights@epoch-4"]
    assert [places(job) for job in found] == [expected] * 2


def test_directions_between_named_networks_have_the_first_as_base(tmp_path: Path) -> None:
    metric = "directions: {along: [to_1], networks: [{seed: 1, at: 2}, {seed: 0}]}"
    (job,) = jobs(tmp_path, metric)
    assert job.request.over == "cell"
    assert places(job) == ["weights@epoch-2", "weights"]
    assert len(job.trials) == 2


def test_directions_are_stored_with_the_weights_that_they_go_through(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    metrics = (
        "  - directions: {along: [to_1, gradient], over: trajectory, at: [2, 4]}\n"
        "  - directions: {along: [w_peak, negative_1], epochs: 1, hessian_examples: 50}\n"
    )
    text = HEAD.replace("values: [2, 4]", "values: [2]") + metrics
    path.write_text(text, encoding="utf-8")
    store = Store.open(str(tmp_path / "store"), create=True)
    where = RunTarget(serial=True, device="cpu")
    run_sweep(load_sweep(path), store, where, Console(quiet=True), quiet=True, limit=None)
    results = phasegrid.open(store.url)
    rows = results.metric("directions", "s")
    assert sorted(rows["direction"].unique()) == ["gradient", "negative_1", "to_1", "w_peak"]
    for key, own in rows[rows["direction"] == "to_1"].groupby("key"):
        left = store.read_artifact(Artifact(str(key), "directions"))
        early, late = (
            parameters_vector(results.model(own.iloc[0]["trial_a"], f"weights@epoch-{epoch}"))
            for epoch in (2, 4)
        )
        torch.testing.assert_close(left["weights"], early, rtol=0, atol=0)
        torch.testing.assert_close(left["weights"] + left["directions"][0], late)
    mined = rows[rows["direction"] == "w_peak"]
    assert mined["mined_loss"].notna().all()
    assert len(mined) == 2


def test_what_reads_directions_at_several_places_is_told_apart_by_them() -> None:
    def planned(
        key: str, metric: str, of: str | None, inputs: list[list[str]]
    ) -> dict[str, object]:
        said = {"args": "{}", "cell": 0, "trials": ["t"], "asked": None}
        return {"key": key, "metric": metric, "request": of, "inputs": json.dumps(inputs), **said}

    rows = [
        planned("d2", "directions", "mined", [["t", "weights@epoch-2"]]),
        planned("d4", "directions", "mined", [["t", "weights@epoch-4"]]),
        planned("l2", "lines", None, [["d2", "directions"]]),
        planned("l4", "lines", None, [["d4", "directions"]]),
        planned("one", "directions", "alone", [["t", "weights@epoch-2"]]),
        planned("l", "lines", None, [["one", "directions"]]),
    ]
    found = in_words(pd.DataFrame(rows)).set_index("key")
    assert found.loc[["l2", "l4"], "at"].tolist() == ["2", "4"]
    assert found.loc[["l2", "l4"], "epoch"].tolist() == [2.0, 4.0]
    assert found.loc[["l2", "l4", "l"], "of"].tolist() == ["mined", "mined", "alone"]
    assert found.loc["l", "at"] is None  # nothing else has its name


def test_what_directions_cost_grows_with_what_is_asked() -> None:
    work = Workload(1000, 100, 10, 5000, 10_000, 200)

    def job(**args: object) -> Measurement:
        return Measurement(work, {**asdict(DirectionsArgs()), **args})

    assert DIRECTIONS.cost is not None
    assert DIRECTIONS.disk is not None
    plain, gradient = job(), job(along=["gaussian_0", "gradient"])
    few = job(along=["gradient"], gradient_examples=100)
    assert DIRECTIONS.cost(plain).seconds < DIRECTIONS.cost(few).seconds
    assert DIRECTIONS.cost(few).seconds < DIRECTIONS.cost(gradient).seconds
    assert DIRECTIONS.disk(gradient) == 3 * 4 * 5000  # two directions and the weights
    assert DIRECTIONS.memory is not None
    curved, long = job(along=["negative_1"]), job(along=["negative_1"], steps=400)
    assert DIRECTIONS.cost(gradient).seconds < DIRECTIONS.cost(curved).seconds
    assert DIRECTIONS.cost(long).seconds > 1.9 * DIRECTIONS.cost(curved).seconds
    assert DIRECTIONS.memory(long) - DIRECTIONS.memory(curved) == 200 * 4 * 5000  # its basis
