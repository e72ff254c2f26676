"""One rule, of names, decides what belongs to a store: readers, upkeep and the lines of the README
agree on it.
"""

from pathlib import Path
from typing import Any

import pytest
from store_support import COLUMNS, bare, make_store, put

from phasegrid.cli import render
from phasegrid.keys import text_key
from phasegrid.run.verify import verify
from phasegrid.store import submissions, tables
from phasegrid.store.compact import compact
from phasegrid.store.gc import find_garbage
from phasegrid.store.repair import find_damage
from phasegrid.store.results import Results
from phasegrid.store.sql import query
from phasegrid.store.store import Store

ROOT = Path(__file__).resolve().parent.parent
A, M = text_key("a"), text_key("m")
PLACES = {
    "trials": f"trials/{A[:2]}/{A}.parquet",
    "histories": f"histories/{A[:2]}/{A}.parquet",
    "metrics/sharpness": f"metrics/sharpness/{M[:2]}/{M}.parquet",
    "plans": "plans/toy.parquet",
    "plan_jobs": "plan_jobs/toy.parquet",
}
COPIES = (
    "._{name}", ".{name}", "_{name}", "{stem} (conflicted copy 2026-01-02).parquet", "{stem} 2.parquet",
    "{stem} (1).parquet", "{stem}.sync-conflict-20260102-030405-ABCDEFG.parquet", "{name}.bak", "{name}~",
    ".ipynb_checkpoints/{stem}-checkpoint.parquet", ".ipynb_checkpoints/{name}", "copy/{name}",
    ".{stem}.parquet.swp", "Icon\r", ".DS_Store", "{stem}-LAPTOP.parquet",
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = make_store(tmp_path)
    store.put_trial(bare("trials", "a"), [{"epoch": 0}], {})
    store.put_metric("sharpness", COLUMNS, bare("metrics/sharpness", "m"), [{"value": 1.0}])
    put(store, "failures", bare("failures", "f"))
    jobs = [{"cell": 0, "metric": "sharpness", "key": M, "trials": [A]}]
    store.put_plan("toy", [{"cell": 0, "facet": "[]", "seed": 0, "key": A}], jobs)
    return store


def _seen(store: Store) -> dict[str, object]:
    """What every reader sees."""
    results = Results(store)
    return {
        **{table: store.read_table(table).num_rows for table in [*PLACES, "failures"]},
        "sweeps": store.sweeps(),
        "metrics": store.metrics(),
        "stored": store.stored("trials") | store.stored("metrics/sharpness"),
        "query": query(store, "select count(*) as n from plans, sharpness")["n"].tolist(),
        "cells": len(results.cells("toy")),
        "counts": results.counts().to_dict("records"),
        "status": render.status_text(store, None, as_json=True),
        "garbage": find_garbage(store, shards_too=True, orphans_too=True).garbage,
        "damage": find_damage(store, deep=True).garbage,
    }


def _copies(store: Store, table: str, contents: bytes | None) -> list[Path]:
    """Put beside a file of a table what others leave there; return what belongs to no table."""
    path = Path(store.files.path(PLACES[table]))
    made = []
    for pattern in COPIES:
        copy = path.parent / pattern.format(name=path.name, stem=path.stem)
        if table in tables.PLANNED and "LAPTOP" in pattern:
            continue  # a name that a sweep could have: its own test is below
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes() if contents is None else contents)
        made.append(copy)
    return made


@pytest.mark.parametrize("contents", [None, b"\0\5\26\7Mac OS X"], ids=["copy", "junk"])
@pytest.mark.parametrize("table", PLACES)
def test_files_of_others_change_nothing_that_is_read(
    store: Store, table: str, contents: bytes | None
) -> None:
    before = _seen(store)
    made = _copies(store, table, contents)
    assert _seen(store) == before
    named = "\n".join(map(str, verify(store)))
    assert [path for path in made if str(path) not in named] == []
    assert {t.table: t.num_rows for t in compact(store).tables}["trials"] == 1
    assert _seen(store) == before
    assert all(path.exists() for path in made)


def test_a_copy_with_the_name_of_a_sweep_adds_no_rows(store: Store) -> None:
    """OneDrive names both sides of a conflict so: only the rows tell that they are of another
    sweep.
    """
    before = {table: store.read_table(table) for table in tables.PLANNED}
    for table in tables.PLANNED:
        path = Path(store.files.path(PLACES[table]))
        path.with_name("toy-LAPTOP.parquet").write_bytes(path.read_bytes())
    assert {table: store.read_table(table) for table in tables.PLANNED} == before
    assert Results(store).counts()["planned"].tolist() == [1]
    assert "its rows are about ['toy']; delete it" in "\n".join(map(str, verify(store)))


@pytest.mark.parametrize(
    "folder", [".ipynb_checkpoints", "sharpness 2", "_old", "a (copy)", ".git"]
)
def test_a_folder_that_is_no_metrics_is_no_metric(store: Store, folder: str) -> None:
    path = Path(store.files.path(f"metrics/{folder}"))
    path.mkdir()
    (path / "x.parquet").write_bytes(b"theirs")
    assert store.metrics() == ["sharpness"]
    assert query(store, "select count(*) as n from sharpness")["n"].tolist() == [1]
    assert f"metrics/{folder}/: is not the folder of a metric" in "\n".join(map(str, verify(store)))


def test_records_of_submissions_that_others_have_copied_are_passed_over(store: Store) -> None:
    record = submissions.new("pg-toy-1", "toy")
    submissions.create(store, record)
    path = Path(store.files.path("meta/submissions/pg-toy-1.json"))
    for name in ("._pg-toy-1.json", "pg-toy-1 (conflicted copy).json", "pg-toy-1 2.json"):
        path.with_name(name).write_bytes(path.read_bytes())
    assert submissions.read_all(store) == [record]


def test_a_sweep_cannot_be_named_like_a_conflict(store: Store) -> None:
    with pytest.raises(Exception, match="cannot name a file"):
        store.put_plan("toy.sync-conflict-20260102-030405-A", [{"cell": 0, "seed": 0, "key": A}])


def test_the_lines_of_the_readme_read_what_the_store_reads(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of synchronisers have longer names, hidden files and folders stand elsewhere: a
    pattern leaves them out.
    """
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.partition("<!-- readers -->\n```python\n")[2].partition("```")[0].splitlines()
    setup = [line for line in block if line.startswith(("import", "files"))]
    lines = [line for line in block if line and line not in setup]
    assert [line.partition(".")[0] for line in lines] == ["pandas", "duckdb", "polars"]
    _copies(store, "trials", None)
    monkeypatch.chdir(Path(store.url).parent)
    Path(store.url).rename("results")
    for line in lines:
        names: dict[str, Any] = {}
        exec("\n".join([*setup, f"found = {line}"]), names)
        found = names["found"]
        rows = (
            found.select("key").fetchall() if line.startswith("duckdb") else found["key"].to_list()
        )
        assert len(rows) == 1, line
