"""Train the image teachers of the zoo: a ResNet-20 on Fashion-MNIST, all labels or few.

    python teachers/fashion_resnet20.py                            # fashion_resnet20, 30 min
    python teachers/fashion_resnet20.py --labels-per-class 100     # fashion_resnet20_1k, 4 min

Plain PyTorch on purpose: a teacher is any trained model, and nothing here is distillation. A run
that is killed goes on from its last epoch. Weights and card are written into distill_lib/zoo.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from cards import WORK, ZOO, parameters, trained, write_card
from safetensors.torch import save_file
from torch import Tensor

from distill_lib import data
from distill_lib.models.vision import ResNet

ARCHITECTURE = {"blocks": 3, "width": 16}
BLACK = -0.8102  # a pixel of value 0, standardized: what lies outside the image


def augmented(x: Tensor) -> Tensor:
    """Half of the images mirrored, all of a batch moved by up to two pixels."""
    flip = torch.rand(len(x)) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    down, right = torch.randint(0, 5, (2,)).tolist()
    return F.pad(x, (2, 2, 2, 2), value=BLACK)[:, :, down : down + 28, right : right + 28]


@torch.inference_mode()
def accuracy(model: ResNet, split: data.Dataset) -> float:
    """Share of right answers, in eval mode."""
    model.eval()
    answers = [
        model(x.contiguous(memory_format=torch.channels_last)).argmax(1)
        for x in split.inputs.split(500)
    ]
    return torch.cat(answers).eq(split.labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--labels-per-class", type=int, help="use the first so many images of each class"
    )
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    train, test = (data.load("fashion_mnist", split=s) for s in ("train", "test"))
    name, size = "fashion_resnet20", 128
    if args.labels_per_class:
        train = train.per_class(args.labels_per_class)
        name, size = f"fashion_resnet20_{len(train) // 1000}k", 50
    epochs = args.epochs or (150 if args.labels_per_class else 15)
    batches = len(train) // size

    torch.manual_seed(0)
    model = ResNet(**ARCHITECTURE).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.2, total_steps=epochs * batches, pct_start=0.25
    )
    parts = {"model": model, "optimizer": optimizer, "rate": rate}
    first, seconds, kept = 0, 0.0, WORK / f"{name}.pt"
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        for part in parts:
            parts[part].load_state_dict(state[part])
        first, seconds = int(state["epoch"]), float(state["seconds"])
        torch.set_rng_state(state["rng"])

    for epoch in range(first, epochs):
        begun, total = time.perf_counter(), 0.0
        model.train()
        order = torch.randperm(len(train))
        for i in range(batches):
            at = order[i * size : (i + 1) * size]
            x = augmented(train.inputs[at]).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(model(x), train.labels[at])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            total += loss.item()
        seconds += time.perf_counter() - begun
        print(
            f"epoch {epoch + 1}/{epochs}  loss {total / batches:.4f}  {seconds / 60:.1f} min",
            flush=True,
        )
        WORK.mkdir(parents=True, exist_ok=True)
        state = {part: parts[part].state_dict() for part in parts}
        torch.save(
            {**state, "epoch": epoch + 1, "seconds": seconds, "rng": torch.get_rng_state()}, kept
        )

    score = accuracy(model, test)
    print(f"test accuracy {score:.4f}")
    file = ZOO / f"{name}.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, file)
    few = f"--labels-per-class {args.labels_per_class}" if args.labels_per_class else ""
    write_card(
        file,
        task="image classification, 10 classes",
        architecture={"class": "distill_lib.models.vision.ResNet", "kwargs": ARCHITECTURE},
        params=parameters(model),
        score={"metric": "accuracy", "value": round(score, 4), "n": 10000, "split": "test"},
        trained=trained(
            __file__, seconds / 60, arguments=few,
            recipe=f"SGD with Nesterov momentum, one-cycle rate to 0.2, weight decay 5e-4, "
            f"{epochs} epochs, mirrored and shifted images; test images used for the score alone",
        ),
        data={"name": "fashion_mnist", "split": "train", "labels": len(train)},
    )  # fmt: skip


if __name__ == "__main__":
    main()
