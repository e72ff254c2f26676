"""Read the GPUs of this machine through NVML, the library under ``nvidia-smi``.

Its Python binding is NVIDIA's own `nvidia-ml-py`. It is imported when it is needed, and NVML stays
open while the process lives: a card that falls off the bus is then still listed, and says so.
"""

import importlib
import os
import platform
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from phasegrid.run.cards.card import Card, NodeCards, Process
from phasegrid.run.cards.ours import started_by

LIMIT_S = 10.0  # a card that is being lost can make NVML wait
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_HEAT, _POWER_BRAKE = 0x20 | 0x40, 0x80  # of nvmlClocksEventReasons: by software or hardware
_LOST = ("NVML_ERROR_GPU_IS_LOST", "NVML_ERROR_RESET_REQUIRED")
_NO_HANDLE = (*_LOST, "NVML_ERROR_UNKNOWN", "NVML_ERROR_GPU_NOT_FOUND")


class _LostError(Exception):
    """NVML says that a card is lost."""


def read_cards(
    ours: Collection[int] = (), environ: Mapping[str, str] | None = None
) -> NodeCards | None:
    """Return the cards that this process may use; None if NVML tells nothing.

    `ours` are the processes of this run; their descendants are ours too. Numbers in
    ``CUDA_VISIBLE_DEVICES`` are taken in the order of the bus, in which CUDA too counts cards of
    one kind.
    """
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        count = int(nvml.nvmlDeviceGetCount())
    except Exception:  # no library, no driver, none in this container: the cards are unknown
        return None
    visible = (os.environ if environ is None else environ).get(_VISIBLE)
    found = [_read(nvml, index, ours) for index in range(count)]
    cards = [card for card in found if card is not None and _is_visible(card, visible)]
    return NodeCards(platform.node(), tuple(cards))


def read_in_time(ours: Collection[int] = (), limit_s: float = LIMIT_S) -> NodeCards | None:
    """Return what `read_cards` does; None if it takes longer than `limit_s`."""
    answers: list[NodeCards | None] = []
    asking = threading.Thread(
        target=lambda: answers.append(read_cards(ours)), name="nvml", daemon=True
    )
    asking.start()
    asking.join(limit_s)
    return answers[0] if answers else None


def _is_visible(card: Card, visible: str | None) -> bool:
    if visible is None:
        return True
    for name in (part.strip() for part in visible.split(",")):
        if name.startswith("MIG"):
            if card.is_split:
                return True
        elif name == str(card.index) or (
            name.startswith("GPU-") and card.uuid is not None and card.uuid.startswith(name)
        ):
            return True
    return False


def _read(nvml: Any, index: int, ours: Collection[int]) -> Card | None:
    """Read one card; None if it is not for this process."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except Exception as error:
        return Card(index, lost=str(error)) if _means(nvml, error, _NO_HANDLE) else None
    uuid = name = None
    try:
        uuid = _text(_ask(nvml, "nvmlDeviceGetUUID", handle))
        name = _text(_ask(nvml, "nvmlDeviceGetName", handle))
        return _card(nvml, handle, Card(index, uuid, name), ours)
    except _LostError as error:
        return Card(index, uuid, name, lost=str(error))


def _card(nvml: Any, handle: Any, known: Card, ours: Collection[int]) -> Card:
    mode = _ask(nvml, "nvmlDeviceGetMigMode", handle)
    is_split = bool(mode and mode[0])
    rates = _ask(nvml, "nvmlDeviceGetUtilizationRates", handle)
    memory = _memory(nvml, handle)
    listed = None if is_split else _ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle)
    processes = None if listed is None else tuple(_process(found, ours) for found in listed)
    slows_at = _ask(nvml, "nvmlDeviceGetTemperatureThreshold", handle, 1)  # of slow-down
    errors = _ask(nvml, "nvmlDeviceGetTotalEccErrors", handle, 1, 0)  # uncorrected, volatile
    return replace(
        known,
        use_percent=None if rates is None else int(rates.gpu),
        used_bytes=None if memory is None else int(memory.used),
        total_bytes=None if memory is None else int(memory.total),
        temperature_c=_temperature_c(nvml, handle),
        slows_at_c=_number(slows_at),
        slowed_by=_slowed_by(nvml, handle),
        uncorrected_errors=_number(errors),
        processes=processes,
        num_foreign=None if processes is None else _num_foreign(processes, len(ours)),
        is_split=is_split,
    )


def _memory(nvml: Any, handle: Any) -> Any:
    """Return the memory of a card; the second version leaves out what the driver keeps for
    itself.
    """
    version = getattr(nvml, "nvmlMemory_v2", None)
    newer = version and _ask(nvml, "nvmlDeviceGetMemoryInfo", handle, version)
    return newer or _ask(nvml, "nvmlDeviceGetMemoryInfo", handle)


def _temperature_c(nvml: Any, handle: Any) -> int | None:
    newer = _number(_ask(nvml, "nvmlDeviceGetTemperatureV", handle, 0))  # the sensor of the chip
    return _number(_ask(nvml, "nvmlDeviceGetTemperature", handle, 0)) if newer is None else newer


def _slowed_by(nvml: Any, handle: Any) -> tuple[str, ...]:
    mask = _ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    if mask is None:  # a driver of before 2023
        mask = _ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    reasons = {"heat": _HEAT, "power brake": _POWER_BRAKE}
    return tuple(reason for reason, bits in reasons.items() if (mask or 0) & bits)


def _process(found: Any, ours: Collection[int]) -> Process:
    return Process(int(found.pid), _number(found.usedGpuMemory), started_by(int(found.pid), ours))


def _num_foreign(processes: Collection[Process], num_ours: int) -> int:
    """Count the processes that are certainly of others.

    In a container NVML may list processes under numbers that mean nothing there. Those that are
    more than we have must be of others.
    """
    seen_ours = sum(process.is_ours is True for process in processes)
    hidden = sum(process.is_ours is None for process in processes)
    foreign = sum(process.is_ours is False for process in processes)
    return foreign + max(0, hidden - max(0, num_ours - seen_ours))


def _ask(nvml: Any, name: str, *args: Any) -> Any:
    """Return what NVML answers; None if it cannot tell.

    Raises:
        _LostError: if it says that the card is lost.
    """
    function: Callable[..., Any] | None = getattr(nvml, name, None)
    if function is None:
        return None
    try:
        return function(*args)
    except Exception as error:  # not supported by the card, the driver, or this user's rights
        if _means(nvml, error, _LOST):
            raise _LostError(str(error)) from error
        return None


def _means(nvml: Any, error: Exception, names: Collection[str]) -> bool:
    codes = {getattr(nvml, name, None) for name in names} - {None}
    return getattr(error, "value", None) in codes


def _number(found: Any) -> int | None:
    return None if found is None else int(found)


def _text(found: Any) -> str | None:
    if found is None:
        return None
    return found.decode(errors="replace") if isinstance(found, bytes) else str(found)
