"""Expressions of ``couple`` are products and quotients, from left to right, and nothing else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phasegrid.config.expressions import (
    Table,
    nearest_integer,
    order_by_reference,
    parse_expression,
)
from phasegrid.keys import Json


def value(text: str, **fields: float) -> int | float:
    return parse_expression(text).evaluate(lambda path: fields[path])


def test_an_expression_is_worked_out_from_left_to_right() -> None:
    assert value("0.05 * b / 128", b=256) == 0.1
    assert value("8 / 2 / 2") == 2
    assert value("8 / 2 * 4") == 16
    assert value("1e-3*x", x=2.0) == 0.002
    assert value(".5*x/2.", x=8) == 2


def test_integral_results_are_integers_for_integer_fields() -> None:
    assert (value("b / 2", b=64), type(value("b / 2", b=64))) == (32, int)
    assert type(value("b / 3", b=64)) is float
    assert value("2 * b", b=10**17) == 2 * 10**17  # exact: no way through floats


def test_it_knows_the_fields_it_refers_to() -> None:
    expression = parse_expression("train.lr * model.width / train.lr")
    assert expression.fields() == ("train.lr", "model.width")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "2 *",
        "* 2",
        "a b",
        "a ** b",
        "a // b",
        "a + 1",
        "(a)",
        "-a",
        "1.2.3",
        "3abc",
        "a.b.",
        "a..b",
        "f(x)",
        "__import__('os')",
        "a[0]",
        "a;b",
        "1 if a else 2",
    ],
)
def test_anything_else_is_refused_and_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"found .* at character \d+ of .*; allowed: "):
        parse_expression(text)


def test_numbers_and_texts_without_end_are_refused() -> None:
    with pytest.raises(ValueError, match="too large to hold"):
        parse_expression("1e999")
    with pytest.raises(ValueError, match="allowed: at most 1000"):
        parse_expression("2*" * 1000 + "2")


def test_what_cannot_be_worked_out_says_why() -> None:
    with pytest.raises(ValueError, match="division by b, which is 0 here"):
        value("1 / b", b=0)
    with pytest.raises(ValueError, match="the result is too large to hold"):
        value("1e200 * 1e200")
    with pytest.raises(ValueError, match="the result is too large to hold"):
        value("b * 0.5", b=10**400)
    wrong: list[Json] = [None, "x", True]
    for value_of_b in wrong:
        fields = {"b": value_of_b}
        with pytest.raises(ValueError, match="b is not a number here"):
            parse_expression("b").evaluate(fields.__getitem__)


def test_fields_are_ordered_after_those_they_refer_to() -> None:
    expressions = {"a": "b * c", "b": "c / 2", "c": "x"}
    order = order_by_reference({k: parse_expression(v) for k, v in expressions.items()})
    assert order == ["c", "b", "a"]


def test_a_field_comes_after_those_it_refers_to_a_part_of() -> None:
    table = Table("c", {"": {}}, (), (), None)
    part = parse_expression("a.b.c * 2")
    assert order_by_reference({"x": part, "a.b": table, "c": parse_expression("1")}) == [
        "c",
        "a.b",
        "x",
    ]
    with pytest.raises(ValueError, match=r"a\.b -> c -> a\.b"):
        order_by_reference({"a.b": table, "c": part})


def test_a_table_compares_values_exactly() -> None:
    table = Table("a", {"mlp": {"1": 0, "0.1": 1, "null": 2, '"x"': 3}}, (), (), None)
    values: list[Json] = [1, 0.1, None, "x", 1.0, True, 0.3 / 3, "1"]
    found = [table.row("mlp", value) for value in values]
    assert found == [0, 1, 2, 3, None, None, None, None]


def test_the_nearest_integer_is_that_of_the_decimal_number() -> None:
    assert [nearest_integer(x) for x in (0.5, 1.4999, 2.5, 3.5, -0.5)] == [1, 1, 3, 4, 0]
    assert 0.285 * 100 < 28.5  # a rounding error below
    assert nearest_integer(0.285 * 100) == 29
    assert nearest_integer(1e12 + 0.25) == 10**12


def test_a_circle_is_named() -> None:
    expressions = {"a": "b", "b": "c", "c": "b * 2"}
    with pytest.raises(ValueError, match="b -> c -> b"):
        order_by_reference({k: parse_expression(v) for k, v in expressions.items()})
    with pytest.raises(ValueError, match="a -> a"):
        order_by_reference({"a": parse_expression("2 * a")})


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(alphabet="ab.12*/ e-+()_", max_size=20))
def test_any_text_parses_or_is_a_value_error(text: str) -> None:
    try:
        expression = parse_expression(text)
    except ValueError:
        return
    assert expression.factors
