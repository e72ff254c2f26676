"""Recognise errors after which a GPU refuses all further work of a process. The process is lost,
but its later jobs are not to blame. If NVML says that the card itself is lost, no job is.
"""

import os
import re
from collections.abc import Iterator, Sequence

import torch

from phasegrid.errors import DeviceError
from phasegrid.run.cards.card import Card, NodeCards, card_name
from phasegrid.run.cards.findings import findings_of
from phasegrid.run.cards.nvml import read_in_time

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

    A known permanent error is enough. After any other CUDA error the device is tried. The message
    names the card, and what NVML finds wrong with it.
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
            where, is_lost = _card()
            raise DeviceError(f"{type(cause).__name__}: {first}{where}", is_lost) from error


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


def _card() -> tuple[str, bool]:
    """Name the card of this process with what is wrong with it, and say whether it is lost; an
    empty text if the card is unknown.
    """
    uuid = _uuid()
    node = None if uuid is None else read_in_time({os.getpid()})
    card = None if node is None else _find(node.cards, f"GPU-{uuid}")
    if node is None or card is None:
        return "", False
    found = findings_of([NodeCards(node.host, (card,))])
    told = [f.text for f in found if f.kind in ("lost", "memory errors")]
    return f"; {'; '.join(told) or f'on {card_name(card, node.host)}'}", card.lost is not None


def _find(cards: Sequence[Card], uuid: str) -> Card | None:
    """Return the card of a UUID. A lost card may not tell its own: then it is the only lost one."""
    found = [card for card in cards if card.uuid == uuid]
    nameless = [card for card in cards if card.uuid is None and card.lost is not None]
    return next(iter(found or (nameless if len(nameless) == 1 else ())), None)


def _uuid() -> str | None:
    """Return the UUID of the GPU that this process works on; None if there is none or torch does
    not say.
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    try:
        return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    except (RuntimeError, AttributeError):  # the context is broken, or torch is older than 2.6
        return None
