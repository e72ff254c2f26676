"""Mode-connecting volumes: a simplicial complex of low loss through trained networks."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from phasegrid.declare import DatasetFacts, Finding, Metric, later
from phasegrid.estimates import (
    FLOAT,
    Guess,
    Measurement,
    evaluation,
    evaluation_bytes,
    passes,
    training_bytes,
)
from phasegrid.metrics.augmentation import augments_images
from phasegrid.metrics.simplex.arguments import CONNECTOR_RULES, ConnectorArgs
from phasegrid.metrics.simplex.columns import COLUMNS
from phasegrid.metrics.simplex.poison import poison_fits
from phasegrid.metrics.simplex.wiring import Wiring, modes_mistake, wiring_mistake


@dataclass(frozen=True, slots=True)
class SimplexArgs(ConnectorArgs):
    """A simplicial complex of low loss through the trials of a cell (SPRO; Benton et al. 2021,
    section 4, eq. 1).

    - `wiring`: the simplexes. ``shared``: simplex i is (w_i, theta_0, ..., theta_(connectors-1)).
      Or a list, each item with the names of the vertices of a simplex, modes ``w0``, ``w1``, ... in
      the order of the networks and connectors ``c0``, ``c1``, ...: ``[[w0, c0], [c0, w1]]``. If
      they differ in dimension, n_d of n having dimension d, these have n_d / n of the points, and
      log V(K) = sum_d (n_d / n) log V_d: volumes of different dimensions have no common unit.
    - `sampling`: the simplex is chosen with probability proportional to its volume (``volume``:
      uniform on the complex, as in the paper) or uniformly (``simplex``: the published code).
    - `modes`: how many of the cell's trials are joined, in order of seed (null: all).
    - `start`: a new connector starts `jitter` times their rms edge away from the mean of the
      earlier vertices of its ``simplexes``, or of ``all`` earlier vertices (the published code).
      (At the mean itself V = 0.)
    """

    sampling: Literal["volume", "simplex"] = "volume"
    wiring: Wiring = later("shared")
    start: Literal["simplexes", "all"] = later("simplexes")


def _wired(args: Mapping[str, Any]) -> Finding | None:
    return wiring_mistake(args["wiring"], int(args["connectors"]))


def _joined(args: Mapping[str, Any], num: int) -> Finding | None:
    return modes_mistake(args["wiring"], num)


def fits(args: Mapping[str, Any], recipe: Mapping[str, Any], facts: DatasetFacts) -> Finding | None:
    """Find what the data or the objective of the networks cannot give: poison, images."""
    return poison_fits(args, recipe, facts) or augments_images(args, recipe, facts)


def trained_passes(args: Mapping[str, Any], _num_train: int) -> float:
    """Return the passes through the training data: one an epoch for each sampled point."""
    return float(args["connectors"] * args["epochs"] * args["samples"])


OF_COMPLEX = 2.2
"""The kernels of an update in which the network has no part (batch, points, volume, optimizer: 64
were counted), as a multiple of those that go through a perceptron and back (29).
"""


def cost(job: Measurement) -> Guess:
    """Guess the seconds: the training of the connectors, then the points and the vertices.

    On one core a small network's points are a stack, whose kernels start once; of a large one they
    hardly count. (On a GPU the points take turns: launches and traffic count for each.)
    """
    work, args = job.work, job.args
    examples = work.num_train / (1 - float(args.get("poison_share", 0.0)))
    trained, samples = (
        examples * int(args["epochs"]) * int(args["connectors"]),
        int(args["samples"]),
    )
    update = passes(work, trained, int(args["batch_size"]), 3)
    steps = replace(samples * update, overhead_s=(1 + OF_COMPLEX) * update.overhead_s)
    complexes = int(args["connectors"]) if args.get("every_connector") else 1
    vertices = job.num_networks + int(args["connectors"])
    return steps + 2 * (complexes * int(args["eval_samples"]) + vertices) * evaluation(work)


def memory(job: Measurement) -> int:
    """Return the bytes of GPU memory of the complexes that grow side by side: what is alive at the
    peak of each, counted in vectors of P float32 numbers.

    With V vertices, of which s are fixed beside the connector in training, simplexes of dimension
    k, and H samples, whose networks take turns on a GPU:

    - an update: the vertices, weights and gradient of the network, gradients of the connector and
      of its volume, two vectors of the optimizer; an origin and a basis of the s fixed vertices in
      float64 (2 s). Beside these, in turn, H points with the activations of a batch, and three
      float64 vectors (6) on the way to the gradient of the volume.
    - volumes and axes: the vertices, weights and gradient; in float64 an origin (2), and the edges
      and their orthogonalisation: 4 k, beside k + 1 copied vertices, or 4 V.
    - evaluations: the vertices, weights and gradient, and the activations of a batch.

    One vector more holds all that is small. Poison adds a copy of the training set. Not counted:
    the copy of the training set that refreshes BatchNorm, and what an allocator keeps beyond what
    is alive. Measured for perceptrons, 1.0 to 1.3 times what was alive; for convolutions as good as
    `training_bytes` and `evaluation_bytes`, 0.9 to 3.
    """
    work, args = job.work, job.args
    num, most, beside = _sizes(args.get("wiring", "shared"), job.num_networks, args["connectors"])
    own, vector = num + 3, FLOAT * work.num_parameters
    points = args["samples"] * vector + training_bytes(work, float(args["batch_size"]), copies=0)
    update = (own + 4 + 2 * beside) * vector + max(points, 6 * vector)
    volumes = (own + 2 + max(5 * most + 1, 4 * num)) * vector
    share = float(args.get("poison_share", 0.0))
    fed = FLOAT * work.input_size * work.num_train / (1 - share) if share else 0
    peak = max(update, volumes, own * vector + evaluation_bytes(work))
    return job.together * int(peak + fed)


def _sizes(wiring: Wiring, num_modes: int, num_connectors: int) -> tuple[int, int, int]:
    """Return the number of vertices, the largest dimension of a simplex, and the most vertices that
    share a simplex with a connector.
    """
    num = num_modes + num_connectors
    if wiring == "shared":
        return num, num_connectors, num - 1
    stars = ({v for one in wiring if f"c{j}" in one for v in one} for j in range(num_connectors))
    return num, max(map(len, wiring)) - 1, max(map(len, stars)) - 1


def disk(job: Measurement) -> int:
    """Return the bytes of the stored connectors."""
    return FLOAT * int(job.args["connectors"]) * job.work.num_parameters


SIMPLEX = Metric(
    over="cell",
    args=SimplexArgs,
    compute="phasegrid.metrics.simplex.compute:compute",
    by_turns="phasegrid.metrics.simplex.compute:by_turns",
    version=2,
    min_trials=2,
    one_model=True,
    heavy=True,
    label="Simplex volume",
    rules=(*CONNECTOR_RULES, _wired),
    fits=fits,
    of_networks=_joined,
    for_fewer="espro",
    cost=cost,
    recorded=True,
    memory=memory,
    disk=disk,
    leaves=("complex",),
    passes=trained_passes,
    columns=COLUMNS,
)
