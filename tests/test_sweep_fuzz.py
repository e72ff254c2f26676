"""Whatever stands in a sweep file, it loads or is a `SweepError` that lists its mistakes."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phasegrid import load_sweep
from phasegrid.errors import SweepError
from phasegrid.keys import canonical_json

GOOD = """\
schema: 1
name: tiny
dataset: {name: digits, fraction: 0.5}
model: {name: mlp, depth: 1}
train: {lr: 0.1, stop: {patience: 2}, schedule: {name: step, at_epochs: [3]}, keep: {every: 2}}
load: {param: model.width, start: 1, stop: 8, num: 4, scale: log2}
temperature: {param: train.batch_size, values: [4, 8]}
facets:
  - {param: train.nesterov, values: [false, true]}
  - {param: metrics.big.connectors, values: [1, 2]}
couple:
  train.weight_decay: 1e-4 * model.width / train.batch_size
  train.epochs: {by: train.batch_size, values: {4: 5, 0x8: 6}, otherwise: 7}
  train.schedule: {by: train.epochs, values: {5: cosine, 6: {name: step, at_epochs: [3]}}}
  metrics.cka.examples: {by: metrics.big.connectors, values: {1: 8}, otherwise: 9}
include: [{load: 16, temperature: 4, train.nesterov: true, metrics.big.connectors: 3}]
exclude: [{load: [1, 2], temperature: 8}]
seeds: [0, 3]
metrics: [accuracy, cka: {mixup_alpha: null, pairs: first}, simplex: {id: big, modes: 2}]
figures:
  - panels: {name: fig06, quantities: [trace, "cka[mixup_alpha=4]"], columns: 2}
  - lines: {name: fig07, quantities: [trace], along: load, at: [4, "8"]}
  - gain: {name: fig13, against: other}
resources: {num_gpus: 0.5, memory: 2GiB, metrics: {cka: {num_cpus: 2}}}
run: {retries: {app: 1}, on_error: stop}
"""

# what people and accidents put where something else was meant
PIECES = [
    *(
        "null",
        "[]",
        "{}",
        "-1",
        "0",
        "1e999",
        ".nan",
        "true",
        "'x'",
        "[1, [2]]",
        "{a: {b: 1}}",
        "*a",
    ),
    *("&a", "!!python/object:x", "1_0", "9" * 400, "\t", "\n", ":", "- ", "?", "é", "\x00", "#"),
    *(
        "model.width",
        "metrics.simplex.epochs",
        "train",
        "model.name",
        "mlp.py:X",
        "x:y",
        "extends: sweep.yaml",
        "{{",
        "'",
    ),
]

ANY_FILE = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def loads_or_says_why(path: Path, *overrides: str) -> None:
    error: SweepError | None = None
    try:
        sweep = load_sweep(path, overrides)
    except SweepError as caught:
        error = caught
    if error is not None:
        assert error.mistakes
        assert len(str(error).splitlines()) == min(len(error.mistakes), 101) + 1
        return
    assert sweep.points
    for point in sweep.points[:3]:
        canonical_json([point.dataset.spec(), point.model.spec(), point.recipe])


@ANY_FILE
@given(data=st.data())
def test_a_sweep_with_anything_put_anywhere_loads_or_says_why(
    tmp_path: Path, data: st.DataObject
) -> None:
    text = GOOD
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        length = data.draw(st.sampled_from([0, 0, 1, 3, 10]))
        piece = data.draw(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)))
        text = text[:start] + piece + text[start + length :]
    path = tmp_path / "sweep.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    loads_or_says_why(path)


VALUES = st.recursive(
    st.sampled_from(
        ["null", "0", "-1", "2", "1.5", "1e300", "true", "x", "''", "mlp", "digits", "step"]
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(
            st.sampled_from(
                ["name", "param", "values", "load", "temperature", "every", "model.width"]
            ),
            inner,
            max_size=3,
        ).map(lambda d: "{" + ", ".join(f"{k}: {v}" for k, v in d.items()) + "}"),
    ),
    max_leaves=5,
)


@ANY_FILE
@given(data=st.data())
def test_a_section_of_any_shape_loads_or_says_why(tmp_path: Path, data: st.DataObject) -> None:
    lines = GOOD.splitlines()
    for _ in range(data.draw(st.integers(1, 2))):
        index = data.draw(st.integers(0, len(lines) - 1))
        key = lines[index].partition(":")[0]
        lines[index] = f"{key}: {data.draw(VALUES)}"
    path = tmp_path / "sweep.yaml"
    path.write_text("\n".join(lines))
    loads_or_says_why(path)


@ANY_FILE
@given(
    keys=st.lists(
        st.sampled_from(
            [
                "train",
                "lr",
                "metrics",
                "0",
                "cka",
                "load",
                "values",
                "exclude",
                "model",
                "name",
                "couple",
            ]
        ),
        max_size=4,
    ),
    value=VALUES,
)
def test_any_override_is_taken_or_refused(tmp_path: Path, keys: list[str], value: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(GOOD)
    loads_or_says_why(path, f"{'.'.join(keys)}={value}")


@pytest.mark.parametrize("size", [0, 1, 10, 100, len(GOOD) // 2])
def test_a_truncated_file_loads_or_says_why(tmp_path: Path, size: int) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(GOOD.encode()[:size])
    loads_or_says_why(path)


def test_bytes_that_are_no_text_say_so(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(bytes(range(256)) * 10)
    with pytest.raises(SweepError, match="which is not UTF-8"):
        load_sweep(path)
