"""The LSTM language model: against torch's own layers, its parameter counts, what it carries, its
second derivatives.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils.flop_counter import FlopCounterMode

from phasegrid.declare import DatasetFacts, Windows
from phasegrid.errors import DataError
from phasegrid.jobs import Part
from phasegrid.models.build import build_model
from phasegrid.models.counting import count_work
from phasegrid.models.lstm import Lstm, make

WORDS = 7
ARGS: dict[str, Any] = {
    "width": 5,
    "depth": 2,
    "embedding": 3,
    "tied": False,
    "dropout": 0.0,
    "init": 0.5,
}


def built(**changes: Any) -> Lstm:
    torch.manual_seed(0)
    module = make(Windows(6, WORDS), **{**ARGS, **changes})
    assert isinstance(module, Lstm)
    return module.double().eval()


def words(num: int = 3, steps: int = 6) -> Tensor:
    return torch.randint(WORDS, (num, steps), generator=torch.Generator().manual_seed(1))


def by_torch(module: Lstm, inputs: Tensor) -> Tensor:
    """The same network made of torch's layers, whose second bias is zero."""
    twin = nn.LSTM(3, 5, 2, batch_first=True).double()
    with torch.no_grad():
        for index, layer in enumerate(module.layers):
            for name in ("input_weight", "hidden_weight", "bias"):
                own = {"input_weight": "weight_ih", "hidden_weight": "weight_hh", "bias": "bias_ih"}
                getattr(twin, f"{own[name]}_l{index}").copy_(getattr(layer, name))
            getattr(twin, f"bias_hh_l{index}").zero_()
    return module.decoder(twin(module.embedding(inputs))[0])


@pytest.mark.parametrize(
    ("width", "count"), [(200, 4_651_600), (650, 19_775_200), (1500, 66_022_000)]
)
def test_small_medium_and_large_have_the_parameters_of_zaremba(width: int, count: int) -> None:
    with torch.device("meta"):
        module = make(Windows(35, 10_000), **{**ARGS, "width": width, "embedding": None})
    assert sum(p.numel() for p in module.parameters()) == count


@pytest.mark.parametrize("changes", [{}, {"embedding": None, "tied": True}, {"depth": 3}])
def test_planned_counts_are_those_of_the_network(changes: dict[str, Any]) -> None:
    facts = DatasetFacts(50, 10, (6,), WORDS, "language", Windows(6, WORDS), 6.0)
    counts = count_work(Part("lstm", 1, {**ARGS, **changes}), facts)
    module = built(**changes)
    with FlopCounterMode(display=False) as counter:
        module(words(1))
    assert counts is not None
    assert counts.num_parameters == sum(p.numel() for p in module.parameters())
    assert counts.forward_flops == counter.get_total_flops()
    assert counts.activations > 0


@pytest.mark.parametrize("training", [True, False])
def test_logits_are_those_of_torchs_lstm(training: bool) -> None:
    module, inputs = built().train(training), words()
    torch.testing.assert_close(module(inputs), by_torch(module, inputs), rtol=0, atol=1e-13)
    with torch.no_grad():
        torch.testing.assert_close(module(inputs), by_torch(module, inputs), rtol=0, atol=1e-13)


@pytest.mark.parametrize("training", [True, False])
def test_windows_with_the_state_carried_are_one_long_pass(training: bool) -> None:
    module, inputs = built().train(training), words(steps=12)
    state, found = module.start(3), []
    for window in inputs.split(4, dim=1):
        logits, state = module(window, state)
        found.append(logits)
    torch.testing.assert_close(torch.cat(found, 1), module(inputs), rtol=0, atol=1e-13)


def test_second_derivatives_are_differences_of_torchs_first_ones() -> None:
    module, inputs, step = built(width=2, embedding=2), words(2, 3), 1e-5
    parameters = [*module.parameters()]
    weights = parameters_to_vector(parameters).detach()

    def gradient(at: Tensor) -> Tensor:
        vector_to_parameters(at, parameters)
        loss = nn.functional.cross_entropy(
            module(inputs).flatten(0, 1), inputs.roll(1, 1).flatten()
        )
        found = torch.autograd.grad(loss, parameters, create_graph=not module.training)
        return torch.cat([part.flatten() for part in found])

    products = torch.stack(
        [
            torch.cat(
                [
                    part.flatten()
                    for part in torch.autograd.grad(entry, parameters, retain_graph=True)
                ]
            )
            for entry in gradient(weights)
        ]
    )
    module.train()  # torch's own kernel, and its own first derivatives
    steps = step * torch.eye(len(weights), dtype=torch.float64)
    rows = [(gradient(weights + d) - gradient(weights - d)) / (2 * step) for d in steps]
    torch.testing.assert_close(products, torch.stack(rows), rtol=0, atol=1e-9)  # step^2


def test_first_derivatives_of_both_forms_of_the_layer_agree() -> None:
    module, inputs = built(), words()
    gradients = []
    for training in (True, False):
        module.train(training).zero_grad()
        module(inputs).square().sum().backward()
        gradients.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
    assert len(gradients[0]) == 9
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_dropout_is_on_what_goes_up_and_in_train_mode_only() -> None:
    module, inputs = built(dropout=0.9), words()
    same = module(inputs)
    torch.testing.assert_close(same, by_torch(module, inputs), rtol=0, atol=1e-13)
    module.train()
    state = module(inputs[:, :1], module.start(3))[1]
    assert not torch.equal(module(inputs), same)
    assert bool((state != 0).all())  # what goes on in time is whole


def test_a_tied_output_layer_is_the_embedding() -> None:
    module = built(embedding=None, tied=True)
    assert module.decoder.weight is module.embedding.weight
    with pytest.raises(DataError, match="embedding 3 with width 5 and tied: true; allowed: null"):
        build_model(
            Part("lstm", 1, {**ARGS, "tied": True}), (6,), WORDS, 0, "language", Windows(6, WORDS)
        )


def test_all_weights_are_drawn_anew_within_their_bounds() -> None:
    module = built(init=0.25)
    before = torch.cat([p.flatten() for p in module.parameters()]).detach().clone()
    module.reset_parameters()
    after = torch.cat([p.flatten() for p in module.parameters()]).detach()
    assert float(before.abs().max()) <= 0.25 >= float(after.abs().max())
    assert float(before.abs().max()) > 0.2
    assert not bool((before == after).any())


@pytest.mark.gpu
def test_on_a_gpu_both_forms_agree_and_there_are_second_derivatives() -> None:
    module, inputs = built(width=16, embedding=None).cuda(), words(4, 9).cuda()
    written = module(inputs)
    torch.testing.assert_close(module.train()(inputs), written, rtol=0, atol=1e-12)
    parameters = [*module.eval().parameters()]
    gradient = torch.autograd.grad(written.square().mean(), parameters, create_graph=True)
    product = torch.autograd.grad(sum(g.square().sum() for g in gradient), parameters)
    assert all(bool(part.isfinite().all()) for part in product)
    assert any(bool((part != 0).any()) for part in product)
