"""Products and quotients that tie one field of a trial to others: ``train.lr: 0.05 * train.batch_size / 128``.

An expression is numbers and dotted fields joined by ``*`` and ``/``, worked out from left to right. It is parsed, never
evaluated as code.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from phasegrid.jobs import Json

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.])"
    r"|(?P<field>[A-Za-z_]\w*(?:\.\w+)*)|(?P<operator>[*/]))"
)
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
            ValueError: if a field is not a number, something is divided by zero, or the result is too large to hold.
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


def order_by_reference(expressions: Mapping[str, Expression]) -> list[str]:
    """Order fields so that each comes after those it refers to.

    Raises:
        ValueError: if fields refer to each other in a circle; the message names them.
    """
    done: list[str] = []
    waiting = dict(expressions)
    while waiting:
        ready = [
            path
            for path, expression in waiting.items()
            if not any(name in waiting for name in expression.fields())
        ]
        if not ready:
            raise ValueError(" -> ".join(_circle(waiting)))
        for path in ready:
            del waiting[path]
        done += ready
    return done


def _circle(waiting: Mapping[str, Expression]) -> list[str]:
    path = next(iter(waiting))
    seen: list[str] = []
    while path not in seen:
        seen.append(path)
        path = next(name for name in waiting[path].fields() if name in waiting)
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
        raise ValueError(f"{factor.value} is 0 here, and is divided by")
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
