# SPDX-License-Identifier: Apache-2.0
"""A pickle changes nothing in the process that makes it; one for a process that is started may."""

import copy
import multiprocessing
import os
import pickle
from multiprocessing.context import set_spawning_popen
from multiprocessing.reduction import ForkingPickler

import lancedb
import numpy as np
import pytest
from lancedb.integrations import torch as face
from lancedb.integrations._torch.common.shared_memory import SharedArray
from lancedb.integrations._torch.common.shared_records import SharedRecords
from lancedb.integrations._torch.table.dictionaries import Categories
from lancedb.integrations._torch.workers import start
from lancedb.integrations.torch import LanceTorchDataset


class Starting:
    """In place of the process that is being started, which would have its own copies of files."""

    def __init__(self, file=None):
        self.file = file

    def duplicate_for_child(self, file):
        return os.dup(file)

    DupFd = property(lambda self: Starting)

    def detach(self):
        return self.file


@pytest.fixture
def starting():
    set_spawning_popen(Starting())
    yield
    set_spawning_popen(None)


def sent(thing):
    return pickle.loads(ForkingPickler.dumps(thing))


WAYS = {"pickle": lambda it: pickle.loads(pickle.dumps(it)), "queue": sent, "copy": copy.deepcopy}


@pytest.mark.parametrize("copied", WAYS.values(), ids=list(WAYS))
def test_a_copy_of_an_array_shares_no_memory(copied):
    array = SharedArray(np.arange(5))
    assert copied(array).array.tolist() == [0, 1, 2, 3, 4]
    assert array._tensor is None


@pytest.mark.usefixtures("starting")
def test_a_process_that_is_started_maps_arrays_and_values():
    values = SharedArray(np.arange(5))
    known = Categories(["label"], values)
    assert sent(values).array.tolist() == sent(known)._packed.array.tolist() == [0, 1, 2, 3, 4]
    assert values._tensor.is_shared()


@pytest.mark.parametrize("copied", WAYS.values(), ids=list(WAYS))
def test_a_copy_of_records_is_written_to_alone(copied):
    records = SharedRecords([("rows", "i8")], 2).share()
    records.of(1)["rows"] = 7
    copied(records).of(1)["rows"] += 1
    assert records["rows"].tolist() == [0, 7]


@pytest.mark.parametrize("copied", WAYS.values(), ids=list(WAYS))
def test_only_a_process_that_is_started_has_the_fork_server_import_us(
    copied, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(start.forkserver, "set_forkserver_preload", asked.append)
    monkeypatch.setattr(start, "part_of", lambda *_: ["__main__"])
    table = lancedb.connect(tmp_path).create_table("points", [{"x": 1}])
    dataset = LanceTorchDataset(table)
    copied(dataset)
    assert asked == []
    set_spawning_popen(Starting())
    try:
        ForkingPickler.dumps(dataset)
    finally:
        set_spawning_popen(None)
    assert asked == [["__main__", start._READS, start._CONVERTS]]


class Mine(LanceTorchDataset):
    """With a pickle of its own."""

    def __reduce__(self):
        return Mine, (self.table_name, "again")

    def __init__(self, table, again=""):
        if not again:
            super().__init__(table)
        self.again = again


def test_a_subclass_pickles_as_it_says(tmp_path):
    mine = Mine(lancedb.connect(tmp_path).create_table("points", [{"x": 1}]))
    assert [each.again for each in (sent(mine), pickle.loads(pickle.dumps(mine)))] == ["again"] * 2


def again(queue, dataset):
    queue.put(dataset.again)


@pytest.mark.parametrize("method", ["spawn"])
def test_so_it_does_for_a_process_that_is_started(tmp_path, method):
    mine = Mine(lancedb.connect(tmp_path).create_table("points", [{"x": 1}]))
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=again, args=(queue, mine))
    process.start()
    process.join()
    assert queue.get() == "again"


@pytest.mark.parametrize("name", face.__all__)
def test_what_is_public_is_of_the_module_that_users_import(name):
    assert getattr(face, name).__module__ == "lancedb.integrations.torch"
