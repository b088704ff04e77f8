# SPDX-License-Identifier: Apache-2.0
"""Rows of a mixture's sources on disk: the same batches, and nothing read twice."""

import os

import lancedb
import pytest
from conftest import rows_of
from lancedb.integrations._torch.cache.filler import Fillers
from lancedb.integrations._torch.common.process import PROCESS
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceMixedTorchDataset,
    cache_info,
)

WEIGHTS = {"web": 0.7, "code": 0.3}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    db = lancedb.connect(tmp_path_factory.mktemp("mixed"))
    return {name: db.create_table(name, rows_of(900, 10_000 * n)) for n, name in enumerate(WEIGHTS)}


def mixture(tables, directory=None, **options):
    form = {"format": "torch"}
    of_source = form if options.get("mix") == "batches" else {}
    sources = {
        name: LanceIterableTorchDataset(table, shuffle=True, cache_dir=directory, **of_source)
        for name, table in tables.items()
    }
    options = {"batch_size": 50, "cache": False, **({} if of_source else form), **options}
    return LanceMixedTorchDataset(sources, WEIGHTS, **options)


def ids(loader):
    return [batch["id"].tolist() for batch in loader]


def wait_until_filled(dataset):
    for source in dataset._sources.values():
        source._rows.disk.wait()


@pytest.mark.parametrize("options", [{}, {"mix": "batches"}, {"source_column": "of"}], ids=str)
def test_epochs_are_those_without_a_cache_and_the_second_is_read_from_it(tables, tmp_path, options):
    plain = LanceDataLoader(mixture(tables, **options))
    cached = LanceDataLoader(mixture(tables, tmp_path / "cache", **options))
    assert ids(cached) == ids(plain)
    wait_until_filled(cached.dataset)
    before = cached.stats()
    assert ids(cached) == ids(plain)
    after = cached.stats()
    rows = after["rows"] - before["rows"]
    assert after["cached_rows"] - before["cached_rows"] == rows > 0


def test_each_source_has_its_parts_and_shares_them_with_others(tables, tmp_path):
    dataset = mixture(tables, tmp_path / "cache")
    ids(LanceDataLoader(dataset))
    wait_until_filled(dataset)
    kept = cache_info(tmp_path / "cache")["tables"]
    assert {each["table"]: each["cached_rows"] for each in kept} == {"web": 900, "code": 900}
    fresh = LanceDataLoader(mixture(tables, tmp_path / "cache"))
    ids(fresh)
    assert fresh.stats()["cached_rows"] == fresh.stats()["rows"]


def test_what_a_mixture_keeps_in_memory_is_not_written(tables, tmp_path):
    ids(LanceDataLoader(mixture(tables, tmp_path / "cache", cache="auto")))
    assert not any(each["cached_rows"] for each in cache_info(tmp_path / "cache")["tables"])


def test_a_forked_process_has_the_turn_to_write_that_its_parent_has():
    with PROCESS.part(Fillers).writing:
        child = os.fork()
        if child == 0:
            os._exit(0 if PROCESS.part(Fillers).writing.acquire(timeout=5) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
