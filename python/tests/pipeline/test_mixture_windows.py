# SPDX-License-Identifier: Apache-2.0
"""The memory that windows of all sources of a mixture share."""

from hypothesis import given
from hypothesis import strategies as st
from lancedb.integrations._torch.order.layout import Layout
from lancedb.integrations._torch.order.mixed_order import SourceOrder
from lancedb.integrations._torch.pipeline.mixture_windows import mixed_memory


def sources_of(windows, lanes=32):
    return [
        SourceOrder(str(n), 10**6, "block", Layout(1, rows, lanes, 1))
        for n, rows in enumerate(windows)
    ]


def test_windows_are_cut_into_few_segments():
    # Each segment is copied by itself: by those of the smallest windows there were 22 of the first.
    memory = mixed_memory(sources_of([4096, 2048, 1280, 768]), None)
    assert memory.segment_rows == 512
    assert memory._segments == 32 * (8 + 4 + 3 + 2)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=20))
def test_windows_that_are_delivered_row_by_row_hold_little_more_than_half(windows):
    memory = mixed_memory(sources_of(windows), None)
    size = memory.segment_rows
    in_use = sum(size * (-(-window // size) + 1) / 2 for window in windows)
    assert size == 64 or in_use <= 4 / 3 * sum(windows) / 2
    assert memory._segments * size >= 32 * sum(windows)


def test_memory_that_will_do_is_used_again():
    memory = mixed_memory(sources_of([4096, 768]), None)
    assert mixed_memory(sources_of([4096, 768]), memory) is memory
    assert mixed_memory(sources_of([768, 768]), memory) is not memory
