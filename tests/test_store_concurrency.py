"""Many writers and readers at once: one row a key, and never a half-written file."""

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from store_support import COLUMNS, bare, make_store

from phasegrid.keys import text_key
from phasegrid.store.compact import compact
from phasegrid.store.store import Store

NAMES = [f"job-{i}" for i in range(12)]


def _write(url: str, writer: int, start: threading.Barrier | None = None) -> int:
    """Write every job and count those that this writer was the first at."""
    store = Store.open(url)
    if start is not None:
        start.wait(timeout=60)
    return sum(
        store.put_metric(
            "sharpness",
            COLUMNS,
            bare("metrics/sharpness", name),
            [{"value": float(writer), "num_steps": i} for i in range(3)],
        )
        for name in NAMES
    )


def _write_in_process(url: str, writer: int, won: "multiprocessing.Queue[int]") -> None:
    won.put(_write(url, writer))


def _assert_one_writer_each(store: Store) -> None:
    frame = store.read_table("metrics/sharpness").to_pandas()
    assert set(frame["key"]) == {text_key(name) for name in NAMES}
    assert len(frame) == 3 * len(NAMES)
    assert (frame.groupby("key")["value"].nunique() == 1).all()


def test_of_many_threads_one_wins_each_key(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    start = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda writer: _write(store.url, writer, start), range(4)))
    assert sum(won) == len(NAMES)
    _assert_one_writer_each(store)


def test_of_many_processes_one_wins_each_key(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    context = multiprocessing.get_context("spawn")
    won: multiprocessing.Queue[int] = context.Queue()
    processes = [
        context.Process(target=_write_in_process, args=(store.url, i, won)) for i in range(2)
    ]
    for process in processes:
        process.start()
    counts = [won.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert sum(counts) == len(NAMES)
    _assert_one_writer_each(store)


def _by_duckdb(folder: str) -> pd.DataFrame:
    with duckdb.connect() as connection:
        rows = connection.sql(f"select key from read_parquet('{folder}/**/*.parquet')")
        return rows.to_arrow_table().to_pandas()


@pytest.mark.parametrize("compacting", [False, True])
def test_readers_never_meet_a_half_written_file(tmp_path: Path, compacting: bool) -> None:
    store = make_store(tmp_path)
    folder = store.files.path("metrics/sharpness")
    common = bare("metrics/sharpness", "first")
    store.put_metric("sharpness", COLUMNS, common, [{"value": 0.0}] * 3)
    done = threading.Event()

    def write() -> None:
        try:
            _write(store.url, 1)
        finally:
            done.set()

    thread = threading.Thread(target=write)
    thread.start()
    reads = 0
    while not done.is_set() or reads == 0:
        frames = [
            store.read_table("metrics/sharpness").to_pandas(),
            pd.read_parquet(folder),
            _by_duckdb(folder),
        ]
        assert all((frame.groupby("key").size() == 3).all() for frame in frames)
        if compacting:
            compact(store)
        reads += 1
    thread.join(timeout=60)
    assert len(store.stored("metrics/sharpness")) == len(NAMES) + 1
