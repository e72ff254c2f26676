"""Measure a grid where it bends, and interpolate it elsewhere.

A grid is cut into coarse cells. The corners of each and what lies in its middle are measured, and
the middle is compared with what the corners predict, linear along both axes. Where the largest
difference is above a tolerance, the parts of the cell are treated likewise, down to the grid
itself. A smooth surface is then off by about a quarter of the tolerance where it was not measured;
a feature that lies between all points measured is missed.

Losses are compared and interpolated on the scale on which they are drawn: as logarithms if those of
the coarse grid are positive and span more than a factor 10. The tolerance is a share of their range
there. Letters: S sets, B and A points on the axes, K points.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

LOG_RATIO = 10.0

Place = tuple[int, int]
Measure = Callable[[Sequence[Place]], Tensor]


@dataclass(frozen=True, slots=True)
class Refined:
    """The `values` (S, B, A, 2) of a grid, losses and errors, and which were `measured` (B, A)."""

    values: Tensor
    measured: Tensor


@dataclass(frozen=True, slots=True)
class _Scale:
    """How the losses of a set are compared: as logarithms or as they are, over their range."""

    logarithmic: bool
    extent: float

    @classmethod
    def of(cls, losses: Tensor) -> "_Scale":
        finite = losses[losses.isfinite()]
        if not len(finite):
            return cls(False, 1.0)
        low, high = float(finite.min()), float(finite.max())
        logarithmic = low > 0 and high > LOG_RATIO * low
        extent = float(torch.tensor(high / low).log()) if logarithmic else high - low
        return cls(logarithmic, extent or 1.0)

    def to(self, values: Tensor) -> Tensor:
        """Turn losses and errors (..., 2) to this scale; errors stay."""
        loss, error = values.unbind(dim=-1)
        return torch.stack([(loss.log() if self.logarithmic else loss) / self.extent, error], -1)

    def back(self, scaled: Tensor) -> Tensor:
        """Turn scaled losses and errors (..., 2) back."""
        loss, error = scaled.unbind(dim=-1)
        loss = loss * self.extent
        return torch.stack([loss.exp() if self.logarithmic else loss, error], -1)


@dataclass(frozen=True, slots=True)
class _Cell:
    """The rows and columns of the corners of a part of the grid; on a line both rows are one."""

    rows: Place
    columns: Place

    def places(self) -> Iterator[Place]:
        """Yield the corners and what is in the middle of the sides and of the cell."""
        return product(_halved(self.rows), _halved(self.columns))

    def parts(self) -> "Iterator[_Cell]":
        """Yield the parts after a split; nothing if there is no point inside."""
        rows, columns = _halved(self.rows), _halved(self.columns)
        if len(rows) > 2 or len(columns) > 2:
            for below, left in product(_spans(rows), _spans(columns)):
                yield _Cell(below, left)

    def predicted(self, scaled: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
        """Return what the corners of `scaled` (S, B, A, 2) predict at rows x columns (S, R, Q,
        2).
        """
        corners = scaled[:, list(self.rows)][:, :, list(self.columns)]
        up, right = _shares(self.rows, rows), _shares(self.columns, columns)
        return torch.einsum("rj,sjiv,qi->srqv", up, corners, right)


def refine(measure: Measure, size: Place, coarse: int, tolerance: float) -> Refined:
    """Return a grid of `size` (B, A), of which ``measure`` gives losses and errors (S, K, 2) at K
    places (row, column). The first cells are `coarse` points wide.
    """
    cells = [_Cell(*sides) for sides in product(*(_spans(_every(num, coarse)) for num in size))]
    known = torch.zeros(size, dtype=torch.bool)
    values, scales = torch.empty(0), list[_Scale]()
    leaves: list[_Cell] = []
    while cells:
        new = sorted({place for cell in cells for place in cell.places() if not known[place]})
        if new:
            found = measure(new)
            if not scales:
                values = found.new_full((len(found), *size, 2), torch.nan)
                scales = [_Scale.of(one[:, 0]) for one in found]
            rows, columns = (list(line) for line in zip(*new, strict=True))
            values[:, rows, columns] = torch.stack(
                [scale.to(one) for scale, one in zip(scales, found, strict=True)]
            )
            known[rows, columns] = True
        parts = [(part, _surplus(cell, values)) for cell in cells for part in cell.parts()]
        leaves += [part for part, off in parts if off <= tolerance]
        cells = [part for part, off in parts if off > tolerance]
    for leaf in leaves:
        _fill(leaf, values, known)
    back = [scale.back(one) for scale, one in zip(scales, values, strict=True)]
    return Refined(torch.stack(back), known)


def _surplus(cell: _Cell, scaled: Tensor) -> float:
    """Return the largest difference of a loss in the middle from what the corners predict; infinite
    where one is not finite.
    """
    rows, columns = _halved(cell.rows), _halved(cell.columns)
    there = scaled[:, rows][:, :, columns]
    off = (there - cell.predicted(scaled, rows, columns))[..., 0].abs()
    return float(off.max()) if bool(off.isfinite().all()) else float("inf")


def _fill(leaf: _Cell, scaled: Tensor, known: Tensor) -> None:
    """Predict what was not measured in a cell, from its corners."""
    rows, columns = (list(range(low, high + 1)) for low, high in (leaf.rows, leaf.columns))
    predicted = leaf.predicted(scaled, rows, columns)
    there = scaled[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    measured = known[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    there.copy_(torch.where(measured[..., None], there, predicted))


def _every(num: int, coarse: int) -> list[int]:
    """Return every so many of `num` places, with the last."""
    return sorted({*range(0, num, coarse), num - 1})


def _spans(places: Sequence[int]) -> list[Place]:
    return list(pairwise(places)) or [(places[0], places[0])]


def _halved(ends: Place) -> list[int]:
    low, high = ends
    return sorted({low, (low + high) // 2, high})


def _shares(ends: Place, places: Sequence[int]) -> Tensor:
    """Return the shares (K, 2) of both ends in what is predicted at K places."""
    low, high = ends
    right = torch.tensor([(place - low) / max(1, high - low) for place in places]).double()
    return torch.stack([1 - right, right], dim=1)
