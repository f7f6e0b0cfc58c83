"""Batch normalization: statistics measured anew, and folded away."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distill_lib.fusion import barrier, fold_batchnorm, refresh_batchnorm
from distill_lib.zoo import ResNet

X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) * 2 + 1
BATCHES = [{"inputs": part} for part in X.split(20)]


def lively(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor in (module.weight, module.bias, module.running_mean):
                    tensor.copy_(torch.randn(len(tensor)))
                module.running_var.uniform_(0.5, 2)
    return model.eval()


def test_statistics_are_those_of_all_batches_alike() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    model[0].momentum = 0.3
    refresh_batchnorm(model, BATCHES)
    torch.testing.assert_close(model[0].running_mean, X.mean(0))
    expected = torch.stack([part.var(0) for part in X.split(20)]).mean(0)
    torch.testing.assert_close(model[0].running_var, expected)
    assert model[0].momentum == 0.3 and all(m.training for m in model.modules())


def test_deeper_layers_see_what_shallower_ones_say_without_dropout() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2), nn.BatchNorm1d(2))
    refresh_batchnorm(model.eval(), BATCHES)
    means = [model[2](nn.functional.batch_norm(x, None, None, training=True)).mean(0)
             for x in X.split(20)]  # fmt: skip
    torch.testing.assert_close(model[3].running_mean, torch.stack(means).mean(0))
    assert not any(m.training for m in model.modules())
    with pytest.raises(ValueError, match="batches is empty"):
        refresh_batchnorm(model, [])


def test_a_barrier_may_be_measured_with_new_statistics() -> None:
    models = []
    for scale in (1.0, -1.0):
        model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        nn.init.constant_(model[0].weight, scale)
        refresh_batchnorm(model, BATCHES)
        models.append(model.eval())
    models[0][0].weight.data.mul_(3)
    refresh_batchnorm(models[0], BATCHES)

    def spread(model: nn.Module) -> float:
        return abs(model(X).detach().std(0).mean().item() - 1)

    stale = barrier(*models, spread, points=3)
    fresh = barrier(*models, spread, points=3, refresh=BATCHES)
    assert fresh.height < 0.1 < stale.height
    assert stale.losses[0] == fresh.losses[0]


def test_a_folded_network_says_the_same_with_fewer_layers() -> None:
    model = lively(ResNet(blocks=2, width=4))
    x = torch.randn(3, 1, 28, 28)
    folded = fold_batchnorm(model.train())
    with torch.no_grad():
        expected = model.eval()(x)
        torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert not folded.training and isinstance(folded, ResNet)


def test_what_has_a_second_reader_is_not_folded() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.n, self.b, self.m = (
                nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3),
            )  # fmt: skip

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            return self.m(self.b(self.n(y))) + y

    model = lively(Two())
    folded = fold_batchnorm(model)
    assert isinstance(folded.n, nn.BatchNorm1d) and isinstance(folded.m, nn.Identity)
    torch.testing.assert_close(folded(X), model(X))


def test_a_model_that_cannot_be_traced_takes_names() -> None:
    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bn(self.conv(x)) if x.sum() > 0 else x

    model, x = lively(Decides()), torch.ones(1, 1, 4, 4)
    with pytest.raises(ValueError, match=r"pairs=\[\('conv', 'bn'\)"):
        fold_batchnorm(model)
    torch.testing.assert_close(fold_batchnorm(model, [("conv", "bn")])(x), model(x))
