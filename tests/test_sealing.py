"""A changed bit anywhere in a file of rows or weights is found before the file is parsed, and
repaired like any damage.
"""

import io
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from store_support import SCHEMAS, bare, full, leave, make_store, put, rows_without_checksum

from phasegrid.errors import StoreError
from phasegrid.keys import text_key
from phasegrid.run.verify import verify
from phasegrid.store import checkpoints, row_files, schemas, sealing
from phasegrid.store.compact import compact
from phasegrid.store.gc import delete_garbage
from phasegrid.store.records import to_table
from phasegrid.store.repair import find_damage
from phasegrid.store.store import Store

A = text_key("a")


def _rows(table: str = "trials") -> bytes:
    return row_files.encode(to_table(table, SCHEMAS[table], [full(table, "a")], "a row"))


def _weights() -> bytes:
    import torch

    return checkpoints.encode({"w": torch.arange(6.0).reshape(2, 3)}, {"epoch": 3})


@pytest.mark.parametrize("table", SCHEMAS)
def test_every_file_of_rows_holds_its_checksum(table: str) -> None:
    data = _rows(table)
    assert sealing.is_sealed(data)
    assert sealing.is_intact(data)
    assert row_files.decode(data, "x").schema == SCHEMAS[table]


def test_a_changed_bit_of_rows_is_found_wherever_it_is() -> None:
    data = _rows("failures")
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :]
        with pytest.raises(StoreError, match="not a whole Parquet file") as error:
            row_files.decode(changed, "x.parquet")
        assert error.value.damaged


def test_a_changed_bit_of_weights_is_found_wherever_it_is() -> None:
    data = _weights()
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :]
        with pytest.raises(StoreError, match="not a whole safetensors file") as error:
            checkpoints.decode(changed, "x")
        assert error.value.damaged


def test_other_readers_pass_the_checksum_over(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(_rows())
    assert pd.read_parquet(path)["key"].tolist() == [A]
    assert pl.read_parquet(path)["key"].to_list() == [A]
    assert duckdb.sql(f"select key from '{path}'").fetchall() == [(A,)]
    assert pq.read_schema(path).names == schemas.TRIALS.names
    from safetensors.torch import load

    assert load(_weights())["w"].sum().item() == 15.0


def test_the_checksum_costs_next_to_nothing() -> None:
    """In bytes: seconds are measured by the benchmarks."""
    plain = io.BytesIO()
    pq.write_table(
        row_files.decode(_rows(), "x"), plain, compression="none", use_dictionary=False,
        write_statistics=False, store_schema=False,
    )  # fmt: skip
    assert len(_rows()) - len(plain.getvalue()) < 128


@pytest.fixture
def store(tmp_path: Path) -> Store:
    import torch

    store = make_store(tmp_path)
    store.put_trial(
        full("trials", "a") | {"checkpoint_sha256": None},
        [{"epoch": 0}],
        {"w": torch.ones(4)},
        leave(store, "a", "epoch-1", {"w": torch.ones(4)}),
    )
    put(store, "metrics/sharpness", full("metrics/sharpness", "m"))
    put(store, "failures", full("failures", "f"))
    return store


def _flip_in(path: Path, text: bytes) -> None:
    """Change one bit in the last place of a file where `text` stands."""
    data = bytearray(path.read_bytes())
    data[data.rindex(text)] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("trials", b"\0\0\0\0\0\0\xf8\x3f"),
        ("metrics/sharpness", b"\0\0\0\0\0\0\xf8\x3f"),
        ("failures", b"text"),
    ],
)
def test_a_changed_bit_in_a_row_is_verified_named_and_repaired(
    store: Store, table: str, text: bytes
) -> None:
    name = next(n for n in store.files.names(table))
    path = Path(store.files.path(f"{table}/{name}"))
    _flip_in(path, text)
    with pytest.raises(StoreError, match=rf"{path}: .*checksum does not fit.*gc --damaged"):
        store.read_table(table)
    assert f"{path}: " in "\n".join(map(str, verify(store)))
    delete_garbage(store, find_damage(store).garbage)
    assert not path.exists()
    assert verify(store, deep=True) == []


def test_a_changed_bit_in_a_compacted_table_is_found_and_repaired(store: Store) -> None:
    compact(store)
    path = Path(store.files.path("tables/trials.parquet"))
    before = path.read_bytes()
    path.write_bytes(before[:100] + bytes([before[100] ^ 1]) + before[101:])
    assert "tables/trials.parquet: " in "\n".join(map(str, verify(store)))
    delete_garbage(store, find_damage(store).garbage)
    compact(store)
    assert path.read_bytes() == before


def test_changed_intermediate_weights_are_found_by_a_deep_look(store: Store) -> None:
    path = Path(store.checkpoint_path(A, 1))
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert verify(store) == []
    assert f"{path}: " in "\n".join(map(str, verify(store, deep=True)))
    with pytest.raises(StoreError, match=r"gc --damaged --deep --delete"):
        store.read_checkpoint(A, 1)
    delete_garbage(store, find_damage(store, deep=True).garbage)
    assert store.stored("trials") == set()


def test_a_file_of_an_earlier_release_is_read(store: Store) -> None:
    before = store.read_table("trials")
    path = Path(store.files.path(f"trials/{A[:2]}/{A}.parquet"))
    pq.write_table(rows_without_checksum(path), path, store_schema=False)
    assert not sealing.is_sealed(path.read_bytes())
    assert store.read_table("trials").equals(before)
    from safetensors.torch import load, save

    weights = Path(store.checkpoint_path(A, 1))
    weights.write_bytes(save(load(weights.read_bytes())))
    assert store.read_checkpoint(A, 1)["w"].tolist() == [1.0] * 4
    assert verify(store) == []


def test_a_file_of_an_earlier_release_with_a_changed_name_of_a_column_is_damaged(
    store: Store,
) -> None:
    path = Path(store.files.path(f"trials/{A[:2]}/{A}.parquet"))
    rows = rows_without_checksum(path)
    for name in (b"test_lo\xf3s", b"test_lozs"):
        pq.write_table(rows, path, store_schema=False)
        path.write_bytes(path.read_bytes().replace(b"test_loss", name))
        with pytest.raises(StoreError, match=rf"{path}: not a whole Parquet file"):
            store.read_table("trials", ["key", "test_loss"])
        assert f"{path}: " in "\n".join(map(str, verify(store)))
        assert path.name in str(find_damage(store).garbage)
    assert bare("trials", "a")["key"] == A
