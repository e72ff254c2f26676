"""YAML is read as YAML 1.2 data, with places, and cannot be made to run, grow or fail with a
traceback.
"""

import math
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phasegrid.config.yaml import (
    MAX_BYTES,
    MAX_DEPTH,
    Place,
    YamlError,
    plain_text,
    read_file,
    read_text,
    resolve_scalar,
)


def plain(text: str) -> object:
    node, mistakes = read_text(text, "f")
    assert mistakes == []
    return node.plain()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("5E3", 5000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("-3", -3),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2001-01-01", "2001-01-01"),
        ("0b11", "0b11"),
        ("=", "="),
        ("<<", "<<"),
    ],
)
def test_plain_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    found = plain(f"a: {text}")
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


def test_quoted_scalars_are_text() -> None:
    assert plain("a: '1'\nb: \"true\"\nc: |\n  x\n") == {"a": "1", "b": "true", "c": "x\n"}


def test_a_yaml_1_1_directive_changes_nothing() -> None:
    assert plain("%YAML 1.1\n---\na: yes\nb: 1e4") == {"a": "yes", "b": 1e4}


def test_places_count_from_one_and_keys_have_their_own() -> None:
    node, _ = read_text("a: 1\nb:\n  - x\n  - {c: 2}\n", "f")
    assert node.mapping is not None
    b = node.mapping["b"]
    assert (b.key_place, b.place) == (Place("f", 2, 1), Place("f", 3, 3))
    assert b.items is not None
    assert b.items[1].mapping is not None
    assert b.items[1].mapping["c"].place == Place("f", 4, 9)


def test_aliases_repeat_a_finished_anchor() -> None:
    assert plain("a: &x [1, 2]\nb: *x") == {"a": [1, 2], "b": [1, 2]}


def test_windows_line_ends_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    node, mistakes = read_file(path, "f")
    assert (node.plain(), mistakes) == ({"a": 1, "b": 2}, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f:1:1: found nothing: it is empty"),
        ("# only a comment\n", "f:1:1: found nothing"),
        ("a:\n\tb: 1", r"f:2:1: .*indent with spaces, not tabs"),
        ("a: [1", r"f:1:\d+: this is not valid YAML: .*"),
        ("a: b: c", "f:1:5: this is not valid YAML: mapping values"),
        ("a: 1\n---\nb: 2", "f:2:1: a second document starts here"),
        ("a: \x00", r"f:1:4: found the character U\+0000"),
        ('a: "\\UFFFFFFFF"', "f:1:1: this is not valid YAML"),
        ("a: *b", "f:1:4: a: found the alias [*]b, but no finished anchor"),
        ("a: &a [*a]", "f:1:8: a.0: found the alias"),
        ("? [1]\n: 2", "f:1:3: found a list or mapping as a key"),
        ("%YAML 9.9\n---\na: 1", "f:1:1: this is not valid YAML"),
        ("[" * 20_000, f"nested more than {MAX_DEPTH} deep"),
        ("- " * 20_000, f"nested more than {MAX_DEPTH} deep"),
        ("{a: " * 5000, f"nested more than {MAX_DEPTH} deep"),
    ],
)
def test_text_that_is_no_document_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(YamlError, match=message):
        read_text(text, "f")


def test_aliases_cannot_grow_a_small_file() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for i in range(1, 30):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]")
    with pytest.raises(YamlError, match="more than 100,000 values, counting those"):
        read_text("\n".join(lines), "f")


def test_aliases_cannot_nest_without_end() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 60)]
    with pytest.raises(YamlError, match=f"nested more than {MAX_DEPTH} deep by aliases"):
        read_text("\n".join(lines), "f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object:os.system x", "f:1:4: a: found the tag .*tags are not allowed"),
        ("!foo {a: 1}", "f:1:1: found the tag !foo"),
        ("a: !!str 1", "found the tag"),
        ("a: 1\na: 2", r"f:2:1: found the key 'a' twice \(first in line 1\)"),
        ("1: 2", "f:1:1: found the key 1; keys are text"),
        ("true: 2", "found the key true; keys are text"),
        ("a: .inf", "f:1:4: a: found .inf; allowed: finite numbers"),
        ("a: [-.INF, 1]", "f:1:5: a.0: found -.INF"),
        ("a: .nan", "found .nan; allowed: finite numbers"),
        ("a: 1e999", "found 1e999, too large to hold"),
        ("a: " + "9" * 5000, "found a number of 5000 digits"),
    ],
)
def test_what_yaml_allows_and_a_sweep_does_not_is_a_mistake(text: str, message: str) -> None:
    _, mistakes = read_text(text, "f")
    assert len(mistakes) == 1
    assert re.match(f".*{message}", str(mistakes[0]))


def test_keys_below_a_field_of_couple_are_any_scalar_taken_as_text() -> None:
    text = "{by: x, values: {16: a, 0x11: b, 1e-1: c, true: d, null: e, 'f': g}}"
    keys = ["16", "17", "0.1", "true", "null", "f"]
    whole, mistakes = read_text(f"couple:\n  train.epochs: {text}", "f")
    set_alone, more = read_text(text, "f", above="couple.train.epochs")
    assert mistakes == more == []
    couple = whole.mapping["couple"].mapping if whole.mapping else None
    assert couple is not None
    for table in (couple["train.epochs"], set_alone):
        assert table.mapping is not None
        assert list(table.mapping["values"].mapping or {}) == keys


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("couple: {3: 1}", "f:1:10: couple: found the key 3; keys are text"),
        ("couples: {a: {3: 1}}", "found the key 3; keys are text"),
        ("couple: {a: {values: {16: 1, 0x10: 2}}}", r"found the key '16' twice"),
    ],
)
def test_other_keys_are_text_and_none_is_there_twice(text: str, message: str) -> None:
    _, (mistake,) = read_text(text, "f")
    assert re.match(f".*{message}", str(mistake))


def test_every_mistake_of_a_text_is_reported() -> None:
    _, mistakes = read_text("a: .inf\na: 1\nb: !x y\n3: 4", "f")
    assert [m.line for m in mistakes] == [1, 2, 3, 4]


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(YamlError, match="f: cannot be read: No such file"):
        read_file(tmp_path / "none.yaml", "f")
    with pytest.raises(YamlError, match="f: this is a folder"):
        read_file(tmp_path, "f")
    with pytest.raises(YamlError, match="f: cannot be read"):
        read_file(tmp_path / "a\0b", "f")
    with pytest.raises(YamlError, match="f: this is not a regular file"):
        read_file(Path("/dev/zero"), "f")
    path = tmp_path / "latin.yaml"
    path.write_bytes("a: 1\nb: é".encode("latin-1"))
    with pytest.raises(YamlError, match="f:2:4: found the byte 0xe9, which is not UTF-8"):
        read_file(path, "f")


def test_ten_megabytes_of_nonsense_fail_at_once(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_bytes(b"[nonsense, " * 1_000_000)
    start = time.perf_counter()
    with pytest.raises(YamlError, match=f"larger than {MAX_BYTES:,} bytes"):
        read_file(path, "f")
    assert time.perf_counter() - start < 0.5  # it reads at most one megabyte: about 1 ms


def test_numbers_too_large_are_refused() -> None:
    assert resolve_scalar("1e300") == 1e300
    with pytest.raises(ValueError, match="too large to hold"):
        resolve_scalar("1e400")
    with pytest.raises(ValueError, match="allowed: finite numbers"):
        resolve_scalar(".inf")
    with pytest.raises(ValueError, match="400 digits"):
        resolve_scalar("1" * 400)


def test_values_in_messages_are_short() -> None:
    assert plain_text({"a": [None, 1.5]}) == "{a: [null, 1.5]}"
    assert len(plain_text("x" * 500)) == 60


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(alphabet="ab:1.- \n\t[]{}&*!|>'\"#%@,?~e", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        node, _ = read_text(text, "f")
    except YamlError:
        return
    plain_text(node.plain())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_read_as_it_was_written(number: float) -> None:
    found = resolve_scalar(repr(number))
    assert isinstance(found, float)
    assert found == number
    assert math.copysign(1, found) == math.copysign(1, number)
