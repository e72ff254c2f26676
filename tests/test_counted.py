"""Counts in messages: one thing is no plural."""

from pathlib import Path

import pytest

from phasegrid.cli.doctor import check_storage
from phasegrid.store.store import Store
from phasegrid.texts import counted


@pytest.mark.parametrize(("count", "text"), [(0, "0 jobs"), (1, "1 job"), (2, "2 jobs")])
def test_only_one_is_singular(count: int, text: str) -> None:
    assert counted(count, "job") == text


def test_doctor_finds_one_sweep(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    store = Store.open(url, create=True)
    row = {"cell": 0, "seed": 0, "key": "0" * 32, "facet": "[]"}
    store.put_plan("only", [row])
    assert check_storage(url)[0].found == f"{url}: 1 sweep"
    store.put_plan("other", [row])
    assert check_storage(url)[0].found == f"{url}: 2 sweeps"
