# SPDX-License-Identifier: Apache-2.0
"""The arguments of a mixture, checked: sources, weights, what they have in common."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..arrow.origins import Origins
from ..common.checks import did_you_mean
from ..convert.on_error import OnError
from ..convert.transform import Output
from ..order.chairman import MOST_WEIGHT
from ..order.mixed_layout import SourceSize
from ..order.mixture import ALL, FIRST
from .iterable import LanceIterableTorchDataset
from .mixture_source import MixtureSource

_log = logging.getLogger("lancedb.integrations.torch")

# What a source of its own batches has, and else the mixture.
OF_A_BATCH = ("format", "transform", "fill_null", "ragged", "pad_value", "pad_to", "dictionary")

Schedule = list[tuple[int, dict[str, float]]]


def sources_of(datasets: Any, have_outputs: bool) -> dict[str, MixtureSource]:
    """The sources by name; raises for what is none, and for arguments that the mixture has.

    `have_outputs` says whether each source has a format and transform of its own.
    """
    if not isinstance(datasets, Mapping) or not datasets:
        raise TypeError(
            "datasets must map at least one name to a LanceIterableTorchDataset, not "
            f"{type(datasets).__name__ if not isinstance(datasets, Mapping) else datasets!r}"
        )
    seen: dict[int, str] = {}
    for name, dataset in datasets.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"datasets must have names for keys, not {name!r}")
        if not isinstance(dataset, LanceIterableTorchDataset):
            raise TypeError(
                f"source {name!r} must be a LanceIterableTorchDataset, not "
                f"{type(dataset).__name__}: make one of its table, as "
                "LanceIterableTorchDataset(table, shuffle=True)"
            )
        if id(dataset) in seen:
            raise ValueError(
                f"source {name!r} is the dataset of {seen[id(dataset)]!r}: give it once, with the "
                "sum of both weights"
            )
        seen[id(dataset)] = name
        _refuse_what_is_the_mixtures(name, dataset, have_outputs)
    sources = {name: _source(dataset, have_outputs) for name, dataset in datasets.items()}
    for name, source in sources.items():
        for other in sources:
            if other == name:
                break
            if sources[other].rows_and_columns == source.rows_and_columns:
                raise ValueError(
                    f"source {name!r} has the rows and columns of {other!r}: give them once, with "
                    "the sum of both weights"
                )
    return sources


def _source(dataset: LanceIterableTorchDataset, has_output: bool) -> MixtureSource:
    order = dataset._order
    return MixtureSource(
        dataset._view,
        SourceSize(order.rows, order.row_bytes, order.shuffle),
        dataset._rows.describe(),
        dataset._sizes.are_skewed,
        order.draws,
        order.drawn_by,
        dataset._rows.settings,
        dataset._output if has_output else None,
    )


def _refuse_what_is_the_mixtures(
    name: str, dataset: LanceIterableTorchDataset, has_output: bool
) -> None:
    default = Output(dataset._view.format, None).described()
    own = {**dataset._output.described(), "cache": dataset.cache, "readahead": dataset.readahead}
    default |= {"cache": "auto", "readahead": 2, "transform_threads": 0, "seed": 0}
    own |= {"transform_threads": dataset.transform_threads, "seed": dataset._order.seed}
    default |= {"drop_last": True, "unwrap": False, "rank": None}
    own |= {"drop_last": dataset.drop_last, "unwrap": dataset.unwrap}
    own |= {"rank": dataset._given_rank[0], **dataset._order.asked}
    default |= dict.fromkeys(dataset._order.asked, "auto")
    default["batch_size"] = dataset._view.batch_size or dataset._default_batch_size
    own["batch_size"] = dataset.batch_size
    if dataset._batching is not None:
        raise ValueError(
            f"source {name!r} has batching={dataset._batching!r}, and a source has no batches of "
            "its own: leave it out"
        )
    recipe = dataset._view.recipe
    default |= {"blobs": "bytes", "dictionary": "values"}
    own |= {"blobs": "file" if recipe.blobs == "file" else "bytes"}
    own |= {"dictionary": "values" if recipe.categories is None else "codes"}
    given = [key for key, value in own.items() if value is not default[key] != value]
    if has_output:
        given = [key for key in given if key not in OF_A_BATCH]
    if given:
        also = "format, transform, " if has_output else ""
        raise ValueError(
            f"source {name!r} has {', '.join(given)}, which belong{'s' * (len(given) == 1)} to the "
            "mixture: give a source its table, columns, filter, split, version, shuffle, "
            f"{also}sample_weights or balance_by, and LanceMixedTorchDataset all else"
        )


def refuse_what_is_the_sources(given: tuple[Any, ...]) -> None:
    """Raise for arguments that each source has where batches are of one."""
    names = ("format", "transform", "fill_null", "ragged", "pad_value", "pad_to", "unwrap")
    defaults = (None, None, None, "jagged", 0, None, False)
    wrong = [
        name
        for name, value, default in zip(names, given, defaults, strict=True)
        if value is not default and not (type(value) is type(default) and value == default)
    ]
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)} with mix='batches': give {'it' if len(wrong) == 1 else 'them'} to "
            "the sources, each of which has batches of its own (unwrap=True is for mix='rows')"
        )


def check_schedule(weights: Any, sources: Mapping[str, MixtureSource]) -> Schedule:
    """Weights by the row from which on they apply, the first one 0; each checked."""
    if isinstance(weights, Mapping):
        weights = [(0, weights)]
    if not isinstance(weights, Sequence) or isinstance(weights, str) or not weights:
        raise TypeError(
            "weights must map names to numbers, or be a list of (row, weights) that begins with "
            f"row 0, not {weights!r}"
        )
    schedule: Schedule = []
    for entry in weights:
        if not isinstance(entry, Sequence) or len(entry) != 2:
            raise TypeError(
                "weights must map names to numbers, as {name: 0.5, ...}, or be a list of (row, "
                f"weights), not of {entry!r}"
            )
        row, by_name = entry
        whole = isinstance(row, (int, np.integer)) and not isinstance(row, bool)
        if not whole or (row <= schedule[-1][0] if schedule else row != 0):
            after = f"above {schedule[-1][0]}" if schedule else "0"
            raise ValueError(f"weights must have rows that ascend from 0: {row!r} is not {after}")
        schedule.append((int(row), _checked(by_name, sources)))
    return schedule


def _checked(weights: Any, sources: Mapping[str, MixtureSource]) -> dict[str, float]:
    if not isinstance(weights, Mapping):
        raise TypeError(f"weights must map names to numbers, not {weights!r}")
    for name, weight in weights.items():
        if name not in sources:
            hint = did_you_mean(name, sources, f"there are {list(sources)}")
            raise ValueError(f"weights name {name!r}, which is no source: {hint}")
        known = isinstance(weight, (int, float, np.number)) and not isinstance(weight, bool)
        if not known or not math.isfinite(weight) or weight < 0:
            raise ValueError(f"the weight of {name!r} must be a number from 0 on, not {weight!r}")
    total = float(sum(weights.values()))
    if not 0 < total < math.inf:
        raise ValueError(f"weights must have a positive sum, not {dict(weights)!r}")
    for name, weight in weights.items():
        if 0 < weight < total / MOST_WEIGHT:
            raise ValueError(
                f"the weight of {name!r}, {weight!r}, is less than 1/{MOST_WEIGHT} of the sum "
                f"{total!r}: leave the source out, or give it a larger one"
            )
        if weight and not sources[name].size.rows:
            raise ValueError(
                f"source {name!r} has no rows ({sources[name].describe()}), and a weight of "
                f"{weight!r}: give it 0, or rows"
            )
    return {name: float(weight) for name, weight in weights.items()}


def common_schema(sources: Mapping[str, MixtureSource]) -> pa.Schema:
    """The schema of every source, in the sequence of the first; ValueError if they differ."""
    (first, source), *others = sources.items()
    schema = source.view.schema
    for name, other in others:
        theirs = other.view.schema
        lacking = [column for column in schema.names if column not in theirs.names]
        more = [column for column in theirs.names if column not in schema.names]
        found = [f"{column!r} is in {first!r} alone" for column in lacking]
        found += [f"{column!r} is in {name!r} alone" for column in more]
        found += [
            f"{field.name!r} is {field.type} in {first!r} and {theirs.field(field.name).type} in "
            f"{name!r}"
            for field in schema
            if field.name in theirs.names and theirs.field(field.name).type != field.type
        ]
        if found:
            raise ValueError(
                f"sources {first!r} and {name!r} have different columns: {'; '.join(found)}. "
                "Choose alike ones with columns=, which also takes SQL: "
                'columns={"x": "CAST(x AS FLOAT)"}'
            )
    # One source may have nulls where the others have none.
    return pa.schema([pa.field(field.name, field.type) for field in schema])


def check_source_column(name: Any, schema: pa.Schema) -> str | None:
    """The name of the column of sources, or None."""
    if name is None:
        return None
    if not isinstance(name, str) or not name:
        raise TypeError(f"source_column must be a name, not {name!r}")
    if name in schema.names:
        raise ValueError(f"source_column={name!r} is a column of the sources already")
    return name


def check_stop(stop: Any) -> str | int:
    """When an epoch ends."""
    if isinstance(stop, str) and stop in (FIRST, ALL):
        return stop
    is_whole = isinstance(stop, (int, np.integer)) and not isinstance(stop, bool)
    if not is_whole or int(stop) < 1:
        raise ValueError(f"stop must be {FIRST!r}, {ALL!r} or a number of rows, not {stop!r}")
    return int(stop)


class WithSource:
    """An `on_error` that is given the source of a row by name.

    Rows of all sources are counted and sent on by one number: the offset times the number of
    sources, plus that of the source.
    """

    def __init__(self, on_error: Callable[..., Any] | None, names: Sequence[str]):
        self._on_error = on_error
        self._names = tuple(names)

    @classmethod
    def of(cls, on_error: OnError, names: Sequence[str]) -> Any:
        """What is to be called in place of a mixture's `on_error`."""
        if callable(on_error):
            return cls(on_error, names)
        return cls(None, names) if on_error == "skip" else on_error

    def numbers(self, origins: Origins) -> np.ndarray:
        """The number of each of some rows."""
        sources = 0 if origins.sources is None else origins.sources
        return origins.offsets * len(self._names) + sources

    def named(self, number: int) -> tuple[str, int]:
        """The source and the offset that a number stands for."""
        offset, source = divmod(int(number), len(self._names))
        return self._names[source], offset

    def __call__(self, error: Exception, number: int) -> None:
        name, offset = self.named(number)
        if self._on_error is not None:
            self._on_error(error, (name, offset))
        else:
            said = f"{type(error).__name__}: {error}"
            _log.warning("row %d of source %r is left out: %s", offset, name, said)
