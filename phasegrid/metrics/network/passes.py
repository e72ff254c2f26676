"""The passes by which a network is measured at many points, recorded on a GPU."""

import torch
from torch import Tensor

from phasegrid.metrics.network.recording import Recorded
from phasegrid.models.evaluation import Evaluation, evaluate, sums_of
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.network_state import kept_modes, outputs_of
from phasegrid.models.weights import batch_norm_modules, refresh_batch_norm
from phasegrid.tasks import TASKS
from phasegrid.tasks.batches import cut
from phasegrid.tasks.scoring import Scoring


class Passes:
    """Evaluates one network, and refreshes its BatchNorm statistics, at its present weights.

    On a GPU a batch of either is one recorded graph, if all batches of the task have one shape.
    """

    def __init__(self, flat: FlatNetwork, scoring: Scoring) -> None:
        device = flat.weights.device
        self._module, self._scoring = flat.module, scoring
        self._sums = Recorded(sums_of, device, flat.module, scoring)
        self._records = self._sums.records and TASKS[scoring.task].one_shape
        self._add = Recorded(self._add_batch, device)
        self._layers = batch_norm_modules(flat.module)
        statistics = ((layer.running_mean, layer.running_var) for layer in self._layers)
        self._own = [own for both in statistics for own in both if own is not None]
        self._means = [torch.zeros_like(own) for own in self._own]

    def evaluate(self, inputs: Tensor, labels: Tensor) -> Evaluation:
        """Return mean loss and accuracy on a set."""
        sums = self._sums if self._records else None
        return evaluate(self._module, inputs, labels, self._scoring, sums=sums)

    def refresh(self, inputs: Tensor, batch_size: int) -> None:
        """Do `refresh_batch_norm`; recorded, its averages are the same to rounding."""
        if not self._records:
            refresh_batch_norm(self._module, inputs, batch_size)
            return
        batches = cut(len(inputs), batch_size)
        shares = [(batch.stop - batch.start) / batch.stop for batch in batches]
        weights = torch.tensor(shares, dtype=torch.float32).to(inputs.device).unsqueeze(1)
        momenta = [layer.momentum for layer in self._layers]
        with kept_modes(self._module), torch.no_grad():
            self._module.eval()
            for layer in self._layers:
                layer.reset_running_stats()
                layer.train()
                layer.momentum = 1.0  # running statistics become those of the batch
            for mean in self._means:
                mean.zero_()
            try:
                for batch, share in zip(batches, weights, strict=True):
                    self._add(inputs[batch], share)
            finally:
                for layer, momentum in zip(self._layers, momenta, strict=True):
                    layer.momentum = momentum
            for mean, own in zip(self._means, self._own, strict=True):
                own.copy_(mean)

    def _add_batch(self, inputs: Tensor, share: Tensor) -> Tensor:
        """Take a batch into the averages, with a `share` (1,) of them."""
        outputs_of(self._module, inputs)
        for mean, own in zip(self._means, self._own, strict=True):
            mean.lerp_(own, share.to(mean))
        return share
