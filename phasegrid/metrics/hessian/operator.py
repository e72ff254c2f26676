"""Multiply by the Hessian of the mean loss, by differentiating the gradient (Pearlmutter 1994).

If it fits into the given memory, the gradient's graph is built once and kept for all products,
and on a GPU a product is recorded; otherwise the graph is built again for each product, chunk by
chunk. BatchNorm in eval mode is folded into
the convolutions and images are laid out channels last, which reduces the time of a product to 0.6
to 0.8 (tests/benchmarks/bench_hessian.py). Second derivatives may be wrong. So
`with_right_products` does its work with the first `Method` whose products belong to a symmetric
matrix; the work itself must check this (Lanczos does):

- ``double_backward``: the gradient is differentiated in the dtype of the weights; attention uses
  its plain kernel.
- ``reference``: the same in float64, only with kernels whose second derivatives are known to be
  correct (`phasegrid.metrics.hessian.kernels`).
- ``differences``: (g(w + h v) - g(w - h v)) / 2h with the gradient g in float64, which needs only
  correct first derivatives.

The loss is the mean of an objective over scored labels. Chunks are weighted by their numbers of
scored labels, so they add up to the same Hessian. Letters: N examples, P trainable parameters, C
classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from phasegrid.errors import MetricError
from phasegrid.fallbacks import fall_back
from phasegrid.metrics.hessian.kernels import fast_kernels, reference_kernels
from phasegrid.metrics.hessian.lanczos import AsymmetryError
from phasegrid.metrics.network.folding import fold_if_same
from phasegrid.metrics.network.precision import full_precision
from phasegrid.metrics.network.recording import Recorded
from phasegrid.models.blocks import Blocks, FlatVector
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.image_layouts import working_layouts
from phasegrid.models.network_state import copy_network, outputs_of
from phasegrid.models.weights import uses_batch_statistics
from phasegrid.tasks.scoring import CLASSIFICATION, Scoring

CPU_GRAPH_BYTES = 2 * 2**30  # a graph of 200 images through ResNet18 of width 8 takes a tenth
SAMPLED = 8  # number of examples whose graph is measured
STEP = 1e-8
"""Length of a step for differences. In float64, rounding of the gradient gives an error of 1e-8,
and rounding of a million weights one of 1e-6. A longer step would cross kinks of piecewise-linear
units: a thousandth of them lie within 1e-3.
"""

Method = Literal["double_backward", "reference", "differences"]
METHODS: tuple[Method, ...] = get_args(Method)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Graph:
    """A kept gradient: the entries that depend on the parameters, and the parameters to which they
    belong.
    """

    gradients: tuple[Tensor, ...]
    places: tuple[int, ...]


class HessianOperator:
    """The Hessian of the mean loss of `module` over `inputs` (N, ...) and `labels`, as a function
    v -> H v.

    `scoring` gives the loss. Examples of several lengths are taken longest first, and every chunk
    is trimmed to its longest, which changes results only by rounding.

    `module` is used in its present mode, which decides what BatchNorm does; its memory layout may
    be changed. It must not change while the operator lives. Vectors (P,) have the order of
    ``module.named_parameters()``, frozen ones left out, and the parameters' dtype; the loss itself
    is taken in float64 from the logits, so that confident networks keep their curvature. Exact to
    rounding. `num_products` counts. Graphs take at most `memory_bytes` (estimated from a few
    examples), but always one example fits, and all do if BatchNorm uses the statistics of the
    batch. Every `method` except ``double_backward`` uses a copy in float64, and `parameters` are
    those of the copy.

    Raises:
        MetricError: if nothing is trainable, the outputs have another shape, or the loss is not
        finite.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        memory_bytes: int | None = None,
        method: Method = "double_backward",
        scoring: Scoring = CLASSIFICATION,
    ) -> None:
        self.method, self._scoring = method, scoring
        if method != "double_backward":
            module = copy_network(module).double()
            inputs = inputs.double() if inputs.is_floating_point() else inputs
        self._flat: FlatNetwork | None = None
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        if not self.parameters:
            raise MetricError(f"Hessian: {type(module).__name__} has no trainable parameter")
        if method == "differences":
            self._flat = FlatNetwork(module, [module.state_dict()])
        blocks = Blocks.of((1, *p.shape) for p in self.parameters)
        self.size = sum(blocks.sizes)
        # In a convolution's second derivative, the pieces of a vector are the kernels.
        self._pieces = FlatVector(blocks, blocks.zeros(self.parameters[0].detach()), 1)
        self.num_products = 0
        order = scoring.operations.by_length(inputs)
        if order is not None:  # so that a chunk holds examples of like length
            inputs, labels = inputs[order], labels[order]
        self._inputs, self._labels, self._network = inputs, labels, module
        self._images_last = False
        if method == "double_backward":
            self._inputs, self._images_last = _lay_out(module, inputs)
            self._network = fold_if_same(module, self._inputs[:SAMPLED])
        self._num_scored = scoring.operations.num_scored(labels)
        self._chunks = self._cut(module, memory_bytes)
        self.loss = self._check_loss()
        keep = len(self._chunks) == 1 and method != "differences"
        # once is enough: each product runs the kernels of the one before it on the kept graph
        self._product = Recorded(self._of_kept, self._inputs.device, warm_up=1)
        first = partial(self._differentiate, self._chunks[0])
        self._kept = self._product.prepare(first) if keep else None

    def __call__(self, vector: Tensor) -> Tensor:
        """Return H v (P,)."""
        self.num_products += 1
        if self._flat is not None:
            return self._difference(self._flat, vector)
        if self._kept is not None:
            return self._product(vector)
        parts, product = self._parts(vector), torch.zeros_like(vector)
        for chunk in self._chunks:
            product += self._multiply(self._differentiate(chunk), parts, keep=False)
        return product

    def gradient(self) -> Tensor:
        """Return the gradient (P,) of the mean loss, in float64."""
        return self._gradient()

    def _of_kept(self, vector: Tensor) -> Tensor:
        assert self._kept is not None
        return self._multiply(self._kept, self._parts(vector), keep=True)

    def _parts(self, vector: Tensor) -> list[Tensor]:
        """Return the parts of `vector` (P,) in the shapes of the parameters."""
        self._pieces.fill(vector)
        return [view[0] for view in self._pieces.views]

    def _loss(self, chunk: slice) -> Tensor:
        scoring = self._scoring
        inputs, labels = scoring.operations.trim(self._inputs[chunk], self._labels[chunk])
        fast = self.method == "double_backward"
        with fast_kernels(self._images_last) if fast else reference_kernels():
            logits = outputs_of(self._network, inputs)
        if fault := scoring.fault(logits, labels):
            raise MetricError(f"Hessian: {fault}")
        return scoring.total(logits, inputs, labels) / self._num_scored

    def _check_loss(self) -> float:
        with torch.no_grad():
            loss = sum(float(self._loss(chunk)) for chunk in self._chunks)
        if loss - loss != 0:
            raise MetricError(
                f"Hessian: the loss is {loss} on {len(self._labels)} examples; these are not"
                f" the weights of a successful training. Was it recorded as diverged?"
            )
        return loss

    def _differentiate(self, chunk: slice) -> _Graph:
        with torch.enable_grad():
            gradients = torch.autograd.grad(
                self._loss(chunk), self.parameters, create_graph=True, allow_unused=True
            )
        places = [i for i, g in enumerate(gradients) if g is not None and g.requires_grad]
        return _Graph(tuple(gradients[i] for i in places), tuple(places))

    def _multiply(self, graph: _Graph, parts: list[Tensor], keep: bool) -> Tensor:
        products: tuple[Tensor | None, ...] = (None,) * len(parts)
        if graph.places:
            products = torch.autograd.grad(
                graph.gradients,
                self.parameters,
                grad_outputs=[parts[i] for i in graph.places],
                retain_graph=keep,
                allow_unused=True,
            )
        filled = (
            torch.zeros_like(part) if product is None else product
            for part, product in zip(parts, products, strict=True)
        )
        return torch.cat([part.reshape(-1) for part in filled])

    def _difference(self, flat: FlatNetwork, vector: Tensor) -> Tensor:
        norm = float(torch.linalg.vector_norm(vector))
        if norm == 0:
            return torch.zeros_like(vector)
        step, centre = STEP / norm, flat.rows()[0]
        gradients = []
        for signed in (step, -step):
            flat.assign(centre + signed * vector.to(centre))
            gradients.append(self._gradient())
        flat.assign(centre)
        return (gradients[0] - gradients[1]) / (2 * step)

    def _gradient(self) -> Tensor:
        total = torch.zeros(self.size, dtype=torch.float64, device=self._inputs.device)
        for chunk in self._chunks:
            with torch.enable_grad():
                found = torch.autograd.grad(
                    self._loss(chunk), self.parameters, allow_unused=True, materialize_grads=True
                )
            total += torch.cat([g.reshape(-1) for g in found])
        return total

    def _cut(self, module: nn.Module, memory_bytes: int | None) -> list[slice]:
        num = len(self._labels)
        if uses_batch_statistics(module):
            return [slice(0, num)]
        limit = graph_memory(self._inputs.device) if memory_bytes is None else memory_bytes
        size = max(1, min(num, limit // max(1, self._bytes_per_example())))
        return [slice(start, min(num, start + size)) for start in range(0, num, size)]

    def _bytes_per_example(self) -> int:
        """Measure how much memory the graph of a gradient holds per example, for some of the
        longest.
        """
        sampled = min(SAMPLED, len(self._labels))
        own = {p.untyped_storage().data_ptr() for p in self.parameters}
        held: dict[int, int] = {}

        def measure(value: Tensor) -> Tensor:
            storage = value.untyped_storage()
            if storage.data_ptr() not in own:
                held[storage.data_ptr()] = storage.nbytes()
            return value.detach()

        with saved_tensors_hooks(measure, lambda value: value):
            self._differentiate(slice(0, sampled))
        return sum(held.values()) // sampled


def with_right_products(
    module: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    rng: torch.Generator,
    work: Callable[[HessianOperator], T],
    scoring: Scoring = CLASSIFICATION,
) -> T:
    """Do `work` with the Hessian of `module` (see `HessianOperator`), by the first of `METHODS`
    that gives correct products.

    All is computed without TF32 and autocast. `work` must raise `AsymmetryError` if the products do
    not belong to a symmetric matrix. `rng` is
    reset before every try, so every method gets the same draws.

    Raises:
        MetricError: if no method gives a symmetric matrix, or the operator cannot be made.
        RuntimeError: the first error of torch, if every method fails.
    """
    state = rng.get_state()
    faults: list[Exception] = []
    for method in METHODS:
        rng.set_state(state)
        try:
            with full_precision(inputs.device):
                return work(HessianOperator(module, inputs, labels, method=method, scoring=scoring))
        except (AsymmetryError, RuntimeError) as fault:  # or no second derivative
            if not isinstance(fault, AsymmetryError) and _is_of_the_machine(fault):
                raise
            fall_back(f"Hessian-vector products are not taken by {method}", fault)
            faults.append(fault)
    if not isinstance(faults[-1], AsymmetryError):
        raise faults[0]
    tried = "; ".join(f"{how}: {what}" for how, what in zip(METHODS, faults, strict=True))
    raise MetricError(
        f"Hessian: no method gives {type(module).__name__} a symmetric matrix of second derivatives"
        f" ({tried}). Its backward pass does not give the gradient of its loss (a straight-through"
        " estimator, a detached term, random numbers in forward); remove the metric for this"
        " network, or correct that layer"
    ) from faults[0]


def _is_of_the_machine(fault: RuntimeError) -> bool:
    """Say whether memory ran out or a device failed; then no other method can help."""
    device = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)  # absent before torch 2.8
    return isinstance(fault, (torch.OutOfMemoryError, device)) or "allocate memory" in str(fault)


def graph_memory(device: torch.device) -> int:
    """Return how many bytes a kept graph may take: 2 GiB on a CPU, a quarter of the free memory on
    a GPU.
    """
    if device.type != "cuda":
        return CPU_GRAPH_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return free // 4


def _lay_out(module: nn.Module, inputs: Tensor) -> tuple[Tensor, bool]:
    """Bring images into the layout that suits the network, and the convolutions of `module` too, in
    place; say whether that is channels last.
    """
    if inputs.dim() != 4:
        return inputs, False
    layouts = working_layouts(module, inputs)
    layout = layouts.of(inputs.device)
    module.to(memory_format=layout)
    return layouts.lay_out(inputs), layout == torch.channels_last
