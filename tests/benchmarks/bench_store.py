"""Store: rows written, the skip-done listing, compaction and reading, against the plain ways of
doing the same.

``python -m tests.benchmarks store``, or ``python tests/benchmarks/bench_store.py 100000`` for
another number of rows.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from phasegrid.keys import text_key
from phasegrid.run.verify import verify
from phasegrid.store import schemas, tables
from phasegrid.store.compact import compact
from phasegrid.store.records import to_table
from phasegrid.store.results import open_results
from phasegrid.store.sql import query
from phasegrid.store.store import Store

NUM_ROWS = 10_000
NUM_PLAIN = 500
ROW = {
    "dataset": "cifar10",
    "dataset_args": '{"label_noise":0.1}',
    "model": "resnet18",
    "model_args": '{"width":64}',
    "optimizer": "sgd",
    "lr": 0.05,
    "betas": [0.9, 0.999],
    "outcome": "done",
    "train_loss": 0.01,
    "seconds": 12.0,
}


def main(num_rows: int = NUM_ROWS) -> list[str]:
    """Return one line for each figure."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(str(Path(folder) / "store"), create=True)
        return list(_measure(store, Path(folder), [text_key(str(i)) for i in range(num_rows)]))


def _measure(store: Store, folder: Path, keys: list[str]) -> Iterator[str]:
    num = len(keys)
    seconds, _ = _timed(
        lambda: [store.put_trial(_row(i, key), [], {}) for i, key in enumerate(keys)]
    )
    plain, _ = _timed(lambda: _write_plainly(folder / "plain", keys[:NUM_PLAIN]))
    each, plain_each = seconds / num, plain / min(num, NUM_PLAIN)
    yield (
        f"store: {num} rows written durably: {seconds:.1f} s, {each * 1e3:.2f} ms each, "
        f"{each / plain_each:.2f}x a bare pq.write_table without fsync ({plain_each * 1e3:.2f} ms)"
    )
    one_by_one, _ = _timed(lambda: [store.has("trials", key) for key in keys])
    for when in ("before", "after"):
        listing, stored = _timed(lambda: store.stored("trials"))
        assert stored == set(keys)
        yield (
            f"store: skip-done listing of {num} keys {when} compaction: {listing:.2f} s, "
            f"{one_by_one / listing:.1f}x faster than {num} look-ups"
        )
        if when == "before":
            by_pandas, frame = _timed(lambda: pd.read_parquet(store.files.path("trials")))
            assert len(frame) == num
            reading, _ = _timed(lambda: store.read_table("trials"))
            yield (
                f"store: reading {num} files: {reading:.1f} s ({num / reading:.0f} files/s),"
                f" {by_pandas / reading:.2f}x faster than pandas.read_parquet of the folder"
                f" ({by_pandas:.1f} s)"
            )
            seconds, report = _timed(lambda: compact(store))
            yield f"store: compaction: {'; '.join(report.lines())}; all {seconds:.1f} s"
    after, table = _timed(lambda: store.read_table("trials"))
    assert len(table) == num
    yield (
        f"store: reading after compaction: {after:.2f} s, {reading / after:.0f}x faster than before"
    )
    seconds, frame = _timed(lambda: open_results(store.url).trials())
    yield f"store: tidy frame of {len(frame)} trials, arguments spread: {seconds:.2f} s"
    sql = "select model_args->>'width' as width, avg(train_loss) as loss from trials group by 1"
    seconds, _ = _timed(lambda: query(store, sql))
    yield f"store: SQL over {num} trials: {seconds:.2f} s"
    seconds, problems = _timed(lambda: verify(store))
    assert problems == [], problems
    yield f"store: verify: {seconds:.1f} s ({num / seconds:.0f} files/s)"


def _row(index: int, key: str) -> dict[str, object]:
    return {**ROW, "key": key, "seed": index}


def _write_plainly(folder: Path, keys: list[str]) -> None:
    folder.mkdir()
    for index, key in enumerate(keys):
        row = _row(index, key)
        table = to_table("trials", schemas.TRIALS, [row], "a trial")
        pq.write_table(table, folder / f"{key}{tables.SUFFIX}")


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    answer = work()
    return time.perf_counter() - started, answer


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for line in main(int(sys.argv[1]) if len(sys.argv) > 1 else NUM_ROWS):
        print(line, flush=True)
