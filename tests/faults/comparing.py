"""Whether two stores hold the same results: the same jobs, each once, and the same numbers, bit for
bit.

What was stored already, and how often a run was interrupted, changes no number: a stack keeps the
shape that it was laid out with.
"""

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from phasegrid.run.verify import verify
from phasegrid.store.store import Store

WHEN_AND_WHERE = {"created_at", "seconds", "host", "git_commit", "git_dirty"}


def assert_same_results(one: Path, other: Path, lacking: Collection[str] = ()) -> None:
    """Compare all that is planned and stored, but for when and where it was done; `lacking` are
    keys that `one` must not hold.
    """
    first, second = Store.open(str(one)), Store.open(str(other))
    assert first.sweeps() == second.sweeps() != []
    for table in ("plans", "plan_jobs"):
        _assert_equal(_rows(first, table), _rows(second, table))
    assert_same_numbers(one, other, lacking)
    _assert_one_file_a_job(one)


def assert_same_numbers(one: Path, other: Path, lacking: Collection[str] = ()) -> None:
    """Compare every trial, history and measurement, whatever was planned."""
    first, second = Store.open(str(one)), Store.open(str(other))
    assert first.metrics() == second.metrics()
    assert len(_rows(first, "trials")) > 0
    _assert_same_table(first, second, "trials", lacking, ["key"])
    _assert_same_table(first, second, "histories", lacking, ["key", "epoch"])
    for name in first.metrics():
        _assert_same_table(first, second, f"metrics/{name}", lacking, None)


def assert_whole(storage: Path, lacking: Collection[str] = ()) -> None:
    """Check with ``phasegrid verify`` that every file is whole and that nothing is missing but what
    is `lacking`.
    """
    problems = [str(problem) for problem in verify(Store.open(str(storage)), None, deep=True)]
    assert [text for text in problems if not any(key in text for key in lacking)] == []


def keys_of(storage: Path, table: str) -> set[str]:
    """Return the keys that a table holds."""
    return set(Store.open(str(storage)).stored(table))


def _rows(store: Store, table: str) -> pd.DataFrame:
    frame = store.read_table(table).to_pandas()
    return frame.drop(columns=[c for c in frame if c in WHEN_AND_WHERE])


def _assert_same_table(
    first: Store, second: Store, table: str, lacking: Collection[str], unique: list[str] | None
) -> None:
    ours, theirs = _rows(first, table), _rows(second, table)
    assert set(ours["key"]).isdisjoint(lacking)
    theirs = theirs[~theirs["key"].isin(lacking)]
    if unique:
        assert not ours.duplicated(unique).any()
    assert set(ours["key"]) == set(theirs["key"])
    _assert_equal(ours, theirs)


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort by key alone, and stably: the order of the rows of one job is part of its result."""
    by = [c for c in ("key", "epoch", "cell", "metric", "seed") if c in frame]
    return frame.sort_values(by, kind="stable").reset_index(drop=True)


def _assert_equal(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(_ordered(ours), _ordered(theirs), check_exact=True)


def _assert_one_file_a_job(storage: Path) -> None:
    for folder in ("trials", "histories", "checkpoints", "metrics"):
        files = [p for p in (storage / folder).rglob("*") if p.is_file() and p.suffix != ".json"]
        names = [(p.parent.parent, p.name) for p in files]
        assert len(set(names)) == len(names)
        if folder != "checkpoints":
            assert {p.suffix for p in files} <= {".parquet"}
