"""Check that the metrics that a sweep asks for give what its figures read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

from phasegrid.declare import FigureKind, Finding
from phasegrid.figures.checks import ALL_COLUMNS
from phasegrid.figures.quantities import TRIAL_COLUMNS, TRIALS, names_of
from phasegrid.metrics import METRICS
from phasegrid.registry import declared_metric, identity
from phasegrid.texts import listed, suggest

_BUILT_IN = (TRIALS, *METRICS)
_SHARED = ("at", "id", "modes", "networks", "of", "over", "runs", "stage")
"""The arguments of every request that tell ways of measuring apart."""


def columns_of(metrics: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the columns of metrics, by their names: the types of the columns by name."""
    return {
        metric: {column.name: column.type for column in declared_metric(metric).columns}
        for metric in metrics
    }


def unmet_needs(
    kind: FigureKind, args: Mapping[str, Any], asked_for: Sequence[str]
) -> Iterator[Finding]:
    """Yield what a figure reads that no metric among those `asked_for` gives, each at the argument
    that names it.
    """
    needs = kind.needs(args)
    one = args.get("quantity")
    quantities = [*needs.quantities, *([one] if isinstance(one, str) else [])]
    givers = _givers(asked_for)
    given = [name for name, metric in givers.items() if metric in (TRIALS, *asked_for)]
    for quantity in dict.fromkeys(quantities):
        name = quantity.partition("[")[0]
        if name not in given:
            allowed = f"allowed: {listed(given, name, ALL_COLUMNS)}"
            if name in givers:
                why = f"which metric {givers[name]} gives, but metrics does not ask for it"
                yield _argument(args, quantity), f"found {quantity!r}, {why}; {allowed}"
            else:
                why = f"which no metric of the sweep gives; {allowed}{suggest(name, list(givers))}"
                yield _argument(args, quantity), f"found {quantity!r}, {why}"
    for metric in dict.fromkeys(needs.rows):
        if identity(metric) not in asked_for:
            known = ", ".join(asked_for) or "none"
            message = f"reads rows of metric {metric}, but metrics does not ask for it; it asks for"
            yield _argument(args, metric), f"{message}: {known}{suggest(metric, asked_for)}"
    read = [identity(metric) for metric in needs.rows if identity(metric) in asked_for]
    ways = [(quantity, givers.get(quantity.partition("[")[0], "")) for quantity in quantities]
    variants = args.get("variants")
    chosen = [*(variants.values() if isinstance(variants, Mapping) else ()), args.get("variant")]
    ways += [(f"[{way}]", read[0]) for way in chosen if isinstance(way, str) and len(read) == 1]
    for way, metric in dict.fromkeys(ways):
        if metric in asked_for:
            yield from _unknown_arguments(args, way, metric)


def _unknown_arguments(args: Mapping[str, Any], way: str, metric: str) -> Iterator[Finding]:
    """Report what tells ways of measuring apart in the brackets of a name, but is no argument of
    the metric.
    """
    declared = declared_metric(metric)
    known = [one.name for one in fields(declared.args)] + [*_SHARED]
    known += [column.name for column in declared.columns if column.role == "axis"]
    base, _, inside = way.partition("[")
    for part in filter(str.strip, inside.removesuffix("]").split(",")):
        name = part.partition("=")[0].strip()
        if name not in known:
            where = _argument(args, way if base else inside.removesuffix("]"))
            message = f"found {name!r}; allowed: an argument of {metric}: {', '.join(known)}"
            yield where, message + suggest(name, known)


def _givers(asked_for: Sequence[str]) -> dict[str, str]:
    """Return every quantity of trials, built-in metrics and those asked for, with its table."""
    found = dict(_built_in_givers())
    for metric in asked_for:
        if metric not in METRICS:
            columns = declared_metric(metric).columns
            found |= dict.fromkeys(names_of(metric, columns, _BUILT_IN), metric)
    return found


@cache
def _built_in_givers() -> Mapping[str, str]:
    tables = {TRIALS: TRIAL_COLUMNS, **{name: one.columns for name, one in METRICS.items()}}
    return {
        name: table
        for table, columns in tables.items()
        for name in names_of(table, columns, _BUILT_IN)
    }


def _argument(args: Mapping[str, Any], wanted: str) -> str:
    """Return the argument, or the item of one, that has a value; empty if none has."""
    return next(_places(args, wanted), "")


def _places(value: Any, wanted: str) -> Iterator[str]:
    """Yield each path to a value in nested mappings and lists."""
    if value == wanted:
        yield ""
    below: Iterable[tuple[object, Any]] = value.items() if isinstance(value, Mapping) else ()
    below = enumerate(value) if isinstance(value, (list, tuple)) else below
    for key, one in below:
        for rest in _places(one, wanted):
            yield f"{key}.{rest}".rstrip(".")
