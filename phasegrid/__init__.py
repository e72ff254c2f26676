"""phasegrid: load-by-temperature phase diagrams of neural-network training.

`open` reads a store into tidy DataFrames; everything else is reached through its own module.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phasegrid.results import Results

__version__ = "0.1.0"
__all__ = ["__version__", "open"]


def open(path: str) -> "Results":  # noqa: A001 - phasegrid.open reads well in a notebook
    """Open a store (a folder, ``s3://...`` or any fsspec URL) for reading; needs neither torch nor ray.

    Raises:
        StoreError: if there is no store at `path`.
    """
    from phasegrid.results import open_results

    return open_results(path)
