"""phasegrid: load-by-temperature phase diagrams of neural-network training.

`load_sweep` reads a sweep, `open` a store; everything else is reached through its own room.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phasegrid.config.contracts import Trials
    from phasegrid.config.types import Sweep
    from phasegrid.store.results import Results

from phasegrid.version import __version__

__all__ = ["__version__", "load_sweep", "open"]


def load_sweep(path: Path | str, overrides: Sequence[str] = ()) -> "Sweep":
    """Read a sweep file, with overrides ``path=value`` (value as YAML); its plug-ins are tried
    once, on two examples.

    Raises:
        SweepError: if there is any mistake; its message lists every one with its line and column.
    """
    from phasegrid.config.load import load_sweep as load

    return load(path, overrides, _trials)


def open(path: str) -> "Results":  # noqa: A001 - phasegrid.open reads well in a notebook
    """Open a store (a folder, ``s3://...`` or any fsspec URL) for reading; needs neither torch nor
    ray.

    Raises:
        StoreError: if there is no store at `path`.
    """
    from phasegrid.store.results import open_results

    return open_results(path)


def _trials() -> "Trials":
    from phasegrid.run.worker import contract_trials

    return contract_trials
