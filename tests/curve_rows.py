"""Curves for tests that look at rows alone: what a curve leaves beside them has tests of its
own.
"""

from typing import Any

from phasegrid.metrics.connectivity import compute as connectivity


def compute(*inputs: Any, **args: Any) -> Any:
    """Return the row of one curve."""
    return connectivity.compute(*inputs, **args).rows


def compute_many(*inputs: Any, **args: Any) -> Any:
    """Return the rows of several curves, or None."""
    found = connectivity.compute_many(*inputs, **args)
    return None if found is None else [measured.rows for measured in found]
