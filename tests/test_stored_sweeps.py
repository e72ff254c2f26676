"""A sweep can be given up or called otherwise: plans change, results do not, and what nobody plans
any more can be collected.
"""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from store_support import COLUMNS, bare, make_store
from typer.testing import CliRunner, Result

from phasegrid.cli.main import app
from phasegrid.declare import FigureRequest
from phasegrid.errors import StoreError, SweepError
from phasegrid.keys import text_key
from phasegrid.run.verify import verify
from phasegrid.store import submissions
from phasegrid.store.compact import compact
from phasegrid.store.gc import delete_garbage, find_garbage
from phasegrid.store.results import Results
from phasegrid.store.store import Store
from phasegrid.store.sweeps import delete_sweep, find_use, rename_sweep

A, B, SHARED = text_key("a"), text_key("b"), text_key("shared")
GAIN = FigureRequest(
    "gain",
    {"name": "g", "against": "one", "quantity": "test_accuracy", "labels": None, "title": None},
)


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Two sweeps that share a trial; a figure of the second is against the first, which was
    submitted once.
    """
    store = (
        make_store(tmp_path)
        if request.param == "folder"
        else Store.open(f"memory://sweeps-{time.time_ns()}", create=True)
    )
    for sweep, own in (("one", "a"), ("two", "b")):
        for trial in (own, "shared"):
            store.put_trial(bare("trials", trial), [{"epoch": 0}], {})
        common = {**bare("metrics/sharpness", f"m-{own}"), "trials": [text_key(own)]}
        store.put_metric("sharpness", COLUMNS, common, [{"value": 1.0}])
        jobs = [
            {
                "cell": 0,
                "metric": "sharpness",
                "key": text_key(f"m-{own}"),
                "trials": [text_key(own)],
            }
        ]
        rows = [
            {"cell": 0, "facet": "[]", "seed": seed, "key": text_key(trial), "plan_hash": "h"}
            for seed, trial in enumerate((own, "shared"))
        ]
        store.put_plan(sweep, rows, jobs)
    store.notes.put_figures("two", [GAIN])
    for part in (0, 1):
        store.notes.put_layout("one", part, {"version": 1, "packs": [], "part": part})
    record = submissions.new("pg-one-1", "one")
    submissions.create(store, replace(record, ended_at=submissions.now_text(), exit_code=0))
    return store


def _invoke(store: Store, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--storage", store.url])


def _plans(store: Store) -> dict[str, object]:
    """What plans say, without the names of sweeps."""
    drop = ["sweep"]
    return {
        name: [
            store.read_table(table, keys=[name]).drop_columns(drop).to_pylist()
            for table in ("plans", "plan_jobs")
        ]
        for name in store.sweeps()
    }


def test_a_deleted_sweep_is_gone_and_no_result_is(store: Store) -> None:
    trials = store.read_table("trials").sort_by("key")
    use = find_use(store, "one")
    assert (use.num_trials, use.num_measurements, use.named_by) == (1, 1, ("two",))
    delete_sweep(store, use)
    assert store.sweeps() == ["two"]
    assert len(store.read_table("plan_jobs", keys=["one"])) == 0
    assert store.notes.read_layout("one") == []
    assert store.read_table("trials").sort_by("key").equals(trials)
    assert verify(store) == []
    assert len(Results(store).cells("two")) == 2


def test_what_no_sweep_uses_any_more_can_be_collected(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    for trial in ("a", "b", "shared"):
        store.put_trial(bare("trials", trial), [{"epoch": 0}], {})
    for sweep, own in (("one", "a"), ("two", "b")):
        rows = [{"cell": 0, "seed": i, "key": text_key(t)} for i, t in enumerate((own, "shared"))]
        store.put_plan(sweep, rows)
    compact(store)

    def stored_after(sweep: str) -> set[str]:
        delete_sweep(store, find_use(store, sweep))
        for path in Path(store.url).rglob("*"):
            os.utime(path, (0, 0))
        delete_garbage(store, find_garbage(store, orphans_too=True).garbage)
        return store.stored("trials")

    assert stored_after("one") == {B, SHARED}
    assert stored_after("two") == set()
    assert verify(store) == []


def test_an_abandoned_sweep_fails_verify_until_it_is_deleted(store: Store) -> None:
    store.put_plan("dream", [{"cell": 0, "seed": 0, "key": text_key("never")}])
    done = _invoke(store, "verify")
    assert done.exit_code == 1
    assert "`phasegrid delete dream`" in done.output
    assert _invoke(store, "delete", "dream", "--yes").exit_code == 0
    assert _invoke(store, "verify").exit_code == 0


def test_the_command_deletes_nothing_unless_told_to(store: Store) -> None:
    before = _plans(store)
    done = _invoke(store, "delete", "one")
    assert done.exit_code == 0
    assert "plans/one.parquet" in done.output
    assert "no other sweep uses 1 of its trials and 1 of its measurements" in done.output
    assert "a figure of sweep two is against one" in done.output
    assert "nothing was deleted; run again with --yes" in done.output
    assert json.loads(_invoke(store, "delete", "one", "--json").output)["deleted"] is False
    assert _plans(store) == before
    assert json.loads(_invoke(store, "delete", "one", "--json", "--yes").output)["deleted"] is True
    assert store.sweeps() == ["two"]


def test_a_damaged_plan_can_be_deleted(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.put_plan("one", [{"cell": 0, "seed": 0, "key": A}])
    Path(store.files.path("plans/one.parquet")).write_bytes(b"PAR1")
    delete_sweep(store, find_use(store, "one"))
    assert verify(store) == []


def test_a_renamed_sweep_is_the_same_under_another_name(store: Store) -> None:
    before, trials = _plans(store), store.read_table("trials").sort_by("key")
    layout = store.notes.read_layout("one")
    store.notes.put_layout("uno", 0, {"of": "another sweep of that name, which was deleted"})
    store.notes.put_figures("one", [GAIN])  # against itself, of all things
    rename_sweep(store, "one", "uno")
    assert _plans(store) == {"uno": before["one"], "two": before["two"]}
    assert store.read_table("plans", keys=["uno"])["sweep"].to_pylist() == ["uno"] * 2
    assert store.read_table("trials").sort_by("key").equals(trials)
    assert [r.args["against"] for r in store.notes.read_figures("two")] == ["uno"]
    assert [r.args["against"] for r in store.notes.read_figures("uno")] == ["uno"]
    assert store.notes.read_figures("one") == []
    assert store.notes.read_layout("uno") == layout != []
    assert store.notes.read_layout("one") == []
    assert [s.id for s in submissions.read_all(store, "uno")] == ["pg-one-1"]
    assert submissions.read_all(store, "one") == []
    assert verify(store) == []


def test_the_command_renames_at_once_and_says_what_else_to_change(store: Store) -> None:
    before = _plans(store)
    done = _invoke(store, "rename", "one", "uno", "--dry-run")
    assert "nothing was renamed" in done.output
    assert _plans(store) == before
    done = _invoke(store, "rename", "one", "uno")
    assert done.exit_code == 0
    assert "sweep one: renamed to uno" in done.output
    assert store.sweeps() == ["two", "uno"]


@pytest.mark.parametrize(
    ("arguments", "error", "found"),
    [
        (("delete", "three", "--yes"), SweepError, "has no sweep 'three'; sweeps: one, two"),
        (("rename", "three", "x"), SweepError, "has no sweep 'three'"),
        (("rename", "one", "two"), SweepError, "has a sweep 'two'"),
        (("rename", "one", "two", "--dry-run"), SweepError, "has a sweep 'two'"),
        (("rename", "one", "one"), SweepError, "has a sweep 'one'"),
        (("rename", "one", "../x"), StoreError, "cannot name a file"),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(
    store: Store, arguments: tuple[str, ...], error: type[Exception], found: str
) -> None:
    before = _plans(store)
    done = _invoke(store, *arguments)
    assert isinstance(done.exception, error)
    assert found in str(done.exception)
    assert _plans(store) == before


def test_a_sweep_that_is_running_is_left_alone(store: Store) -> None:
    record = submissions.new("pg-one-2", "one")
    submissions.create(store, submissions.started(record))
    for act in (lambda: find_use(store, "one"), lambda: rename_sweep(store, "one", "uno")):
        with pytest.raises(SweepError, match=r"is run as pg-one-2 .*stop it first"):
            act()
