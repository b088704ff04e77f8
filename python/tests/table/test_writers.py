# SPDX-License-Identifier: Apache-2.0
"""Another process writes in every way there is while four workers read: no epoch sees any of it."""

import subprocess
import sys
from pathlib import Path

import pytest
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from soak import soaked
from writer_script import WRITES

SCRIPT = Path(__file__).parents[1] / "support/writer_script.py"
EPOCHS = 3


def mapped(table, workers):
    dataset = LanceTorchDataset(table, cache=False)
    return LanceDataLoader(
        dataset,
        batch_size=20,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=list,
    )


def iterable(table, workers, **order):
    dataset = LanceIterableTorchDataset(table, batch_size=20, drop_last=False, **order)
    return LanceDataLoader(dataset, num_workers=workers, persistent_workers=workers > 0)


def in_order(table, workers):
    return iterable(table, workers)


def in_blocks(table, workers):
    return iterable(table, workers, shuffle=True, block_rows=4, window_rows=64, lanes=4)


def globally(table, workers):
    return iterable(table, workers, shuffle="global")


class Writer:
    """The other process; each `write` is under way while the workers read on."""

    def __init__(self, uri):
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", SCRIPT, uri],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.written = []
        self._begun = 0

    def write(self):
        """Begin the next write once the one before is done; after the last, do nothing."""
        self.wait()
        if self._begun < len(WRITES):
            self._begun += 1
            print(file=self._process.stdin, flush=True)

    def wait(self):
        if len(self.written) < self._begun:
            self.written.append(self._process.stdout.readline().split())

    def close(self):
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def writer(db):
    writer = Writer(db.uri)
    yield writer
    writer.close()


@pytest.mark.few(1)
@pytest.mark.parametrize("make", [mapped, soaked(in_order), in_blocks, soaked(globally)])
def test_every_epoch_is_the_snapshot_row_by_row(db, table, writer, make):
    pinned = table.version
    snapshot = {row["id"]: row for row in table.to_arrow().to_pylist()}
    loader, alone = make(table, 4), make(table, 0)
    for _ in range(EPOCHS):
        expected = list(alone)  # before this epoch's writes, by a reader that is open
        got = []
        for number, batch in enumerate(loader):
            if number % 10 == 0:
                writer.write()
            got.append(batch)
        assert got == expected
        rows = [row for batch in got for row in batch]
        assert len(rows) == len(snapshot)
        assert {row["id"]: row for row in rows} == snapshot
    writer.wait()
    assert [name for name, _ in writer.written] == [write.__name__ for write in WRITES]
    versions = [int(version) for _, version in writer.written]
    assert versions[0] == pinned + 1
    assert versions == sorted(versions)
    assert db.open_table("points").schema.names == ["other"]
