"""One name and version of a plug-in is one code: a store that holds results of another is not
reused in silence.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import phasegrid
from phasegrid import load_sweep, plugin_files, registry
from phasegrid.cli.main import app
from phasegrid.errors import SweepError
from phasegrid.packs import Outcome
from phasegrid.plan.packing import make_packs
from phasegrid.plan.plan import make_plan
from phasegrid.run import code_changes
from phasegrid.run.executors.base import PackOptions
from phasegrid.run.worker.pack import do
from phasegrid.store.store import Store

LAB = '''\
"""A network, a data set and a metric of one's own."""
from dataclasses import dataclass
import torch
from torch import nn
from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import Column, DatasetFacts, DatasetKind, Metric, Model
KNOB = 1

@dataclass(frozen=True)
class Args:
    size: int = 3

def load(size):
    generator = torch.Generator().manual_seed(size)
    inputs = torch.randn(24, 5, generator=generator)
    labels, zero = torch.arange(24) % 2, torch.zeros(1)
    return Dataset("lab", inputs[:16], labels[:16], inputs[16:], labels[16:], 2, zero, zero)

def make(shape, classes, size):
    return nn.Sequential(nn.Linear(5, size), nn.ReLU(), nn.Linear(size, classes))

NET = Model(Args, make)
DATA = DatasetKind(Args, load, lambda args: DatasetFacts(16, 8, (5,), 2))
KNOBS = Metric("trial", Args, (Column("knob", "int64", "", "a knob"),), lambda m, d, r, size: {"knob": KNOB})
'''
OTHER = LAB.replace("KNOB = 1", "KNOB = 2")
SWEEP = """\
schema: 1
name: NAME
dataset: {name: "lab.py:DATA"}
model: {name: "lab.py:NET"}
train: {batch_size: 8, epochs: 1, stop: null}
load: {param: model.size, values: [2, 3]}
seeds: 1
metrics: ["lab.py:KNOBS"]
"""


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugin_files.FOLDERS_VARIABLE, "")


def write(folder: Path, lab: str = LAB, sweep: str = SWEEP) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "lab.py").write_text(lab)
    (folder / "s.yaml").write_text(sweep.replace("NAME", folder.name))
    return folder / "s.yaml"


def invoke(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(args))
    if isinstance(result.exception, SweepError):
        return 2, str(result.exception)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def run(sweep: Path, *more: str) -> tuple[int, str]:
    store = str(sweep.parent.parent / "store")
    return invoke("run", str(sweep), "--storage", store, "--serial", "--no-plot", "-q", *more)


def plan(sweep: Path, *more: str) -> str:
    code, said = invoke("plan", str(sweep), "--storage", str(sweep.parent.parent / "store"), *more)
    assert code == 0
    return said


def verify(tmp_path: Path) -> tuple[int, str]:
    return invoke("verify", "--storage", str(tmp_path / "store"))


def digests(tmp_path: Path) -> set[tuple[str | None, ...]]:
    store = Store.open(str(tmp_path / "store"))
    trials = store.read_table("trials", ["dataset_code_digest", "model_code_digest"]).to_pylist()
    rows = store.read_table("metrics/lab.py:KNOBS", ["code_digest"]).to_pylist()
    assert trials
    assert rows
    return {tuple(row.values()) for row in [*trials, *rows]}


def test_every_row_holds_the_digest_of_its_code(tmp_path: Path) -> None:
    sweep = write(tmp_path / "a")
    assert run(sweep)[0] == 0
    own = load_sweep(sweep).code[0].code.digest
    assert digests(tmp_path) == {(own, own), (own,)}
    assert verify(tmp_path)[0] == 0
    records = sorted((tmp_path / "store/meta/code").rglob("*.json"))
    assert [path.stem for path in records] == [own] * 3
    assert list(json.loads(records[0].read_text())["files"]) == ["lab.py"]
    assert invoke("compact", "--storage", str(tmp_path / "store"))[0] == 0
    assert digests(tmp_path) == {(own, own), (own,)}


def test_what_is_built_in_has_no_digest(tmp_path: Path) -> None:
    text = SWEEP.replace('{name: "lab.py:DATA"}', "{name: two_spirals}").replace(
        '["lab.py:KNOBS"]', "[accuracy]"
    )
    built_in = text.replace('{name: "lab.py:NET"}', "{name: mlp}").replace(
        "model.size", "model.width"
    )
    assert run(write(tmp_path / "a", sweep=built_in))[0] == 0
    assert not (tmp_path / "store/meta/code").exists()
    trials = pd.read_parquet(tmp_path / "store/trials")
    assert trials[["dataset_code_digest", "model_code_digest"]].isna().all(axis=None)
    assert pd.read_parquet(tmp_path / "store/metrics/accuracy")["code_digest"].isna().all()


@pytest.mark.parametrize("how", ["edited", "another folder"])
def test_other_code_of_the_same_name_and_version_is_refused(tmp_path: Path, how: str) -> None:
    assert run(write(tmp_path / "a"))[0] == 0
    sweep = write(tmp_path / ("a" if how == "edited" else "b"), OTHER)
    said = plan(sweep, "--why")
    assert "a run would be refused" in said
    assert "lab.py has changed since 2 stored trials (model lab.py:NET; differs: lab.py; version still 1)" in said  # fmt: skip
    assert "lab.py has changed since 2 stored measurements (metric lab.py:KNOBS" in said
    assert "nothing in the store is stale" not in said
    code, said = run(sweep)
    assert code == 2
    assert "lab.py has changed since 2 stored trials (dataset lab.py:DATA" in said
    for way in ("raise `version`", "another name", "--accept-changed-code"):
        assert way in said
    assert Store.open(str(tmp_path / "store")).sweeps() == ["a"]
    assert len(json.loads(plan(sweep, "--json"))["changed_code"]) == 3


def test_changed_layout_is_not_changed_code(tmp_path: Path) -> None:
    assert run(write(tmp_path / "a"))[0] == 0
    edited = LAB.replace('"""A network, a data', '"""Mine: a data').replace(
        "KNOB = 1", "KNOB = 1  # one"
    )
    code, said = run(write(tmp_path / "b", edited))
    assert (code, "0 to do" in said) == (0, True)


@pytest.mark.parametrize("way", ["version", "name"])
def test_a_new_version_or_name_is_done_beside_the_old(tmp_path: Path, way: str) -> None:
    assert run(write(tmp_path / "a"))[0] == 0
    if way == "version":
        lab = OTHER.replace("make)", "make, version=2)").replace(
            "(5,), 2))", "(5,), 2), version=2)"
        )
        sweep = write(tmp_path / "b", lab.replace('{"knob": KNOB})', '{"knob": KNOB}, version=2)'))
    else:
        sweep = write(tmp_path / "b", OTHER, SWEEP.replace("lab.py", "lab2.py"))
        sweep.with_name("lab.py").rename(sweep.with_name("lab2.py"))
    code, said = run(sweep)
    assert (code, "0 stored, 4 to do" in said) == (0, True)
    assert len(pd.read_parquet(tmp_path / "store/trials")) == 4
    assert verify(tmp_path)[0] == 0


def test_changed_code_that_is_accepted_is_accepted_for_good(tmp_path: Path) -> None:
    assert run(write(tmp_path / "a"))[0] == 0
    sweep = write(tmp_path / "b", OTHER)
    wider = sweep.read_text().replace("[2, 3]", "[2, 3, 4]")
    sweep.write_text(wider)
    assert run(sweep)[0] == 2
    code, said = run(sweep, "--accept-changed-code")
    assert (code, "4 stored, 2 to do" in said) == (0, True)
    assert "accepted: lab.py has changed since 2 stored trials" in said.replace("\n", " ")
    assert len(digests(tmp_path)) == 4
    for again in (write(tmp_path / "a"), sweep):  # both are the same now
        assert run(again)[0] == 0
        assert "has changed" not in plan(again, "--why")
    assert verify(tmp_path) == (0, "0 problems\n")
    assert run(write(tmp_path / "c", LAB.replace("KNOB = 1", "KNOB = 3")))[0] == 2


def test_verify_names_mixed_code_that_nobody_accepted(tmp_path: Path) -> None:
    assert run(write(tmp_path / "a"))[0] == 0
    shutil_away = tmp_path / "store/meta/code"
    shutil_away.rename(tmp_path / "away")  # as by an earlier copy of a part of the store
    sweep = write(tmp_path / "b", OTHER, SWEEP.replace("[2, 3]", "[4]"))
    assert run(sweep)[0] == 0
    code, said = verify(tmp_path)
    assert code == 1
    for which in ("dataset lab.py:DATA", "model lab.py:NET", "metric lab.py:KNOBS"):
        assert f"{which} version 1: its rows come from 2 different versions of its code" in said
    assert said.endswith("3 problems\n")


def test_an_edit_of_an_imported_local_module_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = write(tmp_path / "a", LAB.replace("KNOB = 1", "from knobs_beside import KNOB"))
    monkeypatch.syspath_prepend(sweep.parent)
    (sweep.parent / "knobs_beside.py").write_text("KNOB = 1\n")
    code, said = run(sweep)
    assert code == 0, said
    (sweep.parent / "knobs_beside.py").write_text("KNOB = 5\n")
    code, said = run(sweep)
    assert code == 2
    assert "differs: knobs_beside.py; version still 1" in said
    assert run(sweep, "--accept-changed-code")[0] == 0


def older(path: Path) -> None:
    """Rewrite a row file as an earlier release wrote it."""
    table = pq.read_table(path)
    new = [name for name in table.column_names if name.endswith("code_digest") or name.startswith("user_")]  # fmt: skip
    assert len(new) >= 3
    version = pa.array([2] * len(table), pa.int32())
    old = table.drop_columns(new).set_column(0, "schema_version", version)
    pq.write_table(old.replace_schema_metadata(None), path)


@pytest.mark.parametrize("which", ["all", "one of two"])
def test_a_store_of_an_earlier_release_is_read_and_reused(tmp_path: Path, which: str) -> None:
    assert run(write(tmp_path / "a"))[0] == 0
    for table in ("trials", "metrics/lab.py%3AKNOBS"):
        files = sorted((tmp_path / "store" / table).rglob("*.parquet"))
        for path in files[: 2 if which == "all" else 1]:
            older(path)
    sweep = write(tmp_path / "a", LAB if which != "all" else OTHER)
    said = plan(sweep, "--why")
    count = 2 if which == "all" else 1
    of_each = ", ".join(
        f"{count} of {name}" for name in ("lab.py:DATA", "lab.py:NET", "lab.py:KNOBS")
    )
    assert f"stored rows that do not say by which code they were made: {of_each} (" in said
    assert "has changed since" not in said.replace("whether the code has changed since", "")
    assert run(sweep)[0] == 0
    assert verify(tmp_path)[0] == 0
    results = phasegrid.open(str(tmp_path / "store"))
    assert len(results.metric("lab.py:KNOBS")) == len(results.trials()) == 2
    for folder in ("trials", "metrics/lab.py%3AKNOBS"):
        path = tmp_path / "store" / folder
        assert len(pd.read_parquet(path)) == 2
        with duckdb.connect() as connection:
            sql = f"select * from read_parquet('{path}/**/*.parquet', union_by_name = true)"
            assert len(connection.sql(sql).to_arrow_table()) == 2
        every = pl.scan_parquet(path, missing_columns="insert", extra_columns="ignore")
        assert len(every.collect()) == 2
    assert invoke("compact", "--storage", str(tmp_path / "store"))[0] == 0
    _, said = invoke(
        "query", "select count(*) n, count(model_code_digest) d from trials", "--storage", str(tmp_path / "store"), "--json",
    )  # fmt: skip
    assert json.loads(said) == [{"n": 2, "d": 2 - count}]


def test_code_that_is_not_that_of_the_run_makes_no_row(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path / "a"))
    store = Store.open(str(tmp_path / "store"), create=True)
    packs = make_packs(make_plan(sweep), set(), lambda _cell, _job: 0.0)
    begun = {("model", "lab.py:NET"): "0" * 32}
    endings = [
        outcome for pack in packs for outcome in do(pack, store, PackOptions("cpu", code=begun))
    ]
    assert len(endings) == 4
    assert all(isinstance(outcome, Outcome) and outcome.status == "failed" for outcome in endings)
    assert "model lab.py:NET: its code here is not the code with which the run began" in str(
        endings[0].error
    )
    assert not store.stored("trials")


def test_a_plugin_that_is_not_there_fails_its_jobs_by_name(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path / "a"))
    store = Store.open(str(tmp_path / "store"), create=True)
    pack, *_ = make_packs(make_plan(sweep), set(), lambda _cell, _job: 0.0)
    (tmp_path / "a" / "lab.py").unlink()
    (outcome,) = do(pack, store, PackOptions("cpu"))
    assert outcome.status == "failed"
    assert "there is no file lab.py" in str(outcome.error)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of the user's with a committed sweep and plug-in."""
    folder = tmp_path / "a"
    write(folder)
    git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *command], check=True)
    return folder


@pytest.mark.parametrize("state", ["clean", "edited", "untracked", "none"])
def test_the_commit_of_the_users_repository_is_in_every_row(
    repository: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["git", "-C", str(repository), "rev-parse", "HEAD"]
    commit: str | None = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    if state == "edited":
        (repository / "s.yaml").write_text((repository / "s.yaml").read_text() + "# edited\n")
    elif state == "untracked":
        subprocess.run(["git", "-C", str(repository), "rm", "-q", "--cached", "lab.py"], check=True)
        run_git = ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", "x"]
        subprocess.run(["git", "-C", str(repository), *run_git], check=True)
        commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    elif state == "none":
        monkeypatch.setenv("PATH", "")  # no git
        commit = None
    assert run(repository / "s.yaml")[0] == 0
    dirty = None if state == "none" else state != "clean"
    store = Store.open(str(repository.parent / "store"))
    for table in ("trials", "metrics/lab.py:KNOBS"):
        rows = store.read_table(table, ["user_git_commit", "user_git_dirty"]).to_pylist()
        assert rows == [{"user_git_commit": commit, "user_git_dirty": dirty}] * 2


def test_a_bundle_has_the_same_digests_and_knows_its_commit(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phasegrid.submit.bundle import make_bundle
    from tests.test_bundling import unpack

    lab = repository / "lab.py"
    lab.write_text(LAB.replace("KNOB = 1", "from knobs_of.inner import KNOB"))
    (repository / "knobs_of").mkdir()
    (repository / "knobs_of" / "inner.py").write_text("KNOB = 4\n")
    monkeypatch.syspath_prepend(repository)
    here = load_sweep(repository / "s.yaml")
    made = make_bundle(repository / "s.yaml", here)
    assert made.names == (
        "knobs_of/inner.py", "lab.py", "sweep/lab.py", "sweep/s.yaml", "user_commit.json",
    )  # fmt: skip
    there = unpack(made, tmp_path / "there")
    code = (
        "import sys; from pathlib import Path; from phasegrid import load_sweep; from"
        " phasegrid.config.load import user_files; from phasegrid.store.provenance import"
        " user_commit; from phasegrid.registry import code_of; sweep = load_sweep(sys.argv[1]);"
        " print(*[one.code.digest for one in sweep.code], *user_commit(user_files(sweep)));"
        " print(code_of('model', 'lab.py:NET', Path.cwd()).digest)"
    )
    root = Path(registry.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code, str(there)], cwd=tmp_path / "there", capture_output=True, text=True,
        timeout=120, env={**os.environ, "PYTHONPATH": f"{root}:.", plugin_files.FOLDERS_VARIABLE: ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    commit = subprocess.run(
        ["git", "-C", str(repository), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    own = here.code[0].code.digest
    assert done.stdout.split() == [*[own] * 3, commit.stdout.strip(), "True", own]


def test_nothing_is_read_for_a_sweep_without_plugins(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"), create=True)
    (tmp_path / "store/trials").mkdir()
    (tmp_path / "store/trials/damaged.parquet").write_bytes(b"damaged")
    assert code_changes.find_changes(store, ()) == []
