# SPDX-License-Identifier: Apache-2.0
"""Real ranks over a mixture: equal steps, one state, and the run goes on with others."""

import json
from pathlib import Path

import pytest
from conftest import rows_of
from mixed_rank_script import make_loader
from torchrun import torchrun

SCRIPT = Path(__file__).parents[1] / "support/mixed_rank_script.py"


@pytest.fixture
def whole(db, tmp_path):
    """The epoch as one process without workers delivers it."""
    db.create_table("web", rows_of(900))
    db.create_table("code", rows_of(700, 10_000))
    return [batch["id"].tolist() for batch in make_loader(tmp_path / "db", 48)]


def run(tmp_path, ranks, name, *arguments, starter):
    out = tmp_path / name
    records = torchrun(SCRIPT, ranks, tmp_path / "db", out, *arguments, starter=starter)
    assert all(record["state"] == records[0]["state"] for record in records)
    assert len({record["length"] for record in records}) == 1
    (out / "state.json").write_text(json.dumps(records[0]["state"]))
    steps = zip(*(record["steps"] for record in records), strict=True)
    return [[id for batch in step for id in batch] for step in steps], out / "state.json"


def test_four_ranks_make_the_steps_of_one(tmp_path, whole, starter):
    steps, _ = run(tmp_path, 4, "four", starter=starter)
    assert steps == whole


@pytest.mark.soak
def test_an_epoch_begun_on_four_ranks_ends_on_two_with_workers(tmp_path, whole, starter):
    first, state = run(tmp_path, 4, "four", "--steps", 7, starter=starter)
    rest, _ = run(tmp_path, 2, "two", "--resume", state, "--workers", 1, starter=starter)
    assert first + rest == whole
