"""The comparison of stores sees what it is there to see."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from phasegrid.cli.main import app
from tests.faults.commands import command
from tests.faults.comparing import assert_same_results, keys_of

SWEEP = """\
schema: 1
name: tiny
dataset: {name: digits, fraction: 0.1}
model: {name: mlp, depth: 1}
train: {batch_size: 32, epochs: 1, stop: null}
load: {param: model.width, values: [2, 4]}
seeds: 1
metrics: [accuracy]
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    (folder / "tiny.yaml").write_text(SWEEP)
    done = CliRunner().invoke(app, command(folder / "tiny.yaml", folder / "store", "-q", "--serial")[3:])  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder / "store"


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "copy"))


def first(storage: Path, table: str) -> Path:
    return min((storage / table).glob("*/*.parquet"))


def changed(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(path).remove_metadata()  # the checksum, which will not fit any more
    pq.write_table(pa.Table.from_pandas(change(pd.read_parquet(path)), schema), path)


def test_a_copy_is_the_same(store: Path, copy: Path) -> None:
    assert_same_results(copy, store)


def test_when_and_where_it_was_done_is_no_difference(store: Path, copy: Path) -> None:
    changed(first(copy, "trials"), lambda frame: frame.assign(host="elsewhere", seconds=1e3))
    assert_same_results(copy, store)


@pytest.mark.parametrize("table", ["trials", "histories", "metrics/accuracy"])
def test_another_number_is_a_difference(store: Path, copy: Path, table: str) -> None:
    changed(
        first(copy, table), lambda frame: frame.assign(train_loss=frame["train_loss"] * (1 + 1e-15))
    )
    with pytest.raises(AssertionError, match="train_loss"):
        assert_same_results(copy, store)


def test_other_weights_are_a_difference(store: Path, copy: Path) -> None:
    changed(first(copy, "trials"), lambda frame: frame.assign(checkpoint_sha256="0" * 64))
    with pytest.raises(AssertionError, match="checkpoint_sha256"):
        assert_same_results(copy, store)


@pytest.mark.parametrize("table", ["trials", "histories", "metrics/accuracy"])
def test_a_missing_job_is_a_difference_unless_it_is_to_be_missing(
    store: Path, copy: Path, table: str
) -> None:
    gone = first(copy, table)
    gone.unlink()
    with pytest.raises(AssertionError):
        assert_same_results(copy, store)
    assert keys_of(store, table) - keys_of(copy, table) == {gone.stem}
    if table == "metrics/accuracy":
        assert_same_results(copy, store, lacking={gone.stem})


def test_a_job_that_should_have_failed_is_a_difference(store: Path, copy: Path) -> None:
    key, *_ = keys_of(copy, "metrics/accuracy")
    with pytest.raises(AssertionError):
        assert_same_results(copy, store, lacking={key})


def test_a_row_that_is_there_twice_is_a_difference(store: Path, copy: Path) -> None:
    changed(first(copy, "metrics/accuracy"), lambda frame: pd.concat([frame, frame]))
    with pytest.raises(AssertionError):
        assert_same_results(copy, store)


def test_another_sweep_is_a_difference(store: Path, copy: Path) -> None:
    shutil.copy(copy / "plans/tiny.parquet", copy / "plans/other.parquet")
    with pytest.raises(AssertionError):
        assert_same_results(copy, store)
