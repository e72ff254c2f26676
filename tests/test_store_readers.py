"""pandas, DuckDB and Polars read every table directory as it is, whatever is null in which file."""

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from store_support import SCHEMAS, bare, full, make_store, put

from phasegrid.store.compact import compact
from phasegrid.store.store import Store
from phasegrid.store.tables import PLANNED, compacted_name

MAKERS = ([bare, full], [full, bare], [bare, bare], [full, full])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path)


def _by_pandas(folder: str) -> pa.Table:
    return pa.Table.from_pandas(pd.read_parquet(folder), preserve_index=False)


def _by_duckdb(folder: str) -> pa.Table:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.sql(
            f"select * from read_parquet('{folder}/**/*.parquet')"
        ).to_arrow_table()


def _by_polars(folder: str) -> pa.Table:
    return pl.read_parquet(folder).to_arrow()


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    return sorted(
        table.drop_columns(
            ["created_at"] if "created_at" in table.schema.names else []
        ).to_pylist(),
        key=lambda row: str(row["key"]),
    )


@pytest.mark.parametrize("table", SCHEMAS)
@pytest.mark.parametrize("makers", MAKERS, ids=["bare-full", "full-bare", "bare-bare", "full-full"])
def test_three_readers_see_what_the_store_sees(store: Store, table: str, makers: Any) -> None:
    for name, make in zip(("one", "two"), makers, strict=True):
        put(store, table, make(table, name))
    own = store.read_table(table)
    assert own.schema == SCHEMAS[table]
    folder = store.files.path(table)
    expected = _rows(own)
    assert len(expected) == 2
    assert _rows(_by_polars(folder)) == expected
    assert _rows(_by_duckdb(folder)) == expected
    assert list(_by_pandas(folder).schema.names) == own.schema.names
    if makers != [bare, full] and makers != [full, bare]:
        return  # pandas makes floats of whole numbers where one of them is missing
    types = pd.read_parquet(folder, dtype_backend="pyarrow")
    assert _rows(pa.Table.from_pandas(types, preserve_index=False)) == expected


@pytest.mark.parametrize("table", [name for name in SCHEMAS if name not in PLANNED])
def test_the_copy_of_a_table_reads_like_its_folder(store: Store, table: str) -> None:
    for name, make in (("one", bare), ("two", full)):
        put(store, table, make(table, name))
    expected = _rows(store.read_table(table))
    compact(store)
    copy = store.files.path(compacted_name(table))
    assert _rows(pl.read_parquet(copy).to_arrow()) == expected
    assert len(pd.read_parquet(copy)) == 2
