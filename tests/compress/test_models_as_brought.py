"""Models as users bring them: packed by torch, answering with tuples, with a state of their own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import compress


def packed() -> nn.Module:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    return torch.ao.quantization.quantize_dynamic(net, {nn.Linear})  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore")  # torch's own, about torch.ao
def test_weights_that_torch_packed_are_not_counted_as_none() -> None:
    with pytest.raises(ValueError, match="packed"):
        compress.macs(packed(), torch.zeros(1, 8))
    found = compress.report(packed(), torch.zeros(1, 8), runs=2)
    assert (found.parameters, found.nonzero, found.macs) == (None, None, None)


@given(
    st.sampled_from([(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)]),
    *(st.integers(1, 5) for _ in range(3)),
)
def test_models_that_answer_with_tuples_are_counted(
    kind: tuple[type[nn.Module], int], inputs: int, hidden: int, length: int
) -> None:
    layer, gates = kind
    expected = length * gates * hidden * (inputs + hidden)
    net: Any = layer(inputs, hidden)
    assert compress.macs(net, torch.zeros(length, 1, inputs)) == expected
    assert compress.report(net, torch.zeros(length, 1, inputs), runs=2).macs == expected


def test_a_tuple_is_exported_under_names(tmp_path: Path) -> None:
    net, x = nn.LSTM(3, 2, batch_first=True), torch.randn(2, 4, 3)

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"states": self.net(x)[0]}

    with pytest.raises(compress.ExportError, match="forward returns a tensor"):
        compress.to_exported(net, x, tmp_path / "a.pt2")
    compress.to_exported(Named(), x, tmp_path / "b.pt2")  # as the message says
    said = compress.load_exported(tmp_path / "b.pt2")(x)
    assert torch.allclose(said["states"], net(x)[0], atol=1e-5)


class Own(nn.Linear):
    """A layer whose state says more than its weights."""

    def get_extra_state(self) -> dict[str, int]:
        return {"seen": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


def test_extra_state_is_no_shape_of_a_plan() -> None:
    net, x = nn.Sequential(Own(3, 8), nn.ReLU(), Own(8, 2)), torch.randn(5, 3)
    wide = copy.deepcopy(net)
    plan = compress.prune_channels(net, x, 0.5)
    assert plan["shapes"] == {"0.weight": [4, 3], "0.bias": [4], "2.weight": [2, 4]}
    compress.shrink(wide, plan)
    wide.load_state_dict(net.state_dict())
    assert torch.equal(wide(x), net(x))


@given(st.sampled_from([torch.uint8, torch.int64, torch.float32, torch.bfloat16]))
def test_masks_are_booleans(kind: torch.dtype) -> None:
    net, kept = nn.Linear(4, 3), torch.rand(3, 4) < 0.5
    before = net.weight.clone()
    with pytest.raises(TypeError, match=r"mask\.bool\(\)"):
        compress.Masks({"weight": kept.to(kind)}).apply(net)
    assert torch.equal(net.weight, before)
    compress.Masks({"weight": kept.to(kind).bool()}).apply(net)
    assert torch.equal(net.weight, before * kept)


def test_complex_inputs_are_not_read_as_real_ones() -> None:
    net = nn.Linear(4, 3, dtype=torch.complex64)
    batches = [{"inputs": torch.randn(8, 4, dtype=torch.complex64)}]
    with pytest.raises(TypeError, match="complex"):
        compress.wanda(net, batches, 0.5)
    with pytest.raises(TypeError, match="complex"):
        compress.refit(net, compress.magnitude(net, 0.5), batches)


@given(st.sampled_from([torch.complex64, torch.complex128]))
def test_complex_weights_of_each_width_are_written_or_refused(kind: torch.dtype) -> None:
    import tempfile

    net = nn.Module()
    net.register_buffer("b", torch.ones(64, dtype=torch.complex64).to(kind))
    assert compress.file_bytes(net) > 64 * kind.itemsize
    with tempfile.TemporaryDirectory() as folder:
        path, plan = Path(folder) / "net.safetensors", compress.plan_of(net, net)
        if kind == torch.complex64:
            compress.save_pruned(net, path, plan)
        else:
            with pytest.raises(ValueError, match="safetensors"):
                compress.save_pruned(net, path, plan)
            assert not path.exists()


def test_a_loss_of_unit_scores_is_a_scalar_tensor() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=8,
    )  # fmt: skip
    net = transformers.BertForSequenceClassification(config)
    batch = {"input_ids": torch.ones(2, 3, dtype=torch.long)}
    for loss in (lambda m, b: m(**b).logits.sum().item(), lambda m, b: m(**b).logits):
        with pytest.raises(TypeError, match="scalar tensor"):
            compress.unit_scores(net, [batch], loss)


@pytest.mark.filterwarnings("ignore")  # torch's own, about sparse tensors
def test_sparse_weights_are_named() -> None:
    net = nn.Sequential(nn.Linear(8, 4))
    net[0].weight = nn.Parameter(net[0].weight.detach().to_sparse_csr(), False)
    with pytest.raises(ValueError, match="'0' is sparse"):
        compress.magnitude(net, 0.5)
    net[0].weight = nn.Parameter(net[0].weight.to_dense())  # as the message says
    assert compress.magnitude(net, 0.5).sparsity == 0.5


def test_channels_that_go_round_for_ever_are_refused() -> None:
    """The halves of rotary places change sides; what is cut beside them is cut."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 32}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads)).eval()
    batch = {"input_ids": torch.randint(20, (2, 5))}
    with pytest.raises(ValueError, match=r"v_proj cannot be cut.* at ever new places"):
        compress.prune_channels(model, batch, 0.5)
    for layer in model.model.layers:
        assert layer.mlp.gate_proj.weight.shape == (32, 16)
    names = [f"model.layers.{i}.mlp.gate_proj" for i in range(2)]
    compress.prune_channels(model, batch, dict.fromkeys(names, 0.75))
    for layer in model.model.layers:
        assert layer.mlp.gate_proj.weight.shape == layer.mlp.up_proj.weight.shape == (8, 16)
        assert layer.mlp.down_proj.weight.shape == (16, 8)
    assert model(**batch).logits.shape == (2, 5, 20)
