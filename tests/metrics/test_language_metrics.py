"""Every metric on running text: against known values, long passes and derivatives by hand."""

import math
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from language_support import STEPS, WORDS, built, windows
from simplex_rows import compute as simplex
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from phasegrid.errors import MetricError
from phasegrid.metrics.accuracy.compute import compute as accuracy
from phasegrid.metrics.cka.compute import compute as cka
from phasegrid.metrics.connectivity import ConnectivityArgs
from phasegrid.metrics.connectivity.compute import compute as connectivity
from phasegrid.metrics.distance.compute import compute as distance
from phasegrid.metrics.ensemble.compute import compute as ensemble
from phasegrid.metrics.hessian.compute import compute as hessian
from phasegrid.metrics.hessian.preparing import draw_examples
from phasegrid.metrics.measured import Source
from phasegrid.metrics.perplexity.compute import compute as perplexity
from phasegrid.metrics.plane.compute import compute as plane
from phasegrid.metrics.slice.compute import compute as loss_slice
from phasegrid.models.evaluation import evaluate
from phasegrid.models.lstm import Lstm
from phasegrid.tasks.carrying import draw_some
from phasegrid.tasks.language import STREAMS, side_by_side
from phasegrid.tasks.losses import Criterion, mse
from phasegrid.tasks.operations import operations_of


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def loss_in_one_pass(module: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """The mean loss of the streams that a set is read as, each in one long pass."""
    num = len(inputs)
    streams = max(1, min(STREAMS, num // 20))
    sizes = [num // streams + (i < num % streams) for i in range(streams)]
    total = 0.0
    for part, target in zip(inputs.split(sizes), labels.split(sizes), strict=True):
        with torch.no_grad():
            logits = module(part.reshape(1, -1))[0]
        total += float(cross_entropy(logits, target.flatten(), reduction="sum"))
    return total / labels.numel()


@pytest.mark.parametrize("num", [1, 19, 60, 47])
def test_the_loss_of_a_set_is_that_of_long_passes_over_its_streams(num: int) -> None:
    data, module = windows(num_train=num), built()
    found = evaluate(module, data.train_inputs, data.train_labels, data.scoring)
    expected = loss_in_one_pass(module, data.train_inputs, data.train_labels)
    assert found.loss == pytest.approx(expected, rel=1e-13)
    assert found.num == num * STEPS


def test_what_came_before_is_not_forgotten_between_windows() -> None:
    data, module = windows(), built()
    with torch.no_grad():
        alone = cross_entropy(module(data.train_inputs).flatten(0, 1), data.train_labels.flatten())
    found = evaluate(module, data.train_inputs, data.train_labels, data.scoring)
    assert abs(found.loss - float(alone)) > 1e-4


def test_a_model_that_has_learnt_nothing_has_the_perplexity_of_the_vocabulary() -> None:
    module = built()
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    row = perplexity([module], windows(), rng())
    assert row["train_perplexity"] == pytest.approx(WORDS, rel=1e-14)
    assert row["test_perplexity"] == pytest.approx(WORDS, rel=1e-14)
    assert (row["num_train"], row["num_test"]) == (60 * STEPS, 20 * STEPS)


def test_a_validation_text_is_measured_as_a_test_text_would_be() -> None:
    data, module = windows(), built()
    both = replace(data, aside_inputs=data.test_inputs, aside_labels=data.test_labels)
    row, without = perplexity([module], both, rng()), perplexity([module], data, rng())
    assert row["valid_perplexity"] == row["test_perplexity"] == without["test_perplexity"]
    assert row["num_valid"] == row["num_test"]
    assert without["valid_perplexity"] is without["num_valid"] is None
    ends = [module, built(1)]
    args: dict[str, Any] = {"bends": 0, "points": 3, "batch_size": 5}
    along, plain = (connectivity(ends, d, rng(), **args).rows for d in (both, data))
    assert along["valid_perplexity"] == along["test_perplexity"] == plain["test_perplexity"]
    assert plain["valid_perplexity"] is plain["max_valid_perplexity"] is None
    assert isinstance(along["test_perplexity"], list)
    for name in ("train", "valid", "test"):
        highest = math.exp(max(plain[f"{'test' if name == 'valid' else name}_loss"]))
        assert along[f"max_{name}_perplexity"] == pytest.approx(highest, rel=1e-14)
    assert along["max_end_test_perplexity"] == max(along["test_perplexity"][::2])


def test_perplexity_is_the_exponential_of_accuracys_loss() -> None:
    data, module = windows(), built()
    found, expected = perplexity([module], data, rng()), accuracy([module], data, rng())
    for split in ("train", "test"):
        assert found[f"{split}_perplexity"] == pytest.approx(
            math.exp(expected[f"{split}_loss"]), rel=1e-14
        )


def test_perplexities_that_do_not_exist_are_refused() -> None:
    module = built()
    nn.init.constant_(module.decoder.bias[:1], 1e6)
    with pytest.raises(
        MetricError, match=r"mean loss on the train text is .* exponential is not finite"
    ):
        perplexity([module], windows(), rng())
    with pytest.raises(MetricError, match="is measured on one model, got 2"):
        perplexity([module, module], windows(), rng())


def test_streams_are_parts_of_the_text_side_by_side() -> None:
    order = side_by_side(23, 5)
    assert sorted(order.tolist()) == list(range(23))
    rows = [order[i::5].tolist() for i in range(5)]
    assert all(row == list(range(row[0], row[0] + len(row))) for row in rows)
    assert [len(row) for row in rows] == [5, 5, 5, 4, 4]


def test_the_ends_of_a_curve_have_the_perplexities_of_its_networks() -> None:
    data, ends = windows(), [built(0), built(1)]
    row: Any = connectivity(
        ends, data, rng(), epochs=2, batch_size=5, points=3, lr=0.1, momentum=0.5
    ).rows
    for place, module in ((0, ends[0]), (-1, ends[1])):
        own = perplexity([module], data, rng())
        for split in ("train", "test"):
            assert row[f"{split}_perplexity"][place] == pytest.approx(
                own[f"{split}_perplexity"], rel=1e-12
            )


def test_a_curve_without_bends_is_the_segment_with_the_state_carried_at_each_point() -> None:
    data, ends = windows(), [built(0), built(1)]
    row: Any = connectivity(ends, data, rng(), bends=0, points=5).rows
    assert (row["num_bends"], row["final_curve_loss"]) == (0, None)
    assert row["length_ratio"] == pytest.approx(1, rel=1e-12)
    a, b = (parameters_to_vector(module.parameters()).detach() for module in ends)
    middle = built()
    vector_to_parameters(0.75 * a + 0.25 * b, middle.parameters())
    expected = loss_in_one_pass(middle, data.train_inputs, data.train_labels)
    assert row["train_loss"][1] == pytest.approx(expected, rel=1e-12)


def test_losses_that_are_no_cross_entropy_have_no_perplexity() -> None:
    data, ends = replace(windows(), objective=Criterion(mse)), [built(0), built(1)]
    row: Any = connectivity(ends, data, rng(), bends=0, points=3).rows
    assert row["train_perplexity"] is row["test_perplexity"] is None
    assert None not in row["train_loss"]
    alone: Any = perplexity([built(0)], data, rng())
    assert alone["train_perplexity"] is alone["test_perplexity"] is None


def test_bends_train_on_streams_with_the_state_carried() -> None:
    data, ends = windows(), [built(0), built(1)]
    args: dict[str, Any] = {"epochs": 1, "batch_size": 5, "lr": 0.0 + 1e-12, "weight_decay": 0.0}
    row: Any = connectivity(ends, data, rng(), points=3, **args).rows
    # With a rate of nothing the loss of the epoch is that of points of the segment, one a batch.
    a, b = (parameters_to_vector(module.parameters()).detach() for module in ends)
    t = torch.rand(12, generator=rng(), dtype=torch.float64)
    order, module, total = side_by_side(60, 5).split(5), built(), 0.0
    state = module.start(5)
    for share, chosen in zip(t, order, strict=True):
        vector_to_parameters((1 - share) * a + share * b, module.parameters())
        logits, state = module(data.train_inputs[chosen], state.detach())
        target = data.train_labels[chosen].flatten()
        total += float(cross_entropy(logits.flatten(0, 1), target).detach()) / 12
    assert row["final_curve_loss"] == pytest.approx(total, rel=1e-9)


def mean_loss(module: Lstm, inputs: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(module(inputs).flatten(0, 1), labels.flatten())


def test_the_hessian_is_that_of_the_mean_loss_of_windows_read_alone() -> None:
    data, module = windows(), built()
    inputs, labels = draw_examples(data, 9, 0)
    parameters = [*module.parameters()]
    gradient = torch.autograd.grad(mean_loss(module, inputs, labels), parameters, create_graph=True)
    flat = torch.cat([part.flatten() for part in gradient])
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True) for entry in flat]
    H = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    values = torch.linalg.eigvalsh(H)
    row: dict[str, Any] = hessian(
        [module], data, rng(), examples=9, steps=len(flat), density_probes=1
    )
    assert row["hvp_method"] == "double_backward"
    assert row["num_examples"] == 9
    expected = float(mean_loss(module, inputs, labels).detach())
    assert row["loss"] == pytest.approx(expected, rel=1e-12)
    assert row["lambda_max"] == pytest.approx(float(values[-1]), rel=1e-9)
    assert row["lambda_min"] == pytest.approx(float(values[0]), rel=1e-6, abs=1e-9)
    assert abs(row["trace"] - float(H.trace())) <= 4 * row["trace_stderr"] + 1e-9


def test_a_network_is_like_itself_and_layers_are_compared_at_one_word_a_window() -> None:
    data, module = windows(), built()
    layers = ("softmax", "given.0", "embedding")
    rows: Any = cka([module, module], data, rng(), examples=30, mixup_alpha=None, layers=layers)
    assert [row["num_features"] for row in rows] == [WORDS, 3, 2]
    assert all(row["cka"] == pytest.approx(1, rel=1e-12) for row in rows)
    other: Any = cka([module, built(1)], data, rng(), examples=30, mixup_alpha=None)
    assert 0 < other[0]["cka"] < 1


def test_mixup_mixes_embedded_words() -> None:
    module, inputs = built(), windows().train_inputs[:6]
    shares = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0]).double()
    mixed = module.forward_mixed(inputs, inputs.flip(0), shares)
    expected = torch.where(shares.view(-1, 1, 1) == 1, module(inputs), module(inputs.flip(0)))
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-14)
    rows: Any = cka([module, built(1)], windows(), rng(), examples=30)
    assert 0 < rows[0]["cka"] < 1


def test_distance_slice_and_simplex_take_running_text() -> None:
    data, ends = windows(), [built(0), built(1)]
    a, b = (parameters_to_vector(module.parameters()).detach() for module in ends)
    row: dict[str, Any] = distance(ends, data, rng())
    assert row["l2_distance"] == pytest.approx(float((a - b).norm()), rel=1e-12)
    line: dict[str, Any] = loss_slice(ends[:1], data, rng(), points=3, examples=10, test=False)
    assert line["train_loss"][1][1] == pytest.approx(line["centre_loss"], rel=1e-12)
    found: Any = simplex(ends, data, rng(), connectors=1, samples=2, epochs=1, batch_size=10)
    assert found


def test_an_ensemble_of_one_network_reads_the_text_as_that_network_does() -> None:
    data, module = windows(), built()
    row: Any = ensemble([module], data, rng())
    expected: Any = perplexity([module], data, rng())
    for split in ("train", "test"):
        assert math.exp(row[f"{split}_loss"]) == pytest.approx(
            expected[f"{split}_perplexity"], rel=1e-12
        )


def test_a_plane_has_the_losses_of_its_curve_at_the_ends() -> None:
    data, ends, args = windows(), [built(0), built(1)], {"epochs": 2, "lr": 0.1, "batch_size": 5}
    found: Any = connectivity(ends, data, rng(), points=3, **args)
    curve = Source(
        found.artifacts["curve"], "curve", "connectivity", {**asdict(ConnectivityArgs()), **args}
    )
    row: Any = plane(ends, data, rng(), [curve], points=3, margin=0.0)
    losses = [loss for line in row["train_loss"] for loss in line]
    for end in (0, -1):
        assert min(abs(loss - found.rows["train_loss"][end]) for loss in losses) < 1e-9


def test_some_windows_are_drawn_as_they_follow_one_another() -> None:
    language, pictures = (operations_of(task) for task in ("language", "classification"))
    drawn = draw_some(language, 50, 8, rng())
    assert drawn.tolist() == list(range(int(drawn[0]), int(drawn[0]) + 8))
    assert draw_some(language, 5, 8, rng()).tolist() == list(range(5))
    others = draw_some(pictures, 50, 8, rng())
    assert others.tolist() == torch.randperm(50, generator=rng())[:8].sort().values.tolist()
    starts = {
        int(draw_some(language, 50, 48, torch.Generator().manual_seed(s))[0]) for s in range(40)
    }
    assert starts == {0, 1, 2}


def test_windows_out_of_order_are_refused_as_data() -> None:
    data = windows()
    assert data.operations.mistakes(data) == []
    shuffled = replace(data, train_inputs=data.train_inputs.flip(0))
    assert "labels are not the word after their input" in data.operations.mistakes(shuffled)[0]
    beyond = replace(data, num_classes=6, form=replace(data.form, vocabulary=6))  # type: ignore[type-var]
    assert "words run from 0 to 6; allowed: 0 to 5" in data.operations.mistakes(beyond)[0]
    short = replace(data, test_labels=data.test_labels[:, :3])
    assert (
        "test_labels are torch.int64 (20, 3), not int64 (N, 4)"
        in data.operations.mistakes(short)[0]
    )
    assert (
        "running text needs a phasegrid.declare.Windows"
        in data.operations.mistakes(replace(data, form=None))[0]
    )
