"""One benchmark in a process of its own."""

import importlib
import resource
from collections.abc import Mapping
from typing import Any


def run_alone(name: str, options: Mapping[str, Any]) -> None:
    """Run one benchmark in a process of its own, so that its peak memory is its own."""
    for line in importlib.import_module(f"tests.benchmarks.bench_{name}").main(**options):
        print(line, flush=True)
    own, children = (
        resource.getrusage(who).ru_maxrss / 2**20
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    largest = f", its largest child {children:.2f} GiB" if children > own else ""
    print(f"# {name}: peak memory, all alternatives included, {own:.2f} GiB{largest}", flush=True)
