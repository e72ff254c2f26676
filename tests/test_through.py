"""Measurements that are planned through what another metric leaves of each network."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import phasegrid
from phasegrid.config.load import load_sweep
from phasegrid.config.through import with_through
from phasegrid.datasets import DATASETS
from phasegrid.datasets.load import load_dataset
from phasegrid.errors import SweepError
from phasegrid.jobs import Part
from phasegrid.metrics import METRICS
from phasegrid.metrics.ensemble.scaling import fitted_temperature
from phasegrid.metrics.predictions import compute as predicting
from phasegrid.plan.plan import make_plan
from phasegrid.run.run import RunTarget, run_sweep
from phasegrid.store.results import Results
from phasegrid.store.store import Store

HEAD = """\
schema: 1
name: through
dataset: {name: digits, aside: 0.1}
model: {name: mlp, width: 4}
train: {epochs: 2, batch_size: 64, lr: 0.1, stop: null, keep: last, checkpoints: {every_epochs: 1}}
load: {param: model.width, values: [2, 4]}
seeds: 2
metrics:
"""
MANY = """\
  - connectivity: {id: bent, epochs: 1, points: 3}
  - ensemble: {of: bent, points: 3}
  - ensemble
  - ensemble: {ece_bins: 5}
  - ensemble: {over: trajectory, at: [1, 2]}
  - ensemble: {over: across}
  - predictions: {train: true}
"""


def sweep_of(folder: Path, text: str) -> Any:
    path = folder / "through.yaml"
    path.write_text(text, encoding="utf-8")
    return load_sweep(path)


def run(sweep: Any, store: Store) -> Any:
    where = RunTarget(serial=True, device="cpu")
    return run_sweep(sweep, store, where, Console(quiet=True), quiet=True, limit=None)


def opened(store: Store) -> Results:
    return phasegrid.open(store.url)


def test_each_network_has_one_prediction_whatever_reads_it(tmp_path: Path) -> None:
    plan = make_plan(sweep_of(tmp_path, HEAD + MANY))
    keys = [job.key for _, job in plan.metric_jobs()]
    assert max(Counter(keys).values()) == 1
    jobs = [job for _, job in plan.metric_jobs() if job.metric.name == "predictions"]
    assert Counter(len(job.trials) for job in jobs) == {1: 4 + 8, 2: 2}  # as saved, along, of
    asked = make_plan(sweep_of(tmp_path, f"{HEAD}  - predictions: {{train: true}}\n"))
    assert {job.key for _, job in asked.metric_jobs()} <= set(keys)
    along = "  - predictions: {train: true, over: trajectory, at: [1, 2]}\n"
    asked = make_plan(sweep_of(tmp_path, HEAD + along))
    assert {job.key for _, job in asked.metric_jobs()} <= set(keys)


@pytest.mark.parametrize(
    ("request_", "found"),
    [
        ("ensemble: {points: 9}", "ensemble.points: found 9"),
        ("ensemble: {refresh_examples: 64}", "ensemble.refresh_examples: found 64"),
        ("predictions: {points: 3}", "predictions.points: found 3"),
        ("plane: {over: trajectory, at: [0, 1, 2], bend: 1}", "plane.bend: found 1"),
    ],
)
def test_what_is_about_a_curve_is_a_mistake_without_one(
    tmp_path: Path, request_: str, found: str
) -> None:
    with pytest.raises(SweepError, match=found + r", but no curve.*; leave it out, or write of:"):
        sweep_of(tmp_path, f"{HEAD}  - {request_}\n")


def test_networks_of_different_data_are_judged_on_the_same_examples(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"), create=True)
    head = HEAD.replace("model.width, values: [2, 4]", "dataset.fraction, values: [0.5, 1.0]")
    text = "  - ensemble: {over: across, where: {seed: 0}, scaling: temperature}\n"
    assert run(sweep_of(tmp_path, head + text), store).exit_code == 0
    results = opened(store)
    (row,) = results.metric("ensemble", "through").to_dict("records")
    data = load_dataset(Part("digits", DATASETS["digits"].version, {"aside": 0.1, "fraction": 0.5}))
    models = [results.model(key) for key in row["trials"]]
    p = torch.stack([predicting.predict(m, data.test_inputs).double().softmax(1) for m in models])
    found = -p.mean(0)[torch.arange(len(data.test_labels)), data.test_labels].log().mean()
    assert row["test_loss"] == pytest.approx(float(found), rel=1e-9)
    aside = [predicting.predict(m, data.aside_inputs) for m in models]
    scales = [fitted_temperature(logits, data.aside_labels) for logits in aside]
    assert row["member_scale"] == pytest.approx(scales, rel=1e-6)
    alone = results.measure("ensemble", row["trials"], scaling="temperature")
    assert alone["key"].tolist() == [row["key"]]


def test_a_second_ensemble_passes_nothing_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(str(tmp_path / "store"), create=True)
    passes = []
    predict = predicting.predict
    monkeypatch.setattr(predicting, "predict", lambda *a: passes.append(a) or predict(*a))
    assert run(sweep_of(tmp_path, f"{HEAD}  - ensemble\n"), store).exit_code == 0
    assert len(passes) == 4 * 3  # networks times sets
    for file in (tmp_path / "store" / "checkpoints").rglob("*.safetensors"):
        file.unlink()
    more = "  - ensemble: {scaling: temperature}\n  - ensemble: {over: across, ece_bins: 3}\n"
    assert run(sweep_of(tmp_path, HEAD + more), store).exit_code == 0
    assert len(passes) == 4 * 3
    rows = opened(store).metric("ensemble", "through")
    assert (rows["scaled_test_loss"].notna() == ~rows["across"]).all()


def test_what_reads_predictions_that_failed_is_blocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(str(tmp_path / "store"), create=True)
    sweep = sweep_of(tmp_path, f"{HEAD}  - ensemble\n")

    def fail(*_args: object) -> None:
        raise ValueError("no pass today")

    with monkeypatch.context() as patch:
        patch.setattr(predicting, "predict", fail)
        result = run(sweep, store)
    assert (result.counts.failed, result.counts.blocked) == (4, 2)
    assert run(sweep, store).exit_code == 0


def test_predictions_of_a_network_that_diverged_are_a_result_and_so_is_what_reads_them(
    tmp_path: Path,
) -> None:
    store = Store.open(str(tmp_path / "store"), create=True)
    text = HEAD.replace("lr: 0.1", "lr: 1.0e+30")
    assert run(sweep_of(tmp_path, f"{text}  - ensemble\n"), store).exit_code == 0
    for name in ("predictions", "ensemble"):
        rows = opened(store).metric(name, "through")
        assert set(rows["outcome"]) == {"not_applicable"}
        assert rows["reason"].str.contains("diverged").all()


def test_figures_name_an_ensemble_by_what_it_is_of(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"), create=True)
    assert run(sweep_of(tmp_path, HEAD + MANY), store).exit_code == 0
    rows = opened(store).metric("ensemble", "through")
    assert set(rows["variant"].dropna()) == {"", "of=bent, points=3", "ece_bins=5", "at=1+2"}
    assert sorted(rows["across"]) == [False] * 10 + [True]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEAD.replace(", aside: 0.1", ""), "the data set sets no examples aside"),
        (HEAD.replace("epochs: 2", "epochs: 2, objective: mse"), "mse has no probabilities"),
        (
            HEAD.replace("epochs: 2", "epochs: 2, objective: {name: poisoned, share: 0.05}"),
            "poisoned trains on the examples set aside",
        ),
    ],
)
def test_temperatures_that_cannot_be_fitted_are_a_mistake(
    tmp_path: Path, text: str, told: str
) -> None:
    with pytest.raises(SweepError, match=f":9:\\d+: metrics.0.ensemble.scaling: .*{told}"):
        sweep_of(tmp_path, f"{text}  - ensemble: {{scaling: temperature}}\n")


def test_the_epochs_of_an_ensemble_count_every_training_behind_its_networks_once(
    tmp_path: Path,
) -> None:
    more = "{epochs: 3, checkpoints: {every_epochs: 1}}"
    stage = f"stages: [{{name: on, from: {{stage: train, epoch: 1}}, train: {more}}}]\n"
    text = HEAD.replace("metrics:\n", f"{stage}metrics:\n").replace("[2, 4]", "[2]")
    store = Store.open(str(tmp_path / "store"), create=True)
    own = "  - ensemble: {over: cell, at: [2, 3]}\n  - ensemble: {stage: train}\n"
    assert run(sweep_of(tmp_path, text + own), store).exit_code == 0
    rows = opened(store).metric("ensemble", "through").set_index("stage")
    assert rows.loc["on", "first_epochs"].tolist() == [3, 4, 4 + 3, 4 + 4]
    assert rows.loc["train", "first_epochs"].tolist() == [2, 4]


def test_an_ensemble_joins_the_points_of_all_curves_of_a_cell(tmp_path: Path) -> None:
    text = HEAD.replace("seeds: 2", "seeds: 3").replace("[2, 4]", "[2]")
    text = text.replace("aside: 0.1", "fraction: 0.2")
    more = """\
  - connectivity: {id: bent, epochs: 1, points: 3, pairs: all}
  - ensemble: {of: bent, points: 3, over: cell}
  - ensemble: {of: bent, points: 3, over: cell, runs: 2}
  - ensemble: {of: bent, points: 3}
"""
    store = Store.open(str(tmp_path / "store"), create=True)
    assert run(sweep_of(tmp_path, text + more), store).exit_code == 0
    rows = opened(store).metric("ensemble", "through").set_index("variant")
    way = "of=bent, points=3, runs={}".format
    every, two, each = (rows.loc[[one]] for one in (way("all"), way(2), ""))
    assert (len(every), len(two), len(each)) == (1, 1, 3)
    assert every["num_networks"].tolist() == [9]
    assert every["t"].iloc[0].tolist() == [0, 0.5, 1] * 3
    # the curves between 0 and 1, 0 and 2, 1 and 2; each epoch of a training or a curve is a pass
    assert every["first_components_passes"].iloc[0].tolist() == [2 + 2 + 1, 2 + 1 + 5, 1 + 8]
    lists = every["first_components_test_error_percent"].iloc[0]
    first = each[(each["seed_a"] == 0) & (each["seed_b"] == 1)]["test_error_percent"]
    assert lists[0] == first.iloc[0]
    assert lists[1] == two["test_error_percent"].iloc[0]
    losses = [one for row in each["member_test_loss"] for one in row]
    assert sorted(every["member_test_loss"].iloc[0]) == sorted(losses)


def test_an_ensemble_joins_the_points_of_the_simplexes_of_all_trials(tmp_path: Path) -> None:
    text = HEAD.replace("[2, 4]", "[2]").replace("aside: 0.1", "fraction: 0.1")
    more = """\
  - espro: {id: grown, connectors: 2, epochs: 3, samples: 2}
  - simplex: {id: between, connectors: 1, epochs: 1, samples: 4}
  - ensemble: {of: grown, points: 3, over: cell, train: false}
  - ensemble: {of: between, points: 3, train: false}
"""
    store = Store.open(str(tmp_path / "store"), create=True)
    assert run(sweep_of(tmp_path, text + more), store).exit_code == 0
    results = opened(store)
    rows = results.metric("ensemble", "through").set_index("of")
    assert rows.loc["grown", "num_networks"] == 2 * 3
    took = 2 + 2 * 3 * 2  # a training, and two connectors of three epochs at two points
    assert rows.loc["grown", "first_components_passes"].tolist() == [took, 2 * took]
    assert rows.loc["between", "first_components_passes"].tolist() == [2 + 2 + 4]
    keys = results.metric("predictions", "through").query("over == 'trial'")["key"]
    at = [results.weights(key, "predictions")["coefficients"] for key in keys]
    assert [one.shape for one in at] == [(3, 3)] * 2
    assert not at[0].equal(at[1])  # each job draws its own


OWN = """\
from dataclasses import dataclass
from phasegrid.declare import Column, Metric

@dataclass(frozen=True, slots=True)
class Args:
    power: int = 1

def compute(models, data, rng, sources, power):
    return {"num": float(sum(source.tensors["test"].shape[0] for source in sources)) ** power}

OWN = Metric(over="cell", args=Args, compute=compute, reads=("curve",), through="predictions",
             columns=(Column("num", "float64", "", "networks that it read"),))
"""


def test_a_metric_of_a_user_reads_the_same_predictions(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    metrics = "  - own.py:OWN\n  - predictions\n"
    plan = make_plan(sweep := sweep_of(tmp_path, HEAD + metrics))
    names = Counter(job.metric.name for _, job in plan.metric_jobs())
    assert names == {"predictions": 4, "own.py:OWN": 2}
    store = Store.open(str(tmp_path / "store"), create=True)
    assert run(sweep, store).exit_code == 0
    assert opened(store).metric("own.py:OWN", "through")["num"].tolist() == [2, 2]


def test_ensembles_of_networks_on_text_are_planned_without_predictions(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, f"{HEAD}  - ensemble\n")
    (request,), (point, *_) = sweep.metrics, sweep.points
    assert request.through is not None
    plain = replace(request, through=None, reads=None)
    text = replace(point, facts=replace(point.facts, task="language"))
    args = {"points": 5, "train": True}
    assert with_through(plain, METRICS["ensemble"], args, [point]).through is not None
    for points in ([text], [point, text], [replace(point, facts=None)]):
        assert with_through(plain, METRICS["ensemble"], args, points) is plain
