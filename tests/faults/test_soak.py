"""The soak itself (ten minutes; marked slow), and the pure parts on which its word rests."""

import os
import re
import subprocess
import sys
import uuid
from itertools import islice
from pathlib import Path

import pytest
from store_support import bare, full, make_store, put

from phasegrid.keys import text_key
from phasegrid.store.compact import compact
from phasegrid.store.store import Store
from tests.faults.commands import REPOSITORY, environment
from tests.faults.soak import LAP_MINUTES
from tests.faults.soak_counting import count_jobs
from tests.faults.soak_drivers import SOAK_MARK, end_marked
from tests.faults.soak_faults import known_kinds
from tests.faults.soak_schedule import (
    ALL_KINDS_LAPS,
    ENDS_A_DRIVER,
    KINDS,
    LATEST,
    SLOW,
    Fault,
    laps,
    needs_two_nodes,
)

A, B, M = text_key("a"), text_key("b"), text_key("m")
PLANNED = {"trials": {A, B}, "metrics/sharpness": {M}}
LAST = re.compile(
    r"soak: jobs (?P<jobs>\d+); faults (?P<faults>\d+) \((?P<kinds>.*)\); runs \d+; lost 0;"
    r" duplicated 0; seconds \d+"
)


def test_a_seed_fixes_the_schedule_and_another_gives_another() -> None:
    one, same, other = (list(islice(laps(seed, 5000, 32), 6)) for seed in (7, 7, 8))
    assert one == same
    assert one != other


def test_a_few_laps_have_every_kind_of_fault() -> None:
    for seed in range(20):
        few = islice(laps(seed, 5000, 32), ALL_KINDS_LAPS)
        assert {f.kind for lap in few for f in (*lap.noop, *lap.tiny)} == set(KINDS)


def test_every_kind_of_fault_can_be_done() -> None:
    assert known_kinds() == list(KINDS)


def test_the_fault_that_takes_longest_to_do_comes_first() -> None:
    for lap in islice(laps(5, 5000, 32), 12):
        for faults in (lap.noop, lap.tiny):
            kinds = [fault.kind for fault in faults]
            assert SLOW not in kinds[kinds.count(SLOW) :]


def test_faults_are_in_the_order_of_their_moments_and_before_the_last_job() -> None:
    for lap in islice(laps(3, 5000, 32), 6):
        for faults, jobs in ((lap.noop, 5000), (lap.tiny, 32)):
            moments = [fault.at for fault in faults]
            assert moments == sorted(moments)
            assert moments[0] >= 1
            assert moments[-1] <= LATEST * jobs


@pytest.mark.parametrize("kind", ENDS_A_DRIVER)
def test_a_cluster_is_raised_for_a_run_that_is_to_lose_a_node(kind: str) -> None:
    removed, ended = Fault("node-removed", 2, 0), Fault(kind, 1, 0)
    assert needs_two_nodes([Fault("worker-killed", 1, 0), removed])
    assert not needs_two_nodes([ended, removed])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store that holds all that is planned."""
    store = make_store(tmp_path)
    put(store, "trials", bare("trials", "a"))
    put(store, "trials", bare("trials", "b"))
    put(store, "metrics/sharpness", full("metrics/sharpness", "m"))
    return store


def _file(store: Store, table: str, key: str) -> Path:
    return Path(store.url) / table / key[:2] / f"{key}.parquet"


def test_a_whole_store_has_every_job_once(store: Store) -> None:
    for _ in range(2):
        count = count_jobs(Path(store.url), PLANNED)
        assert count.planned == 3
        assert (count.lost, count.duplicated, count.strange) == ((), (), ())
        compact(store)  # and so it has with a copy beside the files


@pytest.mark.parametrize(("table", "key"), [("trials", B), ("metrics/sharpness", M)])
def test_a_job_whose_file_is_gone_is_lost(store: Store, table: str, key: str) -> None:
    _file(store, table, key).unlink()
    assert count_jobs(Path(store.url), PLANNED).lost == (f"{table} {key}",)


def test_a_job_that_is_only_in_the_copy_is_lost(store: Store) -> None:
    compact(store)
    _file(store, "trials", A).unlink()
    assert count_jobs(Path(store.url), PLANNED).lost == (f"trials {A}",)


@pytest.mark.parametrize(("table", "key"), [("trials", A), ("metrics/sharpness", M)])
def test_a_job_with_a_second_file_is_duplicated(store: Store, table: str, key: str) -> None:
    path = _file(store, table, key)
    other = path.parent.with_name("zz") / path.name
    other.parent.mkdir()
    other.write_bytes(path.read_bytes())
    assert count_jobs(Path(store.url), PLANNED).duplicated == (f"{table} {key}",)


def test_a_job_that_another_file_holds_too_is_duplicated(store: Store) -> None:
    _file(store, "trials", B).write_bytes(_file(store, "trials", A).read_bytes())
    count = count_jobs(Path(store.url), PLANNED)
    assert count.duplicated == (f"trials {A}",)
    assert count.lost == (f"trials {B}",)


def test_a_job_that_nobody_plans_is_strange(store: Store) -> None:
    put(store, "trials", bare("trials", "c"))
    assert count_jobs(Path(store.url), PLANNED).strange == (f"trials {text_key('c')}",)


@pytest.mark.slow
def test_a_soak_loses_nothing_and_stores_nothing_twice() -> None:
    minutes = float(os.environ.get("PHASEGRID_SOAK_MINUTES", "10"))
    mark = uuid.uuid4().hex
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults.soak", "--minutes", str(minutes)],
            cwd=REPOSITORY,
            env=environment() | {SOAK_MARK: mark},
            capture_output=True,
            text=True,
            timeout=60 * minutes + 3600,
        )
    finally:
        end_marked(f"{SOAK_MARK}={mark}")
    assert done.returncode == 0, done.stdout + done.stderr
    last = LAST.fullmatch(done.stdout.splitlines()[-1])
    assert last, done.stdout
    assert int(last["jobs"]) > 20_000
    counts = {kind: int(count) for kind, count in map(_named_number, last["kinds"].split(", "))}
    assert set(counts) == set(KINDS)
    assert sum(counts.values()) == int(last["faults"]) > 0
    if minutes >= LAP_MINUTES * ALL_KINDS_LAPS:
        assert min(counts.values()) > 0, done.stdout


def _named_number(text: str) -> tuple[str, str]:
    name, _, number = text.rpartition(" ")
    return name, number
