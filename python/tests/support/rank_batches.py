# SPDX-License-Identifier: Apache-2.0
"""What each rank runs under torchrun: planned batches with an all-reduce each, written down."""

import datetime
import json
import sys
from pathlib import Path

import lancedb
import torch
import torch.distributed as dist
from documents import BUDGET, PACKING, content, dataset
from lancedb.integrations.torch import LanceDataLoader


def main() -> None:
    uri, out, name = sys.argv[1:]
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    table = lancedb.connect(uri).open_table("docs")
    batching = BUDGET if name == "TokenBudget" else PACKING
    steps = []
    for batch in LanceDataLoader(dataset(table, batching)):
        steps.append(content(batch))
        dist.all_reduce(torch.zeros(1))  # hangs if another rank makes fewer steps
    Path(out, f"rank{dist.get_rank()}.json").write_text(json.dumps({"steps": steps}))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
