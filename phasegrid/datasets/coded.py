"""Hold images as the bytes of their files until the numbers of a network are needed, on the device
where they are.

A byte stands for one number in each channel, so a table of 256 numbers a channel holds every result
of the normalisation. Numbers read from the table are those computed one by one, bit for bit, on any
device; bytes are a quarter of what has to be moved.

Letters: N examples, S the shape of one example, C channels (the first axis of S), n examples of a
step.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phasegrid.datasets.dataset import Dataset

CODES = 256
STEP_BYTES = {"cpu": 2**18, "cuda": 2**24}
"""Bytes of a step: on a CPU it fits a cache; on a GPU it outlasts the launches of its kernels."""


@dataclass(frozen=True, slots=True)
class Coded:
    """Inputs (N, *S) as bytes, and the float32 number of each byte in each channel, (C, 256)."""

    codes: NDArray[np.uint8]
    table: Tensor

    def steps(self, device: torch.device) -> Iterator[Tensor]:
        """Yield the inputs in their order on a device, some (n, *S) at a time; each step overwrites
        the one before.
        """
        channels, width = len(self.table), max(1, self.codes[:1].size)
        places = (1, channels) + (1,) * (self.codes.ndim - 2)
        first = CODES * torch.arange(channels, dtype=torch.int32, device=device).view(places)
        table = self.table.to(device).view(-1)
        size = max(1, STEP_BYTES.get(device.type, STEP_BYTES["cpu"]) // width)
        shape = (min(size, len(self.codes)), *self.codes.shape[1:])
        codes = np.empty(shape, dtype=np.uint8)
        index = torch.empty(shape, dtype=torch.int32, device=device)
        numbers = torch.empty(shape, device=device)
        for start in range(0, len(self.codes), size):
            num = min(size, len(self.codes) - start)
            codes[:num] = self.codes[start : start + num]
            index[:num] = torch.from_numpy(codes[:num]).to(device)
            index[:num] += first
            torch.index_select(table, 0, index[:num].view(-1), out=numbers[:num].view(-1))
            yield numbers[:num]

    def decoded(self, device: torch.device) -> Tensor:
        """Return the inputs (N, *S) on a device, float32."""
        numbers = torch.empty(self.codes.shape, device=device)
        start = 0
        for step in self.steps(device):
            numbers[start : start + len(step)] = step
            start += len(step)
        return numbers


def outline_of(inputs: Tensor | Coded) -> Tensor:
    """Return zeros of the type and shape of coded inputs, which take the memory of one number;
    other inputs as they are.
    """
    return torch.zeros(1).expand(inputs.codes.shape) if isinstance(inputs, Coded) else inputs


@dataclass(frozen=True, slots=True)
class CodedDataset:
    """A data set with some of its inputs `coded`, by the names of their fields; in the `outline`
    they are zeros of the same type and shape. If it `is_mapped`, its bytes are those of files that
    every process can map.
    """

    outline: Dataset
    coded: Mapping[str, Coded]
    is_mapped: bool = False

    def decoded(self, device: torch.device | str = "cpu") -> Dataset:
        """Return the data set on a device."""
        place = torch.device(device)
        inputs: dict[str, Any] = {n: coded.decoded(place) for n, coded in self.coded.items()}
        return replace(self.outline, **inputs).to(place)
