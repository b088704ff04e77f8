# SPDX-License-Identifier: Apache-2.0
"""What each of two ranks runs: datasets made with equal and with other arguments."""

import datetime
import json
import sys
import warnings
from pathlib import Path

import torch.distributed as dist
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)

uri, out = sys.argv[1], Path(sys.argv[2])
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=300))
rank = dist.get_rank()
# What differs between the ranks, by the argument that has to be named.
DIFFER = {
    "nothing": [{}, {}],
    "seed": [{"seed": 0}, {"seed": 1}],
    "batch_size": [{"batch_size": 8}, {"batch_size": 16}],
    "drop_last": [{"drop_last": True}, {"drop_last": False}],
    "columns": [{"columns": ["id"]}, {"columns": ["id", "label"]}],
    "selection": [{}, {"filter": "label < 5"}],
    "version": [{"version": 3}, {"version": 2}],
    "its own shards": [{"rank": 0, "world_size": 1, "seed": i} for i in (0, 1)],
}


def dataset(**arguments):
    options = {"batch_size": 8, "shuffle": True, **arguments}
    return LanceIterableTorchDataset(uri=uri, table_name="points", **options)


def iterated(batches):
    """What iterating raised, if anything."""
    try:
        next(iter(batches))
    except ValueError as error:
        return str(error)
    return None


def map_style(**arguments):
    rows = LanceTorchDataset(uri=uri, table_name="points", columns=["id"])
    return LanceDataLoader(rows, batch_size=8, shuffle=True, **arguments)


record = {}
if rank == 0:  # makes and iterates one more than the other: nobody waits for anybody
    record["alone"] = [len(list(LanceDataLoader(dataset(seed=99)))), iterated(dataset(seed=98))]
for name, arguments in DIFFER.items():
    record[f"loader: {name}"] = iterated(LanceDataLoader(dataset(**arguments[rank])))
    record[f"dataset: {name}"] = iterated(dataset(**arguments[rank]))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for begins in ([0, 0], [0, 1]):  # each rank's first epoch
        loader = LanceDataLoader(dataset())
        loader.set_epoch(begins[rank])
        iterated(loader)
    record["begins"] = [str(each.message) for each in caught]
record["map-style: nothing"] = iterated(map_style(seed=3))
record["map-style: seed"] = iterated(map_style(seed=rank))
if rank == 1:
    record["alone"] = [len(list(LanceDataLoader(dataset(seed=97)))), iterated(dataset(seed=96))]
(out / f"rank{rank}.json").write_text(json.dumps(record))
dist.barrier()
dist.destroy_process_group()
