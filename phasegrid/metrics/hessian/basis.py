"""Keep orthonormal vectors, orthogonalise against them, and draw random signs.

Letters: P dimension.
"""

import torch
from torch import Tensor

MAX_PASSES = 5  # of orthogonalisation; two suffice unless a vector lies in the span of the basis


def rademacher(size: int, rng: torch.Generator, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Draw independent signs (P,) from `rng`, on its device, and move them to `device`."""
    signs = torch.randint(0, 2, (size,), generator=rng, device=rng.device)
    return (2 * signs - 1).to(device=device, dtype=dtype)


def project_out(vector: Tensor, blocks: tuple[Tensor, ...]) -> Tensor:
    """Return `vector` (P,) without its components along the orthonormal rows of `blocks`."""
    for rows in blocks:
        vector = vector - rows.t() @ (rows @ vector)
    return vector


class Basis:
    """Orthonormal rows, in blocks so that a growing basis is never copied."""

    def __init__(self, size: int, block_rows: int, like: Tensor) -> None:
        self.size, self.block_rows, self.like = size, block_rows, like
        self.count = 0
        self.storage: list[Tensor] = []

    def append(self, vector: Tensor) -> None:
        """Add a row."""
        place = self.count % self.block_rows
        if place == 0:
            self.storage.append(self.like.new_empty(self.block_rows, self.size))
        self.storage[-1][place] = vector
        self.count += 1

    def cut(self, count: int) -> None:
        """Drop all rows but the first `count`."""
        self.count = count
        del self.storage[-(-count // self.block_rows) :]

    def blocks(self) -> tuple[Tensor, ...]:
        """Return the rows, block by block."""
        last = self.count - self.block_rows * (len(self.storage) - 1)
        return (*self.storage[:-1], self.storage[-1][:last])

    def orthogonalise(self, vector: Tensor) -> tuple[Tensor, float]:
        """Return the part of `vector` orthogonal to the rows, and its norm: two passes, and more
        while it still shrinks.
        """
        vector, norms = self.project_out_twice(vector)
        before, norm = torch.stack(norms).tolist()
        for _ in range(MAX_PASSES - 2):
            if norm > before / 2:
                break
            vector = project_out(vector, self.blocks())
            before, norm = norm, float(norm_of(vector))
        return vector, norm

    def project_out_twice(self, vector: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return `vector` after two passes, and its norm after each."""
        once = project_out(vector, self.blocks())
        twice = project_out(once, self.blocks())
        return twice, [norm_of(once), norm_of(twice)]

    def draw(self, rng: torch.Generator) -> Tensor:
        """Draw a unit vector orthogonal to every row."""
        while True:
            fresh = rademacher(self.size, rng, self.like.dtype, self.like.device)
            vector, norm = self.orthogonalise(fresh)
            if norm > 1e-3:
                return vector / norm


def norm_of(vector: Tensor) -> Tensor:
    """Return the norm of a vector, in float64, on its device."""
    norm: Tensor = torch.linalg.vector_norm(vector, dtype=torch.float64)
    return norm
