"""Find the damaged files of a store and what must go with them, so that the next run does just those jobs again.

A file appears whole or not at all, so a damaged one was damaged later (a disk, a copy that was cut short) and is never one that
is being written: no age is asked. With the weights or the history of a trial go its row and the rest of it, for it is
trained as a whole. Measurements of it stay: the same key is the same training.
"""

from collections.abc import Iterator

import pyarrow as pa

from phasegrid import checkpoints, notes, shards
from phasegrid.collecting import Findings, Garbage
from phasegrid.errors import StoreError
from phasegrid.files import Files, each
from phasegrid.reporting import reported
from phasegrid.store import Store

_KIND = "damaged"


def find_damage(store: Store) -> Findings:
    """Find what to delete so that damaged jobs are done again; deletes nothing. See `collecting.delete_garbage`.

    Raises:
        StoreError: if the store cannot be read.
    """
    with reported(f"looking for damage in {store.url}"):
        files = store.files
        kept: list[str] = []
        copies = set(_damaged_copies(files, kept))
        found = [*copies]
        trials = set(_trials_without_weights(files, copies))
        for table in (
            "trials",
            "histories",
            "failures",
            *(f"metrics/{m}" for m in store.metrics()),
        ):
            names = _damaged_shards(files, table)
            found += names
            if table == "histories":
                trials |= {_key(name) for name in names}
        found += _damaged_snapshots(files)
        for table in shards.PLANNED:
            kept += [
                f"{files.path(name)}: damaged; `phasegrid run` of its sweep writes it anew"
                for name in _damaged_shards(files, table)
            ]
        whole = dict.fromkeys([*found, *_files_of(files, trials)])
        sizes = {name: _size(files, name) for name in whole}
        garbage = [
            *_rows_in_copies(files, trials, copies),
            *(Garbage(_KIND, name, size) for name, size in sizes.items()),
        ]
    return Findings(tuple(garbage), tuple(kept))


def _damaged_copies(files: Files, kept: list[str]) -> Iterator[str]:
    for found in sorted(files.names(shards.COMPACTED)):
        name = f"{shards.COMPACTED}/{found}"
        table = shards.table_of_copy(name)
        if not _is_damaged(files, table, name):
            continue
        if table in notes.read_collected(files):
            kept.append(
                f"{files.path(name)}: damaged, and the only copy of some rows: bring it back from a backup, or delete "
                "it by hand and run the sweeps again"
            )
        else:
            yield name


def _damaged_shards(files: Files, table: str) -> list[str]:
    names = sorted(shards.listed(files, table).values())
    bad = each(files, names, lambda name: _is_damaged(files, table, name))
    return [name for name, is_bad in zip(names, bad, strict=True) if is_bad]


def _is_damaged(files: Files, table: str, name: str) -> bool:
    """Say whether a file is no whole Parquet file; one of another schema is whole."""
    try:
        shards.read_shard(files, table, name)
    except StoreError as error:
        return isinstance(error.__cause__, (pa.ArrowException, OSError))
    return False


def _trials_without_weights(files: Files, damaged_copies: set[str]) -> Iterator[str]:
    """Yield the trials that say that they have weights, and whose weights are missing or damaged."""
    listing = files.names("checkpoints")
    bad = each(files, listing, lambda name: _is_cut(files, f"checkpoints/{name}"))
    damaged = {_key(name) for name, is_bad in zip(listing, bad, strict=True) if is_bad}
    there = {_key(name) for name in listing if ".epoch-" not in name}
    yield from damaged
    for part in _trial_rows(files, damaged_copies):
        for row in part.to_pylist():
            if row["checkpoint_sha256"] is not None and row["key"] not in there:
                yield str(row["key"])


def _trial_rows(files: Files, damaged_copies: set[str]) -> Iterator[pa.Table]:
    columns = ["key", "checkpoint_sha256"]
    copy = shards.compacted_name("trials")
    for name in [*shards.listed(files, "trials").values(), copy]:
        if name in damaged_copies:
            continue
        try:
            rows = shards.read_shard(files, "trials", name, columns)
        except StoreError:
            continue  # found as damaged by itself
        if rows is not None:
            yield rows


def _damaged_snapshots(files: Files) -> Iterator[str]:
    for found in sorted(files.names("snapshots")):
        if _is_cut(files, f"snapshots/{found}"):
            yield f"snapshots/{found}"


def _is_cut(files: Files, name: str) -> bool:
    try:
        checkpoints.read_header(files, name)
    except StoreError:
        return True
    except FileNotFoundError:  # a running sweep is done with it
        return False
    return False


def _files_of(files: Files, trials: set[str]) -> Iterator[str]:
    """Yield the row, the history and the weights of some trials, the row first."""
    for folder in ("trials", "histories", "checkpoints"):
        for found in sorted(files.names(folder)) if trials else ():
            if _key(found) in trials:
                yield f"{folder}/{found}"


def _rows_in_copies(files: Files, trials: set[str], damaged: set[str]) -> Iterator[Garbage]:
    for table in ("trials", "histories"):
        name = shards.compacted_name(table)
        if not trials or name in damaged:
            continue
        rows = shards.read_shard(files, table, name, ["key"])
        held = set() if rows is None else trials & set(rows["key"].to_pylist())
        if held:
            yield Garbage(_KIND, name, 0, tuple(sorted(held)))


def _size(files: Files, name: str) -> int:
    try:
        return files.size(name)
    except FileNotFoundError:
        return 0


def _key(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]
