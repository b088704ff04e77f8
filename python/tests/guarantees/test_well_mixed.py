# SPDX-License-Identifier: Apache-2.0
"""How well an epoch is mixed, on a table sorted by label: the worst that a table can be."""

import numpy as np
import pytest
from lancedb.integrations._torch.order.epoch_order import EpochOrder
from lancedb.integrations._torch.order.layout import auto_layout

LABELS = 10
EMBEDDING_ROW = 524  # id int64, label int32, vec float32[128]


def labels_in_order(plan, kinds=LABELS):
    """The label of each row of an epoch, in sequence; the table is sorted by label."""
    return plan.rows_at(np.arange(plan.rows)) * kinds // plan.rows


def variance_ratio(labels, batch, kinds=LABELS):
    """The variance of label counts per batch, over that of sampling without replacement."""
    batches = len(labels) // batch
    numbers = np.arange(batches * batch) // batch
    counts = np.bincount(numbers * kinds + labels[: batches * batch], minlength=batches * kinds)
    share = 1 / kinds
    ideal = batch * share * (1 - share) * (1 - (batch - 1) / (len(labels) - 1))
    return ((counts - batch * share) ** 2).mean() / ideal


def mixing(plan, batch, kinds=LABELS):
    """The ratio for single batches, and for 16 batches in a row."""
    labels = labels_in_order(plan, kinds)
    return variance_ratio(labels, batch, kinds), variance_ratio(labels, 16 * batch, kinds)


def auto_plan(rows, batch, epoch=0, row_bytes=EMBEDDING_ROW):
    return EpochOrder(rows, 0, epoch, "block", **vars(auto_layout(rows, row_bytes, batch, "block")))


def test_the_measure_is_one_for_a_random_order_and_large_for_a_sorted_one():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(LABELS), 50_000))
    assert variance_ratio(labels, 256) == pytest.approx(1, abs=0.03)
    assert variance_ratio(np.sort(labels), 256) > 100


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_block_shuffle_with_auto_settings_mixes_nearly_as_well_as_sampling(epoch):
    one, sixteen = mixing(auto_plan(10**6, 256, epoch), 256)
    assert one <= 1.1
    assert sixteen <= 1.3


@pytest.mark.few(1)
@pytest.mark.parametrize("batch", [64, 256, 1024])
def test_a_table_sorted_by_a_thousand_labels_mixes_well(batch):
    one, sixteen = mixing(auto_plan(10**6, batch), batch, kinds=1000)
    assert one <= 1.4
    assert sixteen <= 2


@pytest.mark.parametrize("row_bytes", [4, 20, 140])
def test_rows_of_a_few_bytes_mix_as_well(row_bytes):
    epochs = [mixing(auto_plan(10**6, 256, epoch, row_bytes), 256) for epoch in range(3)]
    one, sixteen = np.mean(epochs, axis=0)
    assert one <= 1.2
    assert sixteen <= 2


@pytest.mark.parametrize("batch", [32, 100, 256, 1000])
def test_smaller_tables_mix_as_well_at_any_batch_size(batch):
    epochs = [mixing(auto_plan(200_000, batch, epoch), batch) for epoch in range(3)]
    one, sixteen = np.mean(epochs, axis=0)
    assert one <= 1.2
    assert sixteen <= 2


def test_large_batches_of_a_large_table_mix_well():
    # So few are 16 batches in a row here that one epoch alone tells little.
    epochs = [mixing(auto_plan(10**6, 4096, epoch), 4096) for epoch in range(5)]
    one, sixteen = np.mean(epochs, axis=0)
    assert one <= 1.2
    assert sixteen <= 2


def test_a_global_shuffle_is_within_noise_of_sampling():
    one, sixteen = mixing(EpochOrder(10**6, 0, 0, "global"), 256)
    assert one == pytest.approx(1, abs=0.03)
    assert sixteen == pytest.approx(1, abs=0.12)


def test_a_small_table_is_shuffled_globally_by_any_shuffle():
    epochs = [mixing(auto_plan(20_000, 256, epoch), 256) for epoch in range(10)]
    assert np.mean(epochs, axis=0)[0] == pytest.approx(1, abs=0.1)


def test_the_first_batches_of_an_epoch_are_mixed_too():
    counts = []
    for epoch in range(20):
        first = np.arange(20 * 256)
        labels = auto_plan(10**6, 256, epoch).rows_at(first) * LABELS // 10**6
        numbers = first // 256 * LABELS
        counts.append(np.bincount(numbers + labels, minlength=20 * LABELS))
    deviations = np.concatenate(counts) - 256 / LABELS
    assert (deviations**2).mean() / (256 * 0.1 * 0.9) <= 1.3


def test_neighbours_in_the_table_are_strangers_in_the_epoch():
    plan = auto_plan(10**6, 256)
    place = np.empty(plan.rows, np.int64)
    place[plan.rows_at(np.arange(plan.rows))] = np.arange(plan.rows)
    same_batch = np.diff(place // 256) == 0
    # Of 64 rows of a block, a window of 128 blocks hands out one in 4 turns.
    assert same_batch.mean() < 0.01
