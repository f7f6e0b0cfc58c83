"""One weight used twice is one weight, in folding, averages and permutations."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import compress
from distill_lib.fusion import align, fold_batchnorm, permute, refresh_batchnorm, soup, symmetries
from distill_lib.ties import memory, ties


def lively(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor in module.buffers():
                    if tensor.ndim:
                        tensor.uniform_(0.5, 2)
                for tensor in module.parameters():
                    tensor.uniform_(0.5, 2)
    return model.eval()


# ---- folding ----


class Graph(nn.Module):
    """Layers and normalizations in an order that is drawn; some are used again, some read twice."""

    def __init__(self, steps: list[tuple[int, int, str]], tie: bool, twins: bool) -> None:
        super().__init__()
        self.steps = steps
        self.c = nn.ModuleList(nn.Conv2d(3, 3, 1, bias=i % 2 == 0) for i in range(3))
        self.n = nn.ModuleList(nn.BatchNorm2d(3, affine=i != 2) for i in range(3))
        if tie:
            self.c[1].weight = self.c[0].weight
        if twins:
            self.again = self.c[2]
            self.norm = self.n[2]

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm, how in self.steps:
            y = self.c[layer](x)
            if how == "functional":
                z = self.n[norm](y) + F.conv2d(x, self.c[layer].weight)
            elif how == "residual":
                z = self.n[norm](y) + y
            elif how == "relu":
                z = self.n[norm](y.relu())
            elif how == "again" and hasattr(self, "again"):
                z = self.n[norm](y) + self.norm(self.again(x))
            elif how == "keyword":
                z = self.n[norm](input=y)
            else:
                z = self.n[norm](y)
            x = z.tanh()
        return x


STEPS = st.tuples(
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from(["plain", "plain", "functional", "residual", "relu", "again", "keyword"]),
)


@pytest.mark.filterwarnings("ignore:nothing is folded")
@settings(max_examples=60)
@given(st.lists(STEPS, min_size=1, max_size=4), st.booleans(), st.booleans(), st.integers(0, 9))
def test_a_folded_network_says_the_same_whatever_is_used_twice(
    steps, tie: bool, twins: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    model, x = lively(Graph(steps, tie, twins)), torch.randn(2, 3, 2, 2)
    folded = fold_batchnorm(model)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-5)
    if tie:
        assert folded.c[0].weight is folded.c[1].weight
    if twins:
        assert folded.again is folded.c[2]
    clean = {s[:2] for s in steps if s[2] == "plain"}
    once = [s for s in steps if sum(s[0] == t[0] for t in steps) == 1
            and sum(s[1] == t[1] for t in steps) == 1]  # fmt: skip
    if not tie and not twins:  # and what can be folded is
        for layer, norm, _ in [s for s in once if s[:2] in clean]:
            assert isinstance(folded.n[norm], nn.Identity), (layer, norm)


@pytest.mark.parametrize(
    ("pairs", "error", "words"),
    [
        ([("c.0", "n.9")], KeyError, "no layer 'n.9'"),
        ([("c.0", "c.1")], ValueError, "'c.1' is no batch normalization"),
        ([("n.0", "n.1")], ValueError, "a BatchNorm2d is before it"),
        ([("c.2", "n.0"), ("c.2", "n.1")], ValueError, "'c.2' is in two pairs"),
        ([("c.0", "n.0")], ValueError, "used by another layer as well"),
        ([("c.2", "n.2")], ValueError, "not it alone reads 'c.2'"),
        ([("c.2", "n.1")], ValueError, "the model does not call it"),
    ],
)
def test_pairs_that_cannot_be_folded_are_refused(pairs, error, words: str) -> None:
    model = lively(Graph([(0, 0, "plain"), (2, 2, "residual")], True, False))
    with pytest.raises(error, match=words):
        fold_batchnorm(model, pairs)


def test_what_has_no_normalization_to_fold_or_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="no batch normalization: nothing to fold"):
        fold_batchnorm(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="no statistics of batch normalization"):
        refresh_batchnorm(nn.Linear(2, 2), [{"inputs": torch.ones(2, 2)}])
    bare = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))
    with pytest.warns(UserWarning, match="1: it has no running statistics"):
        fold_batchnorm(bare)
    up = nn.Sequential(nn.ConvTranspose2d(1, 2, 1), nn.BatchNorm2d(2))
    with pytest.warns(UserWarning, match="1: a ConvTranspose2d is before it"):
        fold_batchnorm(up)


@pytest.mark.parametrize("batches", [[], [{"inputs": torch.ones(4, 5)}]])
def test_statistics_are_as_they_were_where_they_cannot_be_measured(batches) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout())
    model(torch.randn(9, 3))
    model[2].eval()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises((ValueError, RuntimeError)):
        refresh_batchnorm(model, batches)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model[1].training and model[1].momentum == 0.1 and not model[2].training


# ---- averages ----


class Pair(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        if how == "same":
            self.b.weight = self.a.weight
        elif how == "data":
            self.b.weight = nn.Parameter(self.a.weight)
        elif how == "transposed":
            self.b.weight = nn.Parameter(self.a.weight.mT)
        elif how == "module":
            self.b = self.a

    def forward(self, inputs: Tensor) -> Tensor:
        return self.b(self.a(inputs).relu())


@pytest.mark.parametrize("how", ["same", "data", "transposed", "module", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_average_of_tied_models_is_tied(how: str, dtype: torch.dtype) -> None:
    models = [Pair(how).to(dtype) for _ in range(3)]
    with torch.no_grad():
        for model in models:
            model.a.weight.mul_(6e4)  # the sum is beyond half precision, the average is not
    found = soup(models, [1, 1, 2])
    wanted = sum(w * m.a.weight.double() for w, m in zip((0.25, 0.25, 0.5), models, strict=True))
    torch.testing.assert_close(found.a.weight, wanted.to(dtype))
    count = [len({memory(p) for p in one.parameters()}) for one in (found, models[0])]
    assert count[0] == count[1]


def test_one_weight_in_the_first_model_and_two_in_the_next_have_no_average() -> None:
    with pytest.raises(ValueError, match=r"'b\.weight' and 'a\.weight' are one weight in model 0"):
        soup([Pair("same"), Pair("none")])
    assert not ties(soup([Pair("none"), Pair("same")]))


def test_an_average_of_whole_numbers_is_refused_and_extra_state_is_kept() -> None:
    class Extra(nn.Linear):
        said = 0

        def get_extra_state(self) -> dict[str, int]:
            return {"said": self.said}

        def set_extra_state(self, state: dict[str, int]) -> None:
            self.said = state["said"]

    models = [Extra(2, 2), Extra(2, 2)]
    models[0].said = 5
    assert soup(models).said == 5
    for method in (lambda m: compress.convert(compress.qat(m, 4, None)),
                   lambda m: compress.share(m, 2) and m):  # fmt: skip
        nets = [method(nn.Linear(4, 4)) for _ in range(2)]
        with pytest.raises(ValueError, match=r"whole numbers that differ.*compress\.bake"):
            soup(nets)
        assert soup([compress.bake(net) for net in nets]).weight.isfinite().all()
    sparse = [nn.Linear(2, 2), nn.Linear(2, 2)]
    for k, net in enumerate(sparse):
        net.register_buffer("s", (torch.eye(3) * (k + 1)).to_sparse())
        net.register_buffer("z", torch.full((2,), 1j * k))
    mixed = soup(sparse)
    assert torch.equal(mixed.s.to_dense(), 1.5 * torch.eye(3))
    assert torch.equal(mixed.z, torch.full((2,), 0.5j))


# ---- permutations ----


class Deep(nn.Module):
    """An encoder, layers that may be one, and a decoder that may be the embedding."""

    def __init__(self, hidden: str, decoder: str) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.into = nn.Linear(4, 6)
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
        self.norm, self.norm2 = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
        self.out, self.say = nn.Linear(6, 4), nn.Linear(4, 7)
        if hidden == "module":
            self.two = self.one
        elif hidden == "same":
            self.two.weight = self.one.weight
        elif hidden == "data":
            self.two.weight = nn.Parameter(self.one.weight)
        elif hidden == "transposed":
            self.two.weight = nn.Parameter(self.one.weight.mT)
        elif hidden == "bias":
            self.two.bias = self.one.bias
        elif hidden == "norm":
            self.norm2 = self.norm
        elif hidden == "autoencoder":
            self.out.weight = nn.Parameter(self.into.weight.mT)
        if decoder == "tied":
            self.say.weight = self.table.weight
        self.functional = decoder == "functional"

    def forward(self, inputs: Tensor) -> Tensor:
        h = self.into(self.table(inputs)).relu()
        h = self.norm(self.one(h).relu())
        h = self.norm2(self.two(h).relu())
        h = self.out(h).relu()
        return h @ self.table.weight.T if self.functional else self.say(h)


@settings(max_examples=40)
@given(
    st.sampled_from(
        ["none", "module", "same", "data", "transposed", "bias", "norm", "autoencoder"]
    ),
    st.sampled_from(["own", "tied", "functional"]),
    st.integers(0, 99),
)
def test_a_permuted_network_with_tied_weights_says_the_same(
    hidden: str, decoder: str, seed: int
) -> None:
    torch.manual_seed(seed)
    model, x = lively(Deep(hidden, decoder)), torch.randint(0, 7, (5,))
    groups = symmetries(model, x)
    assert groups or hidden != "none"
    orders = [torch.randperm(axes.size) for axes in groups]
    mixed = permute(model, groups, orders)
    torch.testing.assert_close(mixed(x), model(x), rtol=1e-4, atol=1e-5)
    assert len({memory(p) for p in mixed.parameters()}) == len(
        {memory(p) for p in model.parameters()}
    )
    back = align(model, mixed, x) if groups else model
    torch.testing.assert_close(back(x), model(x), rtol=1e-4, atol=1e-5)
