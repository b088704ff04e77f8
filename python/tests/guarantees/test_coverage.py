# SPDX-License-Identifier: Apache-2.0
"""Every row comes once an epoch, whatever rows are chosen and in whatever order."""

import pytest
from lancedb.permutation import Permutation, permutation_builder
from loaders import flat
from whole_epochs import ORDER_IDS, ORDERS, batches, torch_ids


@pytest.mark.parametrize("order", ORDERS, ids=ORDER_IDS)
@pytest.mark.parametrize("drop_last", [True, False])
def test_an_epoch_has_every_row_once(wide_range, order, drop_last):
    dataset = torch_ids(wide_range, drop_last=drop_last, **order)
    got = batches(dataset)
    assert len(got) == len(dataset) == 20_000 // 64 + (not drop_last)
    assert all(len(batch) == 64 for batch in got[:-1])
    assert len(got[-1]) == (64 if drop_last else 20_000 % 64)
    assert len(set(flat(got))) == len(flat(got)) == (19_968 if drop_last else 20_000)


@pytest.mark.parametrize("order", ORDERS, ids=ORDER_IDS)
@pytest.mark.parametrize("chosen", ["filter", "split", "permutation", "skip and take"])
def test_any_choice_of_rows_is_covered(wide_range, order, chosen):
    if chosen == "filter":
        dataset = torch_ids(wide_range, filter="label = 3", drop_last=False, **order)
        expected = [id for id in range(20_000) if id % 7 == 3]
    elif chosen == "skip and take":
        part = Permutation.identity(wide_range).with_skip(5000).with_take(3000)
        dataset = torch_ids(part, drop_last=False, **order)
        expected = list(range(5000, 8000))
    else:
        splits = permutation_builder(wide_range).split_random(
            counts=[15_000, 5000], seed=1, split_names=["train", "test"]
        )
        splits = splits.shuffle(seed=2) if chosen == "permutation" else splits
        made = splits.execute()
        dataset = torch_ids(
            wide_range, permutation_table=made, split="test", drop_last=False, **order
        )
        split = Permutation.from_tables(wide_range, made, "test")
        expected = sorted(row["id"] for row in split.fetch(slice(None)))
    assert sorted(flat(batches(dataset))) == expected
