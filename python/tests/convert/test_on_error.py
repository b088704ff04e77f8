# SPDX-License-Identifier: Apache-2.0
"""`on_error`: rows that a transform fails on are left out, counted and listed, and nothing else
changes: not the order, not the number of steps, not where a run resumes."""

import json
import logging

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lancedb.integrations._torch.convert.on_error import HOPELESS, Partial, make_what_can_be
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)

BAD = {3, 64, 65, 130, 999}


def refuses_bad(columns):
    """Changes its batch before it fails, as a careless transform may."""
    columns["vec"] += 1
    found = BAD.intersection(columns["id"].tolist())
    if found:
        raise ValueError(f"cannot decode {sorted(found)[0]}")
    return columns


def refuses_all(columns):
    raise ValueError("nothing can be decoded")


def refuses_large_batches(columns):
    if len(columns["id"]) > 1:
        raise MemoryError("too large")
    return columns


def stop(error, offset):
    raise RuntimeError(f"row {offset} is bad") from error


def streamed(table, transform=refuses_bad, **options):
    options = {"batch_size": 32, "on_error": "skip", "columns": ["id", "vec"], **options}
    return LanceIterableTorchDataset(table, format="torch", transform=transform, **options)


def ids(batches):
    return [batch["id"].tolist() for batch in batches]


@pytest.mark.parametrize(("shuffle", "workers"), [(False, 0), (True, 2), ("global", 0)])
def test_each_batch_is_the_one_without_skipping_less_its_bad_rows(table, shuffle, workers):
    whole = LanceIterableTorchDataset(
        table, columns=["id"], format="torch", batch_size=32, shuffle=shuffle, drop_last=False
    )
    loader = LanceDataLoader(streamed(table, shuffle=shuffle, drop_last=False), num_workers=workers)
    expected = [[i for i in batch if i not in BAD] for batch in ids(whole)]
    batches = list(loader)
    assert ids(batches) == expected
    assert loader.skipped_rows() == sorted(BAD)
    assert loader.stats()["skipped"] == len(BAD)


def test_what_a_failed_attempt_changed_is_not_seen(table):
    for batch in streamed(table):
        expected = batch["id"][:, None] + torch.arange(4) / 8 + 1
        torch.testing.assert_close(batch["vec"], expected.float())


@pytest.mark.parametrize(("workers", "stops"), [(0, (0, 1, 7, 30)), (2, (7,))])
def test_a_run_resumed_among_bad_rows_is_the_uninterrupted_one(table, workers, stops):
    whole = ids(LanceDataLoader(streamed(table, shuffle=True, seed=4)))
    assert len(whole) == 31
    for stop_after in stops:
        loader = LanceDataLoader(streamed(table, shuffle=True, seed=4), num_workers=workers)
        head = ids(batch for _, batch in zip(range(stop_after), loader, strict=False))
        state = json.loads(json.dumps(loader.state_dict()))
        resumed = LanceDataLoader(streamed(table, shuffle=True, seed=4), num_workers=workers)
        resumed.load_state_dict(state)
        assert head + ids(resumed) == whole


def test_ranks_make_equal_steps_whatever_is_left_out(table):
    ranks = [streamed(table, rank=rank, world_size=2, shuffle=True) for rank in (0, 1)]
    steps = [ids(dataset) for dataset in ranks]
    assert len(steps[0]) == len(steps[1]) == len(ranks[0])
    seen = sorted(i for rank in steps for batch in rank for i in batch)
    assert len(set(seen)) == len(seen)
    assert not BAD.intersection(seen)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_map_style_dataset_skips_too(table, workers):
    dataset = LanceTorchDataset(
        table, columns=["id", "vec"], format="torch", transform=refuses_bad, on_error="skip"
    )
    loader = LanceDataLoader(dataset, batch_size=100, num_workers=workers)
    assert [i for batch in ids(loader) for i in batch] == [i for i in range(1000) if i not in BAD]
    assert loader.skipped_rows() == sorted(BAD)


def test_offsets_are_those_of_the_table_for_a_filter(table):
    dataset = streamed(table, filter="id >= 60", drop_last=False)
    list(dataset)
    assert dataset.skipped_rows() == [64, 65, 130, 999]


def test_each_row_left_out_is_logged_with_its_reason(table, caplog):
    with caplog.at_level(logging.WARNING, "lancedb.integrations.torch"):
        list(streamed(table, drop_last=False))
    assert [record.getMessage() for record in caplog.records] == [
        f"row {row} is left out: ValueError: cannot decode {row}" for row in sorted(BAD)
    ]


def test_a_callable_is_told_each_error_and_offset(table):
    told = []

    def tell(error, offset):
        told.append((str(error), offset))

    dataset = streamed(table, on_error=tell, drop_last=False)
    list(dataset)
    assert told == [(f"cannot decode {row}", row) for row in sorted(BAD)]
    assert dataset.skipped_rows() == sorted(BAD)


def test_a_callable_may_stop_the_run(table):
    with pytest.raises(RuntimeError, match="row 3 is bad"):
        list(streamed(table, on_error=stop))


def test_without_on_error_the_transforms_error_is_raised(table):
    with pytest.raises(ValueError, match="cannot decode 3"):
        list(streamed(table, on_error="raise"))


def test_a_transform_that_fails_on_rows_together_but_on_none_alone_is_raised(table):
    with pytest.raises(MemoryError, match="too large"):
        list(streamed(table, transform=refuses_large_batches))


def test_a_transform_that_never_works_is_raised(wide_range):
    got = []
    with pytest.raises(ValueError, match="nothing can be decoded"):
        got.extend(
            batch["id"].tolist()
            for batch in streamed(wide_range, transform=refuses_all, transform_threads=1)
        )
    assert got == [[]] * (HOPELESS // 32)


def stacks(columns):
    """Refuses bad rows, and an empty batch, as torch.stack does."""
    refuses_bad(columns)
    return {"id": torch.stack(list(columns["id"])), "vec": columns["vec"]}


@pytest.mark.parametrize(("shuffle", "workers"), [("global", 0), (False, 2)])
def test_a_batch_of_bad_rows_alone_is_empty_and_a_step_like_any_other(table, shuffle, workers):
    options = {"transform": stacks, "filter": "id < 70 OR id = 999", "drop_last": False}
    for batch_size in (1, 10):
        ranks = []
        for rank in (0, 1):
            dataset = streamed(
                table, batch_size=batch_size, rank=rank, world_size=2, shuffle=shuffle, **options
            )
            ranks.append(ids(LanceDataLoader(dataset, num_workers=workers)))
            assert len(ranks[-1]) == len(dataset)
        assert len(ranks[0]) == len(ranks[1])
        assert ([] in ranks[0] + ranks[1]) == (batch_size == 1)
        seen = [row for rank in ranks for batch in rank for row in batch]
        assert sorted(seen) == [row for row in range(70) if row not in BAD]


def test_so_it_is_with_the_map_style_dataset(table):
    dataset = LanceTorchDataset(
        table, columns=["id", "vec"], format="torch", transform=stacks, on_error="skip"
    )
    batches = list(LanceDataLoader(dataset, batch_size=1))
    assert [row for row, batch in enumerate(batches) if not len(batch["id"])] == sorted(BAD)
    assert batches[3]["vec"].shape == (0, 4)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"on_error": "ignore"}, ValueError, "'raise', 'skip', or a callable.*'ignore'"),
        ({"transform": None}, ValueError, "there is none"),
    ],
)
def test_a_wrong_policy_is_refused(table, options, error, words):
    with pytest.raises(error, match=words):
        streamed(table, **options)


def test_a_callable_that_cannot_reach_workers_says_so_before_they_start(table):
    loader = LanceDataLoader(streamed(table, on_error=lambda *_: None), num_workers=1)
    with pytest.raises(TypeError, match="on_error .* cannot be sent to worker processes"):
        iter(loader)


@given(st.integers(1, 60), st.sets(st.integers(0, 59)))
def test_exactly_the_failing_rows_are_found(rows, failing):
    def make(batch):
        found = failing.intersection(batch["x"].to_pylist())
        if found:
            raise KeyError(min(found))
        return batch["x"].to_pylist()

    batch = pa.record_batch({"x": np.arange(rows)})
    made = make_what_can_be(batch, make, make)
    bad = sorted(failing.intersection(range(rows)))
    good = [row for row in range(rows) if row not in failing]
    if bad:
        assert isinstance(made, Partial)
        assert made.batch == good
        assert [(row, error.args[0]) for row, error in made.bad.items()] == [(r, r) for r in bad]
    else:
        assert made == good
