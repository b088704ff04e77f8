# SPDX-License-Identifier: Apache-2.0
"""Documents packed into rows of one length: best fit, by a histogram of lengths.

The longest documents go first, each into the fullest row that still has the space. Documents of
one length are placed together, and rows with the same space left are one pile, so that a group
costs as many steps as it has different lengths rather than documents (Krell, Kosec, Perez and
Fitzgibbon, "Efficient Sequence Packing without Cross-contamination", 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .batch_units import Units
from .index_shuffle import derive_key, shuffled
from .window_slices import runs


@dataclass(frozen=True)
class PackingPlanner:
    """How the groups of a round are packed.

    Parameters
    ----------
    length : int
        Tokens of a row.
    units_in_batch : int
        Rows of a batch: a packed row is a unit.
    splits : bool
        Whether documents that are longer than a row become several; else they are cut short.
    """

    length: int
    units_in_batch: int
    splits: bool

    units_are_batches = False  # also where a batch is of one row: its documents stay together

    def units_of(self, groups: Sequence[np.ndarray], key: int | None) -> list[Units]:
        """The packed rows of each group of a round.

        Parameters
        ----------
        groups : sequence of numpy.ndarray of int64
            The lengths of each group's documents, all above 0.
        key : int, optional
            Decides the order of the rows; None for that of the first document in each.
        """
        keys = [None if key is None else derive_key(key, shard) for shard in range(len(groups))]
        return [self._packed(each, own) for each, own in zip(groups, keys, strict=True)]

    def _packed(self, lengths: np.ndarray, key: int | None) -> Units:
        places, starts, counts = self._pieces(lengths)
        rows, number = pack(counts, self.length)
        if key is None:
            firsts = np.unique(rows, return_index=True)[1]
            order = np.argsort(firsts)
        else:
            order = shuffled(number, key)
        rank = np.empty(number, np.int64)
        rank[order] = np.arange(number)
        by_row = np.argsort(rank[rows], kind="stable")
        edges = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=number)[order])])
        places = places[by_row]
        return Units(places, edges.astype(np.int64), starts[by_row], lengths[places])

    def _pieces(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The document, start and length of each piece."""
        places = np.arange(len(lengths))
        if not self.splits:
            return places, np.zeros(len(lengths), np.int64), np.minimum(lengths, self.length)
        pieces = -(-lengths // self.length)
        places = np.repeat(places, pieces)
        starts = runs(np.zeros(len(pieces), np.int64), pieces) * self.length
        return places, starts, np.minimum(lengths[places] - starts, self.length)


def pack(lengths: np.ndarray, length: int) -> tuple[np.ndarray, int]:
    """The row that each document is packed into, and how many rows there are.

    Parameters
    ----------
    lengths : numpy.ndarray of int64
        Of the documents, from 1 to `length`.
    length : int
        Of a row.

    Examples
    --------
    >>> pack(np.array([5, 3, 8, 2, 6]), 8)
    (array([2, 2, 0, 1, 1]), 3)
    """
    descending = np.argsort(-lengths, kind="stable")
    distinct, counts = np.unique(lengths, return_counts=True)
    rows, documents, number = _fitted(distinct[::-1].tolist(), counts[::-1].tolist(), length)
    of_document = np.empty(len(lengths), np.int64)
    of_document[descending] = np.repeat(np.array(rows, np.int64), documents)
    return of_document, number


def _fitted(sizes: list[int], counts: list[int], length: int) -> tuple[list[int], list[int], int]:
    """Rows in the order in which documents of descending sizes go into them, how many at a time,
    and how many rows there are.

    One loop without calls, as a call a document costs more than all else. Which spaces rows have
    left is in bits, a word for every 256 of them and one word over all, so that the least
    space from a size on is found in two looks.
    """
    piles: list[list[int] | None] = [None] * (length + 1)  # rows by the space that they have left
    words, over_all = [0] * ((length >> 8) + 1), 0
    rows: list[int] = []
    placed: list[int] = []
    number = 0
    for size, count in zip(sizes, counts, strict=True):
        while count:
            space, word = 0, size >> 8
            here = words[word] >> (size & 255)
            if here:
                space = size + (here & -here).bit_length() - 1
            else:
                above = over_all >> (word + 1)
                if above:
                    word += (above & -above).bit_length()
                    here = words[word]
                    space = (word << 8) + (here & -here).bit_length() - 1
            if space:
                pile = piles[space] or []
                row = pile.pop()
                if not pile:
                    words[space >> 8] ^= 1 << (space & 255)
                    if not words[space >> 8]:
                        over_all ^= 1 << (space >> 8)
            else:
                row, space = number, length
                number += 1
            fit = 1 if count == 1 else min(count, space // size)
            rows.append(row)
            placed.append(fit)
            count -= fit
            space -= fit * size
            if space:
                pile = piles[space]
                if pile:
                    pile.append(row)
                else:
                    piles[space] = [row]
                    words[space >> 8] |= 1 << (space & 255)
                    over_all |= 1 << (space >> 8)
    return rows, placed, number
