"""Keep freed memory for the next update, instead of returning it to the system and fetching it
again.

An update of a convolutional network frees and asks for the same hundreds of megabytes of
activations each time. The allocator of the GNU C library gives freed memory at the top of the heap
back at once, and the system then clears every page anew when it is touched: up to 30% of the time
of an update (tests/benchmarks/RESULTS.md). Nothing here changes a number. Nothing is done with
another C library, or if the environment already configures the allocator.
"""

import ctypes
import os
from functools import cache

KEEP_BYTES = 2**30
"""Freed memory that a process may keep while it works: enough for the activations of small networks
that share kernels.
"""

MAP_BYTES = 32 * 2**20
"""Larger blocks are mapped and unmapped one by one. It is the largest value that glibc itself would
choose for this threshold.
"""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


@cache
def keep_freed_memory() -> bool:
    """Let this process keep up to `KEEP_BYTES` of freed memory; return whether its allocator
    supports this.
    """
    library = _library()
    if library is None or any(os.environ.get(name) for name in _VARIABLES):
        return False
    told = [
        library.mallopt(_MMAP_THRESHOLD, MAP_BYTES),
        library.mallopt(_TRIM_THRESHOLD, KEEP_BYTES),
    ]
    return all(told)


def give_back() -> None:
    """Return the kept memory to the system: between packs it is not needed (0.01 ms if there is
    none).
    """
    library = _library()
    if library is not None:
        library.malloc_trim(0)


@cache
def _library() -> ctypes.CDLL | None:
    """Return the C library if it is glibc."""
    if os.name != "posix":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
