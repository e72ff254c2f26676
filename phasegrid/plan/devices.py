"""Turn a cost estimate into seconds on a kind of GPU, from its data sheet and readings on one.

A pass over a batch takes on a GPU

    ``layers * launch + traffic / (reached * bandwidth) + FLOPs / (reached * rate)``:

the time to start kernels, the time to move activations, and arithmetic. The three shares of
training (`TRAINING`) were fitted to readings of ResNet18 on an H200 (widths 2 to 128, batches of 32
to 1024 images of 3x32x32, the faster of one member and five at once). The fit is within 7% in fp32;
in tf32 within 11%, but 29% low for batch 1024; in bf16 within 22%, without width 2, which takes 2.1
times what the fit says. Other GPUs are scaled by the rates and the
bandwidth of their data sheets, and no reading of them has been compared. The store's own timings
correct both. Pure, no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from phasegrid.errors import SweepError
from phasegrid.estimates import RATE, Guess


class Reached(NamedTuple):
    """Seconds to start the kernels of one layer for a pass, and the reached shares of the bandwidth
    and of the rate.
    """

    launch_s: float
    bandwidth: float
    rate: float


TRAINING: Mapping[str, Reached] = {
    "fp32": Reached(3.2e-6, 0.0492, 0.618),
    "tf32": Reached(5.4e-6, 0.1015, 0.826),
    "bf16": Reached(3.7e-6, 0.1526, 0.787),
}
"""Trainings as packs whose updates are recorded as CUDA graphs."""

EAGER_S = 6.0e-5
"""Seconds to start the kernels of one layer for a pass, one by one: 7.4 ms an update of ResNet18,
which has 41 layers, forward and backward (3).
"""


@dataclass(frozen=True, slots=True)
class Device:
    """A kind of device: FLOP/s by precision, bytes/s, bytes of memory.

    Where it has no hardware for a precision, that is missing in `rates`, and fp32's is taken.
    Seconds of jobs of which none was timed are between 1/`spread` and `spread` times the forecast.
    `kind` is torch's name. The GPU's own name contains one of `marks`. `is_read`: readings were
    taken on one.
    """

    name: str
    kind: str = "cuda"
    rates: Mapping[str, float] | None = field(default=None, compare=False)
    bandwidth: float = 0.0
    memory_bytes: int = 0
    spread: float = 2.0
    marks: tuple[str, ...] = ()
    is_read: bool = False

    def guess(self, guess: Guess, precision: str = "fp32", is_recorded: bool = False) -> Guess:
        """Return the seconds of a guess on this device, in the parts that timings correct.

        `is_recorded`: the kernels are started by a CUDA graph (trainings, many measurements), not
        one by one.
        """
        if self.rates is None or not guess.layers:  # the latter: of one that counts seconds only
            return guess
        known = precision if precision in self.rates else "fp32"
        reached, rate = TRAINING[known], self.rates[known]
        launch_s = reached.launch_s if is_recorded else EAGER_S
        moved_s = guess.traffic_bytes / (reached.bandwidth * self.bandwidth)
        computed_s = guess.arithmetic_s * RATE / (reached.rate * rate)
        return Guess(guess.layers * launch_s, moved_s + computed_s)

    def is_named(self, name: str | None) -> bool:
        """Whether a GPU of this name, as torch gives it, is of this kind."""
        return name is not None and any(mark in name for mark in self.marks)


CPU = Device("cpu", "cpu", spread=10.0)
"""One core. Its guesses are `phasegrid.estimates`' own."""

_GIB = 2**30


def _gpu(
    name: str,
    fp32: float,
    tf32: float | None,
    bf16: float | None,
    bandwidth: float,
    gib: float,
    spread: float = 2.0,
    marks: tuple[str, ...] = (),
    is_read: bool = False,
) -> Device:
    """Return a GPU from TFLOP/s (dense), TB/s and GiB."""
    given = {"fp32": fp32, "tf32": tf32, "bf16": bf16}
    rates = {precision: 1e12 * rate for precision, rate in given.items() if rate is not None}
    return Device(name, "cuda", rates, 1e12 * bandwidth, int(gib * _GIB), spread, marks, is_read)


DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        CPU,
        _gpu("v100", 15.7, None, None, 0.90, 32, marks=("V100",)),
        _gpu("a100", 19.5, 156, 312, 2.04, 80, marks=("A100",)),
        _gpu("rtx4090", 82.6, 82.6, 165, 1.01, 24, marks=("RTX 4090",)),
        _gpu("h100", 67, 494, 989, 3.35, 80, marks=("H100",)),
        _gpu("h200", 67, 494, 989, 4.80, 141, 1.5, ("H200",), is_read=True),
    )
}
"""Rates without sparsity, of the SXM versions where there are several, from the makers' data
sheets.
"""

_KEYS = ("fp32", "tf32", "bf16", "bandwidth", "memory")
_FORM = "fp32=TFLOP/s,bandwidth=TB/s,memory=GiB and, where it has them, tf32=, bf16="


def find_device(text: str) -> Device:
    """Return the device of a name, or one described as ``fp32=30,bf16=120,bandwidth=0.9,memory=24``
    in TFLOP/s, TB/s and GiB.

    Raises:
        SweepError: if it is neither.
    """
    name = text.strip().lower()
    if name in DEVICES:
        return DEVICES[name]
    if "=" not in name:
        raise SweepError(
            f"device {text!r} is unknown; allowed: {', '.join(DEVICES)}, or its data sheet: {_FORM}"
        )
    values: dict[str, float] = {}
    for item in name.split(","):
        key, _, value = (part.strip() for part in item.partition("="))
        if key not in _KEYS:
            raise SweepError(f"device {text!r}: {key!r} is unknown; allowed: {_FORM}")
        try:
            values[key] = float(value)
        except ValueError:
            values[key] = -1.0
        if not 0 < values[key] < 1e6:
            raise SweepError(
                f"device {text!r}: {key} is {value!r}; allowed: a number above 0 and below 1e6"
            )
    missing = [key for key in ("fp32", "bandwidth", "memory") if key not in values]
    if missing:
        raise SweepError(f"device {text!r} lacks {', '.join(missing)}; allowed: {_FORM}")
    return _gpu(
        name,
        values["fp32"],
        values.get("tf32"),
        values.get("bf16"),
        values["bandwidth"],
        values["memory"],
        spread=3.0,
    )


def device_of(kind: str, name: str | None) -> Device:
    """Return the device whose timings carry torch's `kind` and this name of the GPU.

    A GPU that is not in the table keeps its name; its first guess is that of an A100, which its own
    timings then correct.
    """
    if kind == "cpu":
        return CPU
    found = next((device for device in DEVICES.values() if device.is_named(name)), None)
    return found or replace(DEVICES["a100"], name=name or "unnamed", marks=())
