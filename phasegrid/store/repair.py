"""Find the damaged files of a store and what must be deleted with them, so that the next run
repeats exactly those jobs.

A file appears whole or not at all. So a damaged file was damaged later (by a disk, or by an
interrupted copy); it is not being written now, and its age does not matter. If the weights or the
history of a trial are damaged, its row and its other files are deleted too, because a trial is
trained as a whole. If an artifact of a measurement is damaged, the measurement's row is deleted
too. Measurements of a damaged trial stay: the same key means the same training. Files with unknown
names are left alone.
"""

import hashlib
from collections.abc import Iterator, Sequence

import pyarrow as pa

from phasegrid.errors import StoreError
from phasegrid.keys import KEY_DIGITS
from phasegrid.store import artifacts, checkpoints, meta
from phasegrid.store import tables as shards
from phasegrid.store.files.base import Files, each
from phasegrid.store.files.errors import reported
from phasegrid.store.gc import Garbage, GarbageReport
from phasegrid.store.store import Store

_KIND = "damaged"


def find_damage(store: Store, deep: bool = False) -> GarbageReport:
    """Find what to delete so that damaged jobs are repeated; delete nothing (see
    `gc.delete_garbage`).

    `deep` also reads every checkpoint and compares its SHA-256 with the one in its trial's row.

    Raises:
        StoreError: if the store cannot be read.
    """
    with reported(f"looking for damage in {store.url}"):
        files = store.files
        copies = _damaged_copies(files)
        collected = meta.read_collected(files) if copies else set()
        found = [name for name in copies if shards.table_of_copy(name) not in collected]
        only = [name for name in copies if name not in found]
        trials = _trials_without_weights(files, copies, deep)
        trials |= _without_artifacts(files, "trials", deep)
        tables = ["trials", "histories", "failures", *(f"metrics/{m}" for m in store.metrics())]
        for table in tables:
            names = _damaged_shards(files, table)
            found += names
            if table == "histories":
                trials |= {_key(name) for name in names}
        found += _damaged_snapshots(files)
        lost = {m: _without_artifacts(files, f"metrics/{m}", deep) for m in store.metrics()}
        of_lost = (name for metric, keys in lost.items() for name in _left_by(files, metric, keys))
        whole = dict.fromkeys([*found, *_files_of(files, trials), *of_lost])
        sizes = {name: _size(files, name) for name in whole}
        garbage = [
            *_rows_in_copies(files, ("trials", "histories"), trials, copies),
            *(
                g
                for m, keys in lost.items()
                for g in _rows_in_copies(files, (f"metrics/{m}",), keys, copies)
            ),
            *(Garbage(_KIND, name, size) for name, size in sizes.items()),
        ]
        kept = tuple(_left_alone(files, only, tables))
    return GarbageReport(tuple(garbage), kept)


def _left_alone(files: Files, copies: list[str], tables: list[str]) -> Iterator[str]:
    """Say which files were left alone, and what to do about them."""
    for name in copies:
        yield (
            f"{files.path(name)}: damaged, and the only copy of some rows: restore it from a"
            f" backup, or delete it by hand and run the sweeps again"
        )
    for table in shards.PLANNED:
        for name in _damaged_shards(files, table):
            yield f"{files.path(name)}: damaged; `phasegrid run` of its sweep writes it again"
    for table in (*tables, *shards.PLANNED):
        for name in shards.foreign(files, table):
            yield f"{files.path(name)}: does not belong in table {table}; move it out of there"
        folder = shards.table_folder(table)
        for name, kind in sorted(files.strays(folder).items()):
            where = files.path(f"{folder}/{name}")
            yield f"{where}: {kind}, which is ignored; move it away, then run again"


def _damaged_copies(files: Files) -> list[str]:
    names = (f"{shards.COMPACTED}/{found}" for found in sorted(files.names(shards.COMPACTED)))
    return [
        name
        for name in names
        if shards.is_copy_name(name) and _is_damaged(files, shards.table_of_copy(name), name)
    ]


def _damaged_shards(files: Files, table: str) -> list[str]:
    names = _shards(files, table)
    bad = each(files, names, lambda name: _is_damaged(files, table, name))
    return [name for name, is_bad in zip(names, bad, strict=True) if is_bad]


def _shards(files: Files, table: str) -> list[str]:
    return sorted(shards.listed(files, table).values())


def _weights(files: Files) -> list[str]:
    found = sorted(files.names("checkpoints"))
    return [f"checkpoints/{name}" for name in found if checkpoints.NAME.fullmatch(name)]


def _is_damaged(files: Files, table: str, name: str) -> bool:
    """Say whether a file differs from what was written; a whole file with another schema does
    not.
    """
    try:
        shards.read_shard(files, table, name)
    except StoreError as error:
        return error.damaged
    return False


def _trials_without_weights(files: Files, damaged_copies: list[str], deep: bool) -> set[str]:
    """Return the trials whose row names weights that are missing or damaged.

    The rows are read first: a trial that a running sweep commits meanwhile has its weights before
    its row.
    """
    digests = {
        str(row["key"]): row["checkpoint_sha256"]
        for part in _trial_rows(files, damaged_copies)
        for row in part.to_pylist()
        if row["checkpoint_sha256"] is not None
    }
    names = _weights(files)
    final = {_key(name): name for name in names if name.endswith(f"{_key(name)}.safetensors")}
    expected = {name: digests[key] for key, name in final.items() if deep and key in digests}
    bad = each(
        files,
        names,
        lambda n: _is_cut(files, n) or (deep and _is_other(files, n, expected.get(n))),
    )
    damaged = {_key(name) for name, is_bad in zip(names, bad, strict=True) if is_bad}
    return damaged | (digests.keys() - final.keys())


def _trial_rows(files: Files, damaged_copies: list[str]) -> Iterator[pa.Table]:
    columns = ["key", "checkpoint_sha256"]
    copy = shards.compacted_name("trials")
    for name in [*_shards(files, "trials"), copy]:
        if name in damaged_copies:
            continue
        try:
            rows = shards.read_shard(files, "trials", name, columns)
        except StoreError:
            continue  # this file is found as damaged by itself
        if rows is not None:
            yield rows


def _damaged_snapshots(files: Files) -> Iterator[str]:
    for found in sorted(files.names("snapshots")):
        if checkpoints.SNAPSHOT.fullmatch(found) and _is_cut(files, f"snapshots/{found}"):
            yield f"snapshots/{found}"


def _is_cut(files: Files, name: str) -> bool:
    try:
        checkpoints.read_header(files, name)
    except StoreError:
        return True
    except FileNotFoundError:  # a running sweep has just finished it
        return False
    return False


def _is_other(files: Files, name: str, digest: str | None) -> bool:
    """Say whether a file differs from its own checksum, or from its expected SHA-256."""
    try:
        data = files.read(name)
        checkpoints.refuse_damage(data, name)
    except FileNotFoundError:
        return False
    except StoreError as error:
        if not error.damaged:
            raise
        return True
    return digest is not None and hashlib.sha256(data).hexdigest() != digest


def _files_of(files: Files, trials: set[str]) -> Iterator[str]:
    """Yield the row, the history and the weights of some trials, the row first."""
    if trials:
        names = [*_shards(files, "trials"), *_shards(files, "histories"), *_weights(files)]
        yield from (name for name in names if _key(name) in trials)


def _without_artifacts(files: Files, table: str, deep: bool) -> set[str]:
    """Return the jobs of a table whose rows name a missing or damaged artifact."""
    named = {artifacts.file_names(a)[0]: (a, d) for a, d in artifacts.named_in(files, table)}
    folders = ("checkpoints", artifacts.FOLDER)
    there = {f"{folder}/{found}" for folder in folders for found in files.names(folder)}
    names = sorted(named.keys() & there)
    bad = each(
        files,
        names,
        lambda n: _is_cut(files, n) or (deep and _is_other(files, n, named[n][1])),
    )
    damaged = {name for name, is_bad in zip(names, bad, strict=True) if is_bad}
    return {named[name][0].job for name in damaged | (named.keys() - there)}


def _left_by(files: Files, metric: str, keys: set[str]) -> Iterator[str]:
    """Yield the rows and the artifacts of some measurements, the rows first."""
    if keys:
        names = _shards(files, f"metrics/{metric}")
        yield from (name for name in names if _key(name) in keys)
        for found in sorted(files.names(artifacts.FOLDER)):
            artifact = artifacts.artifact_in(found)
            if artifact is not None and artifact.job in keys:
                yield f"{artifacts.FOLDER}/{found}"


def _rows_in_copies(
    files: Files, tables: Sequence[str], keys: set[str], damaged: list[str]
) -> Iterator[Garbage]:
    for table in tables:
        name = shards.compacted_name(table)
        if not keys or name in damaged:
            continue
        rows = shards.read_shard(files, table, name, ["key"])
        held = set() if rows is None else keys & set(rows["key"].to_pylist())
        if held:
            yield Garbage(_KIND, name, 0, tuple(sorted(held)))


def _size(files: Files, name: str) -> int:
    try:
        return files.size(name)
    except FileNotFoundError:
        return 0


def _key(name: str) -> str:
    return name.rpartition("/")[2][:KEY_DIGITS]
