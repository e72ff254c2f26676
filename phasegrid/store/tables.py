"""Read the tables of a store: many small Parquet files, named by their content, as one Arrow table.

A table is the union of its compacted copy ``tables/<name>.parquet``, if there is one, and of the
files that the copy does not hold yet. Files of a fixed table must have its schema. The files of a
metric may differ: if a later version of the metric added a column, it is null in older rows.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache, lru_cache
from typing import Any, TypeAlias
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc

from phasegrid.errors import StoreError
from phasegrid.store import row_files
from phasegrid.store.files.base import Files, each
from phasegrid.store.schemas import NAMING_COLUMN, SCHEMA_VERSION, TABLES, metric_schema

PassOver: TypeAlias = Callable[[StoreError], object]  # is called for a damaged file

SUFFIX = ".parquet"
COMPACTED = "tables"
PLANNED = ("plans", "plan_jobs")  # one file per sweep, replaced when it changes: never copied
_METRICS = "metrics/"
_KEY = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"(?!.*\.sync-conflict-)[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_OF_JOB = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{30})\.parquet")
_OF_FAILURE = re.compile(r"()([0-9a-f]{32})\.parquet")
_OF_SWEEP = re.compile(rf"()({_NAME.pattern})\.parquet")
_MAX_FOLDER = 200  # of the 255 bytes that file systems allow
_FEW = 64  # up to this many keys are looked up one by one, not in a copy of the table
_BATCH = 4096  # files that are read before their rows are joined


def checked_key(key: str) -> str:
    """Return `key` if it is 32 hexadecimal digits; refuse anything else, paths above all."""
    if not _KEY.fullmatch(key):
        raise StoreError(f"{key!r} is not a key: 32 lower-case hexadecimal digits are expected")
    return key


def is_name(name: str) -> bool:
    """Say whether `checked_name` takes a name."""
    return _NAME.fullmatch(name) is not None


def checked_name(name: str, what: str) -> str:
    """Return `name` if every system accepts it as the name of a file; refuse anything else, paths
    above all.
    """
    if not is_name(name):
        raise StoreError(
            f"{what} {name!r} cannot name a file: use letters, digits and . _ + - "
            "(a letter or digit first, at most 128)"
        )
    return name


def table_folder(table: str) -> str:
    """Return the folder of a table: ``trials``, ``histories``, ``plans``, ``plan_jobs``,
    ``failures`` or ``metrics/<metric>``.

    A metric from a file (``my_lab/sharpness.py:SHARPNESS``) also gets one folder, with a
    percent-encoded name.
    """
    if table in TABLES:
        return table
    metric = table.removeprefix(_METRICS)
    folder = quote(metric, safe="")
    if metric == table or not metric or folder[0] in "._" or len(folder) > _MAX_FOLDER:
        raise StoreError(
            f"there is no table {table!r}; a store has {', '.join(TABLES)} and metrics/<metric> (a"
            f" metric's name starts with neither . nor _ and has at most {_MAX_FOLDER} characters)"
        )
    return _METRICS + folder


def shard_name(table: str, name: str) -> str:
    """Return the file of one job, sweep or failure within a store."""
    folder = table_folder(table)
    if table in PLANNED:
        return f"{folder}/{checked_name(name, 'sweep')}{SUFFIX}"
    checked_key(name)
    middle = "" if table == "failures" else f"{name[:2]}/"
    return f"{folder}/{middle}{name}{SUFFIX}"


def key_in(table: str, found: str) -> str | None:
    """Return the key that a file of a table holds, from its name within the table's folder; None if
    the file does not belong to the store.

    This rule decides which files belong to a table: those with a name that `shard_name` gives. All
    others are ignored: hidden files, conflict copies of file synchronisers, folders of notebooks.
    """
    pattern = _OF_SWEEP if table in PLANNED else _OF_FAILURE if table == "failures" else _OF_JOB
    match = pattern.fullmatch(found)
    return match[2] if match else None


def compacted_name(table: str) -> str:
    """Return the file of a table's compacted copy."""
    return f"{COMPACTED}/{table_folder(table).replace('/', '.')}{SUFFIX}"


def table_of_copy(name: str) -> str:
    """Return the table whose compacted copy a file is: the inverse of `compacted_name`."""
    kind, dot, metric = name.removeprefix(f"{COMPACTED}/").removesuffix(SUFFIX).partition(".")
    return metric_table(metric) if dot else kind


def is_copy_name(name: str) -> bool:
    """Say whether a file has a name that `compacted_name` gives; others do not belong to the
    store.
    """
    try:
        return compacted_name(table_of_copy(name)) == name
    except StoreError:
        return False


def metric_table(folder: str) -> str:
    """Return the table of a metric from the percent-encoded name of its folder."""
    return _METRICS + unquote(folder)


def naming_column(table: str) -> str:
    """Return the column that names a row's file."""
    return NAMING_COLUMN.get(table, "key")


def listed(files: Files, table: str) -> dict[str, str]:
    """Map the key (sweep, id) of every file of a table to the file's name, from one listing."""
    folder = table_folder(table)
    there = ((key_in(table, found), found) for found in files.names(folder))
    return {key: f"{folder}/{found}" for key, found in there if key is not None}


def foreign(files: Files, table: str) -> list[str]:
    """List the files in a table's folder that are not the store's."""
    folder = table_folder(table)
    return sorted(f"{folder}/{n}" for n in files.names(folder) if key_in(table, n) is None)


def metric_names(files: Files) -> list[str]:
    """List the metrics that have a table: the folders whose names `table_folder` gives."""
    folders = [entry[:-1] for entry in files.folders("metrics") if entry.endswith("/")]
    return [unquote(folder) for folder in folders if is_metric_folder(folder)]


def is_metric_folder(folder: str) -> bool:
    """Say whether a folder of ``metrics/`` belongs to a metric; others do not belong to the
    store.
    """
    try:
        return table_folder(metric_table(folder)) == _METRICS + folder
    except StoreError:
        return False


def read(
    files: Files,
    table: str,
    columns: Sequence[str] | None,
    keys: Collection[str] | None,
    pass_over: PassOver | None = None,
) -> pa.Table:
    """Read a table: its compacted copy and the files that are not in it.

    If `pass_over` is given, it is called for each damaged file, and the rows of the others are
    returned.
    """
    naming = naming_column(table)
    wanted = None if columns is None else list(dict.fromkeys([naming, *columns]))
    if keys is not None and len(keys) <= _FEW:
        names = [shard_name(table, key) for key in sorted(set(keys))]
        parts = list(read_shards(files, table, names, wanted, pass_over))
        missing = set(keys).difference(*(part[naming].to_pylist() for part in parts))
        copies = _read_copy(files, table, wanted, pass_over) if missing else ()
        parts += [_keep(part, naming, missing) for part in copies]
    else:
        copies = _read_copy(files, table, wanted, pass_over)
        parts = [_keep(part, naming, keys) for part in copies]
        held = {key for part in parts for key in part[naming].to_pylist()}
        there = listed(files, table)
        chosen = there.keys() if keys is None else there.keys() & set(keys)
        names = [there[key] for key in sorted(chosen - held)]
        parts += read_shards(files, table, names, wanted, pass_over)
    rows = join(parts, table, wanted)
    if columns is None:
        return rows
    unknown = [column for column in columns if column not in rows.schema.names]
    if unknown:
        raise StoreError(f"reading table {table}: it has no column {unknown[0]!r}")
    return rows.select(list(columns))


def read_shards(
    files: Files,
    table: str,
    names: Sequence[str],
    columns: Sequence[str] | None = None,
    pass_over: PassOver | None = None,
) -> Iterator[pa.Table]:
    """Read files of a table in batches. Missing files are left out; damaged files only if
    `pass_over` is given.

    Raises:
        StoreError: naming a file that is damaged or does not have the table's schema.
    """

    def read_one(name: str) -> pa.Table | None:
        try:
            return _own_rows(read_shard(files, table, name, columns), table, name)
        except StoreError as error:
            if pass_over is None or error.fault is not None:
                raise
            pass_over(error)
            return None

    for start in range(0, len(names), _BATCH):
        found = each(files, names[start : start + _BATCH], read_one)
        parts = [part for part in found if part is not None]
        if parts:
            yield join(parts, table, columns).combine_chunks()


def read_shard(
    files: Files, table: str, name: str, columns: Sequence[str] | None = None
) -> pa.Table | None:
    """Read one file and convert it to the table's schema; None if there is no such file."""
    try:
        data = files.read(name)
    except FileNotFoundError:
        return None
    where = files.path(name)
    known = TABLES[table].names if table in TABLES else None
    rows = row_files.decode(data, where, columns, known)
    return _conform(rows, table, columns, where)


def join(parts: Sequence[pa.Table], table: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Join parts of one table; a column that only some have is null in the others."""
    schema = merged_schema([part.schema for part in parts], table)
    if columns is not None:
        schema = pa.schema([schema.field(c) for c in columns if c in schema.names])
    filled = [part if part.schema.equals(schema) else _fill(part, schema) for part in parts]
    return pa.concat_tables(filled) if filled else schema.empty_table()


def merged_schema(schemas: Sequence[pa.Schema], table: str) -> pa.Schema:
    """Return the one schema of a table whose parts have `schemas`.

    Raises:
        StoreError: if two parts of a metric give one column different types.
    """
    if table in TABLES:
        return TABLES[table]
    try:
        return pa.unify_schemas([*dict.fromkeys(schemas), _every_metric()])
    except pa.ArrowException as error:
        raise StoreError(
            f"reading table {table}: its files disagree on the type of a column ({error}); a metric"
            " whose columns change their type needs another name"
        ) from error


def _read_copy(
    files: Files, table: str, columns: Sequence[str] | None, pass_over: PassOver | None
) -> Iterator[pa.Table]:
    if table not in PLANNED:
        yield from read_shards(files, table, [compacted_name(table)], columns, pass_over)


def _own_rows(rows: pa.Table | None, table: str, name: str) -> pa.Table | None:
    """Leave out rows of another sweep from a plan's file: a synchroniser may give a copy the name
    of another sweep.
    """
    if rows is None or table not in PLANNED:
        return rows
    sweep = name.rpartition("/")[2].removesuffix(SUFFIX)
    return _keep(rows, naming_column(table), [sweep])


def _keep(part: pa.Table, naming: str, keys: Collection[str] | None) -> pa.Table:
    if keys is None:
        return part
    return part.filter(pc.is_in(part[naming], value_set=pa.array(sorted(keys), pa.string())))


def _fill(part: pa.Table, schema: pa.Schema) -> pa.Table:
    arrays: list[Any] = [
        part[field.name] if field.name in part.schema.names else pa.nulls(len(part), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _conform(rows: pa.Table, table: str, columns: Sequence[str] | None, where: str) -> pa.Table:
    """Check the columns of one file against the table's and fill in those that an older file does
    not have.
    """
    wanted = _wanted_schema(table, None if columns is None else tuple(columns))
    if table in TABLES and rows.schema.equals(wanted):
        return rows
    for field in wanted:
        if field.name in rows.schema.names and rows.schema.field(field.name).type != field.type:
            raise StoreError(
                f"reading {where}: column {field.name!r} is {rows.schema.field(field.name).type}, "
                f"{field.type} is expected"
            )
    newest = pc.max(rows["schema_version"]).as_py() if "schema_version" in rows.schema.names else 0
    if (newest or 0) > SCHEMA_VERSION:
        raise StoreError(
            f"reading {where}: schema version {newest}, this phasegrid reads up to"
            f" {SCHEMA_VERSION}; upgrade it"
        )
    return _fill(rows, wanted) if table in TABLES else rows


@lru_cache(maxsize=64)
def _wanted_schema(table: str, columns: tuple[str, ...] | None) -> pa.Schema:
    """Return the fixed columns of a table, in their order, or those of them that are asked for."""
    fixed: pa.Schema = TABLES.get(table) or _every_metric()
    return pa.schema([field for field in fixed if columns is None or field.name in columns])


@cache
def _every_metric() -> pa.Schema:
    return metric_schema("", ())
