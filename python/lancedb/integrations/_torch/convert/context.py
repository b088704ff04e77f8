# SPDX-License-Identifier: Apache-2.0
"""The context of a transform: which rows its batch has, and random numbers for them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..arrow.origins import Origins
from ..common.pickling import name_of
from ..order import row_random

_NO_SEED = (
    "there is no seed for random values: this LanceTorchDataset has none, and no LanceDataLoader "
    "asks for its rows. Make it with seed=0 (and call dataset.set_epoch(epoch) before each epoch), "
    "or give it to LanceDataLoader"
)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class TransformContext:
    """What a `transform` with two arguments is given along with each batch.

    Its random numbers belong to rows, not to a batch or a process: a row's values depend on the
    seed, the epoch, the row's offset in its table, which of its occurrences in the epoch this is,
    and how many values were drawn before in this call. So they are the same on any number of
    workers, ranks and threads, after any resume, and however batches are cut. No global random
    state is read or changed.

    A row occurs several times in an epoch if a permutation table has it several times, if it is
    drawn by weight, or if a mixture goes through its source again. An index of a map-style dataset
    that is asked for twice is the same occurrence, and has the same values.

    Parameters
    ----------
    origins : Origins
        Where the batch's rows come from. Contexts are made by datasets, not by users.

    Attributes
    ----------
    epoch : int or None
        The current epoch; None if a map-style dataset has no seed and no loader of ours.
    offsets : numpy.ndarray of int64, shape (rows,)
        The place of each row in the table version that is read.
    source : numpy.ndarray of int64, shape (rows,), or None
        The number of each row's table if rows come from several, as in ``dataset_a + dataset_b``;
        None if they come from one.

    Examples
    --------
    >>> import lancedb
    >>> import torch
    >>> from lancedb.integrations.torch import LanceTorchDataset
    >>> table = lancedb.connect("memory://").create_table("t", [{"x": 1.0}, {"x": 2.0}])
    >>> def noisy(batch, context):
    ...     return batch["x"] + torch.from_numpy(context.normal())
    >>> dataset = LanceTorchDataset(table, format="torch", transform=noisy, seed=0)
    >>> both, second = dataset.__getitems__([0, 1]).columns, dataset.__getitems__([1]).columns
    >>> bool(both[1] == second[0])
    True
    """

    def __init__(self, origins: Origins):
        self.epoch = origins.epoch
        self.offsets = origins.offsets
        self.source = origins.sources
        self._given = origins.keys
        self._drawn = 0
        self._generators: dict[int, np.random.Generator] = {}
        self._of_batch: torch.Generator | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(epoch={self.epoch}, {len(self)} rows)"

    def __len__(self) -> int:
        """How many rows the batch has."""
        return len(self.offsets)

    def random(self, *shape: int) -> np.ndarray:
        """Uniform values in [0, 1), separate ones for each row.

        Parameters
        ----------
        *shape : int
            The shape of one row's values; none for one value a row.

        Returns
        -------
        numpy.ndarray of float64, shape (rows, *shape)

        Raises
        ------
        RuntimeError
            If no seed is known: in a `LanceTorchDataset` without ``seed=`` and `set_epoch`, outside
            a `LanceDataLoader`.
        """
        shape = _checked(shape)
        return self._floats(math.prod(shape)).reshape(len(self), *shape)

    def integers(self, low: Any, high: Any, *shape: int) -> np.ndarray:
        """Whole numbers from `low` to `high`, without `high` itself, separate ones for each row.

        Parameters
        ----------
        low, high : int, or array of int of shape (rows,)
            The range, or one for each row, as for crops of images of different sizes.
        *shape : int
            The shape of one row's values; none for one value a row.

        Returns
        -------
        numpy.ndarray of int64, shape (rows, *shape)

        Raises
        ------
        TypeError
            If `low` or `high` is not a whole number.
        ValueError
            If a range is empty, or beyond int64.
        RuntimeError
            As for `random`.
        """
        shape = _checked(shape)
        first = self._end("low", low, len(shape))
        end = self._end("high", high, len(shape))
        if (first >= end).any():
            raise ValueError(f"integers() needs low < high, not low={low!r}, high={high!r}")
        count = math.prod(shape)
        drawn = row_random.draws(self._keys, self._advance(count), count)
        return row_random.as_integers(drawn.reshape(len(self), *shape), first, end)

    def normal(self, *shape: int) -> np.ndarray:
        """Values of a standard normal distribution, separate ones for each row.

        Another kind of machine may round them differently in the last digit.

        Parameters
        ----------
        *shape : int
            The shape of one row's values; none for one value a row.

        Returns
        -------
        numpy.ndarray of float64, shape (rows, *shape)

        Raises
        ------
        RuntimeError
            As for `random`.
        """
        shape = _checked(shape)
        pairs = self._floats(2 * math.prod(shape)).reshape(len(self), *shape, 2)
        return row_random.as_normals(pairs)

    def numpy_generator(self, row: int) -> np.random.Generator:
        """A generator for one row, for libraries that take one.

        The first call makes it, and later calls return the same object. It is independent of what
        `random`, `integers` and `normal` draw.

        Parameters
        ----------
        row : int
            Which row of the batch; negatives count from the end.

        Returns
        -------
        numpy.random.Generator

        Raises
        ------
        IndexError
            If the batch has no such row.
        RuntimeError
            As for `random`.
        """
        try:
            place = range(len(self))[row]
        except IndexError:
            raise IndexError(f"row {row} is out of range for a batch of {len(self)} rows") from None
        if place not in self._generators:
            seed = row_random.digest(self._keys[place : place + 1])
            self._generators[place] = np.random.Generator(np.random.PCG64(seed))
        return self._generators[place]

    def torch_generator(self) -> torch.Generator:
        """A generator on the CPU for the whole batch, the same object at each call.

        It draws the same numbers wherever and whenever a batch of these very rows in this order is
        made, and other numbers for a batch that is cut differently.

        Returns
        -------
        torch.Generator

        Raises
        ------
        RuntimeError
            As for `random`.
        """
        if self._of_batch is None:
            seed = row_random.digest(self._keys)
            self._of_batch = torch.Generator("cpu").manual_seed(seed >> 1)
        return self._of_batch

    @property
    def _keys(self) -> np.ndarray:
        if self._given is None:
            raise RuntimeError(_NO_SEED)
        return self._given

    def _floats(self, count: int) -> np.ndarray:
        return row_random.floats(self._keys, self._advance(count), count)

    def _advance(self, count: int) -> int:
        """The number of the first of so many draws."""
        first, self._drawn = self._drawn, self._drawn + count
        return first

    def _end(self, name: str, value: Any, dimensions: int) -> np.ndarray:
        """One end of a range, so that it is broadcast over the rows."""
        is_far = isinstance(value, int) and not -(2**63) <= value <= 2**63
        end = np.asarray(0 if is_far else value)
        if end.dtype.kind not in "iu" and end.size:
            raise TypeError(f"{name} must be a whole number, or one for each row, not {value!r}")
        if is_far or (end > 2**63 - (name == "low")).any():  # `high` itself is not drawn
            raise ValueError(f"{name} must be within the range of int64, not {value!r}")
        if end.ndim and end.shape != (len(self),):
            raise ValueError(
                f"{name} must be one number, or one for each of {len(self)} rows, and has shape "
                f"{end.shape}"
            )
        return end.reshape(end.shape + (1,) * dimensions) if end.ndim else end


def takes_context(transform: Callable[..., Any] | None) -> bool:
    """Whether a transform has to be given two arguments, of which the second is the context.

    A second parameter that has a default, or one that takes any number of arguments, is no request.

    Raises
    ------
    TypeError
        If it can be called neither with one argument nor with two.
    """
    parameters = _parameters(transform)
    if parameters is None:
        return False
    needed = [each for each in parameters if each.default is each.empty]
    places = [each for each in needed if each.kind in _POSITIONAL]
    by_name = [each for each in needed if each.kind is each.KEYWORD_ONLY]
    takes_any = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    takes_one = takes_any or any(each.kind in _POSITIONAL for each in parameters)
    if by_name or len(places) > 2 or not takes_one:
        raise TypeError(
            f"transform {name_of(transform)} takes ({', '.join(map(str, parameters))}), and is "
            "called with the batch, or with the batch and a context if it takes two: bind what "
            "else it takes with functools.partial"
        )
    return len(places) == 2


def _parameters(transform: Any) -> list[inspect.Parameter] | None:
    """What a callable takes, None if it does not say."""
    if isinstance(transform, torch.nn.Module):
        transform = transform.forward  # a module's own call takes whatever this does
    try:
        return list(inspect.signature(transform).parameters.values())
    except (TypeError, ValueError):  # none at all, or built in
        return None


def _checked(shape: tuple[Any, ...]) -> tuple[int, ...]:
    """The shape of one row's values, also if it is given as one tuple."""
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    for size in shape:
        is_whole = isinstance(size, (int, np.integer)) and not isinstance(size, bool)
        if not is_whole or size < 0:
            raise ValueError(f"a shape is of whole numbers from 0 on, not {size!r}")
    return tuple(map(int, shape))
