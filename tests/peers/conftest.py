"""The libraries that we compare with; a test skips where its library is not installed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# where make.py puts libraries whose dependencies it leaves out
sys.path.append(str(Path(sys.prefix) / "peers"))


@pytest.fixture(scope="session")
def torchdistill() -> Any:
    """torchdistill's losses by name; to import these needs no torchvision and no configuration."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "torchdistill.losses.mid_level",
            reason="torchdistill is not installed: pip install --no-deps torchdistill",
        )


@pytest.fixture(scope="session")
def trl_jsd() -> Callable[..., Any]:
    """TRL's generalized JSD, a static method of its GKD trainer."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
        # its dependencies announce deprecations of each other while they are imported
        warnings.simplefilter("ignore")
        gkd = pytest.importorskip(
            "trl.experimental.gkd",
            reason="TRL with its GKD trainer is not installed: python make.py setup",
            exc_type=ImportError,
        )
    function: Callable[..., Any] = gkd.GKDTrainer.generalized_jsd_loss
    return function


@pytest.fixture(scope="session")
def trl_chunked(trl_jsd: Callable[..., Any]) -> Callable[..., Any]:
    """The loss of TRL's stable trainer, from hidden states and two output matrices."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("trl.trainer.distillation_trainer", exc_type=ImportError)
    function: Callable[..., Any] = module._chunked_divergence_loss
    return function
