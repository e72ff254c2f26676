"""Find and delete what a store no longer needs. Finding deletes nothing, so that users see the list
first.

Only files that have not changed for `keep_days` are found: the files of a running driver or worker
are younger. If the store's clock is behind ours, ages are measured by the store's clock. A file of
unknown age is kept.

``unfinished``    what a dead process left in ``_tmp``
``snapshots``     snapshots of stored trials, and those of an older layout, which nothing reads
``remains``       weights and histories of trials, and artifacts of measurements, that no row names:
                  their attempt died before its last step
``copied``        files whose rows the compacted table holds, compared row by row (with `shards`)
``orphans``       trials and measurements that no stored plan names (with `orphans`)

After ``copied`` files are deleted, the compacted table is the only copy of those rows:
``meta/collected.json`` says so.
"""

import re
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from phasegrid.errors import SweepError
from phasegrid.store import artifacts, checkpoints, row_files
from phasegrid.store import meta as notes
from phasegrid.store import tables as shards
from phasegrid.store.files.base import TEMPORARY, Entry, Files, each, is_temporary
from phasegrid.store.files.errors import reported
from phasegrid.store.store import Store

KEEP_DAYS = 1.0  # longer than any single write, and than a driver waits between two writes
_DAY_S = 86_400.0
_OLDER_SNAPSHOT = re.compile(r"[0-9a-f]{32}\.safetensors")
_OF_TRIAL = re.compile(
    r"([0-9a-f]{2})/(\1[0-9a-f]{30})([.@]epoch-[0-9]+|@update-[0-9]+)?\.(safetensors|parquet)"
)  # weights or history
_WRITTEN_BY_RUNS = (
    "plans",
    "trials",
    "histories",
    "metrics",
    "failures",
    "snapshots",
    "meta/submissions",
    "logs",
)


@dataclass(frozen=True, slots=True)
class Garbage:
    """One thing that can be deleted: a whole file, or the rows of `keys` of a compacted table."""

    kind: str
    name: str
    num_bytes: int
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GarbageReport:
    """What can be deleted, in the order of deletion, and what is kept and why."""

    garbage: tuple[Garbage, ...]
    kept: tuple[str, ...] = ()


def find_garbage(
    store: Store,
    keep_days: float = KEEP_DAYS,
    shards_too: bool = False,
    orphans_too: bool = False,
) -> GarbageReport:
    """Find what can be deleted from a store; delete nothing (except the file that reads its clock).

    Raises:
        SweepError: for a `keep_days` below 1: files of a running driver may be that old.
        StoreError: if the store cannot be read; a damaged table must be repaired first.
    """
    if not keep_days >= 1:
        raise SweepError(f"collecting garbage: keep_days is {keep_days:g}; at least 1 is allowed")
    with reported(f"collecting garbage of {store.url}"):
        files = store.files
        before = min(time.time(), _clock(files)) - keep_days * _DAY_S
        known = store.stored("trials")
        found = [
            *_unfinished(files, before),
            *_snapshots(files, known, before),
            *_remains(files, known | _under_way(files), before),
            *_unnamed_artifacts(store, known, before),
        ]
        kept = [
            f"{files.path(f'{folder}/{name}')}: {kind}, which is not followed"
            for folder in (TEMPORARY, "snapshots", "checkpoints", artifacts.FOLDER, "histories")
            for name, kind in sorted(files.strays(folder).items())
        ]
        orphans: list[Garbage] = []
        if orphans_too:
            orphans = _orphans(store, known, before, kept)
        if shards_too:
            going = {item.name for item in orphans}
            found += [g for g in _copied(store, before, kept) if g.name not in going]
    return GarbageReport((*found, *orphans), tuple(kept))


def delete_garbage(store: Store, garbage: Sequence[Garbage]) -> None:
    """Delete what `find_garbage` found. After an interruption, find and delete again.

    Rows are deleted first, those of trials before all others: a row says that its history, weights
    and artifacts exist.

    Raises:
        StoreError: if a file cannot be deleted.
    """
    with reported(f"deleting garbage of {store.url}"):
        collected = {_table_of(item.name) for item in garbage if item.kind == "copied"}
        if (
            collected
        ):  # recorded before the deletion: verify must not advise to delete the only copy
            notes.put_collected(store.files, collected | notes.read_collected(store.files))
        stages: list[list[Garbage]] = [[], [], []]
        for item in garbage:
            table = _table_of(item.name)
            stages[0 if table == "trials" else 1 if table.startswith("metrics/") else 2].append(
                item
            )
        for stage in stages:
            _delete(store.files, stage)


def _delete(files: Files, garbage: Sequence[Garbage]) -> None:
    for item in garbage:
        if item.keys:
            _take_out(files, item)
    whole = [item.name for item in garbage if not item.keys]
    for _ in each(files, whole, files.delete):
        pass


def _clock(files: Files) -> float:
    """Return the time of the store's clock, from a file written for this purpose; our time if the
    file system tells none.
    """
    name = f"{TEMPORARY}/clock.{uuid.uuid4().hex}"
    files.create(name, b"")
    try:
        modified = files.modified(name)
    finally:
        files.delete(name)
    return time.time() if modified is None else modified


def _old(entries: Iterable[Entry], before: float) -> Iterator[Entry]:
    return (e for e in entries if e.modified is not None and e.modified < before)


def _unfinished(files: Files, before: float) -> Iterator[Garbage]:
    for entry in _old(files.entries(TEMPORARY), before):
        if is_temporary(entry.name):
            yield Garbage("unfinished", f"{TEMPORARY}/{entry.name}", entry.num_bytes)


def _snapshots(files: Files, known: set[str], before: float) -> Iterator[Garbage]:
    for entry in _old(files.entries("snapshots"), before):
        match = checkpoints.SNAPSHOT.fullmatch(entry.name)
        if _OLDER_SNAPSHOT.fullmatch(entry.name) or (match and match[2] in known):
            yield Garbage("snapshots", f"snapshots/{entry.name}", entry.num_bytes)


def _remains(files: Files, known: set[str], before: float) -> Iterator[Garbage]:
    for folder in ("checkpoints", "histories"):
        for entry in _old(files.entries(folder), before):
            match = _OF_TRIAL.fullmatch(entry.name)
            if match and match[2] not in known:
                yield Garbage("remains", f"{folder}/{entry.name}", entry.num_bytes)


def _under_way(files: Files) -> set[str]:
    """Return the trials that have a snapshot, and will go on from it: what they have published by
    then belongs to them.
    """
    matches = (checkpoints.SNAPSHOT.fullmatch(name) for name in files.names("snapshots"))
    return {match[2] for match in matches if match}


def _unnamed_artifacts(store: Store, known: set[str], before: float) -> Iterator[Garbage]:
    old = list(_old(store.files.entries(artifacts.FOLDER), before))
    if not old:
        return
    tables = ["trials", *(f"metrics/{metric}" for metric in store.metrics())]
    named = {a for table in tables for a, _ in artifacts.named_in(store.files, table)}
    under_way = _under_way(store.files) - known
    for entry in old:
        artifact = artifacts.artifact_in(entry.name)
        if artifact is not None and artifact not in named and artifact.job not in under_way:
            yield Garbage("remains", f"{artifacts.FOLDER}/{entry.name}", entry.num_bytes)


def _copied(store: Store, before: float, kept: list[str]) -> Iterator[Garbage]:
    """Find files whose rows a compacted table holds, if nothing was written to the store lately.

    A run looks for a job's file and not in the copy, so nothing is found while a run may be under
    way.
    """
    files = store.files
    lately = [
        f"{folder}/{entry.name}"
        for folder in _WRITTEN_BY_RUNS
        for entry in files.entries(folder)
        if entry.modified is None or entry.modified >= before
    ]
    if lately:
        kept.append(
            f"files that compacted tables hold: {files.path(lately[0])} was written lately, so a"
            " run may be under way"
        )
        return
    copies = {f"{shards.COMPACTED}/{e.name}" for e in _old(files.entries(shards.COMPACTED), before)}
    tables = ("trials", "histories", "failures", *(f"metrics/{m}" for m in store.metrics()))
    for table in tables:
        if shards.compacted_name(table) in copies:
            yield from _held_by_copy(files, table, kept)


def _held_by_copy(files: Files, table: str, kept: list[str]) -> Iterator[Garbage]:
    copy = shards.read_shard(files, table, shards.compacted_name(table))
    if copy is None:
        return
    places: dict[str, list[int]] = defaultdict(list)
    for place, key in enumerate(copy[shards.naming_column(table)].to_pylist()):
        places[key].append(place)
    there = shards.listed(files, table)
    held = [key for key in sorted(there) if key in places]
    folder = shards.table_folder(table)
    sizes = {f"{folder}/{entry.name}": entry.num_bytes for entry in files.entries(folder)}

    def is_same(key: str) -> bool:
        rows = shards.read_shard(files, table, there[key])
        return rows is not None and _same_rows(rows, copy.take(places[key]), table)

    for key, same in zip(held, each(files, held, is_same), strict=True):
        if same:
            yield Garbage("copied", there[key], sizes.get(there[key], 0))
        else:
            kept.append(f"{files.path(there[key])}: the compacted table has other rows for it")


def _same_rows(rows: pa.Table, copied: pa.Table, table: str) -> bool:
    schema = shards.merged_schema([rows.schema, copied.schema], table)
    one, other = (
        shards.join([part, schema.empty_table()], table).combine_chunks() for part in (rows, copied)
    )
    return bool(one.equals(other))


def _orphans(store: Store, known: set[str], before: float, kept: list[str]) -> list[Garbage]:
    """Find results that no plan names; list rows first, so that a trial's row goes before its
    weights.
    """
    plans = store.read_table("plans", ["sweep", "key"]).to_pylist()
    if not plans and not notes.read_deleted(store.files):
        kept.append("results of no plan: the store has no plans, so none is known to be unwanted")
        return []
    jobs = store.read_table("plan_jobs", ["sweep", "key"]).to_pylist()
    telling = {row["sweep"] for row in jobs}
    trials = {row["key"] for row in plans}
    planned = {row["key"] for row in jobs}
    # A plan without measurements may be older than their storage: measurements of its trials stay.
    untold = {row["key"] for row in plans if row["sweep"] not in telling}
    found: list[Garbage] = []
    for table in (f"metrics/{metric}" for metric in store.metrics()):
        rows = store.read_table(table, ["key", "trials"]).to_pylist()
        unwanted = {
            row["key"]
            for row in rows
            if row["key"] not in planned and not untold.issuperset(row["trials"])
        }
        rows_of_metric, going = _rows_of(store.files, table, unwanted, before)
        found += rows_of_metric
        found += _artifacts_of(store.files, going)
    rows_of_trials, gone = _rows_of(store.files, "trials", known - trials, before)
    found += rows_of_trials
    found += _rows_of(store.files, "histories", gone, float("inf"))[0]
    for entry in store.files.entries("checkpoints"):
        match = _OF_TRIAL.fullmatch(entry.name)
        if match and match[2] in gone:
            found.append(Garbage("orphans", f"checkpoints/{entry.name}", entry.num_bytes))
    found += _artifacts_of(store.files, gone)
    for entry in _old(store.files.entries("snapshots"), before):
        match = checkpoints.SNAPSHOT.fullmatch(entry.name)
        if match and match[2] not in trials | known:
            found.append(Garbage("orphans", f"snapshots/{entry.name}", entry.num_bytes))
    return found


def _artifacts_of(files: Files, jobs: set[str]) -> Iterator[Garbage]:
    for entry in files.entries(artifacts.FOLDER) if jobs else ():
        artifact = artifacts.artifact_in(entry.name)
        if artifact is not None and artifact.job in jobs:
            yield Garbage("orphans", f"{artifacts.FOLDER}/{entry.name}", entry.num_bytes)


def _rows_of(
    files: Files, table: str, keys: set[str], before: float
) -> tuple[list[Garbage], set[str]]:
    """Find the rows of `keys` in the compacted copy and in files; return them and the keys that are
    old enough to delete.
    """
    folder, copy = shards.table_folder(table), shards.compacted_name(table)
    by_name = {f"{folder}/{entry.name}": entry for entry in files.entries(folder)}
    there = {key: by_name[n] for key, n in shards.listed(files, table).items() if n in by_name}
    column = shards.naming_column(table)
    copied = shards.read_shard(files, table, copy, [column])
    in_copy = set() if copied is None else keys.intersection(copied[column].to_pylist())
    if in_copy:
        with suppress(FileNotFoundError):
            age = files.modified(copy)
            young = age is None or age >= before
            in_copy = in_copy & there.keys() if young else in_copy
    old = {
        key
        for key in keys & (there.keys() | in_copy)
        if key not in there or next(_old([there[key]], before), None)
    }
    found = [Garbage("orphans", copy, 0, tuple(sorted(old & in_copy)))] if old & in_copy else []
    found += [
        Garbage("orphans", f"{folder}/{there[key].name}", there[key].num_bytes)
        for key in sorted(old & there.keys())
    ]
    return found, old


def _take_out(files: Files, item: Garbage) -> None:
    """Rewrite a compacted table without the rows of some keys."""
    table = _table_of(item.name)
    copy = shards.read_shard(files, table, item.name)
    if copy is None:
        return
    unwanted = pa.array(item.keys, pa.string())
    rest = copy.filter(pc.invert(pc.is_in(copy[shards.naming_column(table)], value_set=unwanted)))
    if len(rest):
        files.replace(item.name, lambda file: file.write(row_files.encode(rest)))
    else:
        files.delete(item.name)


def _table_of(name: str) -> str:
    """Return the table of a file or of a compacted copy."""
    folder, _, rest = name.partition("/")
    if folder == shards.COMPACTED:
        return shards.table_of_copy(name)
    return shards.metric_table(rest.partition("/")[0]) if folder == "metrics" else folder
