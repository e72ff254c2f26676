"""Linear centred kernel alignment between the outputs of trained networks.

With column-centred features X, Y (m, d) and Gram matrices K = X X^T, L = Y Y^T,

    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)),
    HSIC(K, L) proportional to <K, L>_F = |X^T Y|_F^2

(Kornblith et al. 2019, section 3; Yang et al. 2021, equation 2). This is biased: for m examples of
many independent features it tends to 1. The unbiased HSIC (Song et al. 2012, equation 5), for
centred features with k, l the diagonals of K, L, is proportional to  <K, L>_F - m/(m-2) k.l + tr K
tr L / ((m-1)(m-2)).  Letters: m examples, d features of one layer.

Columns are centred in float64 first: with a mean of a few hundred times the spread, a Gram matrix
in float32 would be useless.

For sentence pairs a row is one scored target position of a pair, predicted from the source sentence
and the true words before it (teacher forcing). One position of each pair is drawn, so m is the
number of pairs, and no sentence counts more than another.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.cka import CkaArgs
from phasegrid.metrics.cka.features import SOFTMAX, collect_features
from phasegrid.metrics.cka.inputs import draw_probe

Row = dict[str, str | float | int | None]


@dataclass(frozen=True, slots=True)
class Alignment:
    """Biased and unbiased CKA of all pairs of n networks at one layer, (n, n) float64; NaN if
    undefined.
    """

    biased: Tensor
    unbiased: Tensor


@dataclass(frozen=True, slots=True)
class Representation:
    """A layer of one network on m examples: centred features (m, d) if 2 d <= m, else their Gram
    matrix (m, m); float64.

    Either form gives the same numbers; this choice costs least, except for very few networks.
    Features are divided by the largest one, which changes no CKA. `width` is d.
    """

    values: Tensor
    is_gram: bool
    width: int


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> list[Row]:
    """Compare two models: `compute_many` with one pair."""
    return compute_many(models, [tuple(range(len(models)))], data, [rng], **args)[0]


def compute_many(
    models: Sequence[nn.Module],
    groups: Sequence[tuple[int, ...]],
    data: Dataset,
    _rngs: Sequence[torch.Generator],
    **args: object,
) -> list[list[Row]]:
    """Compare pairs of `models`, a row per layer; `args` are the fields of `CkaArgs`.

    Every model runs once. The numbers of a pair equal those of `compute` and do not depend on other
    pairs. Only `example_seed` determines which inputs (and positions) are drawn, so every pair of
    every cell sees the same ones. Exact for these inputs.

    Raises:
        MetricError: if a group is not a pair, a layer is unknown, an output is not finite, or the
            data cannot give the requested inputs (see `phasegrid.metrics.cka.inputs`, and for
            sentence pairs `phasegrid.metrics.cka.features`).
    """
    settings = CkaArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    for group in groups:
        if len(group) != 2:
            raise MetricError(f"CKA is between two models, got {len(group)}")
    probe = draw_probe(data, settings)
    used = sorted({i for group in groups for i in group})
    place = {i: k for k, i in enumerate(used)}
    layers: dict[str, list[Representation]] = {name: [] for name in settings.layers}
    for i in used:
        for name, features in collect_features(models[i], probe, settings.layers).items():
            layers[name].append(represent(features))
    defined = set(settings.layers) - ({SOFTMAX} if not data.objective.probabilities else set())
    pairs = [(place[a], place[b]) for a, b in groups]
    aligned = {name: align(several, pairs) for name, several in layers.items()}
    return [
        [
            {
                "layer": name,
                "cka": _number(alignment.biased[place[a], place[b]], name in defined),
                "cka_unbiased": _number(alignment.unbiased[place[a], place[b]], name in defined),
                "num_examples": min(settings.examples, len(data.train_inputs)),
                "num_features": layers[name][place[a]].width,
            }
            for name, alignment in aligned.items()
        ]
        for a, b in groups
    ]


def represent(features: Tensor) -> Representation:
    """Centre `features` (m, d) in float64, and replace them by their Gram matrix if it is smaller.

    A column that varies by less than the resolution of its dtype counts as constant.

    Raises:
        MetricError: if a feature is not finite.
    """
    m, width = features.shape
    X = features.double()
    if not bool(X.isfinite().all()):
        raise MetricError("CKA: a network's outputs are not finite on the inputs compared")
    largest = X.abs().amax(0)
    X = X - X.mean(0)
    spread = X.abs().amax(0)
    X = X * (spread > torch.finfo(features.dtype).eps * largest)
    X = X / X.abs().amax().clamp(min=torch.finfo(torch.float64).tiny)
    return _gram(X) if 2 * width > m else Representation(X, False, width)


def align(
    several: Sequence[Representation], pairs: Collection[tuple[int, int]] | None = None
) -> Alignment:
    """Return biased and unbiased CKA of some `pairs` of representations of the same m examples
    (None: of all).

    A number is computed from its two representations alone; others change no bit of it. It is NaN
    if an output is constant (biased: 0/0), if an unbiased self-similarity is not positive, if there
    are fewer than four examples (unbiased: Song et al. 2012 divide by m - 3), and for pairs that
    were not requested.
    """
    count = len(several)
    spread = [_spread(one) for one in several]
    own = [float(_product(one, one)) for one in several]
    own_unbiased = [_unbiased(own[i], spread[i], spread[i]) for i in range(count)]
    biased = torch.full((count, count), math.nan, dtype=torch.float64)
    unbiased = biased.clone()
    for i, j in combinations_with_replacement(range(count), 2) if pairs is None else pairs:
        both = float(_product(several[i], several[j]))
        shared = _unbiased(both, spread[i], spread[j])
        biased[i, j] = biased[j, i] = _normalised(both, own[i], own[j])
        unbiased[i, j] = unbiased[j, i] = _normalised(shared, own_unbiased[i], own_unbiased[j])
    return Alignment(biased, unbiased)


def _product(one: Representation, other: Representation) -> Tensor:
    """Return <K, L>_F = |X^T Y|_F^2."""
    if not (one.is_gram or other.is_gram):
        return (one.values.t() @ other.values).square().sum()
    K, L = (r.values if r.is_gram else _gram(r.values).values for r in (one, other))
    return K.flatten().dot(L.flatten())


def _spread(one: Representation) -> Tensor:
    """Return the diagonal of the Gram matrix (m,)."""
    return one.values.diagonal().clone() if one.is_gram else one.values.square().sum(1)


def _unbiased(both: float, k: Tensor, other: Tensor) -> float:
    """Return the unbiased HSIC, up to a factor, from <K, L>_F and the diagonals (m,) of the Gram
    matrices.
    """
    m = len(k)
    if m < 4:
        return math.nan
    traces = float(k.sum()) * float(other.sum())
    return both - m / (m - 2) * float(k.dot(other)) + traces / ((m - 1) * (m - 2))


def _normalised(both: float, one: float, other: float) -> float:
    """Return HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)); NaN if a factor under the root is not
    positive.
    """
    return both / math.sqrt(one) / math.sqrt(other) if one > 0 and other > 0 else math.nan


def _gram(X: Tensor) -> Representation:
    return Representation(X @ X.t(), True, X.shape[1])


def _number(value: Tensor, defined: bool) -> float | None:
    """Return `value`, or None if it is NaN or not `defined`: a missing number is null."""
    return None if bool(value.isnan()) or not defined else float(value)
