"""Law of untrained tensors under recorded work: a replay reads those of the present point."""

import pytest
import torch
from point_support import dataset, generator
from torch import Tensor, nn

from phasegrid.metrics.connectivity.compute import compute as measure_curve
from phasegrid.metrics.network import recording
from phasegrid.metrics.simplex.compute import compute as measure_simplex
from phasegrid.train.cuda_graphs import Recorder
from tests.tape import record_on_tape


class Features(nn.Module):
    """Frozen features, a scale that differs from seed to seed, and one that forward replaces."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = generator(seed)
        self.frozen = nn.Parameter(torch.randn(5, 4, generator=rng), requires_grad=False)
        self.last = nn.Linear(5, 3, bias=False)
        self.last.weight.data.normal_(0, 0.3, generator=rng)
        self.register_buffer("scale", 1 + torch.rand(5, generator=rng))
        self.register_buffer("replaced", torch.rand(5, generator=rng))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(inputs @ self.frozen.t()) * self.scale + self.replaced
        self.replaced = self.replaced.clone()
        outputs: Tensor = self.last(hidden)
        return outputs


def row(metric: str) -> dict[str, object]:
    rng = generator(5)
    data = dataset(torch.randn(40, 4, generator=rng), torch.randint(0, 3, (40,), generator=rng))
    models = [Features(seed).eval() for seed in range(2)]
    args = {"epochs": 3, "batch_size": 16}
    if metric == "simplex":
        found = measure_simplex(models, data, generator(1), **args, eval_samples=4).rows
    else:
        found = measure_curve(models, data, generator(1), **args, points=6).rows
    return dict(found)


@pytest.mark.parametrize("metric", ["simplex", "connectivity"])
def test_a_replay_reads_the_untrained_tensors_of_its_point(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = row(metric)

    def recorder(_: torch.device) -> Recorder:
        return Recorder(record=record_on_tape, around=lambda work: work)

    monkeypatch.setattr(recording, "recorder_on", recorder)
    assert row(metric) == launched
