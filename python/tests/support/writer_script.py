# SPDX-License-Identifier: Apache-2.0
"""What another process does to a table while it is read: writes in turn, one for each line read."""

import sys

import lancedb
import pyarrow as pa
from rows import rows_of


def append(table):
    table.add(rows_of(50, 5000))


def delete(table):
    table.delete("id % 3 = 0")


def update(table):
    table.update(where="id >= 0", values={"label": 99})


def merge_insert(table):
    rows = rows_of(400, 900)
    table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)


def optimize(table):
    table.optimize()


def add_column(table):
    table.add_columns({"twice": "id * 2"})


def rename_column(table):
    table.alter_columns({"path": "label", "rename": "kind"})


def drop_column(table):
    table.drop_columns(["text"])


def overwrite(table):
    table.add(pa.table({"other": ["all", "new"]}), mode="overwrite")


WRITES = [
    append, delete, optimize, update, merge_insert, optimize, add_column, rename_column,
    drop_column, overwrite, optimize,
]  # fmt: skip


def main() -> None:
    table = lancedb.connect(sys.argv[1]).open_table("points")
    for write in WRITES:
        sys.stdin.readline()
        write(table)
        print(write.__name__, table.version, flush=True)


if __name__ == "__main__":
    main()
