"""How often each planned job is stored: in files, in their rows, and in the table that readers
see.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from phasegrid.store import tables as shards
from phasegrid.store.store import Store

Planned = Mapping[str, set[str]]  # keys by table: `trials`, `metrics/<name>`


@dataclass(frozen=True, slots=True)
class Count:
    """`lost` jobs are planned and not stored, `duplicated` ones stored more than once, `strange`
    ones stored and not planned; each as ``table key``.
    """

    planned: int
    lost: tuple[str, ...]
    duplicated: tuple[str, ...]
    strange: tuple[str, ...]


def count_jobs(storage: Path, planned: Planned) -> Count:
    """Count files by name, rows by key, and rows by key of the union of files and compacted copies.

    Every table must have one row a job.
    """
    store = Store.open(str(storage))
    tables = {"trials", *(f"metrics/{name}" for name in store.metrics()), *planned}
    lost, duplicated, strange = [], [], []
    for table in sorted(tables):
        wanted = planned.get(table, set())
        views = _views(store, storage, table)
        for key in sorted(wanted.union(*views)):
            times = [view[key] for view in views]
            lost += [f"{table} {key}"] if key in wanted and min(times) == 0 else []
            duplicated += [f"{table} {key}"] if max(times) > 1 else []
            strange += [f"{table} {key}"] if key not in wanted else []
    total = sum(len(keys) for keys in planned.values())
    return Count(total, tuple(lost), tuple(duplicated), tuple(strange))


def paths_of(storage: Path, planned: Planned) -> list[Path]:
    """Return the file of every planned job."""
    return [
        storage / shards.shard_name(table, key) for table, keys in planned.items() for key in keys
    ]


def joined(plans: Iterable[Planned]) -> dict[str, set[str]]:
    """Return what several sweeps plan together."""
    together: dict[str, set[str]] = {}
    for planned in plans:
        for table, keys in planned.items():
            together.setdefault(table, set()).update(keys)
    return together


def _views(
    store: Store, storage: Path, table: str
) -> tuple[Counter[str], Counter[str], Counter[str]]:
    folder = shards.table_folder(table)
    files = sorted((storage / folder).rglob("*.parquet"))
    names = [str(path.relative_to(storage)) for path in files]
    rows: Counter[str] = Counter()
    for part in shards.read_shards(store.files, table, names, ["key"]):
        rows.update(part["key"].to_pylist())
    union = Counter(store.read_table(table, ["key"])["key"].to_pylist())
    return Counter(path.stem for path in files), rows, union
