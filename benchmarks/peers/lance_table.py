# SPDX-License-Identifier: Apache-2.0
"""The LanceDB table that ours, lancedb's own loaders and pylance all read."""

from __future__ import annotations

from pathlib import Path

import lancedb
import pyarrow as pa

from peers import Source

FORM = "lance"
TABLE = "rows"


def write(source: Source, folder: Path) -> None:
    """The rows as a table; in as many fragments as the workload asks for."""
    batches = source.batches()
    first = next(batches)
    reader = pa.RecordBatchReader.from_batches(first.schema, chain(first, batches))
    if source.workload.fragment_rows is None:
        lancedb.connect(folder).create_table(TABLE, reader)
    else:
        write_fragments(reader, folder, source.workload.fragment_rows)


def chain(first, rest):
    yield first
    yield from rest


def write_fragments(reader: pa.RecordBatchReader, folder: Path, rows: int) -> None:
    """Small fragments: at once by pylance, or by as many appends, which takes minutes."""
    try:
        import lance
    except ImportError:
        table = lancedb.connect(folder).create_table(TABLE, schema=reader.schema)
        for batch in reader:
            for start in range(0, batch.num_rows, rows):
                table.add(pa.Table.from_batches([batch.slice(start, rows)]))
    else:
        # Row groups of no more than a fragment, or fragments would be rounded up to one.
        path = str(folder / f"{TABLE}.lance")
        lance.write_dataset(reader, path, max_rows_per_file=rows, max_rows_per_group=rows)


def open_table(source: Source) -> lancedb.table.Table:
    return lancedb.connect(source.folder(FORM)).open_table(TABLE)
