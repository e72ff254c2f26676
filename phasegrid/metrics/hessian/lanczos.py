"""Run Lanczos on a symmetric operator given by its products: extreme eigenvalues with error bounds,
and a spectral density.

One run of m steps from a vector q_1 gives an orthonormal basis Q (m, P) and a tridiagonal T = Q H
Q^T. With T = S diag(theta) S^T, the Ritz values theta_i have residuals |H y_i - theta_i y_i| =
beta_m |S_mi|, and (theta_i, S_1i^2) is the Gauss quadrature of the spectral measure of H at q_1
(Golub and Meurant 1994); averaged over random q_1 it is the spectral density (stochastic Lanczos
quadrature: Lin, Saad and Yang 2016, section 3.2). `lanczos` orthogonalises every vector against all
earlier ones at least twice, so there are no ghost eigenvalues; `short_lanczos` keeps no earlier
vectors.

All this needs a symmetric H. So a run checks v^T H w = w^T H v for its first two (random) vectors
and for some later neighbours, at the cost of a dozen scalar products.

A GPU works ahead: the coefficients stay on the device, and the run waits for them only once in
`steps_ahead` steps. What a step decides by its coefficients (to orthogonalise once more, to begin
anew in the complement) is rare. So a run goes on as usual, looks at the decisions when it reads,
and drops the steps after one that was decided otherwise: the result is that of reading every step.
Letters: P dimension, m steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from phasegrid.errors import MetricError
from phasegrid.metrics.hessian.basis import Basis, norm_of

MatVec = Callable[[Tensor], Tensor]

LONGEST = 4  # a run takes at most this many times the requested steps

ASYMMETRY = 3e-5
"""The largest |v^T H w - w^T H v| of a symmetric H, for unit v and w, relative to the norm of H.
Rounding in float32 gives 1e-8 to 3e-7 (networks of four families, trained little, well and to
divergence, weights scaled by 0.01 to 100); the wrong second derivatives found so far give 1e-2 and
more. It is the same in float64, because networks may compute in float32 inside.
"""


class AsymmetryError(MetricError):
    """The products do not belong to a symmetric matrix, although they should."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """What one Lanczos run knows of a spectrum.

    `ritz_values` (m,) ascend; `weights` (m,) are the weights of the quadrature and sum to 1;
    `residuals` (m,) are |H y - theta y| for unit y, including rounding in the vectors' dtype: an
    eigenvalue lies within a residual of its Ritz value. All are float64, on the CPU. `basis` holds
    the rows of Q in blocks, and column i of `coefficients` (m, m), S, gives the i-th Ritz vector in
    this basis; a run without a basis has no blocks. `complete` means m = P: the whole spectrum with
    multiplicities, weights 1/P. `rounding` is the part of the residuals that more steps would not
    remove.
    """

    ritz_values: Tensor
    weights: Tensor
    residuals: Tensor
    basis: tuple[Tensor, ...]
    coefficients: Tensor
    complete: bool
    rounding: float

    def error_bound(self, index: int = -1) -> float:
        """Bound the error of the largest (-1) or smallest (0) Ritz value: min(r, r^2 / gap) (Kato
        1949, Temple 1933).

        The gap to the next Ritz value serves as an estimate of the gap in the spectrum.
        """
        residual = float(self.residuals[index])
        next_ = -2 if index == -1 else 1
        if len(self.residuals) < 2:
            return residual
        gap = abs(float(self.ritz_values[index] - self.ritz_values[next_]))
        return min(residual, residual**2 / gap) if gap > 0 else residual

    def knows_largest(self, tolerance: float) -> bool:
        """Say whether the largest eigenvalue is known to `tolerance`, relative to itself."""
        return self.error_bound() <= tolerance * abs(float(self.ritz_values[-1]))

    def knows_smallest(self, tolerance: float) -> bool:
        """Say whether the smallest eigenvalue is known to `tolerance`, relative to itself, or as
        well as rounding allows.

        If it is tiny beside the largest, rounding may hide it altogether, and more steps would not
        help.
        """
        residual, size = float(self.residuals[0]), abs(float(self.ritz_values[0]))
        return self.error_bound(0) <= tolerance * size or residual <= 2 * self.rounding

    def ritz_vector(self, index: int) -> Tensor:
        """Return the unit Ritz vector (P,) of `ritz_values[index]` in the dtype of the basis; its
        sign has no meaning.
        """
        chosen = self.coefficients[:, index].to(self.basis[0])
        parts = torch.split(chosen, [len(block) for block in self.basis])
        vector = torch.zeros_like(self.basis[0][0])
        for block, part in zip(self.basis, parts, strict=True):
            vector += block.t() @ part
        vector /= torch.linalg.vector_norm(vector)
        return vector

    def project_out_ritz(self, vector: Tensor, chosen: Tensor) -> Tensor:
        """Return `vector` (P,) without its components along the Ritz vectors that `chosen` (m,)
        marks; these vectors are not stored.
        """
        S = self.coefficients[:, chosen].to(vector)
        along = torch.cat([block @ vector for block in self.basis])
        parts = torch.split(S @ (S.t() @ along), [len(block) for block in self.basis])
        for block, part in zip(self.basis, parts, strict=True):
            vector = vector - block.t() @ part
        return vector


def lanczos(
    matvec: MatVec,
    start: Tensor,
    steps: int,
    rng: torch.Generator,
    tolerance: float | None = None,
) -> Spectrum:
    """Run Lanczos on `matvec` from `start` (P,). All vectors have its dtype and device;
    coefficients are float64.

    Takes min(steps, P) products, and with a `tolerance` goes on until `Spectrum.error_bound` is at
    most tolerance * |lambda_max|, for at most 4 * steps. Memory: m P numbers. The result scales
    with the operator: c H gives c theta.

    Raises:
        AsymmetryError: if the products are not those of a symmetric matrix.
        MetricError: if a product is not finite.
    """
    run = LanczosRun(matvec, start, steps, rng)
    if tolerance is None:
        return run.advance(steps, steps, lambda _: True)
    return run.advance(steps, LONGEST * steps, lambda spectrum: spectrum.knows_largest(tolerance))


class LanczosRun:
    """A run that can be continued; the results of earlier calls of `advance` do not change.

    If the vectors span an invariant subspace early, the run goes on in the orthogonal complement
    from a vector drawn from `rng`. So no eigenvalue is missed, and m = P gives all of them. `ahead`
    is how many steps it makes before it reads their coefficients (None: `steps_ahead`).
    """

    def __init__(
        self,
        matvec: MatVec,
        start: Tensor,
        block_rows: int,
        rng: torch.Generator,
        ahead: int | None = None,
    ) -> None:
        self.size = len(start)
        self._matvec, self._rng, self._dtype = matvec, rng, start.dtype
        self._basis = Basis(self.size, min(block_rows, self.size), start)
        self._diagonal: list[float] = []
        self._off_diagonal: list[float] = []
        self._rest, self._beta = start, 0.0
        self._last = start, start
        self._ahead = steps_ahead(start.device) if ahead is None else ahead

    def advance(self, least: int, most: int, known: Callable[[Spectrum], bool]) -> Spectrum:
        """Go on to `least` steps in all, and then until `known` says that enough is known, but to
        at most `most` steps.

        Raises:
            AsymmetryError: if the products are not those of a symmetric matrix.
            MetricError: if a product is not finite.
        """
        least, most = min(least, self.size), min(most, self.size)
        while len(self._diagonal) < least:
            self._go_on(min(self._ahead, least - len(self._diagonal)))
        spectrum = self._solve()
        while len(self._diagonal) < most and not known(spectrum):
            self._go_on(1)
            spectrum = self._solve()
        return spectrum

    def _go_on(self, count: int) -> None:
        """Make up to `count` steps, of which the first is always right, and read them."""
        first, last = len(self._diagonal), self._last
        steps: list[_Step] = []
        for done in range(first, first + count):
            q = steps[-1].rest / steps[-1].numbers[_BETA] if steps else self._next()
            steps.append(self._step(q, done, last))
            last = q, steps[-1].product
        for i, numbers in enumerate(torch.stack([step.numbers for step in steps]).tolist()):
            if i and not self._goes_on():
                self._basis.cut(first + i)  # it begins anew: the steps from here are void
                return
            if i:
                self._off_diagonal.append(self._beta)
            self._diagonal.append(_finite(numbers[0]))
            if _is_checked(first + i):
                self._check(*numbers[3:])
            self._last = steps[i].q, steps[i].product
            self._rest, (before, self._beta) = steps[i].rest, numbers[1:3]
            if self._beta <= before / 2:
                self._basis.cut(first + i + 1)
                self._rest, self._beta = self._basis.orthogonalise(steps[i].product)
                return

    def _step(self, q: Tensor, done: int, last: tuple[Tensor, Tensor]) -> "_Step":
        """Make a step after `done` others, the `last` of which gives its vector and its product."""
        self._basis.append(q)
        w = self._matvec(q)
        rest, norms = self._basis.project_out_twice(w)
        numbers = [_dot(q, w), *norms]
        compared = [_dot(last[0], w), _dot(q, last[1])] if _is_checked(done) else numbers[:2]
        return _Step(q, w, rest, torch.stack([*numbers, *compared]))

    def _next(self) -> Tensor:
        """Return the next row of the basis, and note its coefficient in the tridiagonal matrix."""
        if not self._diagonal:
            first: Tensor = self._rest / torch.linalg.vector_norm(self._rest)
            return first
        if self._goes_on():
            self._off_diagonal.append(self._beta)
            return self._rest / self._beta
        self._off_diagonal.append(0.0)
        return self._basis.draw(self._rng)

    def _goes_on(self) -> bool:
        """Say whether the last step left more than rounding errors."""
        return self._beta > _rounding(self._diagonal, self._off_diagonal, self._dtype)

    def _check(self, one: float, other: float) -> None:
        """Compare v^T H q with q^T H v, where v is the vector before q."""
        norm = max(map(abs, [*self._diagonal, *self._off_diagonal, one, other]))
        if abs(one - other) > ASYMMETRY * norm:
            raise AsymmetryError(
                f"v^T H w and w^T H v differ by {abs(one - other) / norm:.1e} of the norm of H"
            )

    def _solve(self) -> Spectrum:
        _finite(self._beta)
        return _solve(self._diagonal, self._off_diagonal, self._beta, self._basis, self.size)


_BETA = 2


@dataclass(frozen=True, slots=True)
class _Step:
    """A step that is not read yet: its vector, its product, what is left of that beside the basis,
    and its `numbers` on the device: the diagonal entry, the norms after the first and second
    orthogonalisation, and the two products that a check compares.
    """

    q: Tensor
    product: Tensor
    rest: Tensor
    numbers: Tensor


def steps_ahead(device: torch.device) -> int:
    """Return how many steps a run makes before it reads their coefficients: every step on a CPU,
    where reading costs nothing; on a GPU, eight, for which it keeps as many products.
    """
    return 1 if device.type == "cpu" else 8


def _is_checked(done: int) -> bool:
    """Say whether symmetry is checked at the step after `done` others: at steps 2, 3, 5, 9, 17 and
    so on.
    """
    return done > 0 and done & (done - 1) == 0


def short_lanczos(matvec: MatVec, start: Tensor, steps: int, ahead: int | None = None) -> Spectrum:
    """Run at most `steps` of Lanczos on `matvec` from `start` (P,) by the three-term recurrence,
    keeping three vectors and no basis.

    The run ends early at an invariant subspace. Rounding makes copies of converged eigenvalues,
    which share their weight. So the quadrature stays correct (Greenbaum 1989), and up to rounding a
    Ritz value is still within its residual of an eigenvalue (Paige 1980).

    Raises:
        MetricError: if a product is not finite.
    """
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    q, before = start / torch.linalg.vector_norm(start), torch.zeros_like(start)
    beta = torch.zeros((), dtype=torch.float64, device=start.device)
    ahead = steps_ahead(start.device) if ahead is None else ahead
    while True:
        unread: list[Tensor] = []
        for _ in range(min(ahead, steps - len(diagonal))):
            w = matvec(q) - beta * before
            entry = _dot(q, w)
            w = w - entry * q
            beta = norm_of(w)
            unread.append(torch.stack([entry, beta]))
            before, q = q, w / beta
        for alpha, length in torch.stack(unread).tolist():
            diagonal.append(_finite(alpha))
            _finite(length)
            rounding = _rounding(diagonal, off_diagonal, start.dtype)
            if len(diagonal) == steps or length <= rounding:
                theta, S = _diagonalise(diagonal, off_diagonal)
                residuals = torch.hypot(length * S[-1], torch.tensor(rounding, dtype=torch.float64))
                return Spectrum(theta, S[0] ** 2, residuals, (), S, False, rounding)
            off_diagonal.append(length)


def _solve(
    diagonal: list[float], off_diagonal: list[float], beta: float, basis: Basis, size: int
) -> Spectrum:
    theta, S = _diagonalise(diagonal, off_diagonal)
    complete = len(diagonal) == size
    rounding = _rounding(diagonal, off_diagonal, basis.like.dtype)
    leaving = 0.0 if complete else beta
    weights = torch.full_like(theta, 1 / size) if complete else S[0] ** 2
    residuals = torch.hypot(leaving * S[-1], torch.tensor(rounding, dtype=torch.float64))
    return Spectrum(theta, weights, residuals, basis.blocks(), S, complete, rounding)


def _diagonalise(diagonal: list[float], off_diagonal: list[float]) -> tuple[Tensor, Tensor]:
    T = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    T.diagonal(-1).copy_(torch.tensor(off_diagonal, dtype=torch.float64))  # for eigh
    theta, S = torch.linalg.eigh(T)
    return theta, S


def _rounding(diagonal: list[float], off_diagonal: list[float], dtype: torch.dtype) -> float:
    """The rounding error of a product: a few units in the last place of the operator's norm."""
    return 4 * torch.finfo(dtype).eps * max(map(abs, [*diagonal, *off_diagonal]))


def _finite(value: float) -> float:
    if value - value != 0:
        raise MetricError(
            "Lanczos: a product with the Hessian is not finite; the weights or the loss are too"
            " large"
        )
    return value


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.double(), b.double())
