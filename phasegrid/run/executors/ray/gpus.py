"""Choose the GPU of a worker's pack, and limit the pack's share of its memory.

Workers stay warm, so one process may be given first one GPU of its node and then another. CUDA
reads ``CUDA_VISIBLE_DEVICES`` only when a process first uses a GPU. So Ray is told to leave that
variable alone (`NOSET_VARIABLE`), and the device is named for every pack.
"""

import os
from collections.abc import Mapping, Sequence

NOSET_VARIABLE = "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def device_of(ids: Sequence[int | str], environ: Mapping[str, str] | None = None) -> str | None:
    """Return the torch device of the first of the GPUs that Ray assigned, named as `ids`; None if
    it assigned none.

    Ids are numbers of the machine, or names in ``CUDA_VISIBLE_DEVICES``; torch counts within that
    variable.

    >>> device_of([3], {}), device_of(["3"], {"CUDA_VISIBLE_DEVICES": "2,3"}), device_of([], {})
    ('cuda:3', 'cuda:1', None)
    """
    if not ids:
        return None
    visible = (os.environ if environ is None else environ).get(_VISIBLE)
    name = str(ids[0])
    names = [part.strip() for part in visible.split(",")] if visible else []
    if name in names:
        return f"cuda:{names.index(name)}"
    return f"cuda:{int(name)}" if name.isdigit() else "cuda:0"


def take(device: str, share: float) -> None:
    """Work on a GPU from now on, with at most `share` of its memory; other packs on that GPU keep
    their share. A pack that runs out of memory is halved.
    """
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(torch.device(device))
        torch.cuda.set_per_process_memory_fraction(share, torch.device(device))


def smallest() -> tuple[int, str] | None:
    """Return the memory, in bytes, and the name of the smallest GPU that this process sees; None
    without a GPU.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return min((properties.total_memory, properties.name) for properties in found)


def give_back() -> None:
    """Release the GPU memory that torch caches, for the other processes on that GPU."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
