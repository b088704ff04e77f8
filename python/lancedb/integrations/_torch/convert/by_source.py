# SPDX-License-Identifier: Apache-2.0
"""The output of several sources, each of which has a format and a transform of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from ..arrow.origins import without_origins
from ..common.counters import Stats
from .on_error import OnError
from .transform import Output

_SOURCE = b"lancedb.source"


def of_source(batch: pa.RecordBatch, name: str) -> pa.RecordBatch:
    """A batch that says in its schema which source it is of."""
    known = batch.schema.metadata or {}
    return batch.replace_schema_metadata({**known, _SOURCE: name.encode()})


class _Begun(NamedTuple):
    """What an output has begun to make."""

    output: Output
    value: Any


class SourceOutputs:
    """As `Output`, each batch being made by that of its source.

    Parameters
    ----------
    outputs : mapping of str to Output
        By the names of the sources.
    on_error : {"raise", "skip"} or callable
        What becomes of rows on which a transform fails, whichever it is.
    """

    is_for_workers = False

    def __init__(self, outputs: Mapping[str, Output], on_error: OnError):
        transforms = (each.transform for each in outputs.values())
        self.transform: Callable[..., Any] | None = next(filter(None, transforms), None)
        if self.transform is None and on_error != "raise":
            raise ValueError("on_error is about the sources' transforms, and there are none")
        self.on_error = on_error
        self.format = {name: each.format for name, each in outputs.items()}
        self.takes_context = any(each.takes_context for each in outputs.values())
        self.pads = any(each.pads for each in outputs.values())
        self._outputs = {name: _with_policy(each, on_error) for name, each in outputs.items()}

    def __call__(self, batch: pa.RecordBatch, stats: Stats) -> Any:
        """The batch as its source's output makes it."""
        output, batch = self._of(batch)
        return output(batch, stats)

    def convert(self, batch: pa.RecordBatch, counts: Sequence[int], stats: Stats) -> list[Any]:
        """What can be done ahead for consecutive slices of a batch of one source."""
        output, batch = self._of(batch)
        return [_Begun(output, each) for each in output.convert(batch, counts, stats)]

    def converts_parts(self, schema: pa.Schema) -> bool:
        """Not: each batch is looked at as a whole, for whose it is."""
        return False

    def complete(self, converted: _Begun, stats: Stats) -> Any:
        """As the call, of one that `convert` began."""
        return converted.output.complete(converted.value, stats)

    def check_sendable(self) -> None:
        """Raise a TypeError that says what to do if a callable cannot reach a worker."""
        for output in self._outputs.values():
            output.check_sendable()

    def _of(self, batch: pa.RecordBatch) -> tuple[Output, pa.RecordBatch]:
        """The output for a batch, and the batch with what that output takes."""
        known = dict(batch.schema.metadata or {})
        output = self._outputs[known.pop(_SOURCE).decode()]
        batch = batch.replace_schema_metadata(known or None)
        return output, batch if output.takes_context else without_origins(batch)[0]


def _with_policy(output: Output, on_error: OnError) -> Output:
    """An output that does with failing rows as the mixture says."""
    made = copy.copy(output)
    made.on_error = on_error if output.transform is not None else "raise"
    return made
