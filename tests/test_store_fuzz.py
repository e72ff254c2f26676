"""Whatever has become of a file of a store: no traceback, no wrong number, no hang, no crash."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


def _fuzz(folder: Path, count: int, seed: int) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(TESTS / "store_fuzz.py"), str(count), str(seed), str(folder)],
        capture_output=True, text=True, timeout=570, check=False, cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    counts: dict[str, int] = json.loads(done.stdout)
    assert sum(counts.values()) == count
    return counts


def test_a_changed_file_is_found_and_nothing_else_goes_wrong(tmp_path: Path) -> None:
    counts = _fuzz(tmp_path, 40, seed=1)
    assert counts["found"] >= 25


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_two_thousand_changes_are_found_and_nothing_else_goes_wrong(
    tmp_path: Path, seed: int
) -> None:
    counts = _fuzz(tmp_path, 1000, seed)
    assert counts["found"] >= 600
