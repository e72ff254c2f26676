"""The whole quickstart path on a real S3 server, with and without Ray; tables read straight from
the bucket; races for a key.

The server is on loopback, the keys are dummies, and every process (Ray's workers too) finds both in
its environment.
"""

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from s3_server import BUCKET, Server, s3_server

import phasegrid
from phasegrid.run.verify import verify
from phasegrid.store.files.opening import open_files
from phasegrid.store.files.retry import PatientFiles
from phasegrid.store.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

QUICKSTART = Path(__file__).resolve().parent.parent / "sweeps" / "quickstart.yaml"
SMALL = (
    "load.values=[4, 32]", "temperature.values=[16, 64]", "seeds=2", "train.epochs=5", "dataset.fraction=0.3",
)  # fmt: skip
JOBS = (
    8 + 8 * 2 + 4 * 4
)  # trials; accuracy and hessian of each; distance, cka, connectivity, simplex of each cell
METRICS = {"accuracy", "distance", "hessian", "cka", "connectivity", "simplex"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with s3_server(monkeypatch) as one:
        yield one


def _phasegrid(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-m", "phasegrid", *arguments],
        capture_output=True, text=True, timeout=570, cwd=folder, env={**kept, "RAY_AUTH_MODE": "disabled"},
    )  # fmt: skip


def _ok(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = _phasegrid(folder, *arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    return done


def _settings() -> list[str]:
    return [text for setting in SMALL for text in ("--set", setting)]


def _assert_stored(url: str) -> None:
    store = Store.open(url)
    assert verify(store, deep=True) == []
    assert set(store.metrics()) == METRICS
    assert len(store.stored("trials")) == 8


@pytest.mark.parametrize("executor", [("--serial",), ("--num-cpus", "2")], ids=["serial", "ray"])
def test_the_quickstart_runs_in_a_bucket_and_every_command_works_there(
    tmp_path: Path, server: Server, executor: tuple[str, ...]
) -> None:
    url = f"s3://{BUCKET}/some/prefix"
    run = ("run", str(QUICKSTART), *_settings(), "--storage", url, *executor)
    first = _ok(tmp_path, *run)
    assert f"{JOBS} of {JOBS} jobs stored" in first.stderr
    assert list((tmp_path / "figures" / "quickstart").glob("*.png"))
    assert not (tmp_path / "results").exists()
    again = _ok(tmp_path, *run)
    assert "0 to do" in again.stderr
    assert "nothing new" in again.stderr
    assert "starting Ray" not in again.stderr
    _assert_stored(url)
    at = ("--storage", url)
    assert "8/8 trials stored" in _ok(tmp_path, "status", *at).stdout
    assert "0 problems" in _ok(tmp_path, "verify", "--deep", *at).stdout
    sql = "select count(*) as n from trials join hessian on trials.key = hessian.trials[1]"
    before = _ok(tmp_path, "query", sql, *at).stdout
    assert "8" in before
    assert "trials: 8 files copied" in _ok(tmp_path, "compact", *at).stdout
    assert _ok(tmp_path, "query", sql, *at).stdout == before
    assert "nothing to collect" in _ok(tmp_path, "gc", *at).stdout
    assert "nothing to collect" in _ok(tmp_path, "gc", "--damaged", *at).stdout
    drawn = _ok(tmp_path, "plot", *at, "-o", "mine", "--format", "png")
    assert all(Path(tmp_path / line).is_file() for line in drawn.stdout.splitlines())
    assert drawn.stdout
    assert "one of 4 writers won" in _ok(tmp_path, "doctor", *at).stdout
    assert server.num_busy == 0


def test_the_sweep_can_name_the_bucket(tmp_path: Path, server: Server) -> None:
    url = f"s3://{BUCKET}/named"
    (tmp_path / "mine.yaml").write_text(
        f"extends: {QUICKSTART}\nstorage: {url}\nmetrics: [accuracy]\n"
    )
    server.busy = 0.4  # and a server that is busy now and then is no matter
    done = _ok(tmp_path, "run", "mine.yaml", *_settings(), "--serial", "--no-plot")
    assert "16 of 16 jobs stored" in done.stderr
    assert server.num_busy > 0
    assert verify(Store.open(url)) == []


def test_a_bucket_that_is_not_there_ends_with_exit_code_4(tmp_path: Path, server: Server) -> None:
    done = _phasegrid(
        tmp_path, "run", str(QUICKSTART), "--storage", "s3://no-such-bucket/x", "--serial"
    )
    assert done.returncode == 4
    assert "s3://no-such-bucket/x" in done.stderr
    assert "bucket" in done.stderr
    assert "Traceback" not in done.stderr
    assert server.endpoint


def _bucket_with_rows() -> str:
    from store_support import COLUMNS, bare

    url = f"s3://{BUCKET}/tables"
    store = Store.open(url, create=True)
    for i in range(3):
        row = bare("metrics/sharpness", f"job-{i}")
        store.put_metric("sharpness", COLUMNS, row, [{"value": float(i)}])
    return f"{url}/metrics/sharpness"


def test_pandas_reads_a_table_from_the_bucket(server: Server) -> None:
    frame = pd.read_parquet(_bucket_with_rows())
    assert sorted(frame["value"]) == [0.0, 1.0, 2.0]
    assert server.endpoint


def test_duckdb_reads_a_table_from_the_bucket(server: Server) -> None:
    import duckdb
    import fsspec

    folder = _bucket_with_rows()
    with duckdb.connect() as connection:
        connection.register_filesystem(fsspec.filesystem("s3"))
        rows = connection.sql(f"select value from read_parquet('{folder}/**/*.parquet') order by 1")
        assert rows.fetchall() == [(0.0,), (1.0,), (2.0,)]
    assert server.endpoint


def test_polars_reads_a_table_from_the_bucket(server: Server) -> None:
    polars = pytest.importorskip("polars")
    options = {
        "aws_endpoint_url": server.endpoint,
        "aws_access_key_id": "testing",
        "aws_secret_access_key": "testing",
        "aws_region": "us-east-1",
        "aws_allow_http": "true",
    }
    lazy = polars.scan_parquet(f"{_bucket_with_rows()}/**/*.parquet", storage_options=options)
    assert sorted(lazy.collect()["value"]) == [0.0, 1.0, 2.0]


def test_a_notebook_opens_the_bucket(server: Server) -> None:
    _bucket_with_rows()
    results = phasegrid.open(f"s3://{BUCKET}/tables")
    assert sorted(results.metric("sharpness")["value"]) == [0.0, 1.0, 2.0]
    assert server.endpoint


# --- races for a key

KEYS = [f"meta/race-{i}" for i in range(10)]


def _put_all(url: str, writer: int, start: threading.Barrier | None = None) -> list[str]:
    """Write every key without looking first; return those that this writer won."""
    files = open_files(url)
    won = []
    for key in KEYS:
        if start is not None:
            start.wait(timeout=60)
        if files.create(key, b"%d" % writer):
            won.append(f"{key} {writer}")
    return won


def _put_all_in_process(url: str, writer: int, queue: "multiprocessing.Queue[list[str]]") -> None:
    _blindly()
    queue.put(_put_all(url, writer))


def _blindly() -> None:
    """Have writers not look whether a key is there, as if all had looked before any of them
    wrote.
    """
    from phasegrid.store.files.objects import ObjectFiles

    ObjectFiles.exists = lambda *_: False  # type: ignore[method-assign]


def _assert_one_winner_each(url: str, won: list[str], server: Server) -> None:
    assert sorted(text.split()[0] for text in won) == sorted(KEYS)
    files = open_files(url)
    assert {f"{key} {files.read(key).decode()}" for key in KEYS} == set(won)
    assert any(status.startswith("412") for status in server.statuses)


def test_of_many_threads_one_wins_each_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from phasegrid.store.files.objects import ObjectFiles

    monkeypatch.setattr(ObjectFiles, "exists", lambda *_: False)
    url, start = f"s3://{BUCKET}/threads", threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        won = [
            key for keys in pool.map(lambda i: _put_all(url, i, start), range(8)) for key in keys
        ]
    _assert_one_winner_each(url, won, server)


def test_of_two_processes_one_wins_each_key(server: Server) -> None:
    url = f"s3://{BUCKET}/processes"
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[list[str]] = context.Queue()
    processes = [
        context.Process(target=_put_all_in_process, args=(url, i, queue)) for i in range(2)
    ]
    for process in processes:
        process.start()
    won = [key for _ in processes for key in queue.get(timeout=120)]
    for process in processes:
        process.join(timeout=60)
    _assert_one_winner_each(url, won, server)


def test_a_server_without_conditional_writes_keeps_what_is_there(server: Server) -> None:
    server.conditional = False
    files = PatientFiles(open_files(f"s3://{BUCKET}/plain"))
    assert files.create("meta/x", b"first")
    assert not files.create("meta/x", b"second")
    assert files.read("meta/x") == b"first"
    assert "501 Not Implemented" in server.statuses
