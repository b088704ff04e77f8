# SPDX-License-Identifier: Apache-2.0
"""Real ranks: equal steps, no row twice, the same epoch on any number of them.

Two ranks with workers are started by torchrun itself, and all others as it starts them.
"""

import json
import socket
from pathlib import Path

import pytest
import torch
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from rank_steps import ORDER
from torchrun import torchrun

SCRIPT = Path(__file__).parents[1] / "support/rank_script.py"


@pytest.fixture
def whole(wide_range):
    """The epoch as one process without workers delivers it."""
    dataset = LanceIterableTorchDataset(
        wide_range,
        batch_size=96,
        **ORDER,
    )
    return [batch["id"].tolist() for batch in LanceDataLoader(dataset)]


def run(tmp_path, ranks, name, *arguments, starter=None):
    """Run the script on some ranks; the global steps, and the state of each rank."""
    out = tmp_path / name
    records = torchrun(SCRIPT, ranks, tmp_path / "db", out, *arguments, starter=starter)
    states = [record["state"] for record in records]
    assert all(state == states[0] for state in states)
    assert len({record["length"] for record in records}) == 1
    (out / "state.json").write_text(json.dumps(states[0]))
    steps = zip(*(record["steps"] for record in records), strict=True)
    return [[id for batch in step for id in batch] for step in steps], out / "state.json"


@pytest.mark.few(1)
@pytest.mark.parametrize(("ranks", "workers"), [(2, 2), (4, 0)])
def test_global_steps_are_those_of_one_process(tmp_path, whole, starter, ranks, workers):
    steps, _ = run(tmp_path, ranks, "all", "--workers", workers, starter=starter)
    assert steps == whole


@pytest.mark.soak
def test_so_they_are_where_torchrun_itself_starts_them(tmp_path, whole):
    steps, _ = run(tmp_path, 2, "all", "--workers", 2)
    assert steps == whole


@pytest.mark.soak
def test_an_epoch_begun_on_four_ranks_ends_on_two_and_on_one(tmp_path, whole, starter):
    by = {"starter": starter}
    first, state = run(tmp_path, 4, "four", "--steps", 50, "--workers", 2, **by)
    second, state = run(tmp_path, 2, "two", "--resume", state, "--steps", 70, **by)
    third, state = run(tmp_path, 1, "one", "--resume", state, "--workers", 2, **by)
    assert first + second + third == whole
    state = json.loads(state.read_text())
    assert (state["epoch"], state["position"]) == (1, 0)


def test_every_row_comes_once_when_none_is_dropped(tmp_path, wide_range, starter):
    rest = ["--keep-all", "--global-batch", 999]
    steps, _ = run(tmp_path, 3, "all", *rest, starter=starter)
    assert sorted(id for step in steps for id in step) == list(range(20_000))


def deliver(rank, dataset, loader, port, out):
    """What `torch.multiprocessing.spawn` runs as a rank: the process group comes after the data."""
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2, init_method=address)
    epochs = []
    for batches in (dataset, dataset, loader, LanceDataLoader(dataset, num_workers=1)):
        torch.distributed.barrier()
        epochs.append([batch["id"].tolist() for batch in batches])
    (out / f"{rank}.json").write_text(json.dumps(epochs))
    torch.distributed.destroy_process_group()


@pytest.mark.soak
def test_what_is_sent_to_spawned_ranks_is_dealt_to_them(tmp_path, wide_range):
    def make(batch_size):
        return LanceIterableTorchDataset(
            wide_range, columns=["id"], format="torch", batch_size=batch_size, shuffle=True
        )

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (make(96), LanceDataLoader(make(96)), port, tmp_path)
    torch.multiprocessing.spawn(deliver, arguments, nprocs=2)  # type: ignore[attr-defined]
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    alone = make(192)
    first, second = ([batch["id"].tolist() for batch in alone] for _ in range(2))
    dealt = [
        [one + other for one, other in zip(*steps, strict=True)]
        for steps in zip(*ranks, strict=True)
    ]
    assert dealt == [first, second, first, first]
