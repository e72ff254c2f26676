"""Resolve what a request for a metric reads: ``id``, ``of``, ``over``, ``at``, ``where`` and
``networks``.

    metrics:
      - connectivity: {id: curve, epochs: 20}
      - ensemble: {of: curve, points: 5}                     reads the curves; one job for each
      - ensemble: {of: curve, over: cell}                    one job for all curves of a cell
      - accuracy: {over: trajectory, at: [0, 5, 10]}         the checkpoints along each trial
      - accuracy: {over: trajectory, at: averaged}           the network that its collector leaves
      - ensemble: {over: cell, at: lowest_rate, runs: 2}     checkpoints of two trials at a time
      - cka: {over: across, where: {model.width: [8, 16], seed: [0, 1]}}   trials of several cells
      - ensemble: {over: trajectory, at: swag, points: 20}   networks drawn from its moments
      - hessian: {stage: train}                              the trials of a stage, not of the last

``over`` may be left out; its default is the metric's own. A metric that takes any number of
networks may also be over a trial, a pair or a cell. With ``at``, what is over a trial or a pair has
a job for each place, and what is over a cell one job for all trials at all places. ``runs: 2``
makes of it one job for every two trials, or, with ``of``, for every two of what it reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.places import SWAG
from phasegrid.config.rules import source_mistake
from phasegrid.config.types import MetricRequest
from phasegrid.config.validate import default_args, fields_of
from phasegrid.config.yaml import Node, Place, plain_text
from phasegrid.declare import Metric, later_defaults
from phasegrid.jobs import MOMENTS, Over
from phasegrid.keys import Json
from phasegrid.metrics import METRICS
from phasegrid.texts import either, suggest

KEYS = ("id", "of", "over", "at", "where", "stage", "runs", "networks")
OVER: Mapping[str, tuple[str, ...]] = {
    "trial": ("trial", "trajectory"),
    "pair": ("pair", "trajectory", "across"),
    "cell": ("cell", "pair", "trial", "trajectory", "across"),
    "artifact": (),
}
"""The allowed values of ``over``, by the metric's own default."""

_FEWEST = {"trial": 1, "pair": 2}


@dataclass(frozen=True, slots=True)
class Draft:
    """A request, read without the other requests: its metric, and the places of its keys.

    Where arguments vary (`MetricRequest.varied`), they have other values in every cell; `given` are
    the places of those that it has in some cells, and without these it is still open.
    """

    request: MetricRequest
    metric: Metric
    item: Node
    keys: Mapping[str, Node]
    path: str
    given: Mapping[str, Place] = field(default_factory=dict)

    @property
    def index(self) -> int:
        """Its position in the list of the sweep."""
        return int(self.path.split(".")[1])

    @property
    def is_open(self) -> bool:
        """Whether the values of some of its arguments are not known yet."""
        return bool(self.request.varied) and not self.given

    @property
    def written_args(self) -> Node:
        """The place of its arguments, or else of the request."""
        return next(iter(self.item.mapping.values())) if self.item.mapping else self.item

    def node(self, key: str) -> Node:
        """Return the place of a key, or else the place of the request."""
        return self.keys.get(key, self.item)

    def written(self, name: str) -> Place:
        """Return the place of a key or an argument, or of an item of it; of one that is not
        written, that of the request.
        """
        if name.partition(".")[0] in self.given:
            return self.given[name.partition(".")[0]]
        found = self.written_args.below(name)
        return (self.item if found is self.written_args else found).place

    def args(self) -> dict[str, Json]:
        """Return all arguments of the metric, resolved."""
        part = self.request.part
        return {**later_defaults(self.metric.args), **part.args, **part.locators}


def keys_of(metric: Metric) -> tuple[str, ...]:
    """Return the keys that a request for a metric may have in addition to the metric's
    arguments.
    """
    able = {
        "id": True,
        "of": bool(metric.reads),
        "over": len(allowed_over(metric)) > 1,
        "at": metric.over != "artifact",
        "where": "across" in OVER[metric.over],
        "stage": True,
        "runs": metric.over == "cell",
        "networks": metric.over != "artifact",
    }
    own = fields_of(metric.args)
    return tuple(key for key in KEYS if able[key] and key not in own)


def take_keys(
    args: Node, metric: Metric, path: str, diagnostics: Diagnostics
) -> tuple[Node, dict[str, Node]]:
    """Remove and return the keys that say what a request reads. If an argument of the metric has
    the same name, it stays.
    """
    if args.mapping is None:
        return args, {}
    own, able = fields_of(metric.args), keys_of(metric)
    found = {key: args.mapping[key] for key in KEYS if key in args.mapping and key not in own}
    for key in found.keys() - set(able):
        diagnostics.add_key(found[key], f"{path}.{key}", f"{_why_not(key, metric)}; leave it out")
    rest = {key: node for key, node in args.mapping.items() if key not in found}
    taken = {key: node for key, node in found.items() if key in able}
    return Node(rest, args.place, args.key_place), taken


def _why_not(key: str, metric: Metric) -> str:
    """Say why a request for a metric cannot have a key."""
    if key == "of":
        reading = [name for name, other in METRICS.items() if other.reads]
        return (
            "this metric does not read another metric's artifacts; metrics that do:"
            f" {', '.join(reading)}"
        )
    if metric.over == "artifact":
        return f"this metric is over the {either(metric.reads)} that it reads"
    goes_with = {"where": "across", "runs": "a cell"}.get(key, "anything else")
    return f"this metric is over {metric.over}; it cannot be over {goes_with}"


def allowed_over(metric: Metric) -> tuple[str, ...]:
    """Return the allowed values of ``over`` for a metric."""
    return tuple(
        o for o in OVER[metric.over] if _FEWEST.get(o, metric.min_trials) >= metric.min_trials
    )


def usual_over(metric: Metric, named: bool = False) -> Over:
    """Return what a request for a metric is over if it does not say so; `named` if it names its
    networks.
    """
    if metric.over == "artifact":
        return "cell"
    return metric.over if named else metric.usual_over or metric.over


def read_over(
    metric: Metric, keys: Mapping[str, Node], path: str, diagnostics: Diagnostics
) -> Over:
    """Return the ``over`` of a request, as written or by the metric's default; a request that reads
    artifacts ignores it.
    """
    allowed = allowed_over(metric)
    over = usual_over(metric, named="networks" in keys)
    if "of" in keys:
        _check_beside_of(metric, keys, path, diagnostics)
        return over
    if "over" in keys:
        node = keys["over"]
        if node.value in allowed:
            over = cast(Over, node.value)
        else:
            found = node.value if isinstance(node.value, str) else ""
            message = f"found {plain_text(node.plain())}; allowed: {', '.join(allowed)}"
            diagnostics.add(node, f"{path}.over", message + suggest(found, allowed))
            return over
    if "where" in keys and over != "across":
        message = f"goes with over: across, found over: {over}; write over: across or leave it out"
        diagnostics.add_key(keys["where"], f"{path}.where", message)
    if "networks" in keys and over not in (metric.over, "across"):
        allowed_here = [one for one in (metric.over, "across") if one in allowed]
        message = f"goes with over: {' or '.join(allowed_here)}, found over: {over}"
        diagnostics.add_key(keys["networks"], f"{path}.networks", message)
    return over


def _check_beside_of(
    metric: Metric, keys: Mapping[str, Node], path: str, diagnostics: Diagnostics
) -> None:
    """Note what a request cannot say beside ``of``. ``over: cell``, and ``runs`` with it, join what
    the jobs of a cell leave; a metric can if each is measured `through` another one first.
    """
    joining = ("over", "runs") if metric.through is not None else ()
    for key in [key for key in KEYS[2:] if key in keys]:
        node, here = keys[key], f"{path}.{key}"
        if key not in joining:
            message = "found beside of: it is over what that request is over; leave it out"
            diagnostics.add_key(node, here, message)
        elif key == "over" and node.value != "cell":
            allowed = "allowed beside of: cell, which joins all of a cell, or leave it out"
            diagnostics.add(node, here, f"found {plain_text(node.plain())}; {allowed}")
        elif key == "runs" and "over" not in keys:
            message = "found beside of without over: cell, with which it goes; add it"
            diagnostics.add_key(node, here, message)


def read_id(keys: Mapping[str, Node], path: str, diagnostics: Diagnostics) -> str | None:
    """Return the ``id`` of a request."""
    node = keys.get("id")
    if node is None:
        return None
    if not isinstance(node.value, str) or not node.value.strip():
        diagnostics.add(node, f"{path}.id", f"found {plain_text(node.plain())}; allowed: text")
        return None
    return node.value


def link(drafts: Sequence[Draft], diagnostics: Diagnostics) -> list[Draft]:
    """Resolve which request reads which other, and note every mistake."""
    named: dict[str, int] = {}
    for index, draft in enumerate(drafts):
        name = draft.request.id
        if name is not None and name in named:
            first = drafts[named[name]].node("id").place
            message = f"found {name!r} twice, first in line {first.line}; an id is one request's"
            diagnostics.add(draft.node("id"), f"{draft.path}.id", message)
        elif name is not None:
            named[name] = index
    linked = [_linked(draft, drafts, named, diagnostics) for draft in drafts]
    for draft in linked:
        if not diagnostics.is_broken(f"{draft.path}.of"):
            check_what_is_read(draft, linked, diagnostics)
    for index, draft in enumerate(linked):
        cycle = _cycle(index, linked)
        if cycle:
            names = " -> ".join(str(linked[i].request.id) for i in cycle)
            message = f"reads itself in the end: {names}; no request of a circle can be first"
            diagnostics.add(draft.node("of"), f"{draft.path}.of", message)
    if diagnostics.is_broken("metrics"):
        return linked
    wanted: dict[int, list[str]] = {}
    for draft in linked:
        if draft.request.of is not None and draft.request.reads is not None:
            wanted.setdefault(draft.request.of, []).append(draft.request.reads)
    return [
        replace(d, request=replace(d.request, wanted=tuple(sorted(set(wanted[i])))))
        if i in wanted
        else d
        for i, d in enumerate(linked)
    ]


def _linked(
    draft: Draft, drafts: Sequence[Draft], named: Mapping[str, int], diagnostics: Diagnostics
) -> Draft:
    """Return a draft with the index of the request that it reads."""
    node, metric = draft.keys.get("of"), draft.metric
    if node is None:
        if metric.over == "artifact":
            leaving = [n for n, i in named.items() if _read_of(metric, drafts[i].metric)]
            message = (
                f"reads the {either(metric.reads)} that another metric leaves; write of: with the"
                f" id of a request that leaves one ({', '.join(leaving) or 'there is none yet'})"
            )
            diagnostics.add(draft.item, draft.path, message)
        return _sampling(draft, diagnostics)
    path, name = f"{draft.path}.of", node.value
    if not isinstance(name, str) or name not in named:
        ids = ", ".join(named) or "none: give the request that it reads an id"
        message = f"found {plain_text(node.plain())}; ids of requests: {ids}"
        diagnostics.add(node, path, message + suggest(str(name), named))
        return draft
    upstream = drafts[named[name]]
    reads = _read_of(metric, upstream.metric)
    if reads is None:
        leaves = ", ".join(upstream.metric.leaves) or "nothing"
        message = (
            f"found {name!r}, which is {upstream.request.name} and leaves {leaves};"
            f" {draft.request.name} reads the {either(metric.reads)} of a metric"
        )
        diagnostics.add(node, path, message)
        return draft
    return replace(draft, request=replace(draft.request, of=named[name], reads=reads))


def _sampling(draft: Draft, diagnostics: Diagnostics) -> Draft:
    """Return a draft that says whether its networks are drawn from moments, and check that its
    metric can draw them.
    """
    named = [one.mapping.get("at") for one in draft.node("networks").items or () if one.mapping]
    places = [draft.keys.get("at")] if "at" in draft.keys else named
    drawn = [_is_swag(place) for place in places]
    if not any(drawn):
        return draft
    node = draft.node("at" if "at" in draft.keys else "networks")
    path = f"{draft.path}.{'at' if 'at' in draft.keys else 'networks'}"
    if not draft.metric.samples:
        able = [name for name, metric in METRICS.items() if metric.samples]
        diagnostics.add(
            node,
            path,
            f"found {SWAG}, but {draft.request.name} draws no networks; those that do are"
            f" {', '.join(able)}; the mean of such networks is at: averaged",
        )
    elif not all(drawn):
        diagnostics.add(node, path, f"found {SWAG} beside other places; allowed: all, or none")
    return replace(draft, request=replace(draft.request, reads=MOMENTS, samples=True))


def _is_swag(place: Node | None) -> bool:
    if place is None:
        return False
    return any(item.value == SWAG for item in place.items or [place])


def _read_of(metric: Metric, upstream: Metric) -> str | None:
    """Return the artifact that a metric reads of what another one leaves; None if it cannot."""
    return next((name for name in metric.reads if name in upstream.leaves), None)


def check_what_is_read(draft: Draft, drafts: Sequence[Draft], diagnostics: Diagnostics) -> None:
    """Note why a request, one of these, does not go with what it reads."""
    _check_unread(draft, diagnostics)
    if draft.request.of is not None:
        _check_source(draft, drafts[draft.request.of], diagnostics)


def _check_source(draft: Draft, source: Draft, diagnostics: Diagnostics) -> None:
    """Note why a request cannot read what another one leaves."""
    if draft.is_open or source.is_open or diagnostics.is_broken(draft.path, source.path):
        return
    found = source_mistake(draft.metric, draft.request.reads, draft.args(), source.args())
    if found is not None:
        diagnostics.add(draft.written(found[0]), f"{draft.path}.{found[0]}".rstrip("."), found[1])


def _check_unread(draft: Draft, diagnostics: Diagnostics) -> None:
    """Note the arguments that say something only about an artifact that the request does not
    read.
    """
    usual, args = default_args(draft.metric.args), draft.args()
    for name, about in draft.metric.of_only.items():
        path = f"{draft.path}.{name}"
        unread = draft.request.reads not in about and not draft.is_open
        if unread and args[name] != usual[name] and not diagnostics.is_broken(path):
            ways = ["of: with the id of one"] * any(one != MOMENTS for one in about)
            ways += [f"at: {SWAG}"] * (MOMENTS in about)
            found = f"found {plain_text(args[name])}, but no {either(about)}"
            message = f"{found}; leave it out, or write {' or '.join(ways)}"
            diagnostics.add(draft.written(name), path, message)


def _cycle(start: int, drafts: Sequence[Draft]) -> list[int]:
    """Return the requests on the way from one back to itself; empty if there is no such circle."""
    way = [start]
    of = drafts[start].request.of
    while of is not None and of not in way:
        way.append(of)
        of = drafts[of].request.of
    return [*way, start] if of == start else []
