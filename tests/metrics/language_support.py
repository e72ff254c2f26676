"""A tiny running text and language models of a hundred parameters, for the tests on texts."""

from typing import Any

import torch
from torch import Tensor

from phasegrid.datasets.dataset import Dataset
from phasegrid.datasets.language.load import as_windows
from phasegrid.declare import Windows
from phasegrid.models.lstm import Lstm, make

WORDS, STEPS = 7, 4
SMALL: dict[str, Any] = {
    "width": 3,
    "depth": 1,
    "embedding": 2,
    "tied": False,
    "dropout": 0.0,
    "init": 0.5,
}


def text(num: int, seed: int = 0) -> Tensor:
    """Draw the words of `num` windows: each is mostly the one after the last but one."""
    rng = torch.Generator().manual_seed(seed)
    words = torch.randint(WORDS, (num * STEPS + 1,), generator=rng)
    for i in range(2, len(words)):
        if i % 3:
            words[i] = (words[i - 2] + 1) % WORDS
    return words


def windows(num_train: int = 60, num_test: int = 20) -> Dataset:
    """A data set of so many windows."""
    train = as_windows(text(num_train).tolist(), STEPS, num_train)
    test = as_windows(text(num_test, seed=1).tolist(), STEPS, num_test)
    unit = torch.zeros(1)
    return Dataset(
        "text", *train, *test, WORDS, unit, unit, task="language", form=Windows(STEPS, WORDS)
    )


def built(seed: int = 0, **changes: Any) -> Lstm:
    """Build a network in float64, eval mode."""
    torch.manual_seed(seed)
    module = make(Windows(STEPS, WORDS), **{**SMALL, **changes})
    assert isinstance(module, Lstm)
    return module.double().eval()
