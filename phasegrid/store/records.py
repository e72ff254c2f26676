"""Turn records into Arrow tables of exactly one schema; every value is checked against its type."""

import difflib
import math
import numbers
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from phasegrid.errors import StoreError
from phasegrid.store.schemas import REQUIRED, REQUIRED_OF_METRICS, SCHEMA_VERSION


def to_table(
    name: str, schema: pa.Schema, rows: Sequence[Mapping[str, object]], where: str
) -> pa.Table:
    """Turn records into a table of exactly `schema`; absent columns are null, `schema_version` is
    filled in.

    `name` is the name of the table, which decides which columns must not be null; `where` names the
    records in messages.

    Raises:
        StoreError: for no rows, an unknown column, a wrong type, a NaN, or a required value that is
        missing.
    """
    if not rows:
        raise StoreError(f"writing {where}: there are no rows")
    known = set(schema.names)
    required = REQUIRED.get(name, REQUIRED_OF_METRICS)
    for row in rows:
        unknown = sorted(set(row) - known)
        if unknown:
            near = difflib.get_close_matches(unknown[0], schema.names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(schema.names)}"
            raise StoreError(f"writing {where}: table {name} has no column {unknown[0]!r}{hint}")
        for column in required:
            if row.get(column) is None:
                raise StoreError(f"writing {where}: column {column!r} must not be missing")
    records = [_record(schema, row, where) for row in rows]
    try:
        structs = pa.array(records, pa.struct(list(schema)))
    except (TypeError, ValueError, OverflowError, pa.ArrowException):
        for field in schema:
            _require_array(field, [record[field.name] for record in records], where)
        raise
    return pa.Table.from_arrays(structs.flatten(), schema=schema)


def _record(schema: pa.Schema, row: Mapping[str, object], where: str) -> dict[str, object]:
    """Return a row with every column of the schema, its values checked against their types."""
    record: dict[str, object] = {}
    for field in schema:
        name, kind = field.name, field.type
        value = SCHEMA_VERSION if name == "schema_version" else row.get(name)
        try:
            record[name] = _coerce(value, kind)
        except (TypeError, ValueError) as error:
            raise _wrong(name, kind, where, error) from error
    return record


def _require_array(field: pa.Field, values: list[object], where: str) -> None:
    """Raise an error that names the column, if its values do not fit its type."""
    try:
        pa.array(values, field.type)
    except (TypeError, ValueError, OverflowError, pa.ArrowException) as error:
        raise _wrong(field.name, field.type, where, error) from error


def _wrong(column: str, kind: pa.DataType, where: str, error: Exception) -> StoreError:
    return StoreError(f"writing {where}: column {column!r} is {kind}: {error}")


def _coerce(value: object, kind: pa.DataType) -> object:
    """Check one value against an Arrow type; pyarrow itself would turn 1.5 into 1 and True into
    1.0.
    """
    if value is None:
        return None
    if pa.types.is_list(kind):
        items = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(items, (list, tuple)):
            return [_coerce(item, kind.value_type) for item in items]
    elif pa.types.is_timestamp(kind):
        if isinstance(value, datetime) and value.tzinfo is not None:
            return value.astimezone(UTC)
    elif pa.types.is_string(kind):
        if isinstance(value, str):
            return value
    elif pa.types.is_boolean(kind) == _is_bool(value) and isinstance(value, _accepted(kind)):
        plain: Any = value.item() if hasattr(value, "item") else value
        if isinstance(plain, float) and math.isnan(plain):
            raise ValueError("found NaN; a missing number is None")
        return float(plain) if pa.types.is_floating(kind) else plain
    raise TypeError(f"found {value!r} of type {type(value).__name__}")


def _is_bool(value: object) -> bool:
    return type(value).__name__ in ("bool", "bool_")  # numpy's bool is not Python's bool


def _accepted(kind: pa.DataType) -> type:
    if pa.types.is_boolean(kind):
        return object
    return numbers.Integral if pa.types.is_integer(kind) else numbers.Real
