# SPDX-License-Identifier: Apache-2.0
"""Arguments that differ between two ranks are named at the first batch, and no rank ever waits."""

import re
from pathlib import Path

import pytest
import torch.distributed as dist
from lancedb.integrations._torch.order.state import Position
from lancedb.integrations._torch.workers import agreement
from torchrun import torchrun

SCRIPT = Path(__file__).parents[1] / "support/agreement_script.py"
NAMED = ["seed", "batch_size", "drop_last", "columns", "selection", "version"]


def test_what_differs_between_ranks_is_named_on_one_of_them(tmp_path, table, starter):
    ranks = torchrun(SCRIPT, 2, tmp_path / "db", tmp_path / "out", starter=starter)
    assert [rank.pop("alone") for rank in ranks] == [[62, None]] * 2
    (begins,) = [said for rank in ranks for said in rank.pop("begins")]
    assert re.search(r"rank \d begins at position 0 of epoch \d, and rank \d began at", begins)
    raised = {name: [rank[name] for rank in ranks if rank[name]] for name in ranks[0]}
    equal = {name for name, errors in raised.items() if not errors}
    assert equal == {
        *(f"{kind}: {what}" for kind in ("loader", "dataset") for what in ("nothing", SHARDS)),
        "map-style: nothing",
    }
    for kind in ("loader", "dataset"):
        for name in NAMED:
            (error,) = raised[f"{kind}: {name}"]  # of who came second
            assert f"{name} is " in error
            assert "on rank" in error
    (error,) = raised["map-style: seed"]
    assert "seed is 0 on rank 0 and 1 here" in error or "seed is 1 on rank 1 and 0 here" in error


SHARDS = "its own shards"


class Refusing:
    """A store that can do nothing."""

    def compare_set(self, *args):
        raise RuntimeError("not implemented")


@pytest.mark.parametrize("store", [None, Refusing(), object()], ids=lambda s: type(s).__name__)
def test_a_process_group_whose_store_cannot_say_is_left_alone(monkeypatch, store):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    agreement.Agreement().check(2, lambda: {"seed": 0}, Position())


def test_torch_has_the_store_that_is_read_of_it():
    assert callable(dist.distributed_c10d._get_default_store)
    assert callable(dist.Store.compare_set)


def test_a_long_value_is_compared_by_a_digest():
    first, second = ([f"column {i}" for i in range(100)] for _ in range(2))
    assert agreement._short(first) == agreement._short(second)
    assert agreement._short(first) != agreement._short([*first[:-1], "another"])
