"""Write and read one file of rows: Parquet with a checksum over the whole file. Only this module
parses the Parquet files of a store.

The checksum is verified before pyarrow reads anything. So damage is found wherever it is, and no
damaged file is parsed. Files of earlier releases have no checksum: their texts, times and columns
are checked instead, and any error of pyarrow counts as damage.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from io import BytesIO
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from phasegrid.errors import StoreError
from phasegrid.store import sealing
from phasegrid.store.schemas import SCHEMA_VERSION

REPAIR = (
    "`phasegrid gc --damaged` lists all such files, with --delete their jobs are done again by the"
    " next run"
)
_WORTH_COMPRESSING = (
    1 << 14
)  # bytes; below that zstd doubles the time to write and to read, and saves nothing
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def encode(table: pa.Table) -> bytes:
    """Write a table as Parquet bytes. One row is small without statistics and dictionaries, and
    fast without compression.
    """
    compression = "zstd" if table.nbytes > _WORTH_COMPRESSING else "none"
    return _write(table.schema, [table], compression, is_copy=False)


def encode_parts(parts: Iterable[pa.Table]) -> bytes:
    """Write one or more tables of one schema, one after another, as compressed Parquet bytes."""
    rest = iter(parts)
    first = next(rest)
    return _write(first.schema, chain([first], rest), "zstd", is_copy=True)


def decode(
    data: bytes,
    where: str,
    columns: Sequence[str] | None = None,
    known: Collection[str] | None = None,
) -> pa.Table:
    """Read Parquet bytes, all columns or the existing ones of `columns`; `where` names the file in
    messages.

    If `known` lists every possible column, an unknown column in a file without a checksum means
    that a name was damaged.

    Raises:
        StoreError: with `damaged` set, if the bytes have changed since they were written.
    """
    sealed = sealing.is_sealed(data)
    if sealed and not sealing.is_intact(data):
        raise StoreError(
            f"reading {where}: not a whole Parquet file, or changed since (its checksum does not"
            f" fit); {REPAIR}",
            damaged=True,
        )
    try:
        rows = _parse(data, columns, None if sealed else known)
        if not sealed:
            rows.validate(full=True)
            _refuse_impossible_times(rows)
    except (
        Exception
    ) as error:  # pyarrow raises its own errors, and those of the system, Python, text and memory
        found = f"{type(error).__name__}: {error}"
        if sealed:
            raise StoreError(
                f"reading {where}: the file is as it was written, but pyarrow {pa.__version__}"
                f" cannot read it ({found})"
            ) from error
        raise StoreError(
            f"reading {where}: not a whole Parquet file ({found}); {REPAIR}", damaged=True
        ) from error
    return rows


def _write(schema: pa.Schema, parts: Iterable[pa.Table], compression: str, is_copy: bool) -> bytes:
    buffer = BytesIO()
    with pq.ParquetWriter(
        buffer,
        schema,
        compression=compression,
        use_dictionary=is_copy,
        write_statistics=is_copy,
        store_schema=False,  # the Parquet types say it all, in half the bytes
    ) as writer:
        for part in parts:
            writer.write_table(part)
        writer.add_key_value_metadata({sealing.KEY: sealing.BLANK})
    return sealing.seal(buffer.getvalue())


def _parse(data: bytes, columns: Sequence[str] | None, known: Collection[str] | None) -> pa.Table:
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        has = file.schema_arrow.names
        unknown = [] if known is None else [name for name in has if name not in known]
        if unknown and not _is_newer(file):
            raise ValueError(f"no column {unknown[0]!r} is known")
        wanted = None if columns is None else [column for column in columns if column in has]
        rows = file.read(columns=wanted, use_threads=False)
    return rows.replace_schema_metadata(None)  # the checksum belongs to the file, not to the rows


def _is_newer(file: pq.ParquetFile) -> bool:
    """Say whether a file comes from a later release, which may have other columns."""
    newest = pc.max(file.read(["schema_version"], use_threads=False)["schema_version"]).as_py()
    return newest is not None and newest > SCHEMA_VERSION


def _refuse_impossible_times(rows: pa.Table) -> None:
    """Refuse times that Python's calendar cannot hold: otherwise they would fail much later, with
    an unclear message.
    """
    for column in rows.columns:
        if pa.types.is_timestamp(column.type) and len(column) > column.null_count:
            first, last = pc.min(column), pc.max(column)
            bounds = [pa.scalar(bound, column.type) for bound in (_FIRST, _LAST)]
            if first.value < bounds[0].value or last.value > bounds[1].value:
                raise ValueError("a time outside the years 1 to 9999")
