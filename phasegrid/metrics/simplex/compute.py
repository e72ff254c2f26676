"""Mode-connecting volumes: the largest simplicial complex of low loss through trained networks.

SPRO (Benton et al. 2021, section 3.2, eq. 1) joins modes w_i by connectors theta_j, trained one
after another, into a complex K. Reported are log V(K) and the expected loss over K, with its
standard error over sampled points. The volume is that of all simplexes, and the data term is a mean
over the samples, so `volume_lambda` is that of eq. 1. (The published code takes squared volumes,
only the first simplex, and a sum over the samples.)

Untrained tensors that differ between the modes (frozen parameters, buffers) are mixed by the same
coefficients; a connector has the mean of the modes (`phasegrid.metrics.network.joining`).

A connector whose training diverges is a result: numbers that need it are null, and no complex is
stored.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.connectivity.curves import stack_vertices
from phasegrid.metrics.measured import Measured
from phasegrid.metrics.network.joining import NOTHING, Rest, rest_of_complex
from phasegrid.metrics.network.passes import Passes
from phasegrid.metrics.network.points import (
    Evaluator,
    Numbers,
    finite_or_none,
    live_network,
    make_evaluator,
)
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex.complexes import Complex, grow, members_of
from phasegrid.metrics.simplex.placing import placed_columns
from phasegrid.metrics.simplex.poisoned import fed, trained_by
from phasegrid.metrics.simplex.sampling import sample_coefficients
from phasegrid.metrics.simplex.spro import train_last_connector
from phasegrid.metrics.simplex.volume import (
    kinds_of,
    log_volumes_of,
    total_log_volume,
    volume_shares,
)
from phasegrid.metrics.simplex.wiring import (
    Simplexes,
    around,
    modes_mistake,
    simplexes_of,
    vertex_names,
    wiring_mistake,
)
from phasegrid.models.flat import FlatNetwork
from phasegrid.seeding import nothing_drawn


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Measured:
    """Train the connectors of a complex through `models` and measure it; `args` are the fields of
    `SimplexArgs`.

    Deterministic in `rng` and the models. The models are not changed.

    Raises:
        MetricError: if there are fewer than two models, if they differ in architecture or in
            integer tensors, if the length of ``volume_lambda`` is not the number of connectors, if
            ``wiring`` does not fit the models and connectors, or if networks draw in eval mode.
    """
    if len(models) < 2:
        raise MetricError(
            f"simplex joins at least 2 models, got {len(models)}; around one, use espro"
        )
    settings = SimplexArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    with nothing_drawn("simplex", data.train_inputs.device):
        return _measure(models, data, rng, settings)


def compute_espro(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Measured:
    """Grow a simplex from one model and measure it; `args` are the fields of `EsproArgs`.

    Deterministic in `rng` and the model. The model is not changed.

    Raises:
        MetricError: if there is not one model, or as `compute`.
    """
    if len(models) != 1:
        raise MetricError(f"espro grows a simplex from one model, got {len(models)}")
    settings = SimplexArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    with nothing_drawn("espro", data.train_inputs.device):
        return _measure(models, data, rng, settings)


def _measure(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, settings: SimplexArgs
) -> Measured:
    lambdas, simplexes = connector_lambdas(settings), _simplexes(len(models), settings)
    flat = live_network(models[0])
    evaluator = make_evaluator(
        flat.module, data, settings.refresh_examples, settings.batch_size, rng
    )
    vertices = stack_vertices(models)
    rest = rest_of_complex(models, settings.connectors)
    losses: Numbers = []
    joined, num_aside = fed(data, settings)
    scoring = trained_by(data.scoring, settings)
    for volume_lambda in lambdas:
        own = around(simplexes, len(vertices))
        beside = sorted({vertex for one in own for vertex in one} - {len(vertices)})
        vertices = grow(vertices, beside, settings.jitter, rng)
        sets, last = (joined.train_inputs, joined.train_labels), Complex(vertices, own)
        loss = train_last_connector(
            flat, last, *sets, volume_lambda, settings, rng, rest, scoring, num_aside
        )
        losses.append(loss)
    complex_ = Complex(vertices, simplexes)
    log_volumes = log_volumes_of(complex_)
    kinds = kinds_of(complex_.dimensions, log_volumes.device)
    shares = shares_of(log_volumes, kinds, settings)
    row = {
        "log_volume": finite_or_none(total_log_volume(log_volumes, kinds)),
        "log_volumes": [finite_or_none(value) for value in log_volumes.tolist()],
        "dimension": max(complex_.dimensions),
        "num_modes": len(models),
        "num_connectors": settings.connectors,
        "vertex_name": list(vertex_names(len(models), settings.connectors)),
        "simplexes": [[float(vertex) for vertex in simplex] for simplex in simplexes],
        **expected_columns(flat, complex_, shares, settings.eval_samples, evaluator, rng, rest),
        "connector_losses": losses,
        "volume_lambdas": list(lambdas),
        "num_samples": settings.eval_samples,
    }
    connectors = vertices[len(models) :]
    left = {"connectors": connectors, "simplexes": members_of(simplexes)}
    return Measured(row, {"complex": left} if bool(connectors.isfinite().all()) else {})


def _simplexes(num_modes: int, settings: SimplexArgs) -> Simplexes:
    """Return the simplexes of a complex.

    Raises:
        MetricError: if the wiring has a mistake.
    """
    mistake = wiring_mistake(settings.wiring, settings.connectors)
    mistake = mistake or modes_mistake(settings.wiring, num_modes)
    if mistake is not None:
        raise MetricError(f"simplex: {mistake[0]}: {mistake[1]}")
    return simplexes_of(settings.wiring, num_modes, settings.connectors)


def connector_lambdas(settings: SimplexArgs) -> list[float]:
    """Return lambda_j for each connector, from one number or a list.

    Raises:
        MetricError: if the length of the list is not the number of connectors.
    """
    given = settings.volume_lambda
    if isinstance(given, (int, float)):
        return [float(given)] * settings.connectors
    if len(given) != settings.connectors:
        raise MetricError(
            f"simplex: volume_lambda lists {len(given)} values for {settings.connectors}"
            " connectors; give one number, or one for each connector"
        )
    return [float(value) for value in given]


def expected_columns(
    flat: FlatNetwork,
    complex_: Complex,
    shares: Tensor,
    num: int,
    evaluator: Evaluator,
    rng: torch.Generator,
    rest: Rest = NOTHING,
) -> dict[str, object]:
    """Estimate loss and accuracy over the complex from `num` points; simplexes are drawn by their
    `shares` (S,). Say where these points and the vertices are, and their losses (`placing`).

    Means, and standard errors s / sqrt(num) of the losses with s over the points. Null if a loss is
    not finite.
    """
    coefficients = sample_coefficients(shares, complex_.members, len(complex_.vertices), num, rng)
    measured, passes = [], Passes(flat, evaluator.data.scoring)
    finite = bool(complex_.vertices.isfinite().all())
    corners = torch.eye(len(complex_.vertices) if finite else 0, len(complex_.vertices))
    for row in torch.cat([coefficients, corners.to(coefficients)]).to(complex_.vertices):
        flat.assign(row @ complex_.vertices)
        rest.place(flat.module, row)
        measured.append(evaluator.measure(passes))
    columns = placed_columns(complex_, coefficients, measured) if finite else {}
    for name in ("train", "test"):
        evaluations = [getattr(point, name) for point in measured[:num]]
        loss = torch.tensor([e.loss for e in evaluations], dtype=torch.float64)
        accuracy = sum(e.accuracy_percent for e in evaluations) / num
        sound = bool(loss.isfinite().all())
        stderr = float(loss.std()) / math.sqrt(num)
        columns[f"expected_{name}_loss"] = float(loss.mean()) if sound else None
        columns[f"expected_{name}_loss_stderr"] = stderr if sound else None
        columns[f"expected_{name}_accuracy_percent"] = accuracy if sound else None
    return columns


def shares_of(log_volumes: Tensor, kinds: Sequence[Tensor], settings: SimplexArgs) -> Tensor:
    """Return the share (S,) of the points that are drawn from each simplex."""
    if settings.sampling == "simplex":
        return torch.full_like(log_volumes, 1 / len(log_volumes))
    return volume_shares(log_volumes, kinds)
