"""A sweep from its file to rows, in this process: what a user of ``phasegrid run`` can rely on."""

import json
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

import phasegrid
from phasegrid import load_sweep
from phasegrid.cli.main import app
from phasegrid.errors import DataError
from phasegrid.run.places import RunTarget
from phasegrid.run.run import run_sweep
from phasegrid.store.store import Store

SWEEP = """\
schema: 1
name: small
dataset: {name: digits, fraction: 0.1}
model: {name: mlp, depth: 1}
train: {batch_size: 32, epochs: 2, stop: null}
load: {param: model.width, values: [2, 4]}
temperature: {param: train.lr, values: [0.01, 0.1]}
seeds: 2
metrics: [accuracy, distance]
"""
PLUGIN = '''\
"""A metric that cannot do width 4."""
from dataclasses import dataclass
from phasegrid.declare import Column, Metric

@dataclass(frozen=True)
class Args:
    scale: float = 1.0

def compute(models, data, rng, scale):
    size = sum(p.numel() for p in models[0].parameters())
    if size > 200:
        raise RuntimeError("too wide for me")
    return {"size": scale * size}

SIZE = Metric(over="trial", args=Args, columns=(Column("size", "float64", "", "parameters"),), compute=compute)
'''


def invoke(*args: str) -> tuple[int, str]:
    from phasegrid.errors import PhasegridError

    result = CliRunner().invoke(app, list(args))
    if result.exception and not isinstance(result.exception, (SystemExit, PhasegridError)):
        raise result.exception
    return result.exit_code, result.output


def run(tmp_path: Path, text: str = SWEEP, name: str = "s.yaml", *more: str) -> tuple[int, str]:
    (tmp_path / name).write_text(text)
    return invoke(
        "run", str(tmp_path / name), "--storage", str(tmp_path / "store"), "--serial", "--no-plot", "-q", *more
    )  # fmt: skip


def keys(tmp_path: Path, table: str = "trials") -> set[str]:
    return set(pd.read_parquet(tmp_path / "store" / table)["key"])


def test_extending_an_axis_runs_only_the_new_cells(tmp_path: Path) -> None:
    assert run(tmp_path)[0] == 0
    before = pd.read_parquet(tmp_path / "store/trials").set_index("key")
    code, said = run(tmp_path, SWEEP.replace("[2, 4]", "[2, 4, 8]"))
    assert code == 0
    assert "24 stored" not in said
    assert "20 stored, 10 to do" in said
    after = pd.read_parquet(tmp_path / "store/trials").set_index("key")
    pd.testing.assert_frame_equal(after.loc[before.index], before)
    assert len(after) == 12


FIGURES = """\
figures:
  - panels: {name: fig06, quantities: [test_accuracy]}
"""


def test_a_run_keeps_the_figures_also_where_nothing_is_to_do(tmp_path: Path) -> None:
    assert run(tmp_path, SWEEP + FIGURES)[0] == 0
    results = phasegrid.open(str(tmp_path / "store"))
    assert [figure.name for figure in results.figures("small")] == ["fig06"]
    code, said = run(tmp_path, SWEEP + FIGURES.replace("fig06", "fig07"))
    assert code == 0
    assert "20 stored, 0 to do" in said
    assert [figure.name for figure in results.figures("small")] == ["fig07"]
    assert run(tmp_path)[0] == 0
    assert results.figures("small") == []
    assert invoke("verify", "small", "--storage", str(tmp_path / "store"))[0] == 0


def test_figures_and_plans_alone_are_something_new_to_draw(tmp_path: Path) -> None:
    def is_new(text: str) -> tuple[int, bool]:
        (tmp_path / "s.yaml").write_text(text)
        sweep, console = load_sweep(tmp_path / "s.yaml"), Console(quiet=True)
        store = Store.open(str(tmp_path / "store"), create=True)
        result = run_sweep(sweep, store, RunTarget(serial=True), console, True, None)
        return result.exit_code, result.is_news

    assert [is_new(SWEEP), is_new(SWEEP)] == [(0, True), (0, False)]
    assert [is_new(SWEEP + FIGURES), is_new(SWEEP + FIGURES)] == [(0, True), (0, False)]
    fewer = SWEEP.replace("accuracy, distance", "distance")  # figures show what is planned
    assert [is_new(fewer), is_new(fewer)] == [(0, True), (0, False)]


def test_a_damaged_plan_is_replaced_and_drawn(tmp_path: Path) -> None:
    assert run(tmp_path)[0] == 0
    (tmp_path / "store/plans/small.parquet").write_bytes(b"damaged")
    store, console = Store.open(str(tmp_path / "store")), Console(quiet=True)
    sweep = load_sweep(tmp_path / "s.yaml")
    result = run_sweep(sweep, store, RunTarget(serial=True), console, True, None)
    assert result.exit_code == 0
    assert result.is_news
    assert len(store.read_plan("small")) == 8


def test_facets_over_whole_fields_run_and_are_read(tmp_path: Path) -> None:
    text = SWEEP.replace("load: {param: model.width, values: [2, 4]}", "facets: [{param: train.schedule, values: "
                         "[linear, {name: step, at_epochs: [1]}]}]")  # fmt: skip
    assert run(tmp_path, text)[0] == 0
    results = phasegrid.open(str(tmp_path / "store"))
    rows = results.metric("accuracy", "small")
    assert sorted({value["name"] for value in rows["facet.train.schedule"]}) == ["linear", "step"]
    assert len(results.cells("small")) == 8


def test_figures_are_named_by_validate_and_plan(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SWEEP + FIGURES)
    path, store = str(tmp_path / "s.yaml"), str(tmp_path / "store")
    assert invoke("validate", path)[1].endswith("metrics: accuracy, distance; figures: fig06\n")
    assert "figures of its own: fig06" in invoke("plan", path, "--storage", store)[1]
    said = invoke("plan", path, "--storage", store, "--json")[1]
    assert json.loads(said)["figures"] == ["fig06"]
    (tmp_path / "s.yaml").write_text(SWEEP)
    assert "; figures" not in invoke("validate", path)[1]
    assert "figures" not in invoke("plan", path, "--storage", store)[1]


def test_a_second_sweep_reuses_the_cells_it_shares(tmp_path: Path) -> None:
    run(tmp_path)
    code, said = run(tmp_path, SWEEP.replace("name: small", "name: other"), "other.yaml")
    assert code == 0
    assert "0 to do" in said
    assert phasegrid.open(str(tmp_path / "store")).sweeps() == ["other", "small"]


def test_a_diverged_training_is_a_result_and_its_metrics_are_not_applicable(tmp_path: Path) -> None:
    code, said = run(tmp_path, SWEEP.replace("[0.01, 0.1]", "[0.01, 1.0e+30]"))
    assert code == 0, said
    trials = pd.read_parquet(tmp_path / "store/trials")
    assert sorted(trials["outcome"]) == ["diverged"] * 4 + ["done"] * 4
    diverged = trials["outcome"] == "diverged"
    # In its first epoch, before one was done; what did not diverge has no such epoch.
    assert set(trials.loc[diverged, "diverged_epoch"]) == {1}
    assert set(trials.loc[diverged, "epochs_run"]) == {0}
    assert trials.loc[~diverged, "diverged_epoch"].isna().all()
    gone = set(trials.loc[diverged, "key"])
    accuracy = pd.read_parquet(tmp_path / "store/metrics/accuracy")
    void = accuracy[accuracy["trial_a"].isin(gone)]
    assert set(void["outcome"]) == {"not_applicable"}
    assert void["train_loss"].isna().all()
    assert void["reason"].str.contains("diverged").all()


def test_a_failing_plug_in_metric_is_a_row_of_failures_and_everything_else_is_done(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    text = SWEEP.replace("[accuracy, distance]", '[accuracy, "mine.py:SIZE"]')
    code, said = run(tmp_path, text)
    assert code == 1
    assert "4 failed" in said
    assert "too wide for me" in said
    failures = pd.read_parquet(tmp_path / "store/failures")
    assert set(failures["kind"]) == {"app"}
    assert failures["traceback"].str.contains("RuntimeError: too wide for me").all()
    assert len(keys(tmp_path, "metrics/accuracy")) == 8
    results = phasegrid.open(str(tmp_path / "store"))
    sizes = results.metric("mine.py:SIZE")
    assert sorted(sizes["size"]) == [160.0] * 4  # 64*2 + 2 + 2*10 + 10
    # The failure is tried again by the next run, and mends itself when the code is mended; what is
    # stored is of the code before.
    (tmp_path / "mine.py").write_text(PLUGIN.replace("> 200", "> 10_000"))
    assert run(tmp_path, text)[0] != 0
    assert run(tmp_path, text, "s.yaml", "--accept-changed-code")[0] == 0


MOODY = '''\
"""A model that cannot be made from some seeds."""
from dataclasses import dataclass
import torch
from phasegrid.declare import Model

@dataclass(frozen=True)
class Args:
    width: int = 1

def make(input_shape, num_classes, width):
    if torch.rand(1) > 0.5:
        raise RuntimeError("not from this seed")
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))

MOODY = Model(args=Args, make=make)
'''


def test_one_bad_trial_of_a_pack_takes_no_other_down(tmp_path: Path) -> None:
    (tmp_path / "moody.py").write_text(MOODY)
    text = SWEEP.replace("{name: mlp, depth: 1}", '{name: "moody.py:MOODY"}').replace(
        "seeds: 2", "seeds: 6"
    )
    code, said = run(tmp_path, text.replace("[2, 4]", "[2]").replace("[0.01, 0.1]", "[0.01]"))
    assert code == 1
    failures = phasegrid.open(str(tmp_path / "store")).failures()
    stored = keys(tmp_path)
    assert 0 < len(failures) < 6
    assert len(stored) == 6 - len(failures)
    assert stored.isdisjoint(failures["key"])
    assert "blocked by a failure" in said


def test_missing_data_is_said_once_before_any_training(tmp_path: Path) -> None:
    text = SWEEP.replace(
        "{name: digits, fraction: 0.1}", f"{{name: cifar10, root: {tmp_path / 'none'}}}"
    )
    (tmp_path / "s.yaml").write_text(text)
    args = [
        "run",
        str(tmp_path / "s.yaml"),
        "--storage",
        str(tmp_path / "store"),
        "--serial",
        "--no-plot",
    ]
    result = CliRunner().invoke(app, args)
    assert isinstance(result.exception, DataError)
    assert str(tmp_path / "none") in str(result.exception)
    assert "download: true" in str(result.exception)
    assert not (tmp_path / "store/failures").exists()


def test_limit_runs_a_pilot_and_says_that_more_is_open(tmp_path: Path) -> None:
    code, _ = run(tmp_path, SWEEP, "s.yaml", "--limit", "1")
    assert code == 3
    assert len(keys(tmp_path)) == 2


def test_plan_status_and_verify_read_the_store(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    (tmp_path / "s.yaml").write_text(SWEEP)
    code, said = invoke("plan", str(tmp_path / "s.yaml"), "--storage", store, "--json")
    assert code == 0
    assert [j["missing"] for j in json.loads(said)["jobs"]] == [8, 8, 4]
    assert not (tmp_path / "store").exists()
    run(tmp_path)
    code, said = invoke("plan", str(tmp_path / "s.yaml"), "--storage", store)
    assert "everything is stored" in said
    changed = SWEEP.replace("epochs: 2", "epochs: 3")
    (tmp_path / "s.yaml").write_text(changed)
    code, said = invoke("plan", str(tmp_path / "s.yaml"), "--storage", store, "--why")
    assert "8 trials: epochs: 2 -> 3" in said
    code, said = invoke("status", "--storage", store, "--json")
    assert json.loads(said)[0]["trials_stored"] == 8
    code, said = invoke("verify", "small", "--storage", store)
    assert (code, said.strip()) == (0, "0 problems")


def test_query_answers_from_the_store(tmp_path: Path) -> None:
    run(tmp_path)
    store = str(tmp_path / "store")
    code, said = invoke("query", "select count(*) as n from trials", "--storage", store, "--json")
    assert code == 0
    assert json.loads(said) == [{"n": 8}]


def test_compaction_changes_no_answer(tmp_path: Path) -> None:
    run(tmp_path)
    store = str(tmp_path / "store")
    before = phasegrid.open(store).metric("accuracy").sort_values("key").reset_index(drop=True)
    assert invoke("compact", "--storage", store)[0] == 0
    after = phasegrid.open(store).metric("accuracy").sort_values("key").reset_index(drop=True)
    pd.testing.assert_frame_equal(before, after)
    assert run(tmp_path)[0] == 0


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("status", "--storage", "nowhere"), "no phasegrid store there"),
        (("run", "missing.yaml"), "missing.yaml"),
    ],
)
def test_mistakes_end_in_one_message(args: tuple[str, ...], expected: str) -> None:
    result = CliRunner().invoke(app, list(args))
    assert expected in str(result.exception)
    assert result.exit_code != 0


ENDING_ITSELF = """
import os
import signal
from dataclasses import dataclass
from phasegrid.declare import Column, Metric

@dataclass(frozen=True)
class Args:
    value: int = 0

def compute(models, data, rng, value):
    if value == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return {"value": float(value)}

ENDING = Metric(
    over="trial", args=Args, columns=(Column("value", "float64", "", "what was asked for"),), compute=compute,
)
"""
ONE_CELL = """\
schema: 1
name: one
dataset: {name: digits, fraction: 0.1}
model: {name: mlp, width: 2, depth: 1}
train: {batch_size: 32, epochs: 1, stop: null}
seeds: 1
metrics: ["ending.py:ENDING": {value: 0}, "ending.py:ENDING": {value: 1}, "ending.py:ENDING": {value: 2}]
"""


def test_a_stop_counts_what_an_unfinished_pack_has_published(tmp_path: Path) -> None:
    (tmp_path / "ending.py").write_text(ENDING_ITSELF)
    (tmp_path / "one.yaml").write_text(ONE_CELL)
    store, console = Store.open(str(tmp_path / "store"), create=True), Console(record=True)
    sweep = load_sweep(tmp_path / "one.yaml")
    result = run_sweep(sweep, store, RunTarget(serial=True), console, quiet=True, limit=None)
    said = console.export_text()
    assert result.exit_code == 143
    assert result.is_news
    assert "3 of 4 jobs stored" in said
    assert "1 job is open" in said
