"""What ties one field of a trial to others: products and quotients, and tables.

An expression, ``train.lr: 0.05 * train.batch_size / 128``, is numbers and dotted fields joined by
``*`` and ``/``, worked out from left to right. It is parsed, never evaluated as code. Tied to a
field of integers, its result is rounded half up to the nearest one (`nearest_integer`):
``train.epochs: 150 / dataset.fraction``.

A table gives a field a value for each value of another:
``train.epochs: {by: train.batch_size, values: {16: 50, 32: 50}, otherwise: 80}``.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from phasegrid.config.yaml import Place
from phasegrid.keys import Json, canonical_json

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.])"
    r"|(?P<field>metrics\.[\w-]+(?:\.\w+)*|[A-Za-z_]\w*(?:\.\w+)*)|(?P<operator>[*/]))"
)
"""Ids of requests for metrics may have hyphens."""
_MAX_LENGTH = 1000
LARGEST = 1e300


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor: a number or the path of a field; a `divides` factor is divided by."""

    value: float | int | str
    divides: bool = False


@dataclass(frozen=True, slots=True)
class Expression:
    """A product and quotient of numbers and fields, from left to right."""

    text: str
    factors: tuple[Factor, ...]

    def fields(self) -> tuple[str, ...]:
        """Return the paths it refers to, each once."""
        names = [factor.value for factor in self.factors if isinstance(factor.value, str)]
        return tuple(dict.fromkeys(names))

    def evaluate(self, field: Callable[[str], Json]) -> int | float:
        """Work the expression out; an integral result is returned as an int.

        Raises:
            ValueError: if a field is not a number, something is divided by zero, or the result is
            too large to hold.
        """
        result: int | float = 1
        for factor in self.factors:
            value = field(factor.value) if isinstance(factor.value, str) else factor.value
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{factor.value} is not a number here")
            result = _combine(result, value, factor)
        if isinstance(result, float) and result.is_integer():
            return int(result)
        return result


@dataclass(frozen=True, slots=True)
class Table:
    """The value of one field for each value of another, `by`.

    A choice is one model, data set or recipe (see `phasegrid.config.template`); there are several
    only where a name is an axis, and each resolves values by its own types. `rows` gives, in each
    choice of the section of `by`, the row of a value written as canonical JSON; `values` gives, for
    each row, the value in each choice of the tied field's section, and `otherwise` that where no
    row fits (None: there is none). `keys` are the rows' keys as written, and where they stand.
    """

    by: str
    rows: Mapping[str, Mapping[str, int]]
    keys: tuple[tuple[str, Place], ...]
    values: tuple[Mapping[str, Json], ...]
    otherwise: Mapping[str, Json] | None

    def fields(self) -> tuple[str, ...]:
        """Return the paths it refers to."""
        return (self.by,)

    def row(self, choice: str, value: Json) -> int | None:
        """Return the row for a value of `by`, compared exactly; None if there is none."""
        return self.rows[choice].get(canonical_json(value))


Tie: TypeAlias = Expression | Table
"""What a field is tied by."""


def nearest_integer(value: float) -> int:
    """Round half up, after rounding to 12 significant digits (so that 0.285 * 100 is 28.5, not
    28.499999999999996).

    >>> nearest_integer(2.5), nearest_integer(0.285 * 100), nearest_integer(2.4)
    (3, 29, 2)
    """
    return math.floor(tidy(value) + 0.5)


def tidy(value: float) -> float:
    """Round to 12 significant digits: what is left of a number when the rounding errors of a few
    products are taken off.
    """
    return float(f"{value:.12g}")


def is_part_of(path: str, other: str) -> bool:
    """Say whether a field is another one, or is nested in it."""
    return path == other or path.startswith(f"{other}.")


def parse_expression(text: str) -> Expression:
    """Parse a product and quotient of numbers and fields.

    >>> parse_expression("0.05 * train.batch_size / 128").evaluate(lambda path: 256)
    0.1

    Raises:
        ValueError: if the text is anything else.
    """
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"found {len(text)} characters; allowed: at most {_MAX_LENGTH}")
    factors: list[Factor] = []
    position, operator = 0, "*"
    wants_factor = True
    stripped = text.rstrip()
    while position < len(stripped):
        match = _TOKEN.match(stripped, position)
        if match is None or (match["operator"] is None) != wants_factor:
            raise ValueError(_unexpected(stripped, position, wants_factor))
        position = match.end()
        if match["operator"] is not None:
            operator = match["operator"]
        else:
            factors.append(Factor(_value(match), operator == "/"))
        wants_factor = not wants_factor
    if wants_factor:
        raise ValueError(_unexpected(stripped, position, wants_factor))
    return Expression(text, tuple(factors))


def order_by_reference(ties: Mapping[str, Tie]) -> list[str]:
    """Order tied fields so that each comes after those it refers to, or refers to a part of.

    Raises:
        ValueError: if fields refer to each other in a circle; the message names them.
    """
    done: list[str] = []
    waiting = dict(ties)
    while waiting:
        ready = [path for path, tie in waiting.items() if _awaited(tie, waiting) is None]
        if not ready:
            raise ValueError(" -> ".join(_circle(waiting)))
        for path in ready:
            del waiting[path]
        done += ready
    return done


def _awaited(tie: Tie, waiting: Mapping[str, Tie]) -> str | None:
    """Return a field of `waiting` that a tie refers to, or refers to a part of."""
    return next((path for name in tie.fields() for path in waiting if is_part_of(name, path)), None)


def _circle(waiting: Mapping[str, Tie]) -> list[str]:
    path: str | None = next(iter(waiting))
    seen: list[str] = []
    while path is not None and path not in seen:
        seen.append(path)
        path = _awaited(waiting[path], waiting)
    assert path is not None  # nothing was ready, so each awaits another
    return [*seen[seen.index(path) :], path]


def _value(match: "re.Match[str]") -> float | int | str:
    if match["field"] is not None:
        return match["field"]
    number = match["number"]
    value = int(number) if number.isdigit() and len(number) < 300 else float(number)
    if not math.isfinite(value):
        raise ValueError(f"found {number}, too large to hold")
    return value


def _combine(result: int | float, value: int | float, factor: Factor) -> int | float:
    if factor.divides and value == 0:
        raise ValueError(f"division by {factor.value}, which is 0 here")
    try:
        combined = result / value if factor.divides else result * value
    except OverflowError as error:
        raise ValueError("the result is too large to hold") from error
    if not abs(combined) <= LARGEST:  # NaN too
        raise ValueError("the result is too large to hold")
    return combined


def _unexpected(text: str, position: int, wants_factor: bool) -> str:
    rest = text[position:].strip()
    position = len(text) - len(rest)
    found = repr(rest[:20]) if rest else "the end"
    wanted = "a number or a field such as train.batch_size" if wants_factor else "* or /"
    return f"found {found} at character {position + 1} of {text!r}; allowed: {wanted}"
