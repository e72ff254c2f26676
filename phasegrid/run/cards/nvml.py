"""Read the GPUs of this machine through NVML, the library under ``nvidia-smi``.

Its Python binding is NVIDIA's own `nvidia-ml-py`. It is imported when it is needed, and NVML stays
open while the process lives: a card that falls off the bus is then still listed, and says so.
"""

import importlib
import os
import platform
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import takewhile
from typing import Any

from phasegrid.run.cards.card import Card, NodeCards, Process
from phasegrid.run.cards.ours import started_by

LIMIT_S = 10.0  # a card that is being lost can make NVML wait
_VISIBLE, _INSTANCE = "CUDA_VISIBLE_DEVICES", "MIG-"
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
    visible = _names((os.environ if environ is None else environ).get(_VISIBLE))
    given = _given_instances(nvml, visible or ())
    found = [_read(nvml, index, ours, given.get(index, ())) for index in range(count)]
    cards = [card for card in found if card is not None and _is_visible(card, visible, given)]
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


def _names(visible: str | None) -> list[str] | None:
    """Return the names that CUDA reads: it stops at the first that is none."""
    if visible is None:
        return None
    names = [part.strip() for part in visible.split(",")]
    return list(takewhile(lambda name: name not in ("", "-1"), names))


def _given_instances(nvml: Any, names: Iterable[str]) -> dict[int, list[Any]]:
    """Return the handles of the instances (MIG) among these names, by the index of their card."""
    found: dict[int, list[Any]] = {}
    for name in names:
        if name.startswith(_INSTANCE):
            with suppress(_LostError):
                instance = _ask(nvml, "nvmlDeviceGetHandleByUUID", name)
                card = _ask(nvml, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", instance)
                index = _number(_ask(nvml, "nvmlDeviceGetIndex", card))
                if index is not None:
                    found.setdefault(index, []).append(instance)
    return found


def _is_visible(
    card: Card, visible: Collection[str] | None, given: Mapping[int, Sequence[Any]]
) -> bool:
    """Say whether CUDA may use a card. Of instances that NVML does not know, any split card may be
    the one.
    """
    if visible is None:
        return True
    for name in visible:
        if name.startswith(_INSTANCE):
            if card.index in given or (card.is_split and not given):
                return True
        elif name == str(card.index) or (
            name.startswith("GPU-") and card.uuid is not None and card.uuid.startswith(name)
        ):
            return True
    return False


def _read(nvml: Any, index: int, ours: Collection[int], instances: Sequence[Any]) -> Card | None:
    """Read one card; None if it is not for this process. `instances` are those of its instances
    (MIG) that this process was given.
    """
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except Exception as error:
        return Card(index, lost=str(error)) if _means(nvml, error, _NO_HANDLE) else None
    uuid = name = None
    try:
        uuid = _text(_ask(nvml, "nvmlDeviceGetUUID", handle))
        name = _text(_ask(nvml, "nvmlDeviceGetName", handle))
        return _card(nvml, handle, Card(index, uuid, name), ours, instances)
    except _LostError as error:
        return Card(index, uuid, name, lost=str(error))


def _card(
    nvml: Any, handle: Any, known: Card, ours: Collection[int], instances: Sequence[Any]
) -> Card:
    mode = _ask(nvml, "nvmlDeviceGetMigMode", handle)
    is_split = bool(mode and mode[0])
    rates = _ask(nvml, "nvmlDeviceGetUtilizationRates", handle)
    used, total = _memory(nvml, instances or [handle])
    listed = None if is_split else _ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle)
    processes = None if listed is None else tuple(_process(found, ours) for found in listed)
    slows_at = _ask(nvml, "nvmlDeviceGetTemperatureThreshold", handle, 1)  # of slow-down
    errors = _ask(nvml, "nvmlDeviceGetTotalEccErrors", handle, 1, 0)  # uncorrected, volatile
    return replace(
        known,
        use_percent=None if rates is None else int(rates.gpu),
        used_bytes=used,
        total_bytes=total,
        temperature_c=_temperature_c(nvml, handle),
        slows_at_c=_number(slows_at),
        slowed_by=_slowed_by(nvml, handle),
        uncorrected_errors=_number(errors),
        processes=processes,
        num_foreign=None if processes is None else _num_foreign(processes, len(ours)),
        is_split=is_split,
    )


def _memory(nvml: Any, handles: Iterable[Any]) -> tuple[int | None, int | None]:
    """Return the bytes in use and of all the memory of a card, or of instances together; the second
    version of the question leaves out what the driver keeps for itself.
    """
    version = getattr(nvml, "nvmlMemory_v2", None)
    used = total = 0
    for handle in handles:
        newer = version and _ask(nvml, "nvmlDeviceGetMemoryInfo", handle, version)
        memory = newer or _ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
        if memory is None:
            return None, None
        used, total = used + int(memory.used), total + int(memory.total)
    return used, total


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
