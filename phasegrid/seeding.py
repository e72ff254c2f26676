"""Seed the global random generators that user code may draw from.

phasegrid itself draws only from generators that are passed in. A user's network, data set or metric
may draw from the global generators of torch (dropout does), Python and NumPy. They are seeded here,
so that a job gives the same numbers whatever ran before it.
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
    """Seed the global generators that code on `device` may use: torch's, Python's and NumPy's."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed all GPUs too
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # the generator that users' code shares


@contextmanager
def kept_draws(device: torch.device = CPU) -> Iterator[None]:
    """Restore the global generators when the context ends, whatever it seeded or drew."""
    python, numpy = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def seeded_draws(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Seed the global generators within the context, and restore them afterwards."""
    with kept_draws(device):
        seed_draws(seed, device)
        yield


def draw_state(device: torch.device = CPU) -> list[Tensor]:
    """Return the state of torch's generators."""
    state = [torch.default_generator.get_state()]
    return [*state, torch.cuda.get_rng_state(device)] if device.type == "cuda" else state


def all_draws(device: torch.device = CPU) -> list[Tensor]:
    """Return the states of torch's, Python's and NumPy's generators; ten times slower than
    `draw_state`.
    """
    state: Any = np.random.get_state()  # noqa: NPY002
    numpy = torch.from_numpy(state[1].astype(np.int64))
    return [*draw_state(device), torch.tensor(random.getstate()[1]), numpy, torch.tensor(state[2])]


def have_changed(before: list[Tensor], now: list[Tensor]) -> bool:
    """Say whether anything was drawn between two states."""
    return not all(map(torch.equal, before, now))


def repeatable(seed: int, device: torch.device, run: Callable[[], T]) -> T:
    """Return ``run()``; if it drew from torch's generators, seed them with `seed` and run it again.

    Meant for code that should draw nothing, such as an evaluation: seeding every time costs more.
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
    """Refuse networks that draw random numbers in eval mode: their results would not be repeatable.

    Raises:
        MetricError: at the end of the context, if anything was drawn from torch's generators.
    """
    before = draw_state(device)
    yield
    if have_changed(before, draw_state(device)):
        raise MetricError(
            f"{what}: the network draws random numbers in eval mode, so the same"
            " measurement would give other numbers each time. Let it draw only where self.training"
            " is true: F.dropout(x, p, self.training)"
        )
