"""Recognise errors after which a GPU refuses all further work of a process. The process is lost,
but its later jobs are not to blame.
"""

import re
from collections.abc import Iterator

import torch

from phasegrid.errors import DeviceError

_STICKY = re.compile(
    r"CUDA error: (misaligned address|an illegal memory access|device-side assert|an illegal"
    r" instruction|unspecified launch"
    r"|the launch timed out|invalid program counter|hardware stack error|uncorrectable|unknown"
    r" error)"
    r"|CUDNN_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR)"
    r"|CUBLAS_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR)"
)
_SUSPICIOUS = re.compile(r"CUDA error:|CUDNN_STATUS_|CUBLAS_STATUS_|CUSOLVER_STATUS_")
_OF_MEMORY = re.compile(r"out of memory|ALLOC_FAILED")


def raise_if_broken(error: Exception) -> None:
    """Raise a `DeviceError` if this error means that the process has lost its GPU.

    A known permanent error is enough. After any other CUDA error the device is tried.
    """
    for cause in _chain(error):
        text = str(cause)
        if not isinstance(cause, RuntimeError) or _OF_MEMORY.search(text):
            continue
        accelerator = getattr(torch, "AcceleratorError", ())  # torch 2.8 and later
        if _STICKY.search(text) or (
            (isinstance(cause, accelerator) or _SUSPICIOUS.search(text)) and not _works()
        ):
            first = text.strip().split("\n", 1)[0]
            raise DeviceError(f"{type(cause).__name__}: {first}") from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _works() -> bool:
    """Say whether the GPU still works, if this process uses one."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return True
    try:
        torch.cuda.synchronize()
        return bool(torch.ones(1, device="cuda") + 1 == 2)
    except RuntimeError as error:
        return _OF_MEMORY.search(str(error)) is not None
