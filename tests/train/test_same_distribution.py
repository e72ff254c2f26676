"""The strategies train the same networks: the same distribution of final accuracies over many
seeds.
"""

from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import ks_2samp

from phasegrid.datasets import DATASETS
from phasegrid.datasets.load import load_dataset
from phasegrid.declare import make_part
from phasegrid.jobs import Part, Trial
from phasegrid.train.loop import train_pack
from phasegrid.train.recipe import Recipe

SEEDS = 20

CASES = {
    "mlp": (Part("mlp", 1, {"width": 8, "depth": 2, "activation": "relu"}), 12),
    "cnn with BatchNorm": (Part("small_cnn", 1, {"width": 4, "batch_norm": True}), 6),
    "resnet18": (Part("resnet18", 1, {"width": 2}), 4),
}


def final_accuracies(model: Part, epochs: int, strategy: str) -> np.ndarray:
    declared = DATASETS["digits"]
    options = {**asdict(declared.args()), "fraction": 0.3, "label_noise": 0.1}
    data = load_dataset(make_part("digits", declared.version, declared.args, options))
    recipe = asdict(Recipe(batch_size=16, epochs=epochs, stop=None, keep="last"))
    trials = [Trial(f"{seed}", Part("digits", 1, {}), model, recipe, seed) for seed in range(SEEDS)]
    trained = train_pack(trials, [data] * SEEDS, device="cpu", strategy=strategy)  # type: ignore[arg-type]
    assert {result.strategy for result in trained} == {strategy}
    return np.array([result.history[-1].test_accuracy_percent for result in trained])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("strategy", ["fused", "vmap"])
def test_final_accuracies_of_stacks_are_distributed_as_those_of_members_alone(
    name: str, strategy: str
) -> None:
    model, epochs = CASES[name]
    alone, together = (final_accuracies(model, epochs, way) for way in ("loop", strategy))
    spread = np.hypot(alone.std(ddof=1), together.std(ddof=1)) / np.sqrt(SEEDS)
    assert alone.std() > 0
    assert abs(alone.mean() - together.mean()) < 3 * spread
    assert ks_2samp(alone, together).pvalue > 0.01
