"""Networks drawn from collected moments: how requests name them, and what they measure."""

from pathlib import Path
from typing import Any

import pytest

import phasegrid
from phasegrid.config.load import load_sweep
from phasegrid.errors import SweepError
from phasegrid.jobs import AVERAGED, MOMENTS
from phasegrid.plan.plan import make_plan

HEAD = """\
schema: 1
name: swag
dataset: {name: digits, fraction: 0.2}
model: {name: mlp, width: 8}
train: {epochs: 6, batch_size: 32, lr: 0.1, stop: null, keep: last, collect: {name: swag, from_epoch: 2, rank: 3}}
seeds: 2
metrics:
"""
SWAG = "over: trajectory, at: swag, points: 3, train: false"


def sweep_of(folder: Path, metrics: str, head: str = HEAD) -> Any:
    path = folder / "swag.yaml"
    path.write_text(head + metrics, encoding="utf-8")
    return load_sweep(path)


def test_swag_reads_the_moments_and_names_the_mean(tmp_path: Path) -> None:
    metrics = f"  - ensemble: {{{SWAG}}}\n  - ensemble: {{at: swag, points: 3, train: false}}\n"
    jobs = [job for _, job in make_plan(sweep_of(tmp_path, metrics)).metric_jobs()]
    predictions = [job for job in jobs if job.metric.name == "predictions"]
    ensembles = [job for job in jobs if job.metric.name == "ensemble"]
    assert [len(job.reads) for job in ensembles] == [1, 1, 2]
    assert len(predictions) == 2  # SWAG and MultiSWAG share the drawn networks
    for job in predictions:
        assert [one.name for one in job.sources] == [MOMENTS]
        assert [one.name for one in job.networks] == [AVERAGED]
    assert [one.name for one in ensembles[-1].networks] == [AVERAGED] * 2


@pytest.mark.parametrize(
    ("head", "metric", "message"),
    [
        (
            HEAD,
            "accuracy: {over: trajectory, at: swag}",
            "found swag, but accuracy draws no networks",
        ),
        (HEAD, "ensemble: {at: [swag, averaged]}", "found swag beside other places; allowed: swag"),
        (
            HEAD,
            "ensemble: {networks: [{seed: 0, at: swag}, {seed: 1}]}",
            "found swag beside other places; allowed: all, or none",
        ),
        (
            HEAD,
            "ensemble: {scale: 2}",
            r"found 2\.0, but no moments; leave it out, or write at: swag",
        ),
        (
            HEAD.replace("name: swag, from_epoch: 2, rank: 3", "name: swa"),
            "ensemble: {at: swag}",
            r"no collector takes moments of the weights of train; add train\.collect: {name: swag",
        ),
        (
            HEAD.replace("rank: 3", "rank: 1"),
            "ensemble: {at: swag}",
            "rank is 1; a covariance needs at least 2",
        ),
    ],
)
def test_networks_that_cannot_be_drawn_are_a_mistake(
    tmp_path: Path, head: str, metric: str, message: str
) -> None:
    with pytest.raises(SweepError, match=message):
        sweep_of(tmp_path, f"  - {metric}\n", head)


def test_a_swag_ensemble_is_that_of_its_drawn_networks(tmp_path: Path) -> None:
    sweep = sweep_of(
        tmp_path,
        f"  - ensemble: {{{SWAG}}}\n"
        "  - ensemble: {at: swag, points: 3, train: false}\n"
        f"  - ensemble: {{{SWAG}, scale: 1.0e-20}}\n"
        "  - ensemble: {over: trajectory, at: averaged, train: false}\n",
    )
    phasegrid.run(sweep, tmp_path / "store", serial=True)
    results = phasegrid.open(str(tmp_path / "store"))
    rows = results.metric("ensemble", "swag")
    drawn = rows[rows["at"] == "swag"]
    each = drawn[(drawn["over"] == "trajectory") & ~drawn["args"].str.contains("scale")]
    both = drawn[drawn["over"] == "cell"].iloc[0]
    assert list(each["num_networks"]) == [3, 3]
    members = [error for one in each["member_test_error_percent"] for error in one]
    assert both["num_networks"] == 6
    assert sorted(both["member_test_error_percent"]) == pytest.approx(sorted(members))
    assert len(both["first_components_test_error_percent"]) == 2
    assert list(both["first_components_passes"]) == [6.0, 12.0]
    narrow = drawn[drawn["args"].str.contains("scale")]
    means = rows[rows["at"] == "averaged"]
    assert sorted(narrow["test_loss"]) == pytest.approx(sorted(means["test_loss"]), rel=1e-4)
