# SPDX-License-Identifier: Apache-2.0
"""Tables in an object store: every way to give credentials, and none of them shown."""

import dataclasses
import json
import pickle
import re
import traceback

import lancedb
import pytest
import s3_server
from conftest import rows_of
from faulty_proxy import Proxy, forbid
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from s3_server import URI, SecretFile
from torch.utils.data import ConcatDataset, DataLoader, Subset

ROWS = 2000


@pytest.fixture(scope="module")
def s3():
    """An S3 server with the table "points"; nothing of this machine's AWS set-up is used."""
    with pytest.MonkeyPatch.context() as patch, s3_server.serving() as s3:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        db = lancedb.connect(URI, storage_options=s3.storage_options)
        db.create_table("points", rows_of(ROWS).select(["id", "label", "vec"]))
        yield s3


def by_storage_options(s3, tmp_path, monkeypatch):
    table = lancedb.connect(URI, storage_options=s3.storage_options).open_table("points")
    return {"table": table}


def by_connect_kwargs(s3, tmp_path, monkeypatch):
    options = {"storage_options": s3.storage_options}
    return {"uri": URI, "table_name": "points", "connect_kwargs": options}


def by_environment(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT", s3.endpoint)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_REGION", s3_server.REGION)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret)
    return {"uri": URI, "table_name": "points"}


def by_factory(s3, tmp_path, monkeypatch):
    path = tmp_path / "secret.json"
    path.write_text(json.dumps(s3.storage_options))
    return {"table_name": "points", "connection_factory": SecretFile(path)}


WAYS = [by_storage_options, by_environment, by_factory]


def test_plain_http_that_is_not_allowed_is_an_error_that_says_how(s3):
    options = {name: value for name, value in s3.storage_options.items() if name != "allow_http"}
    with pytest.raises(RuntimeError) as caught:
        LanceTorchDataset(uri=URI, table_name="points", connect_kwargs={"storage_options": options})
    said = str(caught.value)
    assert f"the store's endpoint {s3.endpoint} is not https" in said
    assert 'connect_kwargs={"storage_options": {"allow_http": "true", ...}}' in said
    shown = "".join(traceback.format_exception(caught.value))
    assert "BadScheme" not in shown
    assert len(said) < 400


@pytest.mark.soak
def test_map_style_in_a_spawned_worker(s3, tmp_path, monkeypatch):
    some = range(0, ROWS, 20)
    ways = [
        Subset(LanceTorchDataset(**way(s3, tmp_path, monkeypatch), unwrap=True), some)
        for way in WAYS
    ]
    loader = DataLoader(
        ConcatDataset(ways), batch_size=25, num_workers=1, multiprocessing_context="spawn"
    )
    got = [pair for batch in loader for pair in pairs(batch)]
    assert got == [(i, i % 7) for i in some] * len(WAYS)


@pytest.mark.parametrize("way", WAYS)
def test_iterable_with_a_worker_resumed_without_any(s3, tmp_path, monkeypatch, way):
    where = way(s3, tmp_path, monkeypatch)
    dataset = LanceIterableTorchDataset(
        **where, columns=["id", "label"], format="torch", batch_size=100, shuffle=True
    )
    workers = LanceDataLoader(dataset, num_workers=1)  # which opens no table
    batches = iter(workers)
    first = [pairs(next(batches)) for _ in range(5)]
    state = json.loads(json.dumps(workers.state_dict()))
    rest = [pairs(batch) for batch in batches]
    assert sorted(pair for batch in first + rest for pair in batch) == [
        (i, i % 7) for i in range(ROWS)
    ]
    alone = LanceDataLoader(pickle.loads(pickle.dumps(dataset)))
    alone.load_state_dict(state)
    assert [pairs(batch) for batch in alone] == rest


def pairs(batch):
    return list(zip(batch["id"].tolist(), batch["label"].tolist(), strict=True))


@pytest.mark.parametrize("way", [*WAYS, by_connect_kwargs])
@pytest.mark.parametrize("kind", [LanceTorchDataset, LanceIterableTorchDataset])
def test_what_is_pickled_is_small_and_holds_a_secret_only_if_it_was_given_one(
    s3, tmp_path, monkeypatch, way, kind
):
    dataset = kind(**way(s3, tmp_path, monkeypatch))
    raw = pickle.dumps(dataset)
    assert len(raw) < 4096
    given_one = way in (by_storage_options, by_connect_kwargs)
    assert [text.encode() in raw for text in (s3.secret, s3.key)] == [given_one] * 2


@pytest.mark.few(2)
@pytest.mark.parametrize("way", [*WAYS, by_connect_kwargs])
def test_no_secret_is_shown(s3, tmp_path, monkeypatch, way):
    monkeypatch.setenv("LANCE_AIMD_MAX_RETRIES", "0")
    with Proxy(s3.endpoint) as proxy:
        through = dataclasses.replace(s3, endpoint=proxy.endpoint)
        dataset = LanceTorchDataset(**way(through, tmp_path, monkeypatch))
        unopened = pickle.loads(pickle.dumps(dataset))
        dataset[0]
        proxy.spoil_all(forbid)
        shown = [repr(dataset), repr(vars(dataset))]
        for failing in (dataset, unopened):
            with pytest.raises((RuntimeError, ValueError), match="403") as caught:
                failing[5]
            said = "".join(traceback.format_exception(caught.value))
            assert re.search(r"'points', version \d+ at ", said)
            shown.append(said)
    assert not [text for text in shown if s3.secret in text or s3.key in text]


def test_refused_credentials_say_for_which_table(s3):
    wrong = {**s3.storage_options, "aws_secret_access_key": "wr0ng"}
    with pytest.raises(RuntimeError, match=rf"'points' at {URI} .*SignatureDoesNotMatch") as caught:
        LanceTorchDataset(uri=URI, table_name="points", connect_kwargs={"storage_options": wrong})
    assert "wr0ng" not in "".join(traceback.format_exception(caught.value))


def test_a_version_is_pinned_and_an_unknown_table_is_named(s3):
    db = lancedb.connect(URI, storage_options=s3.storage_options)
    table = db.create_table("growing", rows_of(10))
    dataset = LanceTorchDataset(table, columns=["id"])
    table.add(rows_of(10, 10))
    assert len(pickle.loads(pickle.dumps(dataset))) == 10
    kwargs = {"storage_options": s3.storage_options}
    with pytest.raises(ValueError, match=rf"no table 'grow' at {URI}: did you mean 'growing'"):
        LanceTorchDataset(uri=URI, table_name="grow", connect_kwargs=kwargs)


@pytest.mark.parametrize("versions", [2, 20])
def test_a_table_that_was_made_anew_is_noticed(s3, versions):
    """By when it was made; where that would be many requests, by its size."""
    db = lancedb.connect(URI, storage_options=s3.storage_options)
    table = db.create_table(f"anew_{versions}", rows_of(10))
    for _ in range(versions - 1):
        table.add(rows_of(1))
    sent = pickle.dumps(LanceTorchDataset(table, version=2))
    assert len(pickle.loads(sent)[:]) == 11
    db.drop_table(table.name)
    table = db.create_table(table.name, rows_of(10, 50))
    table.add(rows_of(1) if versions == 2 else rows_of(2))
    with pytest.raises(RuntimeError, match="not the table that the dataset was made from"):
        pickle.loads(sent)[0]
