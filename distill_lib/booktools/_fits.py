"""The Gaussian closest to a mixture, for each position of the direction slider."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Mixture", "fit_all"]


@dataclass(frozen=True)
class Mixture:
    """``weight * N(means[0], scale²) + (1 - weight) * N(means[1], scale²)``."""

    weight: float
    means: tuple[float, float]
    scale: float

    @property
    def mean(self) -> float:
        """The mean of the mixture."""
        return self.weight * self.means[0] + (1 - self.weight) * self.means[1]

    @property
    def std(self) -> float:
        """The standard deviation of the mixture."""
        gap = self.means[0] - self.means[1]
        return math.sqrt(self.scale**2 + self.weight * (1 - self.weight) * gap**2)

    def grid(self) -> Tensor:
        """Points so dense and wide that sums over them are integrals to twelve digits."""
        import torch

        reach = 8 * self.std
        count = min(4001, math.ceil(2 * reach / (self.scale / 8)) + 1)
        return torch.linspace(self.mean - reach, self.mean + reach, count, dtype=torch.float64)

    def log_density(self, x: Tensor) -> Tensor:
        """``log p(x)``."""
        import torch

        height = -math.log(self.scale * math.sqrt(2 * math.pi))
        parts = [
            math.log(w) + height - ((x - m) / self.scale) ** 2 / 2
            for w, m in zip((self.weight, 1 - self.weight), self.means, strict=True)
        ]
        return torch.logaddexp(*parts)

    def drawn(self) -> tuple[list[float], list[float]]:
        """Points and densities for the picture, rounded to what a screen can show."""
        import torch

        pad = max(4 * self.scale, 1.2 * self.std)
        x = torch.linspace(min(self.means) - pad, max(self.means) + pad, 161, dtype=torch.float64)
        density = self.log_density(x).exp()
        return [round(v, 4) for v in x.tolist()], [round(v, 5) for v in density.tolist()]


def fit_all(target: Mixture, positions: list[float], path: str) -> list[dict[str, float]]:
    """The best Gaussian at each position, from several starts, with its divergences."""
    import torch

    from distill_lib import losses

    x = target.grid()
    teacher = target.log_density(x).log_softmax(0)
    middle, wide = math.log(target.scale), math.log(target.std)
    starts = [[target.means[0], middle], [target.means[1], middle], [target.mean, wide]]

    def student(theta: Tensor) -> Tensor:
        mu, sigma = theta[:, :1], theta[:, 1:].exp()
        return (-(((x - mu) / sigma) ** 2) / 2).log_softmax(-1)

    def objective(position: float) -> Callable[[Tensor], Tensor]:
        def value(theta: Tensor) -> Tensor:
            pair = {"student": student(theta), "teacher": teacher.expand(len(theta), -1)}
            if path == "jsd":
                return losses.jsd(**pair, beta=position, normalized=True)
            return (1 - position) * losses.kl(**pair) + position * losses.reverse_kl(**pair)

        return value

    fits = []
    best = torch.tensor([target.mean, wide], dtype=torch.float64)
    for position in positions:
        # The last optimum is one more start, so that a mode is followed as far as it is best.
        theta = torch.cat([torch.tensor(starts, dtype=torch.float64), best[None]])
        theta = _newton(objective(position), theta)
        values = objective(position)(theta)
        best = theta[values.argmin()]
        pair = {"student": student(best[None]), "teacher": teacher[None]}
        fits.append(
            {
                "mu": best[0].item(),
                "sigma": best[1].exp().item(),
                "value": values.min().item(),
                "forward": losses.kl(**pair).item(),
                "reverse": losses.reverse_kl(**pair).item(),
            }
        )
    return fits


def _newton(value: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """Newton's method on each row, made a descent by the absolute values of the curvatures."""
    import torch

    damping = torch.full((len(theta), 1), 1e-3, dtype=theta.dtype)
    for _ in range(100):
        point = theta.detach().requires_grad_()
        here = value(point)
        (slope,) = torch.autograd.grad(here.sum(), point, create_graph=True)
        if slope.abs().max() < 1e-11:
            break
        rows = [torch.autograd.grad(slope[:, i].sum(), point, retain_graph=True)[0] for i in (0, 1)]
        curvature, axes = torch.linalg.eigh(torch.stack(rows, 1))
        along = (axes.mT @ slope.detach()[..., None])[..., 0] / (curvature.abs() + damping)
        step = -(axes @ along[..., None])[..., 0]
        step = step / (step.norm(dim=1, keepdim=True) / 0.5).clamp(min=1)
        with torch.no_grad():
            # The last steps change the value by less than its rounding, and the point still gains.
            better = (value(theta + step) <= here + 1e-14)[:, None]
        theta = torch.where(better, theta + step, theta)
        damping = torch.where(better, damping / 10, damping * 10).clamp(1e-12, 1e6)
    return theta.detach()
