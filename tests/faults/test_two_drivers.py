"""Two drivers on one sweep and one store: each job is stored once, by whoever is first."""

from pathlib import Path

import pytest

from phasegrid.store.store import Store
from tests.faults.commands import run, running, what_it_said
from tests.faults.comparing import assert_same_results, assert_whole

SWEEP = """\
schema: 1
name: tiny
dataset: {name: digits, fraction: 0.2}
model: {name: mlp, depth: 1}
train: {batch_size: 32, epochs: 20, stop: null}
load: {param: model.width, values: [2, 4, 8]}
temperature: {param: train.lr, values: [0.01, 0.1]}
seeds: 2
metrics: [accuracy, distance]
run: {pack_size: 1}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    [
        pytest.param(("--serial",), id="serial"),
        pytest.param(("--num-cpus", "1"), id="ray"),
    ],
)
def test_two_drivers_at_once_store_each_job_once(tmp_path: Path, where: tuple[str, ...]) -> None:
    sweep, storage = tmp_path / "tiny.yaml", tmp_path / "store"
    sweep.write_text(SWEEP)
    other = tmp_path / "other" / "store"  # another way to the same store, so that each says its own
    other.parent.mkdir()
    storage.mkdir()
    other.symlink_to(storage)
    home = {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}  # where neither finds a token yet
    with (
        running(sweep, storage, *where, **home) as first,
        running(sweep, other, *where, **home) as second,
    ):
        for process, path in ((first, storage), (second, other)):
            assert process.wait(timeout=300) == 0, what_it_said(path)
    for path in (storage, other):
        assert " of 30 jobs stored" in what_it_said(path)
        assert "failed" not in what_it_said(path)
    alone = run(sweep, tmp_path / "alone", *where)
    assert alone.returncode == 0, alone.stderr
    assert_same_results(storage, tmp_path / "alone")
    assert_whole(storage)
    assert len(Store.open(str(storage)).read_table("failures")) == 0
