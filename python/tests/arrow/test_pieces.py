# SPDX-License-Identifier: Apache-2.0
"""Rows of a column in several pieces: those of one column, wherever the pieces are in memory."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.arrow.pieces import SlicesOfRows, grid_of
from lancedb.integrations._torch.arrow.take import FixedRows

PAGE = 4096
# A power of two, three halves of one, one of many units to a page, and one of an odd number.
WIDTHS = [1, 8, 512, 1536, 600, 12]


def pieces_in_memory(width, lengths, gaps):
    """Random rows of so many bytes, cut into pieces that stand so far apart; and all in one."""
    rows = np.random.default_rng(0).integers(0, 256, (sum(lengths), width), np.uint8)
    memory = np.zeros(len(rows) * width + sum(gaps) + PAGE, np.uint8)
    at = -memory.ctypes.data % PAGE
    pieces, start = [], 0
    for length, gap in zip(lengths, gaps, strict=True):
        at += gap
        piece = memory[at : at + length * width]
        piece[:] = rows[start : start + length].ravel()
        pieces.append(piece.view(f"V{width}"))
        start, at = start + length, at + length * width
    return pieces, np.cumsum([0, *lengths])[:-1], rows


@given(data=st.data(), width=st.sampled_from(WIDTHS))
@settings(max_examples=60)
def test_any_rows_come_out_of_any_pieces(data, width):
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    gaps = [data.draw(st.sampled_from([0, 8, PAGE, 3 * PAGE])) for _ in lengths]
    pieces, starts, rows = pieces_in_memory(width, lengths, gaps)
    kind = pa.binary(width)
    column = SlicesOfRows(kind, [FixedRows(kind, piece) for piece in pieces], starts)
    places = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=60)), np.int64)
    taken = column.take(places)
    assert taken.to_pylist() == [rows[place].tobytes() for place in places.tolist()]


@pytest.mark.parametrize(("width", "units"), [(1, 1), (8, 1), (512, 1), (1536, 3)])
def test_pieces_at_the_same_place_of_a_page_are_one_array_but_for_the_last(width, units):
    lengths = [PAGE, PAGE, PAGE, 7]
    pieces, starts, _ = pieces_in_memory(width, lengths, [64, 0, PAGE, 0])
    odd = np.zeros(8 * width + PAGE, np.uint8)
    first = 64 + 8 - odd.ctypes.data % 64
    pieces[3] = odd[first : first + 7 * width].view(f"V{width}")
    grid = grid_of(pieces, starts)
    assert grid is not None
    assert grid.units == units
    assert set(grid.strays) <= ({3} if width > 8 else set())


@pytest.mark.parametrize("width", [600, 12 * 37])
def test_rows_that_have_little_in_common_with_a_page_are_copied_piece_by_piece(width):
    pieces, starts, _ = pieces_in_memory(width, [PAGE, PAGE], [0, 8])
    assert grid_of(pieces, starts) is None
