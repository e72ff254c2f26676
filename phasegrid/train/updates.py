"""Whole updates of a stack as work that repeats exactly, so that a GPU replays them as CUDA graphs.

An update cuts its batch out of a chunk of examples, runs the gradient pass and the optimizer, and
keeps its logits. All tensors stay where they are from epoch to epoch; what changes is in them: the
chunk, the table of rates, and two counters that every update moves on. So a replay is one launch,
and nothing waits for the host. The chunk is gathered and augmented, and its logits are scored, for
many updates at once, which takes fewer kernels than within each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from phasegrid.models.flat import FlatNetwork
from phasegrid.tasks.batches import Batch
from phasegrid.train.batches import Chunk
from phasegrid.train.cuda_graphs import Recorder
from phasegrid.train.optimizers import Rate, Rates, Slots, rate_table, step
from phasegrid.train.precision import distinct_places, tensor_float_32
from phasegrid.train.recipe import Recipe

GradientPass = Callable[[Batch, int], Tensor]
"""From a batch of M members and the number of its scored labels to the logits (M, B, ..., C);
leaves the gradients in the network's.
"""


@dataclass(slots=True)
class Updates:
    """The updates of a network whose batches have one shape. `lr` and `decay` are one number, or
    one for each weight; `mask` is 0 where weights are pruned.
    """

    network: FlatNetwork
    slots: Slots
    mask: Tensor | None
    recorder: Recorder
    recipe: Recipe
    gradient_pass: GradientPass
    lr: Rate
    decay: Rate
    _update: Tensor = field(init=False)
    _place: Tensor = field(init=False)
    _rates: Tensor = field(init=False)
    _chunk: dict[str, Tensor] = field(default_factory=dict)
    _logits: Tensor | None = None

    def __post_init__(self) -> None:
        weights = self.network.weights
        self._update = torch.zeros(1, dtype=torch.int64, device=weights.device)
        self._place = torch.zeros(1, dtype=torch.int64, device=weights.device)
        self._rates = weights.new_empty(0, len(Rates._fields))

    def begin_epoch(self, factors: Sequence[float], first_update: int) -> None:
        """Take the factors of the learning rate in the updates of an epoch, the first of which is
        `first_update` for the optimizer.
        """
        rows = rate_table(self.recipe, self.lr, self.decay, factors, first_update)
        if len(self._rates) < len(rows):
            self._rates = self._rates.new_empty(rows.shape)
            self.recorder.forget()
        self._rates[: len(rows)].copy_(rows)
        self._update.zero_()

    def load(self, chunk: Chunk) -> None:
        """Take the examples of the next updates."""
        whole = chunk.whole
        found = {"inputs": whole.inputs, "labels": whole.labels, **whole.extra}
        num = whole.labels.shape[1]
        if any(name not in self._chunk or self._chunk[name].shape[1] < num for name in found):
            self._chunk = {name: torch.empty_like(value) for name, value in found.items()}
            self._logits = None
            self.recorder.forget()
        for name, value in found.items():
            self._chunk[name][:, :num].copy_(value)
        self._place.zero_()

    def run(self, batch: Batch, size: int) -> None:
        """Make the next update, on a batch of the loaded chunk that looks like this one."""
        num = batch.labels.shape[1]
        self.recorder.repeat((num, size), partial(self._make, num, size), self._update)

    def logits(self, num: int) -> Tensor:
        """Return the logits (M, num, ..., C) of the loaded chunk's updates. The next chunk
        overwrites them.
        """
        assert self._logits is not None
        return self._logits[:, :num]

    def _make(self, num: int, size: int, update: Tensor) -> Tensor:
        network, recipe = self.network, self.recipe
        places = self._place + torch.arange(num, device=update.device)
        cut = {name: value.index_select(1, places) for name, value in self._chunk.items()}
        batch = Batch(cut.pop("inputs"), cut.pop("labels"), cut)
        with tensor_float_32(recipe.precision == "tf32"):
            logits = self.gradient_pass(batch, size)
        rates = Rates(*self._rates.index_select(0, update)[0])
        step(recipe, network.weights, network.grads, self.slots, self.lr, self.decay, rates)
        if self.mask is not None:
            network.weights.mul_(self.mask)
        self._keep(logits, places)
        self._place.add_(num)
        return update.add_(1)

    def _keep(self, logits: Tensor, places: Tensor) -> None:
        if self._logits is None:
            num = self._chunk["labels"].shape[1]
            self._logits = logits.new_empty((len(logits), num, *logits.shape[2:]))
        with distinct_places():
            self._logits.index_copy_(1, places, logits)
