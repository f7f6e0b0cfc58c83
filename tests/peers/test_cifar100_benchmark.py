"""The published recipe, on a few random images and for two epochs: that it is that recipe."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from distill_lib import CE, KD
from distill_lib.data import Dataset

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks import cifar100


def images(split: str) -> Dataset:
    generator = torch.Generator().manual_seed(len(split))
    return Dataset(
        torch.randn(32, 3, 32, 32, generator=generator),
        torch.randint(100, (32,), generator=generator),
        tuple(f"class {i}" for i in range(100)),
        name=f"random/{split}",
    )


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(cifar100, "BATCH", 16)


def test_the_networks_have_the_published_sizes():
    """0.86 and 0.28 million parameters in the table of Tian et al."""
    for kind, millions in {"teacher": 0.86, "labels": 0.28, "KD": 0.28}.items():
        net = cifar100.network(kind, 0, 100)
        assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


def test_the_recipe_is_the_published_one(monkeypatch, tmp_path, small):
    asked = {}

    def distill(net, teacher, batches, objective, **settings):
        asked.update(settings, teacher=teacher, objective=objective, batches=batches)

    monkeypatch.setattr(cifar100, "distill", distill)
    net = cifar100.train("KD", 3, images("train"), nn.Linear(1, 1), 240, tmp_path / "x")
    weight = nn.Parameter(torch.zeros(1))
    optimizer = asked["optimizer"]([weight])
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.05, 0.9, 5e-4)
    schedule, rates = asked["lr"](optimizer), []
    for _ in range(240 * len(asked["batches"])):
        rates.append(group["lr"])
        weight.grad = torch.zeros(1)
        optimizer.step()
        schedule.step()
    per_epoch = rates[:: len(asked["batches"])]
    falls = [epoch for epoch in range(1, 240) if per_epoch[epoch] < 0.5 * per_epoch[epoch - 1]]
    assert falls == [150, 180, 210]
    assert asked["epochs"] == 240 and asked["teacher"] is not None
    assert str(asked["objective"]) == str(0.1 * CE() + 0.9 * KD(temperature=4))
    assert torch.equal(net.fc.weight, cifar100.network("labels", 3, 100).fc.weight)


def test_what_is_in_the_file_is_not_run_again(monkeypatch, tmp_path, small, capsys):
    out = tmp_path / "deep" / "results.jsonl"
    found = cifar100.run(images, out, range(1), 2)
    assert [(line["kind"], line["seed"]) for line in found] == [
        ("teacher", 0), ("labels", 0), ("KD", 0),
    ]  # fmt: skip
    assert all(0 <= line["accuracy"] <= 100 for line in found)
    assert not list(out.parent.glob("*.training"))
    monkeypatch.setattr(cifar100, "train", None)
    assert cifar100.run(images, out, range(1), 2) == found
    said = cifar100.table(found)
    assert all(f"{value:.2f}" in said for value in cifar100.REPORTED.values())
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert json.loads(out.read_text(encoding="utf-8").splitlines()[0])["epochs"] == 2


def test_results_of_another_length_do_not_count(tmp_path):
    out = tmp_path / "results.jsonl"
    lines = [{"kind": "labels", "seed": 0, "epochs": e, "accuracy": float(e)} for e in (1, 240)]
    out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert [line["accuracy"] for line in cifar100.lines(out)] == [1.0, 240.0]
    assert "240.00 ±   nan" in cifar100.table(lines[1:])
