"""The Transformer: its parameter count, an independent twin, masks, double backward, mixing, and
what it refuses.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.utils.flop_counter import FlopCounterMode

from phasegrid import load_sweep
from phasegrid.datasets.translation.load import as_tensors
from phasegrid.declare import DatasetFacts, Tokens
from phasegrid.errors import DataError, Mistake, SweepError
from phasegrid.estimates import Workload
from phasegrid.jobs import Part
from phasegrid.models.build import build_model
from phasegrid.models.counting import count_work
from phasegrid.models.transformer import Transformer, make, positions
from phasegrid.plan.plan import make_plan
from phasegrid.tasks.scoring import Scoring
from phasegrid.tasks.tokens import END, PADDING, START
from phasegrid.tasks.translation import OPERATIONS

SMALL = Tokens(9, 12, 11)
ARGS: dict[str, Any] = {"width": 8, "depth": 2, "heads": 2, "feed_forward": 3}


def part(**changes: Any) -> Part:
    return Part("transformer", 1, {**ARGS, **changes})


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return Scoring("translation").mean(logits, labels, labels)


def built(seed: int = 0, tokens: Tokens = SMALL, **changes: Any) -> Transformer:
    """Build a small network in float64, eval mode, whose norms and biases are not at their
    beginning.
    """
    shape = (2, tokens.length)
    module = build_model(
        part(**changes), shape, tokens.target_vocabulary, seed, "translation", tokens
    ).double()
    rng = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.dim() == 1:
            parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=rng).double())
    assert isinstance(module, Transformer)
    return module.eval()


def pairs(num: int = 5, tokens: Tokens = SMALL, longest: int = 6) -> tuple[Tensor, Tensor]:
    """Draw pairs of 1 to `longest` words, padded to the length of `tokens`."""
    rng = torch.Generator().manual_seed(7)

    def sentences(vocabulary: int) -> list[list[int]]:
        sizes = torch.randint(1, longest + 1, (num,), generator=rng).tolist()
        return [torch.randint(4, vocabulary, (n,), generator=rng).tolist() for n in sizes]

    source, target = sentences(tokens.source_vocabulary), sentences(tokens.target_vocabulary)
    return as_tensors(source, target, tokens.length)


# size


@pytest.mark.parametrize(("width", "body"), [(64, 700_672), (128, 2_777_600), (512, 44_140_544)])
def test_it_has_the_published_number_of_parameters(width: int, body: int) -> None:
    """Six layers, eight heads, vocabularies S and T: 168 d^2 + 196 d + S d + T (2d + 1)."""
    source, target = 3021, 2501
    with torch.device("meta"):
        module = make(Tokens(20, source, target), width=width)
    found = sum(parameter.numel() for parameter in module.parameters())
    assert 168 * width**2 + 196 * width == body
    assert found == body + source * width + target * (2 * width + 1)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("length", [1, 7])
def test_counts_in_closed_form_are_those_of_the_built_network(depth: int, length: int) -> None:
    tokens = Tokens(length, 50, 60)
    with torch.device("meta"):
        module = make(tokens, width=12, depth=depth, heads=3, feed_forward=2).eval()
    with FlopCounterMode(display=False) as counter:
        module(torch.empty(1, 2, length, dtype=torch.int64, device="meta"))
    facts = DatasetFacts(10, 10, (2, length), 60, "translation", tokens, float(length))
    expected = sum(p.numel() for p in module.parameters()), counter.get_total_flops()
    counts = count_work(part(width=12, depth=depth, heads=3, feed_forward=2), facts)
    assert counts is not None
    assert counts[:2] == expected


def test_layers_have_the_names_that_are_documented() -> None:
    names = dict(built().named_modules())
    for name in (
        "source_embedding",
        "target_embedding",
        "encoder.0.attention.query",
        "decoder.1.cross.key_value",
        "decoder.1.feed_forward.linear2",
        "encoder_norm",
        "decoder_norm",
        "classifier",
    ):
        assert name in names


# the beginning


def test_every_matrix_begins_uniform_with_the_variance_of_glorot() -> None:
    module = build_model(
        part(width=64, heads=8), (2, 9), 400, 3, "translation", Tokens(9, 300, 400)
    )
    matrices: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        parts = 2 if name.endswith("key_value.weight") else 1
        if parameter.dim() == 2:
            matrices |= {f"{name}/{i}": part for i, part in enumerate(parameter.chunk(parts))}
    assert len(matrices) == 2 + 1 + 2 * (4 + 2) + 2 * (8 + 2)
    for name, matrix in matrices.items():
        bound = math.sqrt(6 / sum(matrix.shape))
        assert matrix.abs().max().item() <= bound, name
        # at least 4,096 draws: the variance of a uniform law has a standard error below 1.4%
        assert matrix.var().item() == pytest.approx(bound**2 / 3, rel=0.07), name


def test_norms_begin_at_the_identity_and_biases_as_in_pytorch() -> None:
    module = build_model(part(), (2, 9), 11, 0, "translation", SMALL)
    assert torch.equal(module.get_parameter("encoder_norm.weight"), torch.ones(8))
    assert torch.equal(module.get_parameter("decoder.0.norm2.bias"), torch.zeros(8))
    bias = module.get_parameter("decoder.0.feed_forward.linear1.bias")
    assert 0 < bias.abs().max().item() <= 1 / math.sqrt(8)


def test_positions_are_those_of_the_formula() -> None:
    found = positions(7, torch.empty(6, dtype=torch.float64))
    for t in range(7):
        for i in range(6):
            angle = t / 10_000 ** (2 * (i // 2) / 6)
            expected = math.sin(angle) if i % 2 == 0 else math.cos(angle)
            assert found[t, i].item() == pytest.approx(expected, abs=1e-12)
    assert positions(4, torch.empty(5)).shape == (4, 5)


# what it computes


def copied(attention: nn.Module, twin: nn.Module) -> None:
    """Put the weights of an attention into PyTorch's own."""
    for kind in ("weight", "bias"):
        query, both = (attention.get_parameter(f"{n}.{kind}") for n in ("query", "key_value"))
        twin.get_parameter(f"in_proj_{kind}").data.copy_(torch.cat([query, both]))
    twin.get_submodule("out_proj").load_state_dict(attention.get_submodule("output").state_dict())


def twin_of(model: Transformer) -> nn.Transformer:
    """Build PyTorch's own Transformer with the same weights."""
    twin = nn.Transformer(
        8, 2, 2, 2, 24, dropout=0.0, batch_first=True, norm_first=True, dtype=torch.float64
    )
    for side, (layers, twins, norms) in {
        "encoder": (model.encoder, twin.encoder.layers, 2),
        "decoder": (model.decoder, twin.decoder.layers, 3),
    }.items():
        for layer, other in zip(layers, twins, strict=True):
            copied(layer.get_submodule("attention"), other.get_submodule("self_attn"))
            if side == "decoder":
                copied(layer.get_submodule("cross"), other.get_submodule("multihead_attn"))
            names = {f"norm{i}": f"norm{i}" for i in range(1, norms + 1)}
            names |= {f"linear{i}": f"feed_forward.linear{i}" for i in (1, 2)}
            for theirs, ours in names.items():
                other.get_submodule(theirs).load_state_dict(layer.get_submodule(ours).state_dict())
        norm = model.get_submodule(f"{side}_norm").state_dict()
        twin.get_submodule(f"{side}.norm").load_state_dict(norm)
    return twin.eval()


@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
def test_logits_are_those_of_pytorchs_own_transformer() -> None:
    model = built()
    twin = twin_of(model)
    inputs, labels = pairs()
    source, given = inputs.unbind(1)
    places = positions(9, torch.empty(8, dtype=torch.float64))
    with torch.no_grad():
        decoded = twin(
            model.source_embedding(source) * math.sqrt(8) + places,
            model.target_embedding(given) * math.sqrt(8) + places,
            tgt_mask=torch.ones(9, 9, dtype=torch.bool).triu(1),
            src_key_padding_mask=source == PADDING,
            tgt_key_padding_mask=given == PADDING,
            memory_key_padding_mask=source == PADDING,
        )
        expected = model.classifier(decoded)
        found = model(inputs)
    scored = labels >= 0
    assert scored.sum() > 15
    torch.testing.assert_close(found[scored], expected[scored], rtol=1e-11, atol=1e-12)


def test_a_word_sees_no_later_word() -> None:
    model = built()
    inputs, _ = pairs()
    inputs[:, 1] = torch.tensor([START, 4, 5, 6, 7, 8, 9, 10, 4])
    later = inputs.clone()
    later[:, 1, 5:] = torch.tensor([5, 5, 6, 0])
    before, after = model(inputs), model(later)
    torch.testing.assert_close(after[:, :5], before[:, :5], rtol=0, atol=1e-13)
    assert not torch.allclose(after[:, 5], before[:, 5])


def test_cutting_common_padding_changes_only_rounding() -> None:
    model = built()
    inputs, labels = pairs()
    cut, cut_labels = OPERATIONS.trim(inputs, labels)
    used = cut.shape[2]
    assert used < 9
    torch.testing.assert_close(model(inputs)[:, :used], model(cut), rtol=1e-12, atol=1e-13)
    assert mean_loss(model(inputs), labels).item() == pytest.approx(
        mean_loss(model(cut), cut_labels).item(), rel=1e-13
    )


def test_sentences_do_not_touch_each_other() -> None:
    model = built()
    inputs, labels = pairs()
    alone = torch.cat([model(pair[None]) for pair in inputs])
    torch.testing.assert_close(model(inputs), alone, rtol=1e-12, atol=1e-13)
    for i in range(len(inputs)):
        cut, _ = OPERATIONS.trim(inputs[i : i + 1], labels[i : i + 1])
        whole = alone[i : i + 1, : cut.shape[2]]
        torch.testing.assert_close(model(cut), whole, rtol=1e-12, atol=1e-13)


def test_padding_takes_no_part_in_the_loss() -> None:
    """Its embedding may be anything: loss and other gradients stay, and its own gradient is
    zero.
    """
    model = built()
    inputs, labels = pairs()
    loss = mean_loss(model(inputs), labels)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    for embedding in (model.source_embedding, model.target_embedding):
        embedding.weight.data[PADDING] = 100.0
    again = mean_loss(model(inputs), labels)
    assert again.item() == pytest.approx(loss.item(), rel=1e-13)
    for grad, other in zip(
        grads, torch.autograd.grad(again, list(model.parameters())), strict=True
    ):
        torch.testing.assert_close(grad, other, rtol=1e-9, atol=1e-12)
    names = [name for name, _ in model.named_parameters()]
    for name in ("source_embedding.weight", "target_embedding.weight"):
        assert grads[names.index(name)][PADDING].abs().max().item() == 0


def test_an_empty_pair_gives_finite_numbers_and_gradients() -> None:
    model = built()
    inputs, labels = pairs()
    inputs[2], labels[2] = PADDING, -100
    for dtype in (torch.float64, torch.float32):
        module = model.to(dtype)
        logits = module(inputs)
        assert torch.isfinite(logits).all()
        grads = torch.autograd.grad(mean_loss(logits, labels), list(module.parameters()))
        assert all(bool(torch.isfinite(grad).all()) for grad in grads)


def test_hessian_vector_products_are_differences_of_gradients() -> None:
    model = built(depth=1)
    inputs, labels = pairs(3)
    parameters = list(model.parameters())
    rng = torch.Generator().manual_seed(1)
    vector = [torch.randn(p.shape, generator=rng).double() for p in parameters]

    def gradients(shift: float) -> list[Tensor]:
        weights = {
            name: p.detach() + shift * v
            for (name, p), v in zip(model.named_parameters(), vector, strict=True)
        }
        leaves = {name: value.requires_grad_() for name, value in weights.items()}
        logits = functional_call(model, leaves, (inputs,))
        return list(torch.autograd.grad(mean_loss(logits, labels), list(leaves.values())))

    first = torch.autograd.grad(mean_loss(model(inputs), labels), parameters, create_graph=True)
    product = torch.autograd.grad(first, parameters, vector)
    step = 1e-6  # central differences: error of order step^2 + 1e-16 / step, relative to the size below
    for found, plus, minus in zip(product, gradients(step), gradients(-step), strict=True):
        torch.testing.assert_close(found, (plus - minus) / (2 * step), rtol=1e-4, atol=1e-6)


def test_stacked_models_give_under_vmap_what_each_gives_alone() -> None:
    models = [built(seed) for seed in (0, 1)]
    inputs, _ = pairs()
    parameters, buffers = stack_module_state(models)

    def call(p: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
        logits = functional_call(models[0], (p, b), (inputs,))
        assert isinstance(logits, Tensor)
        return logits

    stacked = vmap(call)(parameters, buffers)
    alone = torch.stack([model(inputs) for model in models])
    torch.testing.assert_close(stacked, alone, rtol=1e-10, atol=1e-12)


def test_no_layer_works_in_place() -> None:
    assert not any(getattr(module, "inplace", False) for module in built().modules())


def test_decoding_word_by_word_gives_what_the_whole_sentence_gives() -> None:
    model = built()
    inputs, _ = pairs()
    inputs[:, 1] = torch.tensor([START, 4, 5, 6, 7, 8, END, 9, 10])
    with torch.no_grad():
        step = model.start_decoding(inputs[:, 0])
        found = torch.stack([step(inputs[:, 1, t]) for t in range(9)], dim=1)
        expected = model(inputs)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


# mixing


def test_mixing_all_of_a_is_a() -> None:
    model = built()
    a, b = pairs()[0], pairs()[0].roll(1, 0)
    mixed = model.forward_mixed(a, b, torch.ones(5).double())
    torch.testing.assert_close(mixed, model(a), rtol=0, atol=0)


def test_mixing_pairs_of_the_same_lengths_goes_from_b_to_a() -> None:
    model = built()
    a, _ = pairs()
    b = torch.where(a > 3, (a - 4 + 1) % 7 + 4, a)
    torch.testing.assert_close(
        model.forward_mixed(a, b, torch.zeros(5).double()), model(b), rtol=1e-12, atol=1e-13
    )
    torch.testing.assert_close(
        model.forward_mixed(a, a, torch.full((5,), 0.3).double()), model(a), rtol=1e-12, atol=1e-13
    )


def test_where_one_is_padded_a_stays_as_it_is_and_masks_are_those_of_a() -> None:
    model = built()
    a, _ = pairs()
    nothing = torch.zeros_like(a)
    half = torch.full((5,), 0.5).double()
    torch.testing.assert_close(model.forward_mixed(a, nothing, half), model(a), rtol=0, atol=0)
    longer = torch.where(a == PADDING, 5, a)  # b goes on where a ends: that is not seen
    torch.testing.assert_close(
        model.forward_mixed(a, longer, half), model(a), rtol=1e-12, atol=1e-13
    )


def test_embeddings_are_mixed_by_each_pairs_own_coefficient() -> None:
    """A word of its own, whose embedding is the mixture, stands where the two words are mixed."""
    model = built()
    a = pairs(2)[0].clamp(max=9)
    a[:, 0, 0], a[:, 1, 1] = 4, 5
    b = a.clone()
    b[:, 0, 0], b[:, 1, 1] = 6, 7
    coefficients = torch.tensor([0.25, 0.8]).double()
    mixed = model.forward_mixed(a, b, coefficients)
    for i, c in enumerate(coefficients.tolist()):
        single = a[i : i + 1].clone()
        single[0, 0, 0], single[0, 1, 1] = 11, 10  # words that no sentence has
        source, target = model.source_embedding.weight.data, model.target_embedding.weight.data
        keep = source[11].clone(), target[10].clone()
        source[11] = c * source[4] + (1 - c) * source[6]
        target[10] = c * target[5] + (1 - c) * target[7]
        torch.testing.assert_close(mixed[i : i + 1], model(single), rtol=1e-11, atol=1e-12)
        source[11], target[10] = keep


# what is refused


def test_a_width_that_heads_do_not_divide_is_refused_in_planning_and_in_building() -> None:
    message = "building model transformer: found width 10 with 4 heads; allowed: a width divisible"
    with pytest.raises(DataError, match=message):
        build_model(part(width=10, heads=4), (2, 9), 11, 0, "translation", SMALL)
    with pytest.raises(DataError, match=message):
        count_work(
            part(width=10, heads=4), DatasetFacts(9, 9, (2, 9), 11, "translation", SMALL, 5.0)
        )


def test_a_model_for_another_kind_of_data_is_refused_in_planning_and_in_building() -> None:
    images = Part("resnet18", 1, {"width": 2})
    takes_images = "model resnet18 takes images or vectors, but the data set holds sentence pairs"
    takes_pairs = "model transformer takes sentence pairs, but the data set holds images"
    with pytest.raises(DataError, match=takes_images):
        build_model(images, (2, 9), 11, 0, "translation", SMALL)
    with pytest.raises(DataError, match=takes_images):
        count_work(images, DatasetFacts(9, 9, (2, 9), 11, "translation", SMALL, 5.0))
    with pytest.raises(DataError, match=takes_pairs):
        build_model(part(), (3, 32, 32), 10, 0)
    with pytest.raises(DataError, match=takes_pairs):
        count_work(part(), DatasetFacts(9, 9, (3, 32, 32), 10))


SWEEP = """schema: 1
name: tiny
dataset: {{name: {dataset}}}
model: {{name: {model}}}
train: {{epochs: 2}}
load: {{param: model.width, values: [{widths}]}}
temperature: {{param: train.batch_size, values: [1, 2]}}
seeds: 2
metrics: [accuracy]
"""


@pytest.fixture
def text_root(tmp_path: Path) -> Path:
    for name in ("train.de", "train.en", "test.de", "test.en"):
        (tmp_path / name).write_text("a b c .\nb c .\na .\n")
    return tmp_path


def sweep(root: Path, model: str, widths: str, dataset: str | None = None) -> Path:
    path = root / "sweep.yaml"
    data = f"translation, root: {root}" if dataset is None else dataset
    path.write_text(SWEEP.format(dataset=data, model=model, widths=widths))
    return path


def mistakes(path: Path) -> tuple[Mistake, ...]:
    with pytest.raises(SweepError) as caught:
        load_sweep(path)
    return caught.value.mistakes


def test_a_sweep_of_the_wrong_model_is_told_where_its_name_stands(text_root: Path) -> None:
    (found,) = mistakes(sweep(text_root, "resnet18", "1, 2"))
    assert (found.line, found.column, found.path) == (4, 15, "model.name")
    assert "the data set holds sentence pairs" in found.message
    (found,) = mistakes(sweep(text_root, "transformer", "8, 16", "digits"))
    assert (found.line, found.column, found.path) == (4, 15, "model.name")
    assert "takes sentence pairs, but the data set holds images" in found.message


def test_every_width_that_heads_do_not_divide_is_told(text_root: Path) -> None:
    found = mistakes(sweep(text_root, "transformer", "8, 12, 16, 20"))
    assert [(m.line, m.path) for m in found] == [(6, "model.width")] * 2
    assert "found width 12 with 8 heads" in found[0].message
    assert "found width 20 with 8 heads" in found[1].message


def test_missing_files_are_told_at_the_folder(tmp_path: Path) -> None:
    (found,) = mistakes(sweep(tmp_path, "transformer", "8"))
    assert found.path == "dataset.root"
    assert "found no files for 'train'" in found.message


def test_a_sweep_of_translations_is_planned_with_its_work(text_root: Path) -> None:
    cells = make_plan(load_sweep(sweep(text_root, "transformer", "8, 16"))).cells
    assert len(cells) == 4
    trial = cells[0].trials[0]
    assert trial.dataset.locators == {"root": str(text_root)}
    assert len(str(trial.dataset.args["sha256"])) == 64
    work = cells[0].work
    assert isinstance(work, Workload)
    assert work.num_train == work.num_test == 3
    assert work.labels_per_example == pytest.approx((5 + 4 + 3) / 3)
    tokens = Tokens(5, 8, 8)  # special words and four that occur twice
    args: Any = trial.model.args
    assert work.num_parameters == sum(p.numel() for p in make(tokens, **args).parameters())
