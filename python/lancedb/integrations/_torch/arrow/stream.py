# SPDX-License-Identifier: Apache-2.0
"""Record batches as bytes, with their schema, in Arrow's stream format."""

from __future__ import annotations

import pyarrow as pa


def packed(batch: pa.RecordBatch) -> pa.Buffer:
    """A record batch with its schema, in Arrow's stream format."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue()


def unpacked(data: pa.Buffer) -> pa.RecordBatch:
    """The record batch that `packed` made these bytes of; it shares their memory."""
    return pa.ipc.open_stream(data).read_next_batch()
