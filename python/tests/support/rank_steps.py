# SPDX-License-Identifier: Apache-2.0
"""What all tests of ranks have in common: one order of rows, and steps that hang if one is lost."""

import torch
import torch.distributed as dist

ORDER = {
    "columns": ["id"],
    "format": "torch",
    "shuffle": True,
    "block_rows": 8,
    "window_rows": 256,
    "lanes": 8,
}


def steps_of(loader, most=None):
    """The ids of each step, with an all-reduce at each; of as many steps as are asked for."""
    steps = []
    for batch in loader:
        steps.append(batch["id"].tolist())
        # Hangs, and then fails, if another rank makes fewer steps.
        together = torch.tensor([len(steps[-1])])
        dist.all_reduce(together)
        if len(steps) == most:
            break
    return steps
