# SPDX-License-Identifier: Apache-2.0
"""Tables behind LanceDB Cloud's API: the real client, against a server with real tables."""

import json
import multiprocessing
import pickle
import traceback

import lancedb
import pytest
from cloud_server import CloudServer, KeyInEnvironment
from conftest import rows_of
from lancedb.background_loop import LOOP
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from lancedb.permutation import Permutation, permutation_builder
from limits import HANGS
from torch.utils.data import ConcatDataset, DataLoader, Subset

FORK = multiprocessing.get_context("fork")
KEY = "sk_s3cr3t-mark"


@pytest.fixture
def local(tmp_path):
    """The table on the server's side: 600 rows in version 1, 1,000 in version 2."""
    table = lancedb.connect(tmp_path / "served").create_table("points", rows_of(600))
    table.add(rows_of(400, 600))
    return table


@pytest.fixture
def cloud(tmp_path, local):
    server = CloudServer(tmp_path / "served", KEY)
    yield server
    server.stop()


@pytest.fixture
def table(cloud):
    """The same table as LanceDB Cloud's client sees it."""
    return cloud.connect().open_table("points")


def by_table(cloud):
    return {"table": cloud.connect().open_table("points")}


def by_uri(cloud):
    kwargs = cloud.connect_kwargs()
    return {"uri": "db://training", "table_name": "points", "connect_kwargs": kwargs}


def by_factory(cloud):
    return {"table_name": "points", "connection_factory": KeyInEnvironment(cloud.endpoint)}


def by_table_and_factory(cloud):
    return {**by_table(cloud), "connection_factory": KeyInEnvironment(cloud.endpoint)}


WAYS = [by_table, by_uri, by_factory, by_table_and_factory]


@pytest.fixture(autouse=True)
def key_in_environment(monkeypatch):
    monkeypatch.setenv("TRAINING_KEY", KEY)


def ids(batches):
    return [batch["id"].tolist() for batch in batches]


def flat(lists):
    return [each for some in lists for each in some]


@pytest.mark.soak
def test_map_style_in_a_spawned_worker(cloud):
    some = range(0, 1000, 25)
    ways = [
        Subset(LanceTorchDataset(**way(cloud), columns=["id"], unwrap=True), some) for way in WAYS
    ]
    loader = DataLoader(
        ConcatDataset(ways), batch_size=20, num_workers=1, multiprocessing_context="spawn"
    )
    assert flat(ids(loader)) == list(some) * len(WAYS)


def test_iterable_in_workers_resumed_without_any(table):
    dataset = LanceIterableTorchDataset(
        table, columns=["id"], format="torch", batch_size=50, shuffle=True
    )
    workers = LanceDataLoader(dataset, num_workers=2)
    batches = iter(workers)
    first = ids(next(batches) for _ in range(7))
    state = json.loads(json.dumps(workers.state_dict()))
    rest = ids(batches)
    assert sorted(flat(first + rest)) == list(range(1000))
    alone = LanceDataLoader(pickle.loads(pickle.dumps(dataset)))
    alone.load_state_dict(state)
    assert ids(alone) == rest


@pytest.mark.parametrize("shuffle", [False, True, "global"])
def test_an_epoch_is_that_of_the_table_itself(local, table, shuffle):
    def epoch(source):
        dataset = LanceIterableTorchDataset(
            source, format="arrow", batch_size=64, shuffle=shuffle, seed=5, drop_last=False
        )
        return [batch.to_pylist() for batch in dataset]

    assert epoch(table) == epoch(local)


@pytest.mark.parametrize("rows", [[5, 3, 999, 5, -1], range(0, 1000), []])
def test_rows_by_offset_are_those_of_the_table_itself(local, table, rows):
    of_cloud, of_table = (LanceTorchDataset(each, format="arrow") for each in (table, local))
    assert of_cloud.__getitems__(rows).equals(of_table.__getitems__(rows))


def test_every_read_names_the_pinned_version(cloud, local, table):
    dataset = LanceTorchDataset(table, columns=["id"], filter="label = 3")
    local.delete("id < 500")
    local.add(rows_of(10, 5000))
    cloud.requests.clear()
    copy = pickle.loads(pickle.dumps(dataset))
    expected = [{"id": i} for i in range(1000) if i % 7 == 3]
    assert [copy[i][0] for i in range(len(copy))] == expected
    reads = [asked for action, asked in cloud.requests if action != "describe"]
    assert {asked["version"] for asked in reads} == {2}
    assert len(LanceTorchDataset(table)) == 510


def test_version_takes_a_number_or_a_tag(local, table):
    local.tags.create("training", 1)
    for version in (1, "training"):
        dataset = LanceTorchDataset(table, version=version)
        assert (dataset.version, len(dataset)) == (1, 600)
    for version in (99, "trainin"):
        with pytest.raises(ValueError, match=f"version {version!r} of table 'points' does not"):
            LanceTorchDataset(table, version=version)


def test_columns_and_expressions(table):
    columns = {"number": "id", "twice": "label * 2"}
    dataset = LanceTorchDataset(table, columns=columns, format="torch")
    batch = dataset.__getitems__([10, 20]).columns
    assert {name: values.tolist() for name, values in batch.items()} == {
        "number": [10, 20],
        "twice": [6, 12],
    }


@pytest.mark.parametrize("built_from", ["local", "remote"])
@pytest.mark.parametrize("kept", ["here", "in the cloud"])
def test_splits_cover_the_table_and_do_not_overlap(cloud, local, table, built_from, kept):
    built = permutation_builder(local if built_from == "local" else table)
    splits = built.split_random(ratios=[0.9, 0.1], seed=0, split_names=["train", "test"]).execute()
    if kept == "in the cloud":
        lancedb.connect(cloud.folder).create_table("splits", splits.to_arrow())
        splits = cloud.connect().open_table("splits")
    found = [
        [row["id"] for row in LanceTorchDataset(table, permutation_table=splits, split=name)[:]]
        for name in ("train", "test")
    ]
    assert list(map(len, found)) == [900, 100]
    assert sorted(flat(found)) == list(range(1000))


def test_a_permutation_of_a_remote_table(table):
    permutation = Permutation.identity(table).select_columns(["id"]).with_format("torch")
    dataset = LanceTorchDataset(permutation)
    assert pickle.loads(pickle.dumps(dataset)).__getitems__([4, 2]).columns["id"].tolist() == [4, 2]


@pytest.mark.parametrize("over", ["identity", "checked out", "not opened"])
def test_a_fork_asks_no_server_and_the_forked_process_fetches_from_it(cloud, table, over):
    if over == "checked out":
        table.checkout(1)
    permutation = Permutation.identity(table)
    expected = permutation.fetch([4, -1, 2])
    if over == "not opened":
        permutation = pickle.loads(pickle.dumps(permutation))
    forked, answers = FORK.Event(), FORK.Queue()

    def fetch():
        forked.wait(HANGS)
        LOOP.run = None  # lancedb's runtime does not survive a fork
        answers.put(permutation.fetch([4, -1, 2]))

    cloud.requests.clear()
    child = FORK.Process(target=fetch)
    child.start()
    assert not cloud.requests
    forked.set()
    assert answers.get(timeout=HANGS) == expected
    child.join(60)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [LanceTorchDataset, LanceIterableTorchDataset])
def test_the_key_is_pickled_only_where_there_is_no_factory(cloud, way, kind):
    raw = pickle.dumps(kind(**way(cloud)))
    assert len(raw) < 4096
    assert (KEY.encode() in raw) == ("connection_factory" not in way(cloud))


@pytest.mark.parametrize("way", WAYS)
def test_the_key_is_never_shown(cloud, way):
    dataset = LanceTorchDataset(**way(cloud))
    unopened = pickle.loads(pickle.dumps(dataset))
    dataset[0]
    shown = [repr(dataset), repr(vars(dataset))]
    cloud.refuses_all_keys()
    for failing in (dataset, unopened):
        with pytest.raises(RuntimeError, match="API key") as caught:
            failing[5]
        assert caught.match("'points', version 2 at ")
        shown += traceback.format_exception(caught.value)
    assert not [text for text in shown if KEY in text]


def test_what_is_wrong_is_said_by_name(cloud, table):
    wrong_key = {**by_uri(cloud), "connect_kwargs": cloud.connect_kwargs("sk_wr0ng")}
    no_table = {**by_uri(cloud), "table_name": "pints"}
    cases = [
        (wrong_key, RuntimeError, "opening table 'points' at db://training failed.*401"),
        (no_table, ValueError, "no table 'pints' at db://training"),
        ({"table": table, "columns": ["lable"]}, ValueError, "'lable': did you mean 'label'"),
        ({"table": table, "filter": "lable = 3"}, ValueError, "'lable = 3' cannot be evaluated"),
    ]
    for arguments, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            LanceTorchDataset(**arguments)
        assert "sk_" not in "".join(traceback.format_exception(caught.value))


def test_a_server_that_is_busy_for_a_moment_is_asked_again(cloud, table):
    dataset = LanceTorchDataset(table, columns=["id"])
    dataset[0]
    cloud.failing = 1
    assert dataset[5] == [{"id": 5}]
    assert cloud.failing == 0


def test_an_outage_ends_the_epoch_and_a_resume_is_exact(cloud, table):
    dataset = LanceIterableTorchDataset(table, columns=["id"], format="torch", batch_size=5)
    whole = ids(dataset)
    loader = LanceDataLoader(dataset)
    batches = iter(loader)
    delivered = ids(next(batches) for _ in range(3))
    cloud.failing = 10_000
    message = r"reading \d+ rows \(offsets \d+ to \d+\) of table 'points', version 2 at db://"
    with pytest.raises(RuntimeError, match=message):
        delivered.extend(ids([batch])[0] for batch in batches)
    state = loader.state_dict()
    cloud.failing = 0
    assert 3 <= len(delivered) < len(whole)
    loader.load_state_dict(state)
    assert delivered + ids(loader) == whole
