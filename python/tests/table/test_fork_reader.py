# SPDX-License-Identifier: Apache-2.0
"""Forked workers read through a process of their own, and read what any process reads."""

import dataclasses
import multiprocessing
import os
import shutil
import traceback

import lancedb
import numpy as np
import psutil
import pytest
import warm
from arrow_strategies import record_batches
from conftest import rows_of
from hypothesis import given
from lancedb.integrations._torch.table import fork_guard as forking
from lancedb.integrations._torch.table import fork_reader
from lancedb.integrations._torch.table.fork_reader import ForkReader, packed, unpacked
from lancedb.integrations._torch.table.handle import OwnHandle
from lancedb.integrations._torch.table.reader import Reader
from lancedb.integrations._torch.table.recipe import Recipe
from lancedb.integrations._torch.table.selection import all_rows
from lancedb.integrations._torch.table.sources import FactorySource, UriSource
from lancedb.integrations._torch.workers.watchdog import kill_workers
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from limits import HANGS
from torch.utils.data import DataLoader

if not hasattr(os, "fork"):
    pytest.fail("these tests are about fork, which this system does not have")


def recipe_of(table):
    return Recipe(UriSource(table._conn.uri), table.name, None, table.version)


def delegates():
    """The processes that read for forked ones, on this machine, of this process's family."""
    mine = psutil.Process().children(recursive=True)
    return [
        each for each in mine if any("fork_reader import serve" in arg for arg in each.cmdline())
    ]


def ids(batches):
    return [i for batch in batches for i in batch["id"].tolist()]


@pytest.mark.soak
def test_a_delegate_reads_what_a_handle_reads_and_ends_when_it_is_closed(table):
    before = {each.pid for each in delegates()}
    columns = {name: name for name in table.schema.names}
    mine, theirs = OwnHandle(recipe_of(table), columns), ForkReader(recipe_of(table), columns)
    (process,) = (each for each in delegates() if each.pid not in before)
    assert theirs.schema.equals(mine.schema, check_metadata=True)
    for offsets in ([], [0], [3, 4, 399, 400, 999], range(1000)):
        wanted = np.array(offsets, dtype=np.int64)
        assert theirs.submit(wanted).result()[0].equals(mine.submit(wanted).result()[0])
    theirs.close()
    assert psutil.wait_procs([process], timeout=HANGS)[1] == []


@given(record_batches(nulls=True))
def test_every_type_comes_through_as_it_is(batch):
    received = unpacked(packed(batch))
    assert received.schema.equals(batch.schema, check_metadata=True)
    assert received.equals(batch)


@pytest.mark.soak
def test_forked_map_style_workers_read_every_row_and_their_delegates_end_with_them(table):
    dataset = LanceTorchDataset(table, columns=["id", "vec", "text"], format="torch")
    options = {"multiprocessing_context": "fork", "persistent_workers": True}
    loader = DataLoader(dataset, batch_size=64, num_workers=2, **options)
    assert ids(loader) == list(range(1000))
    batches = iter(loader)
    batch = next(batches)
    batch["vec"] += 1  # what is handed out can be written to
    assert batch["vec"].shape == (64, 4)
    reading = delegates()
    assert len(reading) == 2
    del batches, loader
    assert psutil.wait_procs(reading, timeout=HANGS)[1] == []


@pytest.mark.parametrize("shuffle", [False, True, "global"])
def test_forked_workers_make_the_same_batches(table, shuffle):
    dataset = LanceIterableTorchDataset(
        table, columns=["id"], format="torch", batch_size=50, shuffle=shuffle
    )
    alone = [batch["id"].tolist() for batch in LanceDataLoader(dataset)]
    forked = LanceDataLoader(dataset, num_workers=2, multiprocessing_context="fork")
    forked.set_epoch(0)
    assert [batch["id"].tolist() for batch in forked] == alone


def test_all_readers_of_a_process_have_one_delegate_which_ends_with_the_last_of_them(table):
    before = {each.pid for each in delegates()}
    readers = [ForkReader(recipe_of(table), {"id": "id"}) for _ in range(3)]
    (process,) = (each for each in delegates() if each.pid not in before)
    for offset, reader in enumerate(readers):
        wanted = np.array([offset])
        assert reader.submit(wanted).result(HANGS)[0]["id"].to_pylist() == [offset]
        assert process.is_running()
        reader.close()
    assert psutil.wait_procs([process], timeout=HANGS)[1] == []


def test_a_reader_that_fails_leaves_the_others_of_its_process_alone(db, table):
    stays = db.create_table("stays", rows_of(100))
    failing, reader = (ForkReader(recipe_of(each), {"id": "id"}) for each in (table, stays))
    shutil.rmtree(f"{db.uri}/points.lance")
    with pytest.raises(Exception, match="(?i)not found|no such file"):
        failing.submit(np.array([900])).result(HANGS)
    failing.give_up(is_late=False)
    assert failing.is_over
    assert not reader.is_over
    assert reader.submit(np.array([7])).result(HANGS)[0]["id"].to_pylist() == [7]


def test_a_reader_that_is_late_ends_its_own_call_alone(table):
    late, reader = (ForkReader(recipe_of(table), {"id": "id"}) for _ in range(2))
    late.give_up(is_late=True)
    assert late.is_over
    with pytest.raises(RuntimeError, match="reads for this forked one has ended"):
        late.submit(np.array([1])).result(HANGS)
    assert not reader.is_over
    assert reader.submit(np.array([7])).result(HANGS)[0]["id"].to_pylist() == [7]


def test_one_that_is_stuck_is_ended_where_a_reader_is_late_and_where_a_table_is_opened(
    table, monkeypatch
):
    monkeypatch.setattr(fork_reader, "_ANSWERS_WITHIN", 0.1)
    before = {each.pid for each in delegates()}
    reader = ForkReader(recipe_of(table), {"id": "id"})
    (process,) = (each for each in delegates() if each.pid not in before)
    process.suspend()
    reader.give_up(is_late=True)
    assert not process.is_running()
    reader = ForkReader(recipe_of(table), {"id": "id"})
    (process,) = (each for each in delegates() if each.pid not in before)
    process.suspend()
    monkeypatch.setattr(fork_reader, "_OPENS_WITHIN", 0.1)
    with pytest.raises(RuntimeError, match="opening table 'points', .* did not answer within 0.1"):
        ForkReader(recipe_of(table), {"id": "id"})
    assert not process.is_running()


def test_one_that_was_killed_is_an_error_and_no_hang(table):
    before = {each.pid for each in delegates()}
    delegate = ForkReader(recipe_of(table), {"id": "id"})
    (process,) = (each for each in delegates() if each.pid not in before)
    process.kill()
    process.wait()
    with pytest.raises(RuntimeError, match="reads for this forked one has ended"):
        delegate.submit(np.arange(3)).result(timeout=HANGS)


def test_a_factory_that_cannot_be_pickled_is_refused_before_a_delegate_starts(table):
    before = {each.pid for each in delegates()}
    recipe = Recipe(FactorySource(lambda name: table), table.name, None, table.version)
    message = r"table 'points', .* cannot be opened in a forked process: .*top level of a module"
    with pytest.raises(TypeError, match=message):
        ForkReader(recipe, {"id": "id"})
    assert {each.pid for each in delegates()} == before


@pytest.fixture
def reader(table, monkeypatch):
    """One that reads as in a forked process."""
    monkeypatch.setattr(forking, "came_with_a_fork", lambda: True)
    return Reader(recipe_of(table), all_rows(table), {"id": "id"})


@pytest.mark.soak
def test_one_that_was_killed_is_replaced_before_the_next_rows_are_read(reader):
    reader.open()
    (process,) = delegates()
    process.kill()
    process.wait()
    assert reader.open().read(np.arange(3))["id"].to_pylist() == [0, 1, 2]


@pytest.mark.soak
def test_one_that_takes_too_long_is_ended_and_replaced(reader):
    asked = reader.open().recipe
    reader.recipe = dataclasses.replace(asked, timeout=0.1)
    (process,) = delegates()
    process.suspend()
    with pytest.raises(RuntimeError, match="rows .* of table 'points', .*not read within 0.1 sec"):
        reader.read(np.arange(3))
    assert not process.is_running()
    reader.recipe = asked
    assert reader.open().read(np.arange(3))["id"].to_pylist() == [0, 1, 2]


def once(flag, what):
    """A transform that does something to the process that reads for its own, in one batch."""

    def transform(batch):
        if not flag.exists():
            flag.touch()
            for process in delegates():
                what(process)
        return batch

    return transform


def killed(process):
    process.kill()
    process.wait()


def forked_epochs(table, transform, **arguments):
    """A loader whose workers read by themselves, as they do over this dataset alone."""
    options = {"columns": ["id"], "format": "torch", "cache": False, **arguments}
    dataset = LanceTorchDataset(table, transform=transform, **options)
    order = {"batch_size": 100, "shuffle": True, "persistent_workers": True}
    return LanceDataLoader(dataset, num_workers=1, multiprocessing_context="fork", **order)


@pytest.mark.soak
def test_one_killed_between_two_batches_of_an_epoch_costs_no_row(wide_range, tmp_path):
    order = {"batch_size": 100, "shuffle": True}
    whole = ids(LanceDataLoader(LanceTorchDataset(wide_range, format="torch"), **order))
    loader = forked_epochs(wide_range, once(tmp_path / "killed", killed))
    assert ids(loader) == whole
    assert (tmp_path / "killed").exists()


@pytest.mark.soak
def test_one_that_hangs_in_mid_epoch_is_an_error_and_a_resume_is_exact(wide_range, tmp_path):
    order = {"batch_size": 100, "shuffle": True}
    whole = ids(LanceDataLoader(LanceTorchDataset(wide_range, format="torch"), **order))
    hang = once(tmp_path / "hung", psutil.Process.suspend)
    loader = forked_epochs(wide_range, hang, read_timeout=5)
    got = []
    with pytest.raises(RuntimeError, match="of table 'many', .*not read within 5 sec"):
        got.extend(i for batch in loader for i in ids([batch]))
    assert 0 < len(got) < len(whole)
    loader.load_state_dict(loader.state_dict())
    assert got + ids(loader) == whole


class TwoArguments(Exception):
    """An error whose pickle does not give it back."""

    def __init__(self, user, reason):
        super().__init__(f"{user}: {reason}")


class RefusesIn:
    """A connection factory that does not work where it was sent to."""

    def __init__(self, uri, error):
        self.uri = uri
        self.error = error
        self.travelled = False

    def __setstate__(self, state):
        self.__dict__.update(state, travelled=True)

    def __call__(self, name):
        if self.travelled:
            raise self.error("me", "no credentials")
        return lancedb.connect(self.uri).open_table(name)


def first_batch(dataset):
    """The first batch of a forked worker, which is not waited for: it is at the next ones."""
    loader = DataLoader(dataset, batch_size=64, num_workers=1, multiprocessing_context="fork")
    batches = iter(loader)
    try:
        return next(batches)
    finally:
        kill_workers(batches)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (PermissionError, PermissionError, "no credentials"),
        (TwoArguments, RuntimeError, "TwoArguments: me: no credentials"),
    ],
)
def test_an_error_of_a_factory_comes_with_its_traceback(table, error, kind, said):
    factory = RefusesIn(table._conn.uri, error)
    dataset = LanceTorchDataset(table_name="points", connection_factory=factory, columns=["id"])
    with pytest.raises(kind) as caught:
        first_batch(dataset)
    text = "".join(traceback.format_exception(caught.value))
    assert said in text
    assert 'raise self.error("me", "no credentials")' in text
    assert "while opening table 'points'" in text


@pytest.mark.soak
def test_what_fails_there_is_raised_here(table):
    with pytest.raises(ValueError, match="version 77 of table 'points' does not exist"):
        ForkReader(Recipe(UriSource(table._conn.uri), "points", None, 77), {"id": "id"})
    delegate = ForkReader(recipe_of(table), {"id": "id"})
    shutil.rmtree(table._conn.uri)
    with pytest.raises(Exception, match="(?i)not found|no such file"):
        delegate.submit(np.array([900])).result(timeout=HANGS)


SCRIPT = """
import sys
import lancedb
from lancedb.integrations.torch import LanceTorchDataset
from torch.utils.data import DataLoader

def connect(name):
    return lancedb.connect(sys.argv[1]).open_table(name)

def main():
    dataset = LanceTorchDataset(
        table_name="points", connection_factory=connect, columns=["id"], format="torch"
    )
    loader = DataLoader(dataset, batch_size=500, num_workers=1, multiprocessing_context="fork")
    print(sum(len(batch["id"]) for batch in loader))

"""


def run_script(tmp_path, table, ending):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT + ending)
    with warm.starter() as starter:
        return starter.run(script, table._conn.uri, timeout=HANGS)


@pytest.mark.soak
def test_a_factory_of_the_script_itself_is_found(tmp_path, table):
    assert run_script(tmp_path, table, "if __name__ == '__main__':\n    main()\n") == "1000\n"


@pytest.mark.soak
def test_a_script_that_would_train_once_more_where_it_is_imported_is_told(tmp_path, table):
    told = (
        r"train.py ended with \[1\]\n[\s\S]* what the script does under if __name__ == '__main__'"
    )
    with pytest.raises(AssertionError, match=told):
        run_script(tmp_path, table, "main()\n")


def test_a_factory_that_cannot_be_sent_says_what_to_do(table):
    factory = lambda name: table  # noqa: E731
    dataset = LanceTorchDataset(
        table_name="points", connection_factory=factory, columns=["id"], format="torch"
    )
    with pytest.raises(TypeError, match="def at the top level of a module"):
        first_batch(dataset)


@pytest.mark.soak
def test_a_process_forked_by_anyone_reads_too(table):
    dataset = LanceTorchDataset(table, columns=["id"])
    dataset[0]
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=lambda: theirs.send(dataset[[7, 900]]))
    child.start()
    assert ours.poll(60)
    assert ours.recv() == [{"id": 7}, {"id": 900}]
    child.join()


@pytest.mark.parametrize("workers", [None, 0, 2])
def test_an_iterator_that_came_with_a_fork_is_refused_and_goes_on_where_it_began(table, workers):
    dataset = LanceIterableTorchDataset(table, columns=["id"], format="torch", shuffle=True)
    made = dataset if workers is None else LanceDataLoader(dataset, num_workers=workers)
    batches = iter(made)
    first = next(batches)["id"].tolist()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def go_on():
        try:
            theirs.send(next(batches))
        except RuntimeError as error:
            theirs.send(str(error))

    child = context.Process(target=go_on)
    child.start()
    assert ours.poll(60)
    assert "begun before this process was forked" in ours.recv()
    child.join()
    rest = [each for batch in batches for each in batch["id"].tolist()]
    assert sorted(first + rest) == list(range(1000))


@pytest.mark.soak
def test_a_memory_table_goes_along(table):
    memory = lancedb.connect("memory://").create_table("points", rows_of(30))
    dataset = LanceTorchDataset(memory, columns=["id"], format="torch")
    loader = DataLoader(dataset, batch_size=10, num_workers=1, multiprocessing_context="fork")
    assert ids(loader) == list(range(30))
