"""Measurements of what other measurements have left: the whole way from a sweep to its rows."""

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.nn import functional

import phasegrid
from phasegrid import load_sweep
from phasegrid.analysis.tables.load import load_grid
from phasegrid.cli.render import plan_text, status_text
from phasegrid.datasets.load import load_dataset
from phasegrid.errors import StoreError
from phasegrid.jobs import Artifact
from phasegrid.metrics.connectivity import compute as connectivity
from phasegrid.plan.contents import Plan
from phasegrid.plan.plan import make_plan
from phasegrid.run.places import RunTarget
from phasegrid.run.run import run_sweep
from phasegrid.run.status import stored_jobs
from phasegrid.run.verify import verify
from phasegrid.run.worker import pack as worker
from phasegrid.store import artifacts, row_files
from phasegrid.store.gc import delete_garbage, find_garbage
from phasegrid.store.repair import find_damage
from phasegrid.store.results import Results
from phasegrid.store.store import Store
from phasegrid.store.tables import read_shard, shard_name
from phasegrid.submit.logs import failures_text

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
            inputs = json.loads(row["inputs"])
            if name == "ensemble":  # it reads what the points of the curve predict
                ((key, artifact),) = inputs
                assert artifact == "predictions"
                (row_before,) = store.read_table("metrics/predictions", keys=[key]).to_pylist()
                inputs = json.loads(row_before["inputs"])
            assert inputs == [[bent.key, "curve"]]
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


def curve_of(store: Store, key: str) -> Path:
    return Path(store.files.path(artifacts.file_names(Artifact(key, "curve"))[0]))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("harm", "deep"),
    [(Path.unlink, False), (cut, False), (flip, True)],
    ids=["gone", "cut", "flip"],
)
def test_a_lost_artifact_is_named_and_made_again(
    chain: tuple[Plan, Store, Any], tmp_path: Path, harm: Callable[[Path], None], deep: bool
) -> None:
    _, whole, sweep = chain
    shutil.copytree(whole.url, tmp_path / "store")
    store = Store.open(str(tmp_path / "store"))
    assert verify(store, deep=True) == []
    key = rows(store, "connectivity")[0]["key"]
    harm(curve_of(store, key))
    (problem,) = verify(store, deep=deep)
    assert f"{key}.curve.safetensors" in problem.where
    assert "measure it again" in problem.what
    delete_garbage(store, find_damage(store, deep).garbage)
    assert not store.has("metrics/connectivity", key)
    assert run(sweep, store) == 0
    assert verify(store, deep=True) == []
    assert rows(store, "connectivity") == rows(whole, "connectivity")


def test_a_measurement_of_a_lost_artifact_fails_and_says_what_to_do(
    chain: tuple[Plan, Store, Any], tmp_path: Path
) -> None:
    _, whole, sweep = chain
    shutil.copytree(whole.url, tmp_path / "store")
    store = Store.open(str(tmp_path / "store"))
    (row, *_) = rows(store, "plane")
    ((key, _),) = json.loads(row["inputs"])
    curve_of(store, key).unlink()
    Path(store.files.path(shard_name("metrics/plane", row["key"]))).unlink()
    assert run(sweep, store) == 1
    (failure,) = store.read_table("failures").to_pylist()
    assert failure["key"] == row["key"]
    assert re.search(r"curve.safetensors does not exist; .*measure it again", failure["exception"])


def test_what_no_row_names_is_collected(chain: tuple[Plan, Store, Any], tmp_path: Path) -> None:
    _, whole, _ = chain
    shutil.copytree(whole.url, tmp_path / "store")
    store = Store.open(str(tmp_path / "store"))
    key = rows(store, "connectivity")[0]["key"]
    Path(store.files.path(shard_name("metrics/connectivity", key))).unlink()
    for path in (tmp_path / "store").rglob("*"):
        os.utime(path, (0, 0))
    found = find_garbage(store).garbage
    assert [(item.kind, Path(item.name).name) for item in found] == [
        ("remains", f"{key}.curve.safetensors")
    ]


def test_artifacts_of_a_measurement_that_no_plan_names_go_after_its_rows(
    chain: tuple[Plan, Store, Any], tmp_path: Path
) -> None:
    _, whole, _ = chain
    shutil.copytree(whole.url, tmp_path / "store")
    store = Store.open(str(tmp_path / "store"))
    text = CHAIN.replace("  - ensemble: {of: bent, points: 3}\n", "")
    text = text.replace("  - plane: {of: bent, points: 3, examples: 50}\n", "")
    text = text.replace("  - connectivity: {id: bent, epochs: 1, points: 3}\n", "")
    assert run(planned(tmp_path, text), store) == 0
    for path in (tmp_path / "store").rglob("*"):
        os.utime(path, (0, 0))
    names = [item.name for item in find_garbage(store, orphans_too=True).garbage]
    curves = [f"artifacts/{k[:2]}/{k}.curve.safetensors" for k in keys_of(whole, "connectivity")]
    assert set(curves) <= set(names)
    for key, curve in zip(keys_of(whole, "connectivity"), curves, strict=True):
        assert names.index(shard_name("metrics/connectivity", key)) < names.index(curve)


def keys_of(store: Store, metric: str) -> list[str]:
    return [row["key"] for row in rows(store, metric)]


def test_curves_of_an_earlier_release_are_trained_again_only_where_they_are_wanted(
    chain: tuple[Plan, Store, Any], tmp_path: Path
) -> None:
    """Rows of an earlier release do not say what was left; nothing was."""
    _, whole, sweep = chain
    shutil.copytree(whole.url, tmp_path / "store")
    store = Store.open(str(tmp_path / "store"))
    for key in keys_of(store, "connectivity"):
        path = Path(store.files.path(shard_name("metrics/connectivity", key)))
        table = read_shard(
            store.files, "metrics/connectivity", shard_name("metrics/connectivity", key)
        )
        assert table is not None
        path.write_bytes(row_files.encode(table.drop_columns(["artifacts", "inputs"])))
        curve_of(store, key).unlink()
    for metric in ("ensemble", "plane"):
        shutil.rmtree(tmp_path / "store" / "metrics" / metric)
    plain = "\n".join(line for line in CHAIN.splitlines() if "of: bent" not in line)
    (tmp_path / "plain").mkdir()
    alone = make_plan(planned(tmp_path / "plain", plain))
    assert keys_of(store, "connectivity")[0] in stored_jobs(store, alone)
    assert keys_of(store, "connectivity")[0] not in stored_jobs(store, make_plan(sweep))
    assert run(sweep, store) == 0
    assert verify(store, deep=True) == []
    for metric in MEASURED:
        assert rows(store, metric) == rows(whole, metric)


def test_what_waits_for_a_measurement_that_failed_is_blocked_and_the_culprit_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, store = planned(tmp_path), Store.open(str(tmp_path / "store"), create=True)

    def fail(*_args: Any, **_more: Any) -> None:
        raise ValueError("no curve today")

    with monkeypatch.context() as patch:
        patch.setattr(connectivity, "compute", fail)
        where = RunTarget(serial=True, device="cpu")
        result = run_sweep(sweep, store, where, SILENT, quiet=True, limit=None)
    assert result.exit_code == 1
    assert (result.counts.failed, result.counts.blocked) == (2, 6)
    curves = {
        job.key
        for c in make_plan(sweep).cells
        for job in c.metric_jobs
        if job.request.wanted == ("curve",)
    }
    blocked = {why for why in result.failures.values() if why.startswith("blocked")}
    assert blocked == {f"blocked: connectivity {key} failed" for key in curves}
    assert len(rows(store, "cka")) == 1
    text = status_text(store, None, as_json=False)
    for key in curves:
        assert f"blocked: 3 waiting for connectivity {key}" in text
    assert run(sweep, store) == 0
    assert "blocked" not in status_text(store, None, as_json=False)


def test_figures_tell_ways_of_reading_apart_and_leave_out_what_is_of_no_cell(
    chain: tuple[Plan, Store, Any],
) -> None:
    _, store, _ = chain
    tables = load_grid(phasegrid.open(store.url), "chain")
    names = set(tables.values["quantity"])
    assert {"ensemble_test_loss", "test_ece[at=0]", "test_ece[at=2]"} <= names
    assert not any(name.startswith("cka") for name in names)
    assert len(phasegrid.open(store.url).metric("cka", "chain")) == 1


def test_stored_networks_are_ready_to_be_used(chain: tuple[Plan, Store, Any]) -> None:
    plan, store, _ = chain
    results, trial = phasegrid.open(store.url), plan.cells[1].trials[0]
    data = load_dataset(trial.dataset)
    (row,) = store.read_table("trials", keys=[trial.key]).to_pylist()
    network = results.model(trial.key)
    assert not network.training
    logits = network(data.test_inputs).detach().double()
    loss = functional.cross_entropy(logits, data.test_labels)
    assert float(loss) == pytest.approx(row["test_loss"], rel=1e-6)
    first = results.model(trial.key, "weights@epoch-0").state_dict()
    left = results.weights(trial.key, "weights@epoch-0")
    assert all(torch.equal(first[name], value) for name, value in left.items())
    name = next(iter(first))
    assert not torch.equal(first[name], network.state_dict()[name])
    with pytest.raises(
        StoreError, match=r"is not the weights of a network; allowed: weights, weights@epoch"
    ):
        results.model(trial.key, "curve")
    with pytest.raises(StoreError, match="there is no trial"):
        results.model("0" * 32)
    with pytest.raises(StoreError, match=r"open it with phasegrid\.open"):
        Results(store).model(trial.key)


def test_why_names_the_input_that_changed_and_what_changed_in_it(
    chain: tuple[Plan, Store, Any], tmp_path: Path
) -> None:
    _, store, _ = chain
    text = CHAIN.replace("{id: bent, epochs: 1", "{id: bent, epochs: 2")
    said = plan_text(planned(tmp_path, text), store, why=True, slots=1, as_json=False)
    assert "8 measurements take the place of stored ones of the same trials" in said
    assert "  2 x connectivity: epochs: 1 -> 2" in said
    of_curve = "its input curve, of connectivity: epochs: 1 -> 2"
    assert f"  2 x ensemble: its input predictions, of predictions: {of_curve}" in said
    assert "  2 x plane: its input curve, of connectivity: epochs: 1 -> 2" in said
    text = CHAIN.replace("{id: bent, epochs: 1", "{id: bent, augment: flip_crop, epochs: 1")
    said = plan_text(planned(tmp_path, text), store, why=True, slots=1, as_json=False)
    assert "  2 x connectivity: augment: none -> flip_crop\n" in said
    whole = plan_text(planned(tmp_path), store, why=True, slots=1, as_json=False)
    assert "nothing in the store is stale" in whole


ALONG = """\
  - connectivity: {id: along, over: trajectory, at: [1, 2], epochs: 1, points: 3}
  - plane: {of: along, points: 2, margin: 0}
  - accuracy: {over: trajectory, at: [1, 2]}
"""


def test_a_plane_of_a_curve_along_a_training_is_between_its_checkpoints(tmp_path: Path) -> None:
    head = CHAIN.partition("metrics:\n")[0].replace("seeds: 2", "seeds: 1")
    sweep = planned(tmp_path, f"{head}metrics:\n{ALONG}".replace("[2, 4]", "[4]"))
    store = Store.open(str(tmp_path / "store"), create=True)
    assert run(sweep, store) == 0
    (plane,) = rows(store, "plane")
    at = {row["inputs"]: row["test_loss"] for row in rows(store, "accuracy")}
    ends = [loss for _, loss in sorted(at.items())]
    assert plane["test_loss"][0] == pytest.approx(ends, rel=1e-4)  # float32 weights, mixed


FAULTY = """\
from dataclasses import dataclass
from phasegrid.declare import Column, Metric

@dataclass(frozen=True, slots=True)
class Args:
    scale: float = 1.0

def compute(models, data, rng, scale):
    if len(data.train_inputs) > 2:
        raise RuntimeError("cannot measure this")
    return {"value": scale}

FAULTY = Metric(over="cell", args=Args, compute=compute,
                columns=(Column("value", "float64", "", "a number"),))
"""


def test_the_tracebacks_of_a_measurement_across_cells_are_those_of_each_of_them(
    tmp_path: Path,
) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY)
    head = CHAIN.partition("metrics:\n")[0].replace("[2, 4]", "[2, 4, 8]")
    metric = "  - faulty.py:FAULTY: {over: across, where: {model.width: [4, 8]}}\n"
    store = Store.open(str(tmp_path / "store"), create=True)
    assert run(planned(tmp_path, f"{head}metrics:\n{metric}"), store) == 1
    told = {cell: "cannot measure this" in failures_text(store, None, cell) for cell in range(3)}
    assert told == {0: False, 1: True, 2: True}


def test_a_lost_artifact_that_a_new_measurement_reads_is_told_before_the_start(
    tmp_path: Path,
) -> None:
    head = CHAIN.partition("metrics:\n")[0] + "metrics:\n"
    curve = "  - connectivity: {id: bent, epochs: 1, points: 3}\n"
    store = Store.open(str(tmp_path / "store"), create=True)
    assert run(planned(tmp_path, f"{head}{curve}  - ensemble: {{of: bent}}\n"), store) == 0
    next(Path(tmp_path / "store" / "artifacts").rglob("*.curve.safetensors")).unlink()
    assert run(planned(tmp_path, f"{head}{curve}  - ensemble: {{of: bent}}\n"), store) == 0
    more = planned(tmp_path, f"{head}{curve}  - plane: {{of: bent, points: 2, examples: 50}}\n")
    told = (
        r"will fail: the files of curve of connectivity, cell \d.* gc --damaged --delete --storage"
    )
    assert re.search(told, plan_text(more, store, False, 1, False))
    said = Console(record=True, file=io.StringIO())
    where = RunTarget(serial=True, device="cpu")
    assert run_sweep(more, store, where, said, quiet=True, limit=None).exit_code == 1
    assert re.search(told, said.export_text())
    delete_garbage(store, find_damage(store).garbage)
    assert run(more, store) == 0
    assert len(rows(store, "plane")) == 2


def test_what_a_measurement_never_leaves_is_told(chain: tuple[Plan, Store, Any]) -> None:
    _, store, _ = chain
    row, *_ = rows(store, "ensemble")
    with pytest.raises(StoreError, match="this ensemble left no curve; it left: nothing"):
        phasegrid.open(store.url).weights(row["key"], "curve")
    curve, *_ = rows(store, "connectivity")
    with pytest.raises(StoreError, match="this connectivity left no moments; it left: curve"):
        phasegrid.open(store.url).weights(curve["key"], "moments")
