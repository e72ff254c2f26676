"""Place several tensors in one flat vector, so that one kernel handles them all.

GPU kernels need addresses that are multiples of 16 bytes; at other addresses some of them end the
CUDA context of the process. So every tensor begins at a multiple of `ALIGNMENT` elements. The gaps
hold zeros and stay zero. They are in no result: a vector (P,) that is drawn, measured or stored has
no gaps.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

ALIGNMENT = 64
"""In elements: 256 bytes in float32, 128 in bfloat16. cuDNN and cuBLAS need 16 bytes; on a GPU,
torch allocates at multiples of 512.
"""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Places of tensors of these `shapes` in a vector of `length` elements; each begins at its
    place in `starts`. With `channels_last`, kernels of convolutions (M, O, I, H, W) lie as
    (M, O, H, W, I).

    >>> Blocks.of([(3, 30), (2,)])
    Blocks(shapes=((3, 30), (2,)), starts=(0, 128), length=192, channels_last=False)
    """

    shapes: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]
    length: int
    channels_last: bool = False

    @classmethod
    def of(cls, shapes: Iterable[Sequence[int]], channels_last: bool = False) -> "Blocks":
        """Place tensors of `shapes`."""
        known = tuple(tuple(shape) for shape in shapes)
        ends = accumulate((_padded(torch.Size(shape).numel()) for shape in known), initial=0)
        *starts, length = ends
        return cls(known, tuple(starts), length, channels_last)

    @property
    def sizes(self) -> list[int]:
        """How many elements each tensor has, without gaps."""
        return [torch.Size(shape).numel() for shape in self.shapes]

    def zeros(self, like: Tensor) -> Tensor:
        """Return a vector (length,) of zeros with the dtype and device of `like`."""
        return like.new_zeros(self.length)

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return a new vector (length,) that holds copies of `tensors`."""
        vector = self.zeros(tensors[0])
        for view, tensor in zip(self.views(vector), tensors, strict=True):
            view.copy_(tensor.view(view.shape))
        return vector

    def views(self, vector: Tensor) -> list[Tensor]:
        """Return the tensors in `vector` (length,), as views of it."""
        places = zip(self.starts, self.sizes, self.shapes, strict=True)
        return [self._view(vector[start : start + size], shape) for start, size, shape in places]

    def _view(self, block: Tensor, shape: tuple[int, ...]) -> Tensor:
        if not self.channels_last or len(shape) != 5:
            return block.view(shape)
        members, out, channels, height, width = shape
        return block.view(members, out, height, width, channels).permute(0, 1, 4, 2, 3)


class FlatVector:
    """The tensors (M, *shape) of M networks in one vector with gaps. They are set and read as rows
    (M, P) without gaps.

    `vector` (length,) holds the tensors, and `views` are views of it. For a single network, setting
    or reading is one operation.
    """

    vector: Tensor
    views: list[Tensor]

    def __init__(self, blocks: Blocks, vector: Tensor, num: int) -> None:
        self.vector, self.views = vector, blocks.views(vector)
        self._num = num
        self._in_order = all(view.is_contiguous() for view in self.views)
        self._rows = [view.view(num, -1) for view in self.views] if self._in_order else []
        self._sizes = [size // num for size in blocks.sizes]
        ends = (*blocks.starts[1:], blocks.length)
        places = zip(blocks.starts, blocks.sizes, ends, strict=True)
        self._gaps = [vector.new_zeros(end - start - size) for start, size, end in places]

    def fill(self, rows: Tensor) -> None:
        """Copy the tensors from `rows` (M, P), or (P,) for a single network; they are cast to their
        dtype.
        """
        rows = rows.to(self.vector)
        if self._num > 1 or not self._in_order:
            parts = torch.split(rows.view(self._num, -1), self._sizes, dim=1)
            for own, part in zip(self.views, parts, strict=True):
                own.copy_(part.view(own.shape))
            return
        pieces = torch.split(rows.view(-1), self._sizes)
        laid = [part for pair in zip(pieces, self._gaps, strict=True) for part in pair]
        torch.cat(laid, out=self.vector)

    def read(self) -> Tensor:
        """Return a copy (M, P) without gaps."""
        rows = self._rows or [view.reshape(self._num, -1) for view in self.views]
        return torch.cat(rows, dim=1)


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
