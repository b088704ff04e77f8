# SPDX-License-Identifier: Apache-2.0
"""Record batches are sent to workers while they have few bytes together."""

import threading

import pyarrow as pa
import pytest
from lancedb.integrations._torch.workers import epoch_feed
from lancedb.integrations._torch.workers.batch_slots import BatchSlots
from lancedb.integrations._torch.workers.epoch_feed import EpochFeed, RecordBatches

SMALL, LARGE = 1_000, 100_000


class Prefetched:
    def __init__(self, sizes):
        self.made = 0
        self._sizes = sizes

    def batches(self):
        for size in self._sizes:
            self.made += 1
            yield pa.record_batch({"value": [bytes(size)]})

    def cancel(self):
        pass


@pytest.fixture
def feed_of(monkeypatch):
    monkeypatch.setattr(epoch_feed, "_MOST_BYTES", LARGE + 20 * SMALL)

    def made(sizes):
        ahead = Prefetched(sizes)
        batches = RecordBatches(iter(range(len(sizes))), lambda _: ahead, lambda *_: None)
        return EpochFeed(batches, BatchSlots(), under_way=4), ahead

    return made


def test_after_a_large_batch_the_next_waits_until_it_is_delivered(feed_of):
    feed, ahead = feed_of([SMALL] * 12 + [LARGE] * 3)
    for number in range(13):
        assert feed.put(number) is not None
        if number < 12:
            feed.note_delivered()
    assert not feed._may_make
    waiting = threading.Thread(target=feed.put, args=(13,))
    waiting.start()
    assert ahead.made == 13
    feed.note_delivered()
    waiting.join()
    assert ahead.made == 14
    feed.close()


def test_batches_that_are_all_large_are_sent_as_far_ahead_as_was_asked_for(feed_of):
    feed, _ = feed_of([LARGE] * 4)
    assert all(feed.put(number) is not None for number in range(4))
    feed.close()


def test_whoever_waits_for_a_delivery_ends_with_the_feed(feed_of):
    feed, _ = feed_of([SMALL] * 12 + [LARGE] * 3)
    for number in range(13):
        feed.put(number)
        if number < 12:
            feed.note_delivered()
    waiting = threading.Thread(target=feed.put, args=(14,))
    waiting.start()
    feed.close()
    waiting.join()
