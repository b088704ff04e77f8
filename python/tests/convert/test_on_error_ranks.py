# SPDX-License-Identifier: Apache-2.0
"""Rows that a transform fails on, on several ranks: as many steps on each, every row delivered or
listed, and an epoch that goes on exactly on another number of ranks."""

import json
import random
from pathlib import Path

import pytest
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from rank_steps import ORDER
from torchrun import torchrun

SCRIPT = Path(__file__).parents[1] / "support/badrow_script.py"
POLICIES = ("skip", "function")
ROWS, BATCH, RANKS, BEGUN = 20_000, 96, 2, 90


@pytest.fixture
def whole(wide_range):
    """The global steps of the epoch, had every row been good."""
    dataset = LanceIterableTorchDataset(
        wide_range,
        batch_size=BATCH,
        drop_last=False,
        **ORDER,
    )
    return [batch["id"].tolist() for batch in LanceDataLoader(dataset)]


@pytest.fixture
def bad(tmp_path, whole):
    """Some rows of everywhere, all that one rank has of a step, and all that both have of one."""
    spread = random.Random(0).sample(range(ROWS), 150)
    rows = {*spread, *whole[7][: BATCH // RANKS], *whole[150]}
    (tmp_path / "bad.json").write_text(json.dumps(sorted(rows)))
    return rows


class Part:
    """A part of an epoch, as all ranks made it under one policy."""

    def __init__(self, records, out, policy):
        mine = [record[policy] for record in records]
        self.by_rank = [record["steps"] for record in mine]
        steps = zip(*self.by_rank, strict=True)  # as many on every rank
        self.steps = [[row for batch in step for row in batch] for step in steps]
        self.state = mine[0]["state"]
        assert all(record["state"] == self.state for record in mine)
        self.skipped = sorted(row for record in mine for row in record["skipped"])
        self.count = sum(record["count"] for record in mine)
        told = sorted(int(row) for path in out.glob("told-*") for row in path.read_text().split())
        self.told = told if policy == "function" else None


@pytest.fixture
def parts_of(tmp_path, bad, starter):
    """Runs a part of the epoch on some ranks, under either policy."""

    def run(ranks, name, *arguments):
        out, by = tmp_path / name, {"starter": starter}
        given = (tmp_path / "db", out, tmp_path / "bad.json", *arguments)
        records = torchrun(SCRIPT, ranks, *given, **by)
        parts = {policy: Part(records, out, policy) for policy in POLICIES}
        states = {policy: part.state for policy, part in parts.items()}
        (out / "states.json").write_text(json.dumps(states))
        return parts, out / "states.json"

    return run


def among(rows, steps):
    return sorted(row for step in steps for row in step if row in rows)


@pytest.mark.soak
@pytest.mark.parametrize(("workers", "ranks_after"), [(0, 3), (2, 1)])
def test_an_epoch_among_bad_rows_begun_on_two_ranks_ends_on_another_number(
    parts_of, whole, bad, workers, ranks_after
):
    options = ["--workers", workers]
    begun, states = parts_of(RANKS, "begun", *options, "--steps", BEGUN)
    rest, _ = parts_of(ranks_after, "rest", *options, "--resume", states)
    for policy in POLICIES:
        first, second = begun[policy], rest[policy]
        assert first.steps + second.steps == [
            [row for row in step if row not in bad] for step in whole
        ]
        assert first.by_rank[0][7] == []
        assert second.steps[150 - BEGUN] == []
        assert (first.state["epoch"], first.state["position"]) == (0, BEGUN * BATCH)
        assert (second.state["epoch"], second.state["position"]) == (1, 0)
        delivered = [row for part in (first, second) for step in part.steps for row in step]
        assert sorted([*delivered, *bad]) == list(range(ROWS))
        passed, left = (among(bad, steps) for steps in (whole[:BEGUN], whole[BEGUN:]))
        # A row is listed once, by the rank whose it was.
        assert second.skipped == left
        assert second.count == len(left)
        if workers == 0:
            assert first.skipped == passed
            assert first.count == len(passed)
        else:  # workers have made some batches more, which the resumed run makes again
            assert set(passed) <= set(first.skipped) <= bad
            assert first.count == len(first.skipped)
    assert rest["function"].told == rest["function"].skipped
    assert begun["function"].told == begun["function"].skipped
