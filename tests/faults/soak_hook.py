"""Make every write below a folder fail for as long as a file is there: what a soak's processes load
as they start.

A ``sitecustomize.py`` in `PYTHONPATH` reaches drivers and Ray's workers alike.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "SOAK_STORAGE"
LOADER = "from tests.faults.soak_hook import install\n\ninstall()\n"


def flag_of(storage: str) -> Path:
    """Return the file whose presence makes writes fail."""
    return Path(f"{storage}-fails")


def hits_of(storage: str) -> Path:
    """Return the file that has one byte for each write that failed."""
    return Path(f"{storage}-hits")


def install() -> None:
    """Put a check before the two calls that make a write visible, if this process belongs to a
    soak.
    """
    storage = os.environ.get(VARIABLE)
    if storage:
        os.link = _failing(os.link, storage)
        os.replace = _failing(os.replace, storage)


def _failing(call: Callable[..., None], storage: str) -> Callable[..., None]:
    flag, hits = str(flag_of(storage)), str(hits_of(storage))

    def checked(source: Any, target: Any, *args: Any, **more: Any) -> None:
        if str(target).startswith(f"{storage}/") and os.path.exists(flag):
            with open(hits, "ab") as stream:
                stream.write(b".")
            raise OSError(errno.EIO, "Input/output error")
        call(source, target, *args, **more)

    return checked
