# SPDX-License-Identifier: Apache-2.0
"""The memory that windows of all sources of a mixture share."""

from hypothesis import given
from hypothesis import strategies as st
from lancedb.integrations._torch.order.layout import Layout
from lancedb.integrations._torch.order.mixed_order import SourceOrder
from lancedb.integrations._torch.pipeline.mixed_sources import mixed_memory


def sources_of(windows, lanes=32):
    return [
        SourceOrder(str(n), 10**6, "block", Layout(1, rows, lanes, 1))
        for n, rows in enumerate(windows)
    ]


def test_windows_are_cut_into_few_segments_that_hold_little_more_than_their_rows():
    # Each segment is copied by itself: by those of the smallest windows there were 22 of the first.
    memory = mixed_memory(sources_of([4096, 2048, 1280, 768]), None)
    assert memory.segment_rows == 1024
    assert memory._segments == 32 * (4 + 2 + 2 + 1)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=20))
def test_segments_that_are_not_full_take_little(windows):
    memory = mixed_memory(sources_of(windows), None)
    rows = 32 * sum(windows)
    smallest = -(-min(windows) // 4)
    assert memory.segment_rows * memory._segments <= max(
        9 / 8 * rows, rows + 32 * 64 * len(windows)
    )
    assert memory.segment_rows >= min(64, smallest)


def test_memory_that_will_do_is_used_again():
    memory = mixed_memory(sources_of([4096, 768]), None)
    assert mixed_memory(sources_of([4096, 768]), memory) is memory
    assert mixed_memory(sources_of([768, 768]), memory) is not memory
