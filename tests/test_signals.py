"""signals: what a model says, by name."""

from __future__ import annotations

import copy
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from distill_lib import Match, capture, distill
from distill_lib.signals import accepts, as_batch, bring, call, layers_among, pick, place, tell


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


class Pair(nn.Module):
    """Says a tuple, as attention and recurrent layers do."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str]:
        return x + 1, "state"


# ---- pick ----


def test_a_tensor_is_the_logits() -> None:
    x = torch.randn(2, 3)
    assert pick(x, "logits") is x


@pytest.mark.parametrize("path", ["hidden/1", "deep/inner/0", "hidden/-1", "a/b"])
def test_paths_walk_into_tuples_and_mappings(path: str) -> None:
    x = torch.ones(1)
    signals = {"hidden": (torch.zeros(1), x), "deep": {"inner": [x]}, "a/b": x}
    assert pick(signals, path) is x


def test_outputs_of_transformers_are_signals() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    x, hidden = torch.randn(2, 3), (torch.zeros(1), torch.ones(1))
    said = outputs.SequenceClassifierOutput(logits=x, hidden_states=hidden)
    assert pick(said, "logits") is x
    assert pick(said, "hidden_states/1") is hidden[1]


@pytest.mark.parametrize(
    ("signals", "path", "words"),
    [
        ({"layer3": torch.ones(1)}, "layer4", r"student has no signal 'layer4'.*it has: layer3"),
        ({"layer3": torch.ones(1)}, "layer4", r"Did you mean 'layer3'\?"),
        (torch.ones(1), "hidden", r"it has: logits.*capture\(model, 'name'\)"),
        ({"h": (torch.ones(1),)}, "h/1", r"at '1' it has: 0\."),
        ({"h": torch.ones(1)}, "h/0", r"at '0' it has: nothing"),
        ({"h": (torch.ones(1),)}, "h", r"'h' is a tuple, not a tensor; go on with h/0"),
        ({}, "logits", r"it has: nothing"),
    ],
)
def test_an_unknown_signal_names_those_there_are(signals, path: str, words: str) -> None:
    with pytest.raises(KeyError, match=words):
        pick(signals, path, "student")


# ---- batches ----


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_pair_is_inputs_and_labels(kind) -> None:
    assert as_batch(kind(("x", "y"))) == {"inputs": "x", "labels": "y"}


def test_a_mapping_is_itself_and_nothing_is_empty() -> None:
    batch = OrderedDict(inputs=1)
    assert as_batch(batch) is batch
    assert as_batch(None) == {}


@pytest.mark.parametrize(
    ("bad", "words"), [((1, 2, 3), "tuple of 3"), ([1], "list of 1"), (torch.ones(2), "got Tensor")]
)
def test_other_batches_are_refused(bad, words: str) -> None:
    with pytest.raises(TypeError, match=rf"mapping or an \(inputs, labels\) pair.*{words}"):
        as_batch(bad)


# ---- call ----


def test_inputs_are_passed_alone() -> None:
    x = torch.randn(2, 3)
    model = net()
    assert torch.equal(call(model, {"inputs": x, "labels": 0, "index": 1}), model(x))


def test_other_batches_are_passed_by_keyword_without_their_description() -> None:
    class Model(nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return input_ids * attention_mask

    batch = {
        "input_ids": torch.full((1, 2), 3),
        "attention_mask": torch.tensor([[1, 0]]),
        "labels": 0,
        "index": 0,
        "mask": 0,
        "augmentation": "none",
    }
    assert call(Model(), batch).tolist() == [[3, 0]]


def test_forward_says_how() -> None:
    x = torch.randn(2, 3)
    model = net()
    said = call(model, {"pixels": x}, lambda m, batch: {"logits": m(batch["pixels"])})
    assert torch.equal(pick(said, "logits"), model(x))


def test_an_output_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match=r"returned a tuple.*forward=lambda"):
        call(Pair(), {"inputs": torch.ones(1)})


def test_place_moves_tensors_only() -> None:
    batch = {"inputs": torch.ones(1), "name": "x"}
    model = nn.Linear(1, 1, device="meta")
    moved = place(batch, model)
    assert moved["inputs"].device.type == "meta" and moved["name"] == "x"
    assert place(batch, nn.ReLU()) is batch


def test_bring_moves_tensors_wherever_they_are() -> None:
    x = torch.ones(1)
    said = {"logits": x, "deep": (x, {"inner": [x]}), "name": "x"}
    assert bring(said, torch.device("cpu")) is said and bring(x, torch.device("cpu")) is x
    moved = bring(said, torch.device("meta"))
    assert moved["logits"].is_meta and moved["deep"][1]["inner"][0].is_meta
    assert moved["name"] == "x" and not said["logits"].is_meta


# ---- capture ----


def test_layers_become_signals() -> None:
    model, x = net(), torch.randn(5, 3)
    said = capture(model, "0", "1")(x)
    assert list(said) == ["logits", "0", "1"]
    assert torch.equal(said["0"], model[0](x))
    assert torch.equal(said["logits"], model(x))


def test_own_signals_are_kept() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.body(x), "value": x.sum()}

    assert set(capture(Model(), "body")(torch.ones(1, 3))) == {"logits", "value", "body"}


def test_of_a_tuple_the_first_is_the_signal() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.pair(x)[0] * 2

    said = capture(Model(), "pair")(torch.zeros(2))
    assert said["pair"].tolist() == [1, 1] and said["logits"].tolist() == [2, 2]


def test_gradients_flow_through_a_captured_layer() -> None:
    model = net()
    capture(model, "0")(torch.randn(5, 3))["0"].sum().backward()
    assert model[0].weight.grad is not None and model[2].weight.grad is None


def test_release_takes_the_hooks_off() -> None:
    model = net()
    view = capture(model, "0")
    assert len(model[0]._forward_hooks) == 1
    view.release()
    assert not model[0]._forward_hooks


def test_nothing_is_kept_between_calls() -> None:
    view = capture(net(), "0")
    view(torch.randn(5, 3))
    assert view._seen == {}


def test_a_deep_copy_captures_its_own_layers() -> None:
    view = capture(net(), "0")
    twin, x = copy.deepcopy(view), torch.randn(5, 3)
    nn.init.zeros_(twin.model[0].weight)
    assert torch.equal(twin(x)["0"], twin.model[0](x))
    assert torch.equal(view(x)["0"], view.model[0](x))


def test_a_layer_that_was_not_used_is_an_error() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    with pytest.raises(RuntimeError, match=r"\['idle'\] were not used"):
        capture(Model(), "idle")(torch.ones(1, 2))


@pytest.mark.parametrize("name", ["layer3", ""])
def test_an_unknown_layer_names_those_there_are(name: str) -> None:
    model = nn.Sequential(OrderedDict(layer1=nn.Linear(2, 2), layer2=nn.Linear(2, 2)))
    with pytest.raises(KeyError, match=r"no layer .* it has layer1, layer2"):
        capture(model, name)


def test_an_unknown_layer_gets_a_suggestion_and_a_short_list() -> None:
    model = nn.Sequential(*[nn.ReLU() for _ in range(60)])
    with pytest.raises(KeyError, match=r"39, …\. Did you mean '59'\?"):
        capture(model, "599")


class Residual(nn.Module):
    """A block that adds in place to what its last layer said, as those of torchvision do."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.layer(x)
        if self.inplace:
            out += x
            return out.mul_(2)
        return (out + x) * 2


class OfTuple(nn.Module):
    """A layer that says a tuple, of which the first part is changed in place."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace, self.layer = inplace, nn.LSTM(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out, state = self.layer(x)
        return out.relu_() + state[0] if self.inplace else out.relu() + state[0]


BLOCKS = [
    lambda inplace: nn.ReLU(inplace),
    lambda inplace: nn.Hardtanh(-0.1, 0.1, inplace),
    lambda inplace: nn.Dropout(0.5, inplace).eval(),
    Residual,
    OfTuple,
    lambda inplace: nn.Sequential(nn.BatchNorm1d(4), nn.SiLU(inplace), nn.Linear(4, 4)),
]


@given(blocks=st.lists(st.integers(0, len(BLOCKS) - 1), min_size=1, max_size=4), data=st.data())
def test_a_layer_is_what_it_returned_whatever_follows(blocks: list[int], data) -> None:
    """Layers that work in place give the signals, the answer and the gradients of those that do
    not."""
    nets = []
    for inplace in (True, False):
        torch.manual_seed(0)
        nets.append(nn.Sequential(nn.Linear(4, 4), *[BLOCKS[i](inplace) for i in blocks]))
    names = [n for n, _ in nets[0].named_modules() if n]
    layers = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    x = torch.randn(5, 4)
    try:
        nets[0](x).sum().backward()
    except RuntimeError:
        reject()  # in-place layers that torch cannot differentiate in this order, captured or not
    nets[0].zero_grad()
    one, two = (capture(model, *layers)(x) for model in nets)
    assert list(one) == ["logits", *layers]
    for key, value in two.items():
        assert torch.equal(one[key], value), key
    for said in (one, two):
        sum((v**2).sum() for v in said.values()).backward()
    for mine, theirs in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        assert mine.grad is None or torch.allclose(mine.grad, theirs.grad, atol=1e-6)


def test_what_was_captured_leads_to_the_answer() -> None:
    """As maps of a layer's gradient need it."""
    said = capture(net(), "0")(torch.randn(5, 3))
    (grad,) = torch.autograd.grad(said["logits"].sum(), said["0"])
    assert grad.shape == (5, 4)


@given(calls=st.integers(1, 4))
def test_a_layer_that_is_called_several_times_has_a_signal_a_call(calls: int) -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.act = nn.Linear(3, 3), nn.ReLU(inplace=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(calls):
                x = self.act(self.layer(x))
            return x

    model, x = Again(), torch.randn(2, 3)
    said = capture(model, "layer", "act")(x)
    if calls == 1:
        assert torch.equal(said["act"], model(x))
        return
    for i in range(calls):
        assert torch.equal(pick(said, f"layer/{i}"), model.layer(x))
        x = pick(said, f"act/{i}")
    with pytest.raises(KeyError, match=r"'act' is a tuple, not a tensor; go on with act/0"):
        pick(said, "act")


def test_an_objective_names_one_of_several_calls() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(x))

    batches = [{"inputs": torch.randn(4, 3)} for _ in range(3)]
    history = distill(Again(), Again(), batches, Match("layer/0") + Match("layer/1"), epochs=1)
    assert len(history["match"]) == len(history["match_2"]) == 3
    with pytest.raises(KeyError, match="go on with layer/0"):
        distill(Again(), Again(), batches, Match("layer"), epochs=1)


class Saving(nn.Module):
    """Saves memory: what is inside the block is computed again in the backward pass."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first, self.head = how, nn.Linear(3, 4), nn.Linear(4, 2)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if self.how == "no grad":
            with torch.no_grad():
                x = self.block(x)
        elif self.how == "plain":
            x = self.block(x)
        else:
            x = checkpoint(self.block, x, use_reentrant=self.how == "reentrant")
        return self.head(x)


def test_a_layer_inside_a_checkpoint_has_its_gradient() -> None:
    nets = [Saving("plain"), Saving("not reentrant")]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(5, 3)
    for model in nets:
        view = capture(model, "block.0", "block.1")
        said = view(x)
        (said["block.0"] ** 2 + said["block.1"]).sum().backward()
        assert view._seen == {}
    assert torch.equal(nets[0].block[0].weight.grad, nets[1].block[0].weight.grad)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("how", ["reentrant", "no grad"])
@pytest.mark.parametrize("layer", ["block.0", "block.1", "block"])
def test_a_trained_layer_that_runs_without_gradient_is_refused(how: str, layer: str) -> None:
    model, x = Saving(how), torch.randn(5, 3)
    view = capture(model, layer)
    with pytest.raises(RuntimeError, match=rf"layer '{layer}' is trained.*use_reentrant=False"):
        view(x)
    with torch.no_grad():
        assert layer in view(x)  # a teacher is asked for no gradient
    model.block.requires_grad_(False)
    assert layer in view(x)  # a frozen part has none to lose


def test_layers_among_the_paths() -> None:
    assert layers_among(net(), ["logits", "2", "0", "2"]) == ("2", "0")
    assert layers_among(net(), ["hidden_states/2", "2/1", "2/0"]) == ("2",)


def test_accepts() -> None:
    assert accepts(lambda *, temperature: 0, "temperature")
    assert not accepts(lambda *, student: 0, "temperature")


# ---- signals of Hugging Face models ----


def configured(how: str = "eager") -> nn.Module:
    model = net()
    model.config = SimpleNamespace(  # type: ignore[assignment]
        output_hidden_states=False, output_attentions=False, _attn_implementation=how
    )
    return model


def test_a_model_is_asked_for_what_paths_name_and_set_back() -> None:
    model = configured()
    undo = tell(model, ["hidden_states/1", "logits", "2"])
    assert model.config.output_hidden_states and not model.config.output_attentions
    undo()
    assert not model.config.output_hidden_states
    tell(capture(model, "1"), ["attentions/0"])
    assert model.config.output_attentions


def test_attention_that_makes_no_maps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"by 'sdpa', which makes no maps; load it with attn_impl"):
        tell(configured("sdpa"), ["attentions/0"])
    tell(configured("sdpa"), ["hidden_states/0"])


def test_other_models_are_left_alone() -> None:
    tell(net(), ["hidden_states/1"])()
