"""A stand-in for `pynvml`: the same functions, and the real library's errors and constants."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml

GIB = 2**30


@dataclass
class FakeCard:
    """What NVML says of a card. A value that is an error is raised."""

    uuid: Any = "GPU-aaaa"
    name: Any = "NVIDIA H200"
    use: Any = 97
    used: Any = 2 * GIB
    total: int = 140 * GIB
    temperature: Any = 66
    slows_at: Any = 90
    reasons: Any = 0x4  # its power cap: normal under load
    errors: Any = 0
    processes: Any = ()  # pairs of pid and bytes
    mig: Any = field(default_factory=lambda: error("NOT_SUPPORTED"))
    handle: Any = None
    instances: dict[str, int] = field(default_factory=dict)
    """The bytes in use of each instance of a split card, by its name; each has 10 GiB."""


def error(name: str) -> Exception:
    """Return the error that NVML raises for a code."""
    made: Exception = pynvml.NVMLError(getattr(pynvml, f"NVML_ERROR_{name}"))
    return made


def lost() -> FakeCard:
    """Return a card that has fallen off the bus while its handle was known: all it says is that."""
    gone = error("GPU_IS_LOST")
    return FakeCard(gone, gone, gone, gone, 0, gone, gone, gone, gone, gone, gone)


def split(**known: Any) -> FakeCard:
    """Return a card whose MIG is on."""
    no = error("NOT_SUPPORTED")
    return FakeCard(**{"use": no, "processes": no, "mig": [1, 1], **known})


def fake_nvml(cards: list[FakeCard], init: Exception | None = None) -> Any:
    """Return a module-like stand-in for `pynvml` that knows these cards, as they are when asked."""

    def told(value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    def by_index(index: int) -> FakeCard:
        told(cards[index].handle)
        return cards[index]

    def by_uuid(name: str) -> tuple[FakeCard, str]:
        found = [(card, name) for card in cards if name in card.instances]
        return found[0] if found else told(error("NOT_FOUND"))

    def memory(card: Any, version: int | None = None) -> Any:
        if version is not None and version != pynvml.nvmlMemory_v2:
            raise error("INVALID_ARGUMENT")
        if isinstance(card, tuple):
            parent, name = card
            return SimpleNamespace(used=parent.instances[name], total=10 * GIB)
        return SimpleNamespace(used=told(card.used), total=card.total)

    def processes(card: FakeCard) -> list[Any]:
        return [SimpleNamespace(pid=p, usedGpuMemory=used) for p, used in told(card.processes)]

    def total_errors(card: FakeCard, kind: int, since: int) -> int:
        assert kind == pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
        assert since == pynvml.NVML_VOLATILE_ECC
        return int(told(card.errors))

    def threshold(card: FakeCard, which: int) -> int:
        assert which == pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
        return int(told(card.slows_at))

    functions: dict[str, Callable[..., Any]] = {
        "nvmlInit": lambda: told(init),
        "nvmlDeviceGetCount": lambda: len(cards),
        "nvmlDeviceGetHandleByIndex": by_index,
        "nvmlDeviceGetHandleByUUID": by_uuid,
        "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": lambda instance: instance[0],
        "nvmlDeviceGetIndex": lambda card: next(i for i, one in enumerate(cards) if one is card),
        "nvmlDeviceGetUUID": lambda card: told(card.uuid),
        "nvmlDeviceGetName": lambda card: told(card.name),
        "nvmlDeviceGetUtilizationRates": lambda card: SimpleNamespace(gpu=told(card.use)),
        "nvmlDeviceGetMemoryInfo": memory,
        "nvmlDeviceGetTemperatureV": lambda card, _sensor: told(card.temperature),
        "nvmlDeviceGetTemperatureThreshold": threshold,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda card: told(card.reasons),
        "nvmlDeviceGetTotalEccErrors": total_errors,
        "nvmlDeviceGetComputeRunningProcesses": processes,
        "nvmlDeviceGetMigMode": lambda card: told(card.mig),
    }
    newer = {"nvmlDeviceGetTemperatureV"}  # than the oldest binding that is accepted
    assert all(hasattr(pynvml, name) for name in functions.keys() - newer)
    constants = {name: getattr(pynvml, name) for name in dir(pynvml) if name.startswith("NVML_")}
    return SimpleNamespace(
        **functions, **constants, nvmlMemory_v2=pynvml.nvmlMemory_v2, NVMLError=pynvml.NVMLError
    )
