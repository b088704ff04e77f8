# SPDX-License-Identifier: Apache-2.0
"""What each rank runs under torchrun: planned batches with an all-reduce each, written down."""

import datetime
import json
import sys
from pathlib import Path

import lancedb
import torch
import torch.distributed as dist
from documents import BUDGET, PACKING, content, dataset, mixture
from lancedb.integrations.torch import LanceDataLoader


def main() -> None:
    uri, out, name, *of_mixture = sys.argv[1:]
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=300))
    db = lancedb.connect(uri)
    batching = BUDGET if name == "TokenBudget" else PACKING
    steps = []
    made = mixture(db, batching) if of_mixture else dataset(db.open_table("docs"), batching)
    for batch in LanceDataLoader(made):
        steps.append(content(batch))
        dist.all_reduce(torch.zeros(1))  # hangs if another rank makes fewer steps
    Path(out, f"rank{dist.get_rank()}.json").write_text(json.dumps({"steps": steps}))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
