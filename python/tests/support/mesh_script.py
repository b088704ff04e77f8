# SPDX-License-Identifier: Apache-2.0
"""What each of four ranks runs: two of data times two of tensor parallelism."""

import json
import sys
from pathlib import Path

import torch.distributed as dist
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceMixedTorchDataset,
    Packing,
    TokenBudget,
)
from torch.distributed.device_mesh import init_device_mesh

KINDS = ("budget", "packing", "of one source")


def refusal(**arguments):
    """What is said to a dataset of some arguments."""
    try:
        LanceIterableTorchDataset(uri=sys.argv[1], table_name="many", **arguments)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def rows(**options):
    options = {"columns": ["id"], "shuffle": True, **options}
    return LanceIterableTorchDataset(uri=sys.argv[1], table_name="many", **options)


def mixture(kind, **options):
    """Even and odd ids, in batches of some kind."""
    columns = {"columns": {"id": "id", "tokens": "make_array(id, id)"}} if kind == "packing" else {}
    own = {"format": "torch"} if kind == "of one source" else {}
    halves = {
        name: rows(filter=f"id % 2 = {rest}", **columns, **own)
        for rest, name in enumerate(("even", "odd"))
    }
    made = {
        "budget": {"batching": TokenBudget(4000, lengths="id % 7 + 1"), "format": "torch"},
        "packing": {"batching": Packing(10, rows=100), "format": "torch"},
        "of one source": {"mix": "batches", "batch_size": 500},
    }
    return LanceMixedTorchDataset(halves, {"even": 1, "odd": 1}, **made[kind], **options)


def delivered(kind, **options):
    """The state after some steps, and the steps of the rest, of a mixture."""
    dataset = mixture(kind, **options)
    loader = LanceDataLoader(dataset)
    first = [batch["id"].tolist() for _, batch in zip(range(2), loader, strict=False)]
    state = loader.state_dict()
    resumed = LanceDataLoader(dataset)
    resumed.load_state_dict(state)
    return {"state": state, "steps": first + [batch["id"].tolist() for batch in resumed]}


def main() -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    dataset = LanceIterableTorchDataset(
        uri=sys.argv[1],
        table_name="many",
        columns=["id"],
        format="torch",
        batch_size=500,
        shuffle=True,
        mesh=mesh["dp"],
    )
    loader = LanceDataLoader(dataset, num_workers=1)
    record = {
        "steps": [batch["id"].tolist() for batch in loader],
        "state": loader.state_dict(),
        "mixtures": {kind: delivered(kind, mesh=mesh["dp"]) for kind in KINDS},
        "coordinate": mesh.get_coordinate(),
        "refused": [refusal(mesh=mesh), refusal(mesh=mesh["dp"], rank=0, world_size=2)],
    }
    (Path(sys.argv[2]) / f"rank{dist.get_rank()}.json").write_text(json.dumps(record))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
