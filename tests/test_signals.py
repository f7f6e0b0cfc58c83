"""signals: what a model says, by name."""

from __future__ import annotations

import copy
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from distill_lib import capture
from distill_lib.signals import accepts, as_batch, call, layers_among, pick, place, tell


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


def test_layers_among_the_paths() -> None:
    assert layers_among(net(), ["logits", "2", "0", "2"]) == ("2", "0")


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
