"""The random numbers of user code: whatever generator of the process it draws from, it gets numbers of a seed of ours.

Our own code draws from generators that are passed in. A network, a data set or a metric of a user may draw from those that are there
for all: torch's (dropout does), Python's and NumPy's. Seeded here, the same job gives the same numbers whatever ran before it.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

CPU = torch.device("cpu")


def seed_draws(seed: int, device: torch.device = CPU) -> None:
    """Seed every generator that code on `device` can draw from without being given one: torch's, Python's, NumPy's."""
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


def draw_state(device: torch.device = CPU) -> list[torch.Tensor]:
    """Return where torch's generators stand: equal states, nothing drawn in between."""
    state = [torch.default_generator.get_state()]
    return [*state, torch.cuda.get_rng_state(device)] if device.type == "cuda" else state


def has_drawn(before: list[torch.Tensor], device: torch.device = CPU) -> bool:
    """Say whether anything was drawn from torch's generators since `before`."""
    return not all(map(torch.equal, before, draw_state(device)))
