"""Place several tensors in one flat vector, so that one kernel handles them all.

Kernels of a GPU want addresses that are multiples of 16 bytes, and some end the process's CUDA
context where they are not. So every tensor begins at a multiple of `ALIGNMENT` elements. The gaps
hold zeros, stay zero, and are in no result: a vector (P,) that is drawn, measured or stored has
none of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

ALIGNMENT = 64
"""Elements: 256 bytes in float32, 128 in bfloat16. cuDNN and cuBLAS ask for 16 bytes; what torch
allocates begins at 512 on a GPU.
"""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Tensors of these `shapes`, one after another, each from its place in `starts`, in a vector of
    `length` elements.

    >>> Blocks.of([(3, 30), (2,)])
    Blocks(shapes=((3, 30), (2,)), starts=(0, 128), length=192)
    """

    shapes: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]
    length: int

    @classmethod
    def of(cls, shapes: Iterable[Sequence[int]]) -> "Blocks":
        """Place tensors of `shapes`."""
        known = tuple(tuple(shape) for shape in shapes)
        ends = accumulate((_padded(torch.Size(shape).numel()) for shape in known), initial=0)
        *starts, length = ends
        return cls(known, tuple(starts), length)

    @property
    def sizes(self) -> list[int]:
        """How many elements each tensor has, gaps not counted."""
        return [torch.Size(shape).numel() for shape in self.shapes]

    def zeros(self, like: Tensor) -> Tensor:
        """Return a vector (length,) of zeros, of the dtype and on the device of `like`."""
        return like.new_zeros(self.length)

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return a new vector (length,) that holds copies of `tensors`."""
        vector = self.zeros(tensors[0])
        for view, tensor in zip(self.views(vector), tensors, strict=True):
            view.copy_(tensor.view(view.shape))
        return vector

    def views(self, vector: Tensor) -> list[Tensor]:
        """Return the tensors that lie in `vector` (length,), as views of it."""
        places = zip(self.starts, self.sizes, self.shapes, strict=True)
        return [vector[start : start + size].view(shape) for start, size, shape in places]


class FlatVector:
    """The tensors (M, *shape) of M networks in one vector, with gaps; filled from, and read as,
    rows (M, P) without.

    `vector` (length,) holds them, `views` are they. For a lone network either is one operation.
    """

    vector: Tensor
    views: list[Tensor]

    def __init__(self, blocks: Blocks, vector: Tensor, num: int) -> None:
        self.vector, self.views = vector, blocks.views(vector)
        self._rows = [view.view(num, -1) for view in self.views]
        self._sizes = [size // num for size in blocks.sizes]
        ends = (*blocks.starts[1:], blocks.length)
        places = zip(blocks.starts, blocks.sizes, ends, strict=True)
        self._gaps = [vector.new_zeros(end - start - size) for start, size, end in places]

    def fill(self, rows: Tensor) -> None:
        """Copy the tensors from `rows` (M, P), of a lone network also (P,); they are cast to their
        dtype.
        """
        rows = rows.to(self.vector)
        if len(self._rows[0]) > 1:
            for own, part in zip(self._rows, torch.split(rows, self._sizes, dim=1), strict=True):
                own.copy_(part)
            return
        pieces = torch.split(rows.view(-1), self._sizes)
        laid = [part for pair in zip(pieces, self._gaps, strict=True) for part in pair]
        torch.cat(laid, out=self.vector)

    def read(self) -> Tensor:
        """Return a copy (M, P) without gaps."""
        return torch.cat(self._rows, dim=1)


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
