"""One weight used twice is one weight, whatever is done to it."""

from __future__ import annotations

import contextlib
import copy
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from distill_lib import KD, compress, distill
from distill_lib.checkpoints import CheckpointError
from distill_lib.ties import copied, memory, ties, turned


class Net(nn.Module):
    """Two layers of one shape, a third between them, and an embedding before."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(2 * width, width)
        make = nn.Linear if kind != "conv" else (lambda i, o, bias: nn.Conv1d(i, o, 1, bias=bias))
        self.a = make(width, 2 * width, bias=True)
        self.mid = make(2 * width, width, bias=False)
        self.b = make(width, 2 * width, bias=True)
        self.kind = kind
        if kind == "module":
            self.b = self.a
        elif kind == "table":
            self.b.weight = self.table.weight
        elif kind == "data":
            self.b.weight = nn.Parameter(self.a.weight)
        else:
            self.b.weight = self.a.weight

    def forward(self, inputs: Tensor) -> Tensor:
        h = self.table(inputs)
        if self.kind == "conv":
            h = h.mT
        return self.b(self.mid(self.a(h).tanh()).tanh())


KINDS = ("same", "data", "module", "table", "conv")
LAYERS = {k: ("a", "mid", "b", *(("table",) if k == "table" else ())) for k in KINDS}


def untied(model: nn.Module) -> nn.Module:
    """The same function, each use with a weight of its own."""
    found, seen = copy.deepcopy(model), set()
    for name, module in list(found.named_modules(remove_duplicate=False)):
        if module in seen:
            setattr(found, name, copy.deepcopy(module))
        seen.add(module)
    for name in ties(found):
        owner, _, leaf = name.rpartition(".")
        module = found.get_submodule(owner)
        setattr(module, leaf, nn.Parameter(getattr(module, leaf).detach().clone()))
    assert not ties(found)
    return found


def pruned(model: nn.Module, layers, bits: int) -> nn.Module:
    return compress.magnitude(model, bits / 10, "row", layers).apply(model)


def pruned_by_layer(model: nn.Module, layers, bits: int) -> nn.Module:
    return compress.magnitude(model, bits / 10, "layer", layers).apply(model)


def shared(model: nn.Module, layers, bits: int) -> nn.Module:
    compress.share(model, bits, layers)
    return model


def rounded(model: nn.Module, layers, bits: int) -> nn.Module:
    return compress.qat(model, bits, None, layers=layers)


def integers(model: nn.Module, layers, bits: int) -> nn.Module:
    return compress.convert(rounded(model, layers, bits))


METHODS: dict[str, Callable[..., nn.Module]] = {
    "prune rows": pruned,
    "prune layers": pruned_by_layer,
    "share": shared,
    "round": rounded,
    "integers": integers,
    "share, bake": lambda *a: compress.bake(shared(*a)),
    "round, bake": lambda *a: compress.bake(rounded(*a)),
    "integers, bake": lambda *a: compress.bake(integers(*a)),
    "prune, share, bake": lambda m, layers, bits: compress.bake(
        shared(pruned(m, layers, bits), layers, bits)
    ),
}


def is_tied(model: Net) -> bool:
    other = model.table if model.kind == "table" else model.a
    return torch.equal(model.b.weight, other.weight) and (
        len({memory(p) for p in model.parameters()}) < len([*untied(model).parameters()])
    )


@settings(max_examples=60)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(sorted(METHODS)),
    st.integers(2, 6),
    st.sampled_from([4, 8]),
    st.integers(0, 99),
)
def test_a_tied_weight_stays_tied_and_is_what_it_would_be_alone(
    kind: str, method: str, bits: int, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    model = Net(kind, width)
    twin, x = untied(model), torch.randint(0, 2 * width, (3, 5))
    METHODS[method](model, LAYERS[kind], bits)
    METHODS[method](twin, LAYERS[kind], bits)
    torch.testing.assert_close(model(x), twin(x))
    assert is_tied(model)
    weight = 2 * width * width
    counted = [compress.report(one, x, runs=2).parameters for one in (model, twin)]
    bias = 2 * width if kind == "module" else 0
    assert counted[1] - counted[0] == weight + bias
    assert compress.file_bytes(model) < compress.file_bytes(twin)


@settings(max_examples=15)
@given(st.sampled_from(KINDS), st.sampled_from(["share", "round", "prune rows"]), st.integers(0, 9))
def test_a_tied_weight_is_tied_after_training_and_in_files(
    kind: str, method: str, seed: int
) -> None:
    torch.manual_seed(seed)
    model, x = Net(kind, 4), torch.randint(0, 8, (6, 5))
    METHODS[method](model, LAYERS[kind], 3)
    distill(model, untied(Net(kind, 4)), [{"inputs": x}] * 3, KD(), epochs=1, lr=1e-2)
    assert is_tied(model)
    plain = compress.bake(model)
    with tempfile.TemporaryDirectory() as folder:
        size = compress.save_packed(plain, f"{folder}/m")
        assert size < compress.save_packed(untied(plain), f"{folder}/twice")
        again = compress.load_packed(Net(kind, 4), f"{folder}/m")
        apart = compress.load_packed(untied(Net(kind, 4)), f"{folder}/m")
        plan = {"shapes": {}, "sizes": {}}
        small = compress.save_pruned(plain, f"{folder}/m.safetensors", plan)
        assert small < compress.save_pruned(untied(plain), f"{folder}/2.safetensors", plan)
        more = compress.load_pruned(lambda: Net(kind, 4), f"{folder}/m.safetensors")
    assert is_tied(again) and is_tied(more)
    assert all(torch.equal(one(x), plain(x)) for one in (again, apart, more))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_two_weights_is_refused_by_a_model_of_one(kind: str, tmp_path: Path) -> None:
    other = untied(Net(kind, 4))
    with torch.no_grad():
        other.b.weight.add_(1)
    compress.save_packed(other, tmp_path / "m")
    compress.save_pruned(other, tmp_path / "m.safetensors", {"shapes": {}, "sizes": {}})
    model = Net(kind, 4)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match="one weight of the model, and two in the file"):
        compress.load_packed(model, tmp_path / "m")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(CheckpointError, match="one weight of the model, and two in the file"):
        compress.load_pruned(lambda: Net(kind, 4), tmp_path / "m.safetensors")


# ---- masks ----


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_counted_once_when_the_whole_network_is_pruned(kind: str) -> None:
    model = Net(kind, 8)
    masks = compress.magnitude(model, 0.5)
    masks.apply(model)
    assert sum(mask.numel() for mask in masks.values()) == (3 if kind == "table" else 2) * 128
    assert masks.sparsity == 0.5


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "module"])
def test_masks_hold_while_a_tied_weight_is_trained(kind: str) -> None:
    model, x = Net(kind, 4), torch.randint(0, 8, (6, 5))
    with compress.Pruned(model, compress.gradual(0.1, 0.5), steps=6, every=2) as run:
        distill(model, untied(Net(kind, 4)), [{"inputs": x}] * 3, KD(), epochs=2, lr=1e-2)
    for param, mask in run.masks.of(model).values():
        assert (param[~mask] == 0).all()
    assert is_tied(model)


def test_masks_know_every_name_of_a_weight() -> None:
    model = Net("same", 4)
    mask = torch.rand(8, 4) > 0.5
    compress.Masks({"b.weight": mask}).apply(model)
    assert (model.a.weight[~mask] == 0).all() and (model.a.weight[mask] != 0).all()


def test_wanda_weighs_a_weight_by_all_that_it_is_multiplied_by() -> None:
    torch.manual_seed(0)
    model = Net("table", 4)
    x = torch.randint(0, 8, (50, 3))
    seen: list[Tensor] = []
    handle = model.b.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    masks = compress.wanda(model, [{"inputs": x}], 0.5, "layer", ("b",))
    handle.remove()
    counts = x.flatten().bincount(minlength=8)[:, None].double()
    squares = seen[0].double().flatten(0, -2).square().sum(0)
    scores = {"w": model.b.weight.detach().abs() * (counts + squares).sqrt().float()}
    assert torch.equal(masks["table.weight"], compress.mask_lowest(scores, 0.5, "layer")["w"])


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "conv"])
def test_refit_answers_for_all_users_of_a_weight(kind: str) -> None:
    torch.manual_seed(0)
    model, x = Net(kind, 4), torch.randint(0, 8, (200, 2))
    dense = untied(model)
    users = [("a", 0), ("b", 0)] if kind != "table" else [("table", 0), ("b", 0)]
    inputs: dict[str, list[Tensor]] = {"a": [], "b": [], "table": []}
    handles = [getattr(dense, n).register_forward_pre_hook(
        lambda _, args, n=n: inputs[n].append(args[0])) for n in inputs]  # fmt: skip
    dense(x)
    for handle in handles:
        handle.remove()
    masks = compress.magnitude(model, 0.5, "row", ("b",))
    compress.refit(model, masks, [{"inputs": x}], 1e-9)
    assert is_tied(model)

    @torch.no_grad()
    def loss(weight: Tensor) -> float:
        found = 0.0
        for name, _ in users:
            layer = getattr(dense, name)
            for x_in in inputs[name]:
                was = layer(x_in)
                now = torch.func.functional_call(
                    layer, {"weight": weight.view_as(layer.weight)}, (x_in,)
                )
                found += float((was - now).square().sum())
        return found

    best = model.b.weight.detach()
    mask = next(iter(masks.values()))
    for _ in range(10):
        assert loss(best) <= loss(best + 0.02 * torch.randn_like(best) * mask) + 1e-6


# ---- what cannot follow ----


class Fused(nn.Module):
    """Weights that no linear layer and no convolution holds."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.up = nn.ConvTranspose1d(8, 8, 1)
        self.own = nn.Parameter(torch.randn(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        h = self.lstm(self.attention(inputs, inputs, inputs)[0])[0]
        return self.head(self.up(h.mT).mT @ self.own)


REST = ("attention.in_proj_weight (MultiheadAttention)", "lstm.weight_ih_l0 (LSTM)",
        "lstm.weight_hh_l0 (LSTM)", "up.weight (ConvTranspose1d)", "own (Fused)")  # fmt: skip


@pytest.mark.parametrize(
    "method",
    [
        lambda m: compress.magnitude(m, 0.5),
        lambda m: compress.random(m, 0.5),
        lambda m: compress.share(m, 2),
        lambda m: compress.qat(m, activation_bits=None),
        lambda m: compress.int8_weight_only(m),
    ],
    ids=["magnitude", "random", "share", "qat", "torchao"],
)
def test_what_a_method_does_not_reach_is_named(method) -> None:
    with warnings.catch_warnings(record=True) as caught, contextlib.suppress(ModuleNotFoundError):
        warnings.simplefilter("always")
        method(Fused())
        text = " ".join(str(one.message) for one in caught)
        assert all(name in text for name in REST), text


def test_a_layer_that_is_never_called_is_named_by_qat_and_the_rest_is_calibrated() -> None:
    model, x = Fused(), torch.randn(4, 5, 8)
    with pytest.warns(UserWarning, match="leaves") as caught:
        compress.qat(model)
    assert "inputs of attention.out_proj as they are" in str(caught[-1].message)
    compress.calibrate(model, [{"inputs": x}])
    assert model(x).isfinite().all() and not hasattr(model.attention.out_proj, "input_rounding")


@pytest.mark.parametrize("build", [lambda: nn.LSTM(4, 4), lambda: nn.ConvTranspose2d(2, 2, 1)])
@pytest.mark.parametrize(
    "method",
    [lambda m: compress.magnitude(m, 0.5), lambda m: compress.share(m, 2), compress.qat],
)
def test_a_model_in_which_nothing_would_change_is_refused(build, method) -> None:
    with pytest.raises(ValueError, match=r"nothing to compress\. It has weight"):
        method(build())


class Auto(nn.Module):
    """A decoder that is the encoder transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 4), nn.Linear(4, 8)
        self.b.weight = nn.Parameter(self.a.weight.mT)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.b(self.a(inputs).relu())


def test_a_weight_and_its_transpose_are_pruned_as_one_and_else_refused() -> None:
    model, x = Auto(), torch.randn(50, 8)
    masks = compress.magnitude(model, 0.5)
    assert list(masks) == ["a.weight"] and masks.apply(model) is model
    assert torch.equal(model.b.weight, model.a.weight.mT)
    assert (model.b.weight == 0).float().mean() == 0.5
    assert compress.report(model, x, runs=2).parameters == 32 + 12
    before = copy.deepcopy(model.state_dict())
    for method in (
        lambda: compress.share(model, 2),
        lambda: compress.qat(model),
        lambda: compress.refit(model, masks, [{"inputs": x}]),
        lambda: compress.wanda(model, [{"inputs": x}], 0.5),
    ):
        with pytest.raises(ValueError, match=r"'a\.weight' is also 'b\.weight', of a Linear"):
            method()
    with pytest.raises(ValueError, match="a, b share a weight"):
        compress.prune_channels(model, x, 0.5)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert memory(copied(model).b.weight) != memory(model.b.weight)
    assert len({memory(p) for p in copied(model).parameters()}) == 3


class Thrice(Auto):
    """And once more as the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Linear(4, 8)
        self.c.weight = self.b.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.c(self.a(super().forward(inputs)).relu())


@pytest.mark.parametrize("build", [Auto, Thrice])
def test_a_weight_and_its_transpose_are_written_once(build, tmp_path: Path) -> None:
    model, x, path = build(), torch.randn(50, 8), tmp_path / "packed"
    assert turned(model) == {"b.weight": ("a.weight", [1, 0])}
    size = compress.save_packed(model, path)
    assert size + 100 < compress.save_packed(untied(model), tmp_path / "twice")
    for fresh in (build(), untied(build())):  # whether the other ties them or not
        found = compress.load_packed(fresh, path)
        assert torch.equal(found(x), model(x))
        assert torch.equal(found.b.weight, model.a.weight.mT)
    plan = compress.plans.plan_of(model, model)
    size = compress.save_pruned(model, tmp_path / "a.safetensors", plan)
    assert size + 100 < compress.save_pruned(untied(model), tmp_path / "b.safetensors", plan)
    for fresh in (build, lambda: untied(build())):
        assert torch.equal(compress.load_pruned(fresh, tmp_path / "a.safetensors")(x), model(x))


@pytest.mark.parametrize("order", [[0, 1], [1, 1], [1, 0, 2], ["1", 0], None, "10", [True, 0]])
def test_a_file_with_a_wrong_order_of_axes_is_refused(order, tmp_path: Path, monkeypatch) -> None:
    wrong = {"b.weight": ["a.weight", order]}
    monkeypatch.setattr(compress.packing, "once_written", lambda model: wrong)
    compress.save_packed(Auto(), tmp_path / "packed")
    with pytest.raises(CheckpointError):
        compress.load_packed(Auto(), tmp_path / "packed")


def test_onnx_writes_a_weight_and_its_transpose_once(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")

    class Wide(Auto):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(64, 32), nn.Linear(32, 64)
            self.b.weight = nn.Parameter(self.a.weight.mT)

    model, x = Wide(), torch.randn(2, 64)
    found = compress.to_onnx(model, x, tmp_path / "once.onnx")
    compress.to_onnx(untied(model), x, tmp_path / "also.onnx")
    sizes = [(tmp_path / name).stat().st_size for name in ("once.onnx", "also.onnx")]
    assert sizes[0] == sizes[1] < 4 * (64 * 32 + 96) + 2000
    assert torch.allclose(found(x)["logits"], model(x), atol=1e-5)


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_weight_that_is_normalized_is_refused(norm) -> None:
    model = nn.Sequential(nn.Linear(4, 4), norm(nn.Linear(4, 4)))
    state = copy.deepcopy(model.state_dict())
    for method in (
        lambda: compress.magnitude(model, 0.5),
        lambda: compress.share(model, 2),
        lambda: compress.qat(model),
        lambda: compress.prune_channels(model, torch.randn(2, 4), 0.5),
    ):
        with pytest.raises(ValueError, match=r"'1' is computed from something else.*remove_param"):
            method()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


# ---- what the user set ----


@pytest.mark.parametrize("method", [shared, rounded, integers])
def test_frozen_weights_are_frozen_after_and_modes_stay(method) -> None:
    model = Net("same", 4)
    model.a.weight.requires_grad_(False)
    model.mid.eval()
    compress.bake(method(model, None, 3))
    assert not model.a.weight.requires_grad and model.mid.weight.requires_grad
    assert model.training and not model.mid.training


# ---- numbers of 16 bits ----


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_half_precision_is_rounded_as_its_float_is(dtype: torch.dtype, scale: float) -> None:
    torch.manual_seed(0)
    weight = (scale * torch.randn(8, 6)).to(dtype)
    model, wide = nn.Linear(6, 8, bias=False).to(dtype), nn.Linear(6, 8, bias=False)
    for one in (model, wide):
        with torch.no_grad():
            one.weight.copy_(weight)
    for method in (rounded, integers, lambda *a: compress.bake(rounded(*a)), shared):
        mine, theirs = method(copy.deepcopy(model), None, 6), method(copy.deepcopy(wide), None, 6)
        assert mine.weight.dtype == dtype
        error = (mine.weight.float() - theirs.weight).abs().max() / weight.float().abs().max()
        assert error <= torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refitted_with_inputs_whose_squares_are_beyond_it(dtype) -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 4).to(dtype)
    x = (300 * torch.randn(64, 8)).to(dtype)
    compress.refit(model, compress.magnitude(model, 0.5), [{"inputs": x}])
    assert model.weight.isfinite().all() and model.weight.count_nonzero() == 16
    assert compress.wanda(model, [{"inputs": x}], 0.5).sparsity == 0.5


@pytest.mark.parametrize("kind", ["same", "data", "table"])
def test_torchao_keeps_a_tie(kind: str) -> None:
    pytest.importorskip("torchao")
    model, x = Net(kind, 16), torch.randint(0, 32, (2, 3))
    if kind == "table":
        with pytest.warns(UserWarning, match=r"leaves as they are: b\.weight \(Linear\)"):
            found = compress.int8_weight_only(model)
        assert found.b.weight is found.table.weight and found.a.weight is not model.a.weight
    else:
        found = compress.int8_weight_only(model)
        assert found.a.weight is found.b.weight
    torch.testing.assert_close(found(x), model(x), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_holds_a_tied_weight_once(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    model, x = Net(kind, 96), torch.randint(0, 128, (2, 5))  # the exporter unfolds small tables
    compress.to_onnx(model, x, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_size < compress.file_bytes(untied(model))


def test_heads_of_layers_that_share_their_weights_are_cut_alike_or_not_at_all(
    tmp_path: Path,
) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=8,
    )  # fmt: skip

    def bert(module: bool = False) -> nn.Module:
        model = transformers.BertForMaskedLM(config).eval()
        first, second = model.bert.encoder.layer
        if module:
            model.bert.encoder.layer[1] = first
        for name, param in [] if module else [*first.named_parameters()]:
            owner, _, leaf = name.rpartition(".")
            setattr(second.get_submodule(owner), leaf, param)
        return model

    ids = torch.randint(0, 20, (2, 5))
    for module in (True, False):
        model = bert(module)
        twin = untied(model)
        plan = compress.prune_transformer(model, heads=0.5, ffn=0.5)
        compress.prune_transformer(twin, heads=0.5, ffn=0.5)
        torch.testing.assert_close(model(input_ids=ids).logits, twin(input_ids=ids).logits)
        assert ties(model).keys() == ties(bert(module)).keys()
        compress.save_pruned(model, tmp_path / "m.safetensors", plan)
        again = compress.load_pruned(lambda m=module: bert(m), tmp_path / "m.safetensors").eval()
        assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
        assert ties(again) == ties(model)
    config.intermediate_size = 8  # the models that were cut have said theirs
    model = bert()
    before = copy.deepcopy(model.state_dict())
    reads = [f"bert.encoder.layer.{i}.output.dense" for i in range(2)]
    scores = dict(zip(reads, (torch.arange(8.0), -torch.arange(8.0)), strict=True))
    with pytest.raises(ValueError, match="would be cut differently: give them equal scores"):
        compress.prune_transformer(model, ffn=0.5, scores=scores)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_torch_pruning_cannot_follow_is_refused_and_whole() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.scale = (
                nn.Linear(4, 8),
                nn.Linear(8, 3),
                nn.Parameter(torch.ones(8)),
            )

        def forward(self, inputs: Tensor) -> Tensor:
            return self.b(self.a(inputs) * self.scale)

    model, x = Scaled(), torch.randn(3, 4)
    said, params = model(x), list(model.parameters())
    with pytest.raises(ValueError, match=r"cannot be asked any more.*Leave the layers around it"):
        compress.prune_channels(model, x, 0.5)
    assert all(a is b for a, b in zip(params, model.parameters(), strict=True))
    assert torch.equal(model(x), said) and model.a.out_features == 8


def test_ranges_are_as_they_were_where_they_cannot_be_measured() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4)), torch.randn(5, 4)
    compress.calibrate(compress.qat(model), [{"inputs": x}])
    said = model.eval()(x)
    for batches in ([], [{"inputs": torch.randn(5, 3)}]):
        with pytest.raises((ValueError, RuntimeError)):
            compress.calibrate(model, batches)
    assert torch.equal(model(x), said)
