"""Measurements of what other measurements have left: the whole way from a sweep to its rows."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from phasegrid import load_sweep
from phasegrid.jobs import Artifact, Plan
from phasegrid.plan.plan import make_plan
from phasegrid.run.run import RunTarget, run_sweep
from phasegrid.run.worker import pack as worker
from phasegrid.store.store import Store

CHAIN = """\
schema: 1
name: chain
dataset: {name: digits}
model: {name: mlp, width: 4}
train: {epochs: 2, batch_size: 64, lr: 0.1, stop: null, keep_every: 1}
load: {param: model.width, values: [2, 4]}
seeds: 2
metrics:
  - ensemble: {of: bent, points: 3}
  - plane: {of: bent, points: 3, examples: 50}
  - connectivity: {id: bent, epochs: 1, points: 3}
  - accuracy: {over: trajectory, at: [0, 2]}
  - cka: {examples: 32, over: across, where: {model.width: [2, 4], seed: 0}}
"""
MEASURED = ("ensemble", "plane", "connectivity", "accuracy", "cka")
SILENT = Console(quiet=True)


def planned(folder: Path, text: str = CHAIN) -> Any:
    path = folder / "chain.yaml"
    path.write_text(text)
    return load_sweep(path)


def run(sweep: Any, store: Store) -> int:
    where = RunTarget(serial=True, device="cpu")
    return run_sweep(sweep, store, where, SILENT, quiet=True, limit=None).exit_code


def rows(store: Store, metric: str) -> list[dict[str, Any]]:
    passing = {"created_at", "seconds", "host"}
    found = store.read_table(f"metrics/{metric}").to_pylist()
    kept = [{k: v for k, v in row.items() if k not in passing} for row in found]
    return sorted(kept, key=lambda row: row["key"])


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store, Any]:
    folder = tmp_path_factory.mktemp("chain")
    sweep = planned(folder)
    store = Store.open(str(folder / "store"), create=True)
    assert run(sweep, store) == 0
    return make_plan(sweep), store, sweep


def test_a_chain_of_three_is_measured_to_its_end(chain: tuple[Plan, Store, Any]) -> None:
    plan, store, _ = chain
    for cell in plan.cells:
        (bent,) = [job for job in cell.metric_jobs if job.metric.name == "connectivity"]
        for name in ("ensemble", "plane"):
            (job,) = [job for job in cell.metric_jobs if job.metric.name == name]
            (row,) = store.read_table(f"metrics/{name}", keys=[job.key]).to_pylist()
            assert row["outcome"] == "done"
            assert row["over"] == "pair"
            assert json.loads(row["inputs"]) == [[bent.key, "curve"]]
            assert row["trials"] == [trial.key for trial in cell.trials]


def test_the_bends_that_are_left_are_those_that_were_measured(
    chain: tuple[Plan, Store, Any],
) -> None:
    """The ensemble of the points of a curve has as the mean of its networks' own losses the mean of
    the losses that mode connectivity measured there; the ends of a plane are those of its curve.
    """
    _, store, _ = chain
    (curve, *_), (ensemble, *_), (plane, *_) = (
        sorted(rows(store, name), key=lambda row: row["trials"])
        for name in ("connectivity", "ensemble", "plane")
    )
    assert curve["trials"] == ensemble["trials"] == plane["trials"]
    for name in ("train_loss", "train_error_percent", "test_loss", "test_error_percent"):
        mean = sum(curve[name]) / len(curve[name])
        assert ensemble[f"mean_{name}"] == pytest.approx(mean, rel=1e-6)
    assert ensemble["train_loss"] <= ensemble["mean_train_loss"]
    assert ensemble["num_networks"] == 3


def test_a_row_names_what_its_job_left_with_its_checksum(chain: tuple[Plan, Store, Any]) -> None:
    _, store, _ = chain
    for row in rows(store, "connectivity"):
        digests = json.loads(row["artifacts"])
        name = f"artifacts/{row['key'][:2]}/{row['key']}.curve.safetensors"
        assert digests == {"curve": hashlib.sha256(store.files.read(name)).hexdigest()}
        bends = store.read_artifact(Artifact(row["key"], "curve"))["bends"]
        assert bends.dtype == torch.float32
        assert len(bends) == 1


def test_checkpoints_along_a_trial_are_measured_one_by_one(chain: tuple[Plan, Store, Any]) -> None:
    plan, store, _ = chain
    found = {row["inputs"]: row for row in rows(store, "accuracy")}
    for cell in plan.cells:
        for trial in cell.trials:
            (final,) = store.read_table("trials", keys=[trial.key]).to_pylist()
            losses = [
                found[json.dumps([[trial.key, f"weights@epoch-{n}"]], separators=(",", ":"))]
                for n in (0, 2)
            ]
            assert losses[0]["train_loss"] > losses[1]["train_loss"]
            if final["kept_epoch"] == 2:
                assert losses[1]["train_loss"] == pytest.approx(final["train_loss"], rel=1e-6)


def test_trials_across_cells_are_measured_together_and_belong_to_no_cell(
    chain: tuple[Plan, Store, Any],
) -> None:
    plan, store, _ = chain
    ((_, job),) = plan.across
    firsts = [cell.trials[0].key for cell in plan.cells]
    assert sorted(job.trials) == sorted(firsts)
    (row,) = rows(store, "cka")
    assert row["over"] == "across"
    assert sorted(row["trials"]) == sorted(firsts)
    planned_jobs = store.read_table("plan_jobs").to_pylist()
    assert [row["metric"] for row in planned_jobs if row["cell"] is None] == ["cka"]


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_chain_that_was_stopped_and_goes_on_has_the_same_rows(
    chain: tuple[Plan, Store, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    _, whole, sweep = chain
    store = Store.open(str(tmp_path / "store"), create=True)
    calls = 0
    real = worker.do

    def die(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(worker, "do", die)
        with pytest.raises(KeyboardInterrupt):
            run(sweep, store)
    assert run(sweep, store) == 0
    for metric in MEASURED:
        assert rows(store, metric) == rows(whole, metric)
