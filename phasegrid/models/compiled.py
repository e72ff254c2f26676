"""Modules of Triton kernels: loaded where they can be compiled, else reported and done without."""

from functools import cache
from importlib import import_module
from typing import Any

import torch

from phasegrid.fallbacks import fall_back


@cache
def kernels_of(module: str, device: torch.device) -> Any:
    """Return a module of Triton kernels after it has been tried out on `device`. Return None for a
    device that is no GPU and, with a report, where Triton is missing or cannot compile (it needs
    a C compiler on the node).
    """
    if device.type != "cuda":
        return None
    try:
        found = import_module(module)
        found.try_out(device)
    except torch.OutOfMemoryError:  # there may be enough the next time
        raise
    except Exception as error:  # of any kind: a missing package, compiler or folder, a driver
        fall_back(f"torch's own operations are used in place of the kernels of {module}", error)
        return None
    return found
