# SPDX-License-Identifier: Apache-2.0
"""Each epoch has an order of its own, which is the same again when it is asked for."""

import pytest
from lancedb.permutation import permutation_builder
from loaders import flat
from whole_epochs import ORDER_IDS, ORDERS, batches, torch_ids


@pytest.mark.parametrize("order", ORDERS[1:], ids=ORDER_IDS[1:])
def test_every_epoch_has_its_own_order_and_the_same_one_again_when_asked(wide_range, order):
    dataset = torch_ids(wide_range, **order)
    first, second = batches(dataset), batches(dataset)
    assert first != second
    dataset.set_epoch(0)
    assert batches(dataset) == first
    assert batches(dataset) == second
    assert batches(torch_ids(wide_range, **order)) == first
    assert batches(torch_ids(wide_range, seed=1, **order)) != first


@pytest.mark.parametrize("order", ORDERS[1:], ids=ORDER_IDS[1:])
def test_a_split_keeps_its_rows_and_has_them_in_another_order_each_epoch(wide_range, order):
    splits = permutation_builder(wide_range).split_random(counts=[4000, 16_000], seed=1).execute()
    options = {"permutation_table": splits, "split": 0, "drop_last": False}
    dataset = torch_ids(wide_range, **options, **order)
    first, second = flat(batches(dataset)), flat(batches(dataset))
    assert first != second
    assert sorted(first) == sorted(second)
    assert len(set(first)) == 4000
