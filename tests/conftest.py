"""What every test needs: one thread, silence, a seed, and Accelerate's global state unused."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ["DISTILL_QUIET"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
# no deadline: a slow machine is no failure; the same examples in every run
settings.register_profile("distill", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("distill")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What makes an environment anew, or builds a book again and again, is asked for."""
    if not os.environ.get("DISTILL_EVERYTHING"):
        reason = "takes minutes; DISTILL_EVERYTHING=1 runs it, as the hosted workflow does"
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def own_accelerate() -> Iterator[None]:
    """For tests that make an Accelerator: its settings are global to the process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)
