"""What the heads of figures say a sweep is about."""

import json

import pandas as pd
import pytest

from phasegrid.analysis.tables.subject import subject


def trials(*rows: tuple[str, str, dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"model": model, "dataset": data, "dataset_args": json.dumps(args)}
            for model, data, args in rows
        ],
        columns=["model", "dataset", "dataset_args"],
    )


@pytest.mark.parametrize(
    ("rows", "axes", "words"),
    [
        ([("resnet18", "digits", {})], (), "resnet18 on digits"),
        (
            [("resnet18", "digits", {"fraction": 0.1, "label_noise": 0.2})],
            ("dataset.label_noise",),
            "resnet18 on digits (fraction 0.1)",
        ),
        (
            [("mlp", "digits", {"fraction": 0.1}), ("mlp", "digits", {"fraction": 0.2})],
            (),
            "mlp on digits",
        ),
        ([("lab/net.py:NET", "npz", {"sha256": "ab" * 32})], (), "NET on npz"),
        ([("mlp", "digits", {}), ("vgg11", "cifar10", {})], (), "mlp and vgg11 on cifar10 and digits"),
        ([("mlp", "lab/data.py:MINE", {"fraction": 0.1})], (), "mlp on MINE"),
        ([(name, "digits", {}) for name in "abcd"], (), "4 models on digits"),
        ([], (), ""),
    ],
)  # fmt: skip
def test_a_head_names_networks_data_and_what_all_trials_share(
    rows: list[tuple[str, str, dict[str, object]]], axes: tuple[str, ...], words: str
) -> None:
    assert subject(trials(*rows), axes) == words
