"""Whether two stores hold the same results: the same jobs, each once, and the same numbers.

Which jobs shared a pack decides how sums are rounded, and nothing else. Trials that were trained in packs of one size by one
strategy must have the same weights and numbers bit for bit; others agree to `RTOL`. What is measured of equal weights agrees to
`MEASURED_RTOL`: rows do not say which measurements were one product (the CKA of all pairs that were still to do).
"""

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from phasegrid.store import Store
from phasegrid.verification import verify

WHEN_AND_WHERE = {"created_at", "seconds", "host", "git_commit", "git_dirty"}
HOW = {"pack_size", "strategy"}
MEASURED_RTOL = 1e-6
RTOL = 1e-3  # rounding of float32, grown over the updates of a training


def assert_same_results(one: Path, other: Path, lacking: Collection[str] = ()) -> None:
    """Compare all that is planned and stored, but for when and where it was done; `lacking` are keys that `one` must not hold."""
    first, second = Store.open(str(one)), Store.open(str(other))
    assert first.sweeps() == second.sweeps() != []
    assert first.metrics() == second.metrics()
    for table in ("plans", "plan_jobs"):
        _assert_equal(_rows(first, table), _rows(second, table))
    ours, theirs = _rows(first, "trials"), _rows(second, "trials")
    assert len(ours) > 0
    same = _trained_alike(ours, theirs)
    _assert_same_table(first, second, "trials", lacking, same, ["key"])
    _assert_same_table(first, second, "histories", lacking, same, ["key", "epoch"])
    for name in first.metrics():
        _assert_same_table(first, second, f"metrics/{name}", lacking, same, None)
    _assert_one_file_a_job(one)


def assert_whole(storage: Path, lacking: Collection[str] = ()) -> None:
    """Check with ``phasegrid verify`` that every file is whole and that nothing is missing but what is `lacking`."""
    problems = [str(problem) for problem in verify(Store.open(str(storage)), None, deep=True)]
    assert [text for text in problems if not any(key in text for key in lacking)] == []


def keys_of(storage: Path, table: str) -> set[str]:
    """Return the keys that a table holds."""
    return set(Store.open(str(storage)).stored(table))


def _rows(store: Store, table: str) -> pd.DataFrame:
    frame = store.read_table(table).to_pandas()
    return frame.drop(columns=[c for c in frame if c in WHEN_AND_WHERE])


def _trained_alike(ours: pd.DataFrame, theirs: pd.DataFrame) -> set[str]:
    both = ours.merge(theirs, on="key", suffixes=("", "_other"))
    alike = (both["pack_size"] == both["pack_size_other"]) & (
        both["strategy"] == both["strategy_other"]
    )
    return set(both.loc[alike, "key"])


def _assert_same_table(
    first: Store,
    second: Store,
    table: str,
    lacking: Collection[str],
    same: set[str],
    unique: list[str] | None,
) -> None:
    ours, theirs = _rows(first, table), _rows(second, table)
    assert set(ours["key"]).isdisjoint(lacking)
    theirs = theirs[~theirs["key"].isin(lacking)]
    if unique:
        assert not ours.duplicated(unique).any()
    assert set(ours["key"]) == set(theirs["key"])
    alike, theirs_alike = _only_of(ours, same), _only_of(theirs, same)
    measured = table.startswith("metrics/")
    _assert_close(ours[alike], theirs[theirs_alike], MEASURED_RTOL if measured else 0.0)
    loose = [c for c in ours if c not in HOW | {"checkpoint_sha256"}]
    _assert_close(ours.loc[~alike, loose], theirs.loc[~theirs_alike, loose], RTOL)


def _only_of(frame: pd.DataFrame, same: set[str]) -> "pd.Series[bool]":
    """Say which rows are about trials of `same` alone."""
    if "trials" not in frame:
        return frame["key"].isin(same)
    return frame["trials"].map(lambda trials: same.issuperset(trials)).astype(bool)


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort by key alone, and stably: the order of the rows of one job is part of its result."""
    by = [c for c in ("key", "epoch", "cell", "metric", "seed") if c in frame]
    return frame.sort_values(by, kind="stable").reset_index(drop=True)


def _assert_equal(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(_ordered(ours), _ordered(theirs), check_exact=True)


def _assert_close(ours: pd.DataFrame, theirs: pd.DataFrame, rtol: float) -> None:
    """Compare floats to a tolerance, and everything else (the hash of the weights too) exactly."""
    pd.testing.assert_frame_equal(_ordered(ours), _ordered(theirs), rtol=rtol, atol=rtol)


def _assert_one_file_a_job(storage: Path) -> None:
    for folder in ("trials", "histories", "checkpoints", "metrics"):
        files = [p for p in (storage / folder).rglob("*") if p.is_file() and p.suffix != ".json"]
        names = [(p.parent.parent, p.name) for p in files]
        assert len(set(names)) == len(names)
        if folder != "checkpoints":
            assert {p.suffix for p in files} <= {".parquet"}
