"""The second process cannot read its batch: what do the others say, and when do they end?

torchrun --nproc_per_node 2 -m distill_lib.booktools.processes.one_fails
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from distill_lib import CE, distill


class Broken:
    """Batches whose third cannot be read, in the second process."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __len__(self) -> int:
        return 8

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(8):
            if number == 4 and self.rank == 1:
                raise OSError("the disk of this machine is gone")
            yield torch.ones(4, 5), torch.zeros(4).long()


def main() -> None:
    accelerator = Accelerator(cpu=True)
    batches = Broken(accelerator.process_index)
    distill(nn.Linear(5, 3), None, batches, CE(), epochs=1, accelerator=accelerator)


if __name__ == "__main__":
    main()
