"""The trainer of 🤗 Transformers on two processes of the CPU does what one does."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from accelerate.state import AcceleratorState
from hf_helpers import bert, data, settings, trainer
from together import free_ports
from torch import nn

from distill_lib import CE, KD, Match, linear
from distill_lib.integrations.transformers import checks

if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("torch was built without gloo", allow_module_level=True)


def train(path: Path, cut: int, size: int) -> None:
    student, teacher = bert(layers=2), bert(16, 1, seed=5)
    torch.manual_seed(0)
    objective = CE() + linear(0.0, 1.0) * KD(temperature=2)
    # the second projector gets no gradient in the first step: its weight is 0
    objective += 0.1 * Match("hidden_states/1", project=nn.Linear(8, 16).double())
    layers = ("bert.encoder.layer.1", "bert.encoder.layer.0")
    objective += linear(0.0, 0.2) * Match(*layers, project=nn.Linear(8, 16).double())
    args = settings(
        path.parent / "out",
        size,
        cut,
        max_steps=3,
        max_grad_norm=0.5,
        weight_decay=0.1,
        optim="adamw_torch",
        learning_rate=0.01,
        logging_strategy="steps",
        logging_steps=1,
        save_strategy="steps",
        save_steps=1,
        ddp_backend="gloo" if "WORLD_SIZE" in os.environ else None,
        ddp_timeout=120,
    )
    made = trainer(student, args, teacher=teacher, objective=objective, train_dataset=data(48))
    made.train()
    score = made.evaluate(data(8))["eval_loss"]
    if made.is_world_process_zero():
        parts = [made.state.log_history[2][k] for k in ("ce", "kd", "match", "match_2", "loss")]
        logged = torch.tensor([*parts, score])
        torch.save({"logged": logged, **student.state_dict(), **objective.state_dict()}, path)
    accelerator = made.accelerator
    # what wraps the models must go before the process group does, or torch may wait for ever
    made = None
    accelerator.free_memory()
    gc.collect()
    accelerator.end_training()


def setting(rank: int, port: int) -> dict[str, str]:
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
    }


def first(port: int, path: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(setting(0, port))
    train(path, 2, 4)


@pytest.mark.usefixtures("own_accelerate")
def test_two_processes_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "one", 1, 16)
    AcceleratorState._reset_state(True)
    (port,) = free_ports()
    # two processes, two micro-batches of 4 each; the second process is this one
    other = mp.get_context("spawn").Process(target=first, args=(port, tmp_path / "two"))
    other.start()
    try:
        with monkeypatch.context() as patch:
            for name, value in setting(1, port).items():
                patch.setenv(name, value)
            train(tmp_path / "unused", 2, 4)
        other.join(timeout=300)
    finally:
        other.kill()
    assert other.exitcode == 0 and not (tmp_path / "unused").exists()
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.allclose(value, two[key], rtol=1e-6, atol=1e-8), key


def test_weights_that_ddp_would_wait_for_are_named() -> None:
    """A term on a hidden layer trains no head: under DDP the second step would wait for it."""
    student, batch = bert(layers=2), {k: torch.ones(2, 4).long() for k in ("input_ids",)}
    said = student(**batch, output_hidden_states=True)
    checks.check_reached(said.logits.sum(), student)
    with pytest.raises(ValueError, match=r"weights of the student have no part .*Freeze them"):
        checks.check_reached(said.hidden_states[1].sum(), student)
    for name, param in student.named_parameters():
        param.requires_grad_("embeddings" in name or "layer.0" in name)
    again = student(**batch, output_hidden_states=True)
    checks.check_reached(again.hidden_states[1].sum(), student)
