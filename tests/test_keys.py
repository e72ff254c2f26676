"""Keys are made of content, and nothing else."""

import hashlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasegrid.config.axes import is_finite_number
from phasegrid.jobs import Artifact, Part, Start, Trial
from phasegrid.keys import canonical_json, content_key, stream_seed

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def test_keys_are_pinned() -> None:
    # Literal keys: a refactoring that changes them would orphan every stored result.
    spec = {"lr": 0.05, "batch_size": 128, "name": "sgd", "nesterov": False, "stop": None}
    assert content_key("trial", 1, spec) == "45c5bb275348d85e8439248757528709"
    assert stream_seed(0, "init") == 1519069808562059438


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4))
def test_key_does_not_depend_on_the_order_of_fields(spec: dict[str, object]) -> None:
    backwards = dict(reversed(list(spec.items())))
    assert content_key("trial", 1, spec) == content_key("trial", 1, backwards)  # type: ignore[arg-type]


def test_kind_version_and_spec_all_matter() -> None:
    keys = {
        content_key("a", 1, {}),
        content_key("b", 1, {}),
        content_key("a", 2, {}),
        content_key("a", 1, []),
    }
    assert len(keys) == 4


def test_an_integer_and_a_float_are_different_values() -> None:
    assert canonical_json(1) != canonical_json(1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"lr": value})


def test_streams_of_a_seed_differ() -> None:
    seeds = {stream_seed(seed, name) for seed in range(50) for name in ("init", "order", "augment")}
    assert len(seeds) == 150


@pytest.mark.parametrize(
    ("value", "finite"), [(1, True), (1.5, True), (True, False), (None, False), ("1", False)]
)
def test_booleans_are_not_numbers(value: object, finite: bool) -> None:
    assert is_finite_number(value) is finite


def test_jobs_and_packs_need_the_standard_library_alone() -> None:
    code = (
        "import sys, phasegrid.packs; print([m for m in ('torch', 'ray', 'pydantic', 'pandas') if m"
        " in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_training_that_starts_from_another_draws_from_streams_of_its_own() -> None:
    part = Part("any", 1, {})

    def stream(start: Start | None) -> int:
        return Trial("child", part, part, {}, 7, start).stream

    digest = hashlib.sha256(b"7/from/parent/weights@epoch-3").digest()
    own = int.from_bytes(digest[:8], "big") >> 1
    assert stream(None) == 7
    assert stream(Start(Artifact("parent", "weights@epoch-3"))) == own
    assert stream(Start(Artifact("parent", "weights@epoch-3"), "kept")) == own
    assert len({7, own, stream(Start(Artifact("parent"))), stream(Start(Artifact("other")))}) == 4
