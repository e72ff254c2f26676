"""Freed memory is kept while a pack is done and given back after it."""

import os
import subprocess
import sys

import pytest

from phasegrid.run.worker.malloc import KEEP_BYTES, _library, give_back

ON_GLIBC = _library() is not None and sys.platform == "linux"
SCRIPT = """
import resource
import torch
from phasegrid.run.worker.malloc import give_back, keep_freed_memory

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        kept = [torch.ones(2**20) for _ in range(20)]
        del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

told = keep_freed_memory()
faults(2)
again, full = faults(5), resident()
give_back()
print(int(told), again, full - resident())
"""


def outcome(**environment: str) -> list[int]:
    """Run the script in a fresh process: whether the allocator was told, page faults of five warm
    rounds, pages given back.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "LD_"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(not ON_GLIBC, reason="another C library than glibc on Linux")
def test_freed_memory_is_kept_while_working_and_given_back_after() -> None:
    told, faults, given_back = outcome()
    assert told == 1
    assert faults < 2000  # 100 blocks of 4 MiB are 102,400 pages of 4 KiB
    assert given_back > 10_000  # of the 20,480 pages of one round


@pytest.mark.skipif(not ON_GLIBC, reason="another C library than glibc on Linux")
def test_an_allocator_set_up_by_the_environment_is_left_alone() -> None:
    assert outcome(MALLOC_TRIM_THRESHOLD_=str(KEEP_BYTES))[0] == 0


def test_giving_back_where_nothing_was_kept_does_nothing() -> None:
    give_back()
    give_back()
