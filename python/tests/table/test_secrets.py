# SPDX-License-Identifier: Apache-2.0
"""Runs with marked credentials, whole and broken: the mark is shown, logged and kept nowhere."""

import functools
import json
import logging
import operator
import pickle
import threading
import traceback
import warnings

import lancedb
import pytest
import s3_server
from cloud_server import CloudServer
from conftest import rows_of
from faulty_proxy import Proxy, forbid
from lancedb.integrations._torch.table.uris import redact_uri
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from lancedb.permutation import Permutation
from s3_server import URI, SecretFile
from soak import soaked

ROWS = 200
MARK = "s3cr3t-mark"
KINDS = pytest.mark.parametrize("kind", [LanceTorchDataset, LanceIterableTorchDataset])
RUNS = pytest.mark.parametrize(
    ("kind", "workers"), [soaked(LanceTorchDataset, 0), (LanceIterableTorchDataset, 1)]
)


class Source:
    """Where a table is, and what must not be seen of how it is reached."""

    def __init__(self, arguments, marks, spoil):
        self.arguments = arguments
        self.marks = marks
        self.spoil = spoil


@pytest.fixture(scope="module")
def s3():
    with pytest.MonkeyPatch.context() as patch, s3_server.serving() as s3:
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        db = lancedb.connect(URI, storage_options=s3.storage_options)
        db.create_table("points", rows_of(ROWS).select(["id", "vec"]))
        yield s3


@pytest.fixture(params=["storage_options", "connection_factory"])
def bucket(request, s3, tmp_path, monkeypatch):
    """A table in an object store that a proxy can have refuse everything."""
    monkeypatch.setenv("LANCE_AIMD_MAX_RETRIES", "0")
    with Proxy(s3.endpoint) as proxy:
        options = {**s3.storage_options, "endpoint": proxy.endpoint, "client_max_retries": "0"}
        arguments = {"uri": URI, "connect_kwargs": {"storage_options": options}}
        if request.param == "connection_factory":
            (tmp_path / "key.json").write_text(json.dumps(options))
            arguments = {"connection_factory": SecretFile(tmp_path / "key.json")}
        yield Source(arguments, [s3.key, s3.secret], lambda: proxy.spoil_all(forbid))


@pytest.fixture
def cloud(tmp_path):
    """A table behind LanceDB Cloud's API."""
    lancedb.connect(tmp_path / "served").create_table("points", rows_of(ROWS).select(["id", "vec"]))
    server = CloudServer(tmp_path / "served", f"sk_{MARK}")
    kwargs = server.connect_kwargs()
    yield Source(
        {"uri": "db://training", "connect_kwargs": kwargs}, [MARK], server.refuses_all_keys
    )
    server.stop()


class Seen:
    """All that a run shows: what it is asked for, says by itself, raises and keeps."""

    def __init__(self, caplog, capfd):
        self._caplog = caplog
        self._capfd = capfd
        self.texts = []

    def add(self, *values):
        self.texts += [value if isinstance(value, str) else repr(value) for value in values]

    def add_error(self, error):
        self.texts += traceback.format_exception(error)
        while error is not None:
            self.add(error, vars(error), getattr(error, "__notes__", []), error.args)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)

    def add_what_was_said(self):
        self.add(*(record.getMessage() for record in self._caplog.records))
        self.add(self._caplog.text, *self._capfd.readouterr())

    def assert_clean(self, marks):
        assert self.texts
        assert [text for text in self.texts if any(mark in text for mark in marks)] == []


@pytest.fixture
def seen(caplog, capfd):
    caplog.set_level(logging.DEBUG)
    return Seen(caplog, capfd)


def loader_of(kind, source, workers):
    read = {"format": "torch", "batch_size": 40, "cache": False}
    dataset = kind(table_name="points", **read, **source.arguments)
    return LanceDataLoader(dataset, num_workers=workers)


def run_whole_and_broken(kind, source, workers, seen):
    """An epoch, its states and figures; then one that the storage breaks off."""
    loader = loader_of(kind, source, workers)
    raw = pickle.dumps(loader.dataset)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert sum(len(batch["id"]) for batch in loader) == ROWS
        batches = iter(loader)
        next(batches)
        seen.add(loader.state_dict(), loader.stats(), loader.postfix(), loader.dataset.stats())
        seen.add(loader.dataset, vars(loader.dataset), loader, loader.dataset._rows.view)
        del batches
        source.spoil()
        for fails in (lambda: list(loader), lambda: pickle.loads(raw)[0]):
            with pytest.raises(Exception) as caught:
                fails()
            seen.add_error(caught.value)
    seen.add(*(str(warning.message) for warning in warned))
    seen.add_what_was_said()
    return raw


@pytest.mark.few(1)
@RUNS
def test_a_run_over_an_object_store_shows_no_credential(bucket, kind, workers, seen):
    raw = run_whole_and_broken(kind, bucket, workers, seen)
    seen.assert_clean(bucket.marks)
    if "connection_factory" in bucket.arguments:
        assert not any(mark.encode() in raw for mark in bucket.marks)


@RUNS
def test_a_run_over_lancedb_cloud_shows_no_key(cloud, kind, workers, seen):
    run_whole_and_broken(kind, cloud, workers, seen)
    seen.assert_clean(cloud.marks)


class Refuses:
    """A connection factory that cannot reach its database, and does not say with which key."""

    def __call__(self, name):
        return lancedb.connect(URI, storage_options=self.options()).open_table(name)

    def options(self):
        closed = {"endpoint": "http://127.0.0.1:9", "allow_http": "true", "region": "x"}
        key = {"aws_access_key_id": MARK, "aws_secret_access_key": MARK}
        return {**closed, **key, "client_max_retries": "0"}


@pytest.mark.few(1)
@KINDS
@pytest.mark.parametrize("how", ["storage_options", soaked("connection_factory")])
def test_a_database_that_cannot_be_reached_shows_no_credential(kind, how, seen, monkeypatch):
    monkeypatch.setenv("LANCE_AIMD_MAX_RETRIES", "0")
    where = {"connection_factory": Refuses()}
    if how == "storage_options":
        where = {"uri": URI, "connect_kwargs": {"storage_options": Refuses().options()}}
    with pytest.raises((RuntimeError, ValueError)) as caught:
        kind(table_name="points", **where)
    seen.add_error(caught.value)
    seen.add_what_was_said()
    seen.assert_clean([MARK])


def open_with(name, uri, api_key, lock=None):
    return lancedb.connect(uri).open_table(name)


@KINDS
def test_what_a_factory_has_bound_is_not_shown(kind, tmp_path, seen):
    lancedb.connect(tmp_path).create_table("points", rows_of(5))
    bound = functools.partial(open_with, uri=tmp_path, api_key=MARK)
    sendable = kind(table_name="points", connection_factory=bound)
    assert "connection_factory open_with" in repr(sendable)
    transform = functools.partial(operator.add, MARK)
    permutation = Permutation.identity(bound("points")).with_transform(transform)
    seen.add(sendable, vars(sendable), vars(kind(permutation)))
    locked = functools.partial(bound, lock=threading.Lock())
    for arguments in (
        {"connection_factory": locked},
        {"connection_factory": bound, "transform": functools.partial(print, MARK, lock=locked)},
    ):
        with pytest.raises(TypeError, match=r"(open_with|print) cannot be sent") as caught:
            pickle.dumps(kind(table_name="points", **arguments))
        seen.add_error(caught.value)
    seen.assert_clean([MARK])


USER = f"user:{MARK}@"


@pytest.mark.few(2)
@KINDS
@pytest.mark.parametrize(
    "uri",
    [
        f"s3://{USER}127.0.0.1:9/db?token={MARK}",
        f"db://{USER}training?key={MARK}",
        f"gs://{USER}bucket/db#{MARK}",
        f"https://{USER}host/db",
        f"unheard-of://{USER}host/db",
    ],
)
def test_a_uri_with_a_password_is_shown_without_it(kind, uri, seen, monkeypatch):
    monkeypatch.setenv("LANCE_AIMD_MAX_RETRIES", "0")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    options = {"client_max_retries": "0", "timeout": "1s", "connect_timeout": "1s"}
    options |= {
        "aws_access_key_id": "a",
        "aws_secret_access_key": "b",
        "google_skip_signature": "true",
    }
    kwargs = {"api_key": MARK} if uri.startswith("db:") else {"storage_options": options}
    with pytest.raises(Exception) as caught:
        kind(uri=uri, table_name="points", connect_kwargs=kwargs)
    seen.add_error(caught.value)
    seen.add_what_was_said()
    seen.add(redact_uri(uri))
    seen.assert_clean([MARK])


def test_a_credential_that_is_shown_is_found(seen, caplog):
    """What the tests above look with does see what there is to see."""

    def fail():
        try:
            raise LookupError(MARK)
        except LookupError as cause:
            raise KeyError("innocent") from cause

    logging.getLogger("lancedb.integrations.torch").warning("with %s", MARK)
    with pytest.raises(KeyError) as caught:
        fail()
    seen.add_error(caught.value)
    before = len(seen.texts)
    seen.add_what_was_said()
    assert any(MARK in text for text in seen.texts[:before])
    assert any(MARK in text for text in seen.texts[before:])
    with pytest.raises(AssertionError):
        seen.assert_clean([MARK])
