"""Make the request by which the networks of another request are measured first."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from phasegrid.config.types import GridPoint, MetricRequest
from phasegrid.config.validate import default_args
from phasegrid.declare import Metric, make_part
from phasegrid.keys import Json, canonical_json
from phasegrid.registry import identity, resolve_metric


def with_through(
    request: MetricRequest,
    metric: Metric,
    args: Mapping[str, Json],
    points: Sequence[GridPoint],
    joined: Sequence[GridPoint] = (),
) -> MetricRequest:
    """Return a request that reads what the metric that its `metric` is `through` leaves, if that
    one takes the data of every cell; else the request as it is. `args` are all its arguments.

    So is one with a job for networks of cells that have different data, `joined`: what was stored
    for each would be about its own examples.

    Arguments of the same name are passed on; those in `of_only` only if it reads an artifact
    that they are about.
    """
    if metric.through is None or len({canonical_json(p.dataset.spec()) for p in joined}) > 1:
        return request
    first = resolve_metric(metric.through)
    tasks = {point.facts and point.facts.task for point in points}
    if None in tasks or (first.takes != "any" and tasks != {first.takes}):
        return request
    defaults = default_args(first.args)
    unused = {n for n, about in metric.of_only.items() if request.reads not in about}
    passed = {n: args[n] for n in defaults.keys() & args.keys() - unused}
    name = identity(metric.through)
    through = replace(
        request,
        name=name,
        part=make_part(name, first.version, first.args, {**defaults, **passed}),
        over="trajectory" if request.over == "trajectory" else "trial",
        pairs=None,
        modes=None,
        joins=False,
        heavy=first.heavy,
        min_trials=first.min_trials,
        together=first.compute_many is not None,
        takes=first.takes,
        declared_over=first.over,
        id=None,
        wanted=(),
        asked={},
        varied=tuple(name for name in request.varied if name in passed),
    )
    return replace(request, through=through, reads=first.leaves[0])
