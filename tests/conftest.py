"""Fixtures for every test: one torch thread, no Ray telemetry, and the folder of real data where
there is one.
"""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MPLBACKEND", "Agg")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data sets, or a skip that says where it was looked for."""
    folder = Path(os.environ.get("PHASEGRID_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: set PHASEGRID_TEST_DATA (looked in {folder})")
    return folder


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Give tests that use torch a single thread; others never import it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
