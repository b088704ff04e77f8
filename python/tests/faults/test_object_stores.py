# SPDX-License-Identifier: Apache-2.0
"""What happens when an object store fails: for a moment, or until training stops."""

import datetime
import json
import multiprocessing
import pickle
import threading
import time

import file_store
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from faulty_proxy import Proxy, break_off, go_down, hang_up, pass_on, slow_down, stall
from lancedb.background_loop import LOOP
from lancedb.integrations._torch.table import fork_permutations as forked
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from lancedb.permutation import Permutation, permutation_builder
from limits import HANGS
from soak import soaked

FORK = multiprocessing.get_context("fork")
ROWS = 3000
GIVES_UP_SOON = {
    "timeout": "1s",
    "client_max_retries": "0",
    "lance_aimd_max_retries": "0",
    "download_retry_count": "0",
}
LIMIT = 2.0
LATENCY = 0.1
ERROR = r"reading \d+ rows \(offsets \d+ to \d+\) of table 'points', version 1 at s3://bucket/db"


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory):
    """A store with a table of rows of 4 KB, so that an epoch takes dozens of requests.

    It answers at once at the first of its addresses, and after a while at the second.
    """
    folder = tmp_path_factory.mktemp("store")
    values = pa.array(np.random.default_rng(0).random(ROWS * 1024, dtype=np.float32))
    rows = {"id": np.arange(ROWS), "vec": pa.FixedSizeListArray.from_arrays(values, 1024)}
    lancedb.connect(folder / "bucket" / "db").create_table("points", pa.table(rows))
    with file_store.serving(folder, 0, LATENCY) as endpoints:
        yield endpoints


@pytest.fixture
def proxy(endpoints):
    with Proxy(endpoints[0]) as proxy:
        yield proxy


def where(proxy, options):
    options = {**file_store.storage_options(proxy.endpoint), **options}
    connect_kwargs = {"storage_options": options}
    return {"uri": "s3://bucket/db", "table_name": "points", "connect_kwargs": connect_kwargs}


def iterable(proxy, options, **limits):
    dataset = LanceIterableTorchDataset(
        **where(proxy, options),
        format="torch",
        batch_size=50,
        shuffle=True,
        block_rows=8,
        window_rows=256,
        lanes=2,
        readahead=1,
        **limits,
    )
    return LanceDataLoader(dataset)


def map_style(proxy, options, **limits):
    dataset = LanceTorchDataset(**where(proxy, options), format="torch", cache=False, **limits)
    return LanceDataLoader(dataset, batch_size=50)


def ids(batches):
    return [batch["id"].tolist() for batch in batches]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (iterable, slow_down),
        (iterable, break_off),
        (map_style, hang_up),
        (map_style, stall),
        soaked(iterable, hang_up),
        soaked(iterable, stall),
    ],
)
def test_a_fault_that_passes_changes_nothing(proxy, make, fault):
    loader = make(proxy, {"timeout": "1s"})
    whole = ids(loader)
    loader.set_epoch(0)
    proxy.spoil(*[fault, pass_on, pass_on, fault, pass_on])
    assert ids(loader) == whole
    assert proxy.spoiled.total() == 2


@pytest.mark.parametrize(
    ("make", "fault"),
    [(iterable, slow_down), soaked(map_style, hang_up), soaked(iterable, hang_up)],
)
def test_refusals_in_a_row_are_sat_out_with_lancedbs_own_options(proxy, make, fault):
    loader = make(proxy, {})
    whole, requests = epoch(proxy, loader)
    loader.set_epoch(0)
    proxy.spoil(*[pass_on] * (requests // 2), *[fault] * 30)
    assert ids(loader) == whole
    assert proxy.spoiled.total() == 30


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (iterable, go_down),
        (iterable, slow_down),
        (map_style, go_down),
        (map_style, break_off),
        soaked(iterable, stall),
    ],
)
def test_a_lasting_fault_ends_the_epoch_and_a_resume_is_exact(proxy, make, fault):
    loader = make(proxy, GIVES_UP_SOON)
    whole = ids(loader)
    # From here on each epoch makes as many requests: what reads them is chosen in the first one.
    loader.set_epoch(0)
    _, requests = epoch(proxy, loader)
    loader.set_epoch(0)
    # Many requests are under way before the first batch.
    proxy.spoil_all(fault, after=requests * 4 // 5)
    delivered = deliver_until_it_fails(loader)
    state = json.loads(json.dumps(loader.state_dict()))
    restore(proxy)
    assert 0 < len(delivered) < len(whole)
    copy = LanceDataLoader(pickle.loads(pickle.dumps(loader.dataset)), **of(make))
    for resumed in (loader, copy):
        resumed.load_state_dict(state)
        assert delivered + ids(resumed) == whole


# With its own options lancedb went on for more than eight minutes.
@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("make", "fault"),
    [
        soaked(iterable, slow_down),
        (iterable, hang_up),
        soaked(iterable, go_down),
        (map_style, slow_down),
    ],
)
def test_what_lancedb_tries_again_and_again_ends_at_the_limit_and_a_resume_is_exact(
    proxy, make, fault
):
    whole, requests = epoch(proxy, make(proxy, {}))
    loader = make(proxy, {}, read_timeout=LIMIT)
    # Epochs differ by some requests, and many of them are under way before the first batch.
    proxy.spoil_all(fault, after=requests * 2 // 3)
    started = time.monotonic()
    delivered = deliver_until_it_fails(loader, "not read within 2 seconds, .* read_timeout")
    took = time.monotonic() - started
    assert took < 60 * LIMIT  # A bound on hanging, not a measurement.
    assert max(proxy.spoiled.values()) <= 100 * took  # there are pauses, or it were thousands
    restore(proxy)
    loader.load_state_dict(loader.state_dict())
    assert 0 < len(delivered) < len(whole)
    assert delivered + ids(loader) == whole


def epoch(proxy, loader):
    """An epoch, and how many requests it took."""
    before = proxy.requests
    return ids(loader), proxy.requests - before


def deliver_until_it_fails(loader, reason=""):
    delivered = []
    with pytest.raises(RuntimeError, match=f"{ERROR} failed: {reason}"):
        delivered.extend(batch["id"].tolist() for batch in loader)
    return delivered


def of(make):
    """The arguments of a loader that belong to it."""
    return {"batch_size": 50} if make is map_style else {}


def restore(proxy):
    """Have the store answer again, at the same address."""
    proxy.stop()
    proxy.spoil_none()
    proxy.start()


def test_a_worker_says_what_failed_and_a_resume_without_workers_is_exact(proxy):
    loader = map_style(proxy, GIVES_UP_SOON)
    whole, _ = epoch(proxy, loader)
    workers = LanceDataLoader(loader.dataset, num_workers=2, batch_size=50)
    batches = iter(workers)
    delivered = [next(batches)["id"].tolist() for _ in range(2)]  # both have opened the table
    proxy.spoil_all(go_down)
    with pytest.raises(RuntimeError, match=ERROR):
        delivered.extend(batch["id"].tolist() for batch in batches)
    state = workers.state_dict()
    restore(proxy)
    loader.load_state_dict(state)
    assert delivered + ids(loader) == whole


def test_a_process_that_cannot_open_the_table_says_which(proxy):
    raw = pickle.dumps(map_style(proxy, GIVES_UP_SOON).dataset)
    proxy.stop()
    message = "opening table 'points', version 1 at s3://bucket/db failed"
    with pytest.raises(RuntimeError, match=message):
        pickle.loads(raw)[0]


# -- a store that is slow, and no more -----------------------------------------------------------


@pytest.mark.parametrize("make", [iterable, soaked(map_style)])
def test_a_store_that_answers_late_but_in_time_gives_every_row(endpoints, make):
    with Proxy(endpoints[1]) as proxy:
        loader = make(proxy, {}, read_timeout=LIMIT)
        if make is map_style:  # 30 reads, one after the other
            loader = LanceDataLoader(loader.dataset, batch_size=ROWS // 30)
        while loader.stats()["reading"] <= LIMIT:  # all together take longer than one may
            rows = [row for batch in ids(loader) for row in batch]
            assert sorted(rows) == list(range(ROWS))


# -- a store that does not answer while a table is opened ----------------------------------------

SOON = 1.0
OPENING = r"opening table 'points'(, version 1)? at s3://bucket/db failed: not opened"
READING = r"reading \d+ rows \(offsets \d+ to \d+\) of table 'points', version 1 at .* not read"
IN_TIME = rf"({OPENING}|{READING}) within 1 seconds, the dataset's read_timeout"


def map_style_dataset(proxy):
    return LanceTorchDataset(**where(proxy, {}), format="torch", cache=False, read_timeout=SOON)


def make_a_dataset(proxy):
    return lambda: iterable(proxy, {}, read_timeout=SOON)


def describe_the_data(proxy):
    dataset = map_style_dataset(proxy)
    return lambda: LanceDataLoader(dataset)  # whose states say which data they are of


def open_in_another_process(proxy):
    raw = pickle.dumps(map_style_dataset(proxy))
    return lambda: pickle.loads(raw)[0]


@pytest.mark.parametrize(
    ("prepare", "does"),
    [
        (make_a_dataset, {"opening", "reading"}),
        soaked(describe_the_data, {"reading"}),  # off the table that was opened to be pinned
        soaked(open_in_another_process, {"opening", "reading"}),
    ],
)
def test_whichever_request_of_opening_is_not_answered_the_limit_ends_it(endpoints, prepare, does):
    with Proxy(endpoints[0]) as proxy:
        act = prepare(proxy)
        before = proxy.requests
        act()
        requests = proxy.requests - before
    said = set()
    for answered in np.unique(np.linspace(0, requests - 1, 4).astype(int)).tolist():
        with Proxy(endpoints[0]) as proxy:
            act = prepare(proxy)
            proxy.spoil_all(stall, after=answered)
            started = time.monotonic()
            with pytest.raises(RuntimeError, match=IN_TIME) as caught:
                act()
            assert time.monotonic() - started < 60 * SOON  # a bound on hanging
            said.add(str(caught.value).split()[0])
    assert said == does


# -- a process that forks ------------------------------------------------------------------------


def whole(table):
    return Permutation.identity(table).with_skip(5)


def split(table):
    built = permutation_builder(table).split_random(ratios=[0.7, 0.3], seed=5).shuffle().execute()
    return Permutation.from_tables(table, built, 1).with_skip(5)


@pytest.mark.parametrize("rows_of", [whole, split])
def test_a_process_that_forks_asks_no_store_which_rows_a_permutation_has(proxy, rows_of):
    address = where(proxy, {})
    connection = lancedb.connect(address["uri"], **address["connect_kwargs"])
    permutation = rows_of(connection.open_table("points")).select_columns(["id"])
    expected = permutation.fetch([3, -1, 3])
    answered, answers = FORK.Event(), FORK.Queue()

    def fetch():
        answered.wait(HANGS)
        LOOP.run = None  # lancedb's runtime does not survive a fork
        answers.put(permutation.fetch([3, -1, 3]))

    proxy.spoil_all(stall)
    requests = proxy.requests
    child = FORK.Process(target=fetch)
    child.start()
    assert proxy.requests == requests
    proxy.spoil_none()
    answered.set()
    assert answers.get(timeout=HANGS) == expected
    child.join(60)


def test_a_store_that_is_asked_for_newer_versions_holds_a_fork_up_once_and_not_for_long(
    proxy, tmp_path, monkeypatch
):
    asked = threading.Event()

    def stall_and_tell(handler, body):
        asked.set()
        stall(handler, body)

    address = where(proxy, {})
    every_time = {"read_consistency_interval": datetime.timedelta(0)}
    connection = lancedb.connect(address["uri"], **address["connect_kwargs"], **every_time)
    stalled = [Permutation.identity(connection.open_table("points")) for _ in range(20)]
    here = lancedb.connect(tmp_path).create_table("points", [{"x": x} for x in range(ROWS)])
    answered = Permutation.identity(here)
    monkeypatch.setattr(forked, "_NOTED_WITHIN", SOON)
    proxy.spoil_all(stall_and_tell)
    started = time.monotonic()
    fork()
    assert time.monotonic() - started < len(stalled) * SOON  # one limit, and not one for each
    assert asked.wait(60)
    requests = proxy.requests
    fork()
    assert proxy.requests == requests
    assert forked.reader_of(answered).selection.num_rows == ROWS
    assert not any(map(forked.reader_of, stalled))


def fork():
    child = FORK.Process(target=int)
    child.start()
    child.join(60)
    assert child.exitcode == 0
