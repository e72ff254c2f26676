"""Small trials and data sets for the tests of training."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from safetensors.torch import save

from phasegrid.datasets.dataset import Dataset
from phasegrid.jobs import Part, Trial
from phasegrid.train.member import Trained
from phasegrid.train.recipe import Recipe

MLP = Part("mlp", 1, {"width": 8, "depth": 2, "activation": "relu"})
SMALL_CNN = Part("small_cnn", 1, {"width": 2, "batch_norm": True})
PLAIN_CNN = Part("small_cnn", 1, {"width": 2, "batch_norm": False})
CLASSES = 4


@dataclass
class Kept:
    """What trainings leave on the way, in memory."""

    tensors: dict[tuple[str, str], dict[str, torch.Tensor]] = field(default_factory=dict)

    def publish(self, trial: str, name: str, tensors: Mapping[str, torch.Tensor]) -> str:
        self.tensors[trial, name] = {key: value.clone() for key, value in tensors.items()}
        return hashlib.sha256(save(self.tensors[trial, name])).hexdigest()

    def has(self, trial: str, name: str) -> bool:
        return (trial, name) in self.tensors

    def at(self, trial: Trial, at: str) -> dict[str, torch.Tensor]:
        return self.tensors[trial.key, f"weights@{at}"]


def make_data(num: int = 37, seed: int = 0, augment: str = "none") -> Dataset:
    """Make random 1 x 8 x 8 images whose class shifts their mean, so that they can be learnt."""
    generator = torch.Generator().manual_seed(seed)

    def part(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.randint(0, CLASSES, (count,), generator=generator)
        noise = torch.randn(count, 1, 8, 8, generator=generator)
        return noise + labels.view(-1, 1, 1, 1), labels

    one = torch.ones(1, 1, 1)
    return Dataset("random", *part(num), *part(20), CLASSES, one, 0 * one, augment)  # type: ignore[arg-type]


def make_trial(seed: int, model: Part = MLP, **recipe: Any) -> Trial:
    """Make a short trial: 3 epochs of batches of 8, no stop rule, unless told otherwise."""
    fields = asdict(Recipe(**{"batch_size": 8, "epochs": 3, "stop": None, **recipe}))
    return Trial(f"trial-{seed}", Part("random", 1, {}), model, fields, seed)


def without_seconds(trained: Trained) -> dict[str, Any]:
    """Return all facts of a result but its weights and times."""
    history = [replace(record, seconds=0.0) for record in trained.history]
    facts = {name: getattr(trained, name) for name in Trained.__slots__}  # type: ignore[attr-defined]
    return {
        **{k: v for k, v in facts.items() if k not in ("weights", "seconds")},
        "history": history,
    }


def largest_difference(a: Trained, b: Trained) -> float:
    """Return the largest difference of any weight or buffer."""
    return max(
        (value.double() - b.weights[name].double()).abs().max().item()
        for name, value in a.weights.items()
    )
