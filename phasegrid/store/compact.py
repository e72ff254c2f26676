"""Copy the many small files of each table into one, so that reading is fast. Nothing is deleted.

A copy holds the rows of the previous copy and of the files that appeared since. To rebuild all
copies, delete ``tables/`` and compact again, unless the files were deleted since (`gc`). Plans are
few and change, so they are not copied.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import pyarrow as pa

from phasegrid.store import row_files
from phasegrid.store import tables as shards
from phasegrid.store.files.base import Files
from phasegrid.store.files.errors import reported
from phasegrid.store.store import Store
from phasegrid.texts import counted


@dataclass(frozen=True, slots=True)
class Compacted:
    """What `compact` did with one table: number of new files, rows of the copy, and seconds
    taken.
    """

    table: str
    num_new_files: int
    num_rows: int
    seconds: float

    def __str__(self) -> str:
        """Return one line for people."""
        if not self.num_new_files:
            return f"{self.table}: {counted(self.num_rows, 'row')}, nothing new"
        rate = self.num_new_files / max(self.seconds, 1e-9)
        return (
            f"{self.table}: {counted(self.num_new_files, 'file')} copied, "
            f"{counted(self.num_rows, 'row')}, "
            f"{self.seconds:.1f} s ({rate:.0f} files/s)"
        )


@dataclass(frozen=True, slots=True)
class Compaction:
    """What `compact` did, table by table."""

    tables: tuple[Compacted, ...]

    def lines(self) -> list[str]:
        """Return one line a table, for people."""
        return [str(table) for table in self.tables] or ["nothing to compact"]


def compact(store: Store) -> Compaction:
    """Write ``tables/<table>.parquet`` for every table that has files its copy does not hold.

    Writers may run at the same time: a file that appears meanwhile joins the next copy.

    Raises:
        StoreError: naming the file, if one is damaged; the previous copy stays.
    """
    tables = ["trials", "histories", "failures", *(f"metrics/{name}" for name in store.metrics())]
    done = []
    for table in tables:
        with reported(f"compacting table {table} of {store.url}"):
            result = _compact_table(store.files, table)
        if result is not None:
            done.append(result)
    return Compaction(tuple(done))


def _compact_table(files: Files, table: str) -> Compacted | None:
    started = time.perf_counter()
    column = shards.naming_column(table)
    old = shards.read_shard(files, table, shards.compacted_name(table), [column])
    held = set() if old is None else set(old[column].to_pylist())
    new = [name for key, name in sorted(shards.listed(files, table).items()) if key not in held]
    if not new:
        return None if old is None else Compacted(table, 0, len(old), 0.0)
    num_rows = _write_copy(files, table, new)
    return Compacted(table, len(new), num_rows, time.perf_counter() - started)


def _write_copy(files: Files, table: str, new: list[str]) -> int:
    """Write the copy. A metric's table is written in one piece, because its columns may differ
    between versions.
    """
    num_rows = 0
    # Read before writing: a try whose answer was lost may have written the new copy already.
    old = shards.read_shard(files, table, shards.compacted_name(table))
    parts = chain([] if old is None else [old], shards.read_shards(files, table, new))
    if table.startswith("metrics/"):
        parts = chain([shards.join(list(parts), table)])

    def counted() -> Iterator[pa.Table]:
        nonlocal num_rows
        for part in parts:
            num_rows += len(part)
            yield part

    data = row_files.encode_parts(counted())
    files.replace(shards.compacted_name(table), lambda file: file.write(data))
    return num_rows
