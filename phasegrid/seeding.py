"""The random numbers of user code: whatever generator of the process it draws from, it gets numbers
of a seed of ours.

Our own code draws from generators that are passed in. A network, a data set or a metric of a user
may draw from those that are there for all: torch's (dropout does), Python's and NumPy's. Seeded
here, the same job gives the same numbers whatever ran before it.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from phasegrid.errors import MetricError

T = TypeVar("T")

CPU = torch.device("cpu")


def seed_draws(seed: int, device: torch.device = CPU) -> None:
    """Seed every generator that code on `device` can draw from without being given one: torch's,
    Python's, NumPy's.
    """
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed all GPUs too
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # the generator that users' code shares


@contextmanager
def kept_draws(device: torch.device = CPU) -> Iterator[None]:
    """Leave those generators as they were, whatever is seeded or drawn while the context lasts."""
    python, numpy = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def seeded_draws(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Seed those generators for a while and leave them as they were."""
    with kept_draws(device):
        seed_draws(seed, device)
        yield


def draw_state(device: torch.device = CPU) -> list[Tensor]:
    """Return where torch's generators stand."""
    state = [torch.default_generator.get_state()]
    return [*state, torch.cuda.get_rng_state(device)] if device.type == "cuda" else state


def all_draws(device: torch.device = CPU) -> list[Tensor]:
    """Return where torch's generators, Python's and NumPy's stand; ten times the cost of
    `draw_state`.
    """
    state: Any = np.random.get_state()  # noqa: NPY002
    numpy = torch.from_numpy(state[1].astype(np.int64))
    return [*draw_state(device), torch.tensor(random.getstate()[1]), numpy, torch.tensor(state[2])]


def have_changed(before: list[Tensor], now: list[Tensor]) -> bool:
    """Say whether anything was drawn between two states of the same generators."""
    return not all(map(torch.equal, before, now))


def repeatable(seed: int, device: torch.device, run: Callable[[], T]) -> T:
    """Return what `run` returns; where it draws from torch's generators, run it again, from `seed`.

    For what should draw nothing, as an evaluation: seeding beforehand would cost more.
    """
    before = draw_state(device)
    result = run()
    if not have_changed(before, draw_state(device)):
        return result
    torch.default_generator.set_state(before[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(before[1], device)
    with seeded_draws(seed, device):
        return run()


@contextmanager
def nothing_drawn(what: str, device: torch.device = CPU) -> Iterator[None]:
    """Refuse networks that draw in eval mode, whose numbers would be others each time.

    Raises:
        MetricError: on leaving, if anything was drawn from torch's generators.
    """
    before = draw_state(device)
    yield
    if have_changed(before, draw_state(device)):
        raise MetricError(
            f"{what}: the network draws random numbers in eval mode too, so that the same"
            " measurement would give other numbers each time. Let it draw only where self.training"
            " is true: F.dropout(x, p, self.training)"
        )
