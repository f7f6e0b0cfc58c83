"""Which units the dropout of each process takes, and which items each process sees.

    torchrun --nproc_per_node 2 -m distill_lib.booktools.processes.dropout_masks found.json

Writes the share of places in which the masks of the first two processes agree, and the items that
each of them saw.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from distill_lib import CE, distill


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    accelerator = Accelerator(cpu=True)
    dropout, masks, seen = nn.Dropout(0.5), [], []

    def look(part: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        masks.append(out[:, 1:] != 0)  # what was 1 everywhere
        seen.append(args[0][:, 0])

    dropout.register_forward_hook(look)
    student = nn.Sequential(dropout, nn.Linear(101, 3))
    items = torch.cat([torch.arange(1.0, 65).unsqueeze(1), torch.ones(64, 100)], 1)
    data = torch.utils.data.TensorDataset(items, torch.zeros(64).long())
    batches = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)
    distill(student, None, batches, CE(), epochs=1, accelerator=accelerator, seed=0)
    both = accelerator.gather(torch.stack(masks).float().unsqueeze(0))
    items = accelerator.gather(torch.stack(seen).unsqueeze(0))
    if accelerator.is_main_process:
        found = {"agree": (both[0] == both[1]).float().mean().item(), "items": items.tolist()}
        given.file.write_text(json.dumps(found))
    accelerator.end_training()


if __name__ == "__main__":
    main()
