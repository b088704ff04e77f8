# SPDX-License-Identifier: Apache-2.0
"""A program for standard input: epochs with and without workers, then a thread that is late."""

import sys
import threading

from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)

URI, NAME = sys.argv[1], "points"


def rows_of(loader):
    return sum(len(batch["id"]) for batch in loader)


def main():
    options = {"columns": ["id"], "format": "torch"}
    mapped = LanceTorchDataset(uri=URI, table_name=NAME, **options)
    options |= {"batch_size": 10, "shuffle": True, "cache": False}
    dataset = LanceIterableTorchDataset(uri=URI, table_name=NAME, **options)
    for workers in (0, 1):
        print(workers, rows_of(LanceDataLoader(dataset, num_workers=workers)))
        print(workers, rows_of(LanceDataLoader(mapped, batch_size=10, num_workers=workers)))
    begun = threading.Event()
    threading.Thread(target=iterate_after_the_program, args=(dataset, begun)).start()
    begun.wait()


def iterate_after_the_program(dataset, begun):
    batches = iter(LanceDataLoader(dataset))
    next(batches)
    begun.set()
    threading.main_thread().join()
    try:
        print("late", 10 + rows_of(batches))
    except RuntimeError as error:
        print("late", error)


if __name__ == "__main__":
    main()
