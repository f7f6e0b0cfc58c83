"""signals: a captured layer changes nothing, and is what it returned at that moment."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from distill_lib import Label, Match, capture, distill
from distill_lib.signals import call, pick, tell


@dataclass
class Out:
    value: Tensor
    rest: list[Tensor]


class Layer(nn.Module):
    """Says what it is made to say, of its input or of a buffer."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.inner = how, nn.Linear(4, 4)
        self.register_buffer("kept", torch.zeros(5, 4))

    def forward(self, x: Tensor) -> Any:
        if self.how == "buffer":
            return self.kept.mul_(0.5).add_(x.detach())
        if self.how == "weight":
            return self.inner.bias.expand(5, 4)
        if self.how == "half":
            return self.inner(x).chunk(2)[0].repeat(2, 1).new_ones(5, 4) * x
        y = self.inner(x)
        says = {"dict": {"value": y, "rest": [x]}, "list": [y, x], "tuple": (y, x)}
        return Out(y, [x]) if self.how == "dataclass" else says[self.how]


def first(said: Any) -> Tensor:
    """The tensor of it that the net goes on with."""
    while not isinstance(said, Tensor):
        said = (said.value if isinstance(said, Out)
                else said["value"] if isinstance(said, dict) else said[0])  # fmt: skip
    return said


PLAIN = [
    nn.Identity, nn.Flatten, nn.ReLU, nn.Tanh, nn.Sigmoid, lambda: nn.Softmax(-1),
    lambda: nn.ReLU(inplace=True), lambda: nn.Dropout(0.0), lambda: nn.Dropout(0.3),
    lambda: nn.Linear(4, 4), lambda: nn.Unflatten(1, (2, 2)), lambda: nn.LayerNorm(4),
]  # fmt: skip
SAYS = ("buffer", "weight", "half", "dict", "list", "tuple", "dataclass")
LAYERS = [*PLAIN, *(lambda how=how: Layer(how) for how in SAYS)]
AFTER = {
    "nothing": lambda h, y: h + y,
    "input": lambda h, y: h.relu_() + y,
    "output": lambda h, y: (h + 1) * y.mul_(2),
    "both": lambda h, y: y.add_(1) + h.mul_(0.5),
}


class Net(nn.Module):
    """Goes on with what a layer was given and with what it said, one of them changed in place."""

    def __init__(self, layers: list[int], afters: list[str]) -> None:
        super().__init__()
        self.a, self.o, self.afters = nn.Linear(4, 4), nn.Linear(4, 3), afters
        self.layers = nn.ModuleList(LAYERS[i]() for i in layers)
        self.heard: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        for layer, after in zip(self.layers, self.afters, strict=True):
            y = first(layer(h))
            self.heard.append(y.detach().clone())
            h = AFTER[after](h, y.view(5, 4))
        return self.o(h)


def step(model: nn.Module, ask: nn.Module, x: Tensor) -> tuple[Any, Any]:
    """The answer and the gradients, or that torch can differentiate no such net."""
    torch.manual_seed(1)
    try:
        said = ask(x)
        z = said if isinstance(said, Tensor) else said["logits"]
        z.square().sum().backward()
    except RuntimeError as error:
        return "refused", "modified by an inplace" in str(error) or "in-place" in str(error)
    return said, [None if p.grad is None else p.grad.clone() for p in model.parameters()]


@given(
    layers=st.lists(st.integers(0, len(LAYERS) - 1), min_size=1, max_size=3),
    afters=st.lists(st.sampled_from(sorted(AFTER)), min_size=3, max_size=3),
    training=st.booleans(),
)
def test_a_model_computes_the_same_with_its_layers_captured(
    layers: list[int], afters: list[str], training: bool
) -> None:
    torch.manual_seed(0)
    plain = Net(layers, afters[: len(layers)]).train(training)
    heard, x = copy.deepcopy(plain), torch.randn(5, 4)
    names = [f"layers.{i}" for i in range(len(layers))]
    z, grads = step(plain, plain, x)
    said, theirs = step(heard, capture(heard, *names), x)
    if isinstance(z, str):
        assert isinstance(said, str)
        return
    assert torch.equal(said["logits"], z)
    for mine, other in zip(grads, theirs, strict=True):
        assert (mine is None) == (other is None)
        assert mine is None or torch.equal(mine, other)
    for name, value in zip(names, plain.heard, strict=True):
        assert torch.equal(first(said[name]), value), name
    for mine, other in zip(plain.buffers(), heard.buffers(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("layer", PLAIN)
@pytest.mark.parametrize("after", sorted(AFTER))
def test_the_gradient_of_the_answer_passes_what_was_captured(layer: Any, after: str) -> None:
    model = Net([PLAIN.index(layer)], [after])
    said = capture(model, "layers.0")(torch.randn(5, 4))
    try:
        (grad,) = torch.autograd.grad(said["logits"].sum(), said["layers.0"])
    except RuntimeError as error:
        assert "modified by an inplace" in str(error)  # so it is without a capture
        return
    assert grad.shape == said["layers.0"].shape and grad.abs().sum() > 0


def test_a_layer_that_says_its_own_state_says_it_a_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Layer("buffer")

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + self.layer(2 * x)

    one, two = capture(Twice(), "layer")(torch.ones(5, 4))["layer"]
    assert one.unique().tolist() == [1.0] and two.unique().tolist() == [2.5]


def test_the_gradient_of_an_input_is_whole() -> None:
    """A layer that hands on the input itself must not hide what read it before."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return x.square() + self.same(x)

    made = torch.ones(3, requires_grad=True) * 2
    said = capture(Model(), "same")(made)
    (grad,) = torch.autograd.grad(said["logits"].sum(), made)
    assert grad.tolist() == [5.0] * 3


def test_several_models_at_once_are_captured() -> None:
    models = [nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)) for _ in range(3)]
    params, _ = stack_module_state(models)
    view, x = capture(copy.deepcopy(models[0]), "1"), torch.randn(5, 4)
    named = {f"model.{name}": value for name, value in params.items()}
    said = vmap(lambda p: functional_call(view, p, (x,)))(named)
    for i, model in enumerate(models):
        assert torch.allclose(said["1"][i], model[:2](x), atol=1e-6)
        assert torch.allclose(said["logits"][i], model(x), atol=1e-6)


def test_a_compiled_model_computes_the_same_with_its_layers_captured() -> None:
    torch.compiler.reset()
    model = nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.ReLU(inplace=True), nn.Linear(4, 2))
    x = torch.randn(5, 4)
    said = capture(torch.compile(model, backend="aot_eager"), "0", "1")(x)
    assert torch.equal(said["logits"], model(x))
    assert torch.equal(said["1"], model[0](x)) and torch.equal(said["0"], said["1"])
    said["1"].sum().backward()
    assert model[0].weight.grad.norm() > 0
    torch.compiler.reset()


def test_a_dataclass_is_walked_by_its_fields() -> None:
    nets = [Net([LAYERS.index(LAYERS[-1])], ["nothing"]) for _ in range(2)]
    said = capture(nets[0], "layers.0")(torch.randn(5, 4))
    assert pick(said, "layers.0/value").shape == pick(said, "layers.0/rest/0").shape == (5, 4)
    with pytest.raises(KeyError, match=r"is a dict, not a tensor; go on with layers.0/value"):
        pick(said, "layers.0")
    with pytest.raises(KeyError, match="is a SimpleNamespace, not a tensor; signals are tensors"):
        pick({"layer": SimpleNamespace()}, "layer")
    batches = [{"inputs": torch.randn(5, 4)}]
    assert distill(*nets, batches, Match("layers.0/value"), steps=1)["match"][0] > 0


# ---- what models of Transformers are told ----


class Halves(nn.Module):
    """An encoder and a decoder, each with a configuration of its own; some are told by word."""

    def __init__(self, by_word: bool = False) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(2, 2), nn.Linear(2, 2)
        for part in (self, self.encoder, self.decoder):
            part.config = SimpleNamespace(  # type: ignore[assignment]
                output_hidden_states=False, output_attentions=False
            )
        if by_word:
            self.forward = self.asked  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> dict[str, Any]:
        return self.asked(x, self.encoder.config.output_hidden_states)

    def asked(self, x: Tensor, output_hidden_states: bool | None = None) -> dict[str, Any]:
        z = self.encoder(x)
        return {"logits": z, **({"encoder_hidden_states": (x, z)} if output_hidden_states else {})}


@pytest.mark.parametrize("by_word", [False, True])
@pytest.mark.parametrize(
    "path", ["hidden_states/1", "encoder_hidden_states/1", "decoder_attentions/0", "logits", "x/1"]
)
def test_a_model_tells_what_is_named_and_is_left_as_it_was(by_word: bool, path: str) -> None:
    model = Halves(by_word)
    before = [dict(vars(part.config)) for part in (model, model.encoder, model.decoder)]
    undo = tell(model, [path])
    for part in (model, model.encoder, model.decoder):
        assert part.config.output_hidden_states == ("hidden_states" in path)
        assert part.config.output_attentions == ("attentions" in path)
    said = call(model, {"x": torch.zeros(1, 2)})
    assert ("encoder_hidden_states" in said) == ("hidden_states" in path)
    if by_word:  # what the user says stays
        assert set(model(torch.zeros(1, 2), output_hidden_states=False)) == {"logits"}
    undo()
    assert before == [dict(vars(part.config)) for part in (model, model.encoder, model.decoder)]
    assert not model._forward_pre_hooks
    assert set(call(model, {"x": torch.zeros(1, 2)})) == {"logits"}


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("name", ["logits", "value", "mean"])
def test_a_layer_never_hides_what_the_model_says_under_its_name(name: str, told: bool) -> None:
    """Its head is scaled afterwards, so that the two are not the same."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(name, nn.Linear(4, 3))

        def forward(self, x: Tensor) -> Any:
            z = 10 * self.get_submodule(name)(x)
            return {name: z, "other": x} if told else z

    model, x = Model(), torch.randn(5, 4)
    path = name if told else "logits"
    want = model(x)[name] if told else model(x)
    assert torch.equal(capture(model, name)(x)[path], want)
    taught = [{"inputs": x, "answer": want}]
    term = Label(F.mse_loss, on=path, labels="answer")
    assert distill(copy.deepcopy(model), None, taught, term, epochs=1, lr=0).last["loss"] == 0
