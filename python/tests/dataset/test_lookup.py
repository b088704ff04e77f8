# SPDX-License-Identifier: Apache-2.0
"""`LanceLookup`: rows of another table by key and by vector, pinned, in any process."""

import pickle
import threading

import lancedb
import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import rows_of
from hypothesis import given
from hypothesis import strategies as st
from lancedb.index import IvfFlat
from lancedb.integrations._torch.cache.recent_rows import RecentRows
from lancedb.integrations._torch.table.key_index import KeyIndex, as_keys
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceLookup,
    LanceTorchDataset,
)
from soak import soaked
from torch.utils.data import DataLoader

KEYS = {
    "int32": (pa.int32(), lambda i: 7 * i - 50),
    "uint64": (pa.uint64(), lambda i: 3 * i),
    "large uint64": (pa.uint64(), lambda i: 2**64 - 1 - i),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), lambda i: f"d{i * 37 % 100}"),
    "string": (pa.string(), lambda i: f"k{i * 37 % 100:03}"),
    "large_string": (pa.large_string(), lambda i: "é" * (i % 7) + str(i)),
    "binary": (pa.binary(), lambda i: bytes([i, 255 - i])),
    "uuid": (pa.binary(16), lambda i: bytes(15) + bytes([i])),
}


@pytest.fixture
def lookup(table):
    return LanceLookup(table, key="id", columns=["id", "vec", "text"])


def keyed(db, kind, name="keyed"):
    type, key = KEYS[kind]
    keys = [key(i) for i in range(100)]
    rows = pa.table({"key": pa.array(keys, type), "place": range(100)})
    return db.create_table(name, rows), keys


@pytest.mark.parametrize("kind", KEYS)
def test_rows_come_by_key_in_order_with_duplicates(db, kind):
    table, keys = keyed(db, kind)
    lookup = LanceLookup(table, key="key", columns=["place"])
    wanted = [99, 3, 50, 3, 0, 99]
    assert lookup.fetch([keys[i] for i in wanted])["place"].tolist() == wanted
    assert lookup.fetch([])["place"].shape == (0,)
    absent = {"uint64": 2**62, "large uint64": 5, "int32": 2**40}.get(kind, keys[1] * 9)
    assert lookup.contains([keys[5], absent, None]).tolist() == [True, False, False]
    with pytest.raises(KeyError, match=r"key key = .* is not in table 'keyed'.*missing='null'"):
        lookup.fetch([keys[1], absent])


@given(st.data())
def test_an_index_finds_what_is_there_and_nothing_else(data):
    kind, values = data.draw(
        st.sampled_from([(pa.int64(), st.integers(-99, 99)), (pa.string(), st.text(max_size=3))])
    )
    keys = data.draw(st.lists(st.one_of(values, st.none()), unique=True, max_size=60))
    wanted = data.draw(st.lists(st.one_of(values, st.none()), max_size=30))
    index = KeyIndex(pa.array(keys, kind), np.arange(len(keys)), "key")
    expected = [keys.index(key) if key is not None and key in keys else -1 for key in wanted]
    assert index.find(as_keys(pa.array(wanted, kind), index.type)).tolist() == expected


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, tuple, pa.array, iter])
def test_keys_may_come_in_any_form(lookup, kind):
    assert lookup.fetch(kind([5, 900, 5]))["id"].tolist() == [5, 900, 5]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("abc", "must be a sequence"),
        (5, r"for one key write \[5\]"),
        (torch.tensor(5), "must be a sequence"),
        (["5"], "must be of type int64, as the key's column, not '5'"),
        ([5.0], "must be of type int64"),
        (np.array([True]), "must be of type int64"),
        ([5, "5"], "must all be of one type"),
        (np.zeros((2, 2), int), "one dimension"),
        ({5, 6}, r"not a set, whose order is any: pass sorted\(keys\)"),
    ],
)
def test_what_is_no_sequence_of_keys_is_refused(lookup, keys, message):
    with pytest.raises(TypeError, match=message):
        lookup.fetch(keys)


@pytest.mark.parametrize("kind", ["int32", "large uint64"])
def test_numbers_that_the_keys_type_has_not_are_keys_of_no_row(db, kind):
    table, keys = keyed(db, kind)
    lookup = LanceLookup(table, key="key", columns=["place"])
    for beyond in (-3, 2**64 - 200, 2**64 + 1, -(2**70)):
        assert lookup.contains([keys[5], beyond]).tolist() == [True, False]
        with pytest.raises(KeyError, match=f"key key = {beyond} is not in table"):
            lookup.fetch([keys[5], beyond])


@pytest.mark.parametrize("none", [np.array([]), torch.tensor([]), pa.array([], pa.string())])
def test_no_keys_are_of_no_type(lookup, none):
    assert lookup.fetch(none)["id"].shape == (0,)


def test_keys_of_a_dictionary_are_its_values_and_strings_are_no_bytes(db):
    lookup = LanceLookup(keyed(db, "string")[0], key="key", columns=["place"])
    assert lookup.fetch(pa.array(["k037", "k000"]).dictionary_encode())["place"].tolist() == [1, 0]
    of_bytes = LanceLookup(keyed(db, "binary", "of_bytes")[0], key="key")
    with pytest.raises(TypeError, match="keys must be bytes, not 'a'"):
        of_bytes.fetch(["a"])


def test_without_a_key_keys_are_offsets(table):
    lookup = LanceLookup(table, columns=["id"])
    assert lookup.fetch([999, 0, 999])["id"].tolist() == [999, 0, 999]
    for wrong in (1000, -1):
        with pytest.raises(KeyError, match=f"offset {wrong} is not in table"):
            lookup.fetch([1, wrong])


def test_a_missing_key_may_be_a_row_of_nulls(table):
    lookup = LanceLookup(table, key="id", format="python", columns=["id", "text"], missing="null")
    assert lookup.fetch([3, 5000, None]) == [
        {"id": 3, "text": "row 3"},
        {"id": None, "text": None},
        {"id": None, "text": None},
    ]
    assert lookup.fetch([5000]) == [{"id": None, "text": None}]
    filled = LanceLookup(table, key="id", columns=["id", "vec"], missing="null", fill_null=-1)
    assert filled.fetch([5000, 2])["id"].tolist() == [-1, 2]
    assert filled.fetch([5000, 2])["vec"].shape == (2, 4)


def test_a_key_in_two_rows_is_named_where_the_lookup_is_made(db):
    table = db.create_table("twice", pa.table({"sku": ["a", "b", None, "c", None, "b"]}))
    with pytest.raises(ValueError, match="key 'b' is in more than one row of column 'sku'"):
        LanceLookup(table, key="sku")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"key": "idd"}, ValueError, "did you mean 'id'"),
        ({"key": "vec"}, TypeError, "keys are whole numbers, strings or bytes"),
        ({"missing": "skip"}, ValueError, "missing must be 'raise' or 'null'"),
        ({"columns": ["nope"]}, ValueError, "unknown column 'nope'"),
        ({"cache_bytes": -1}, ValueError, "cache_bytes"),
        ({"blobs": "file"}, ValueError, "blobs must be one of 'bytes', 'descriptor'"),
        ({"columns": ["id"], "fill_null": "zero"}, ValueError, "'zero' does not fit column 'id'"),
        ({"version": 99}, ValueError, "does not exist"),
    ],
)
def test_wrong_arguments_are_refused_where_it_is_made(table, arguments, error, message):
    with pytest.raises(error, match=message):
        LanceLookup(table, **arguments)


def test_every_key_of_a_batch_comes_in_one_read(table, monkeypatch):
    reads = []
    lookup = LanceLookup(table, key="id", columns=["id"])
    begin = lookup._opened().reader().begin_offsets
    monkeypatch.setattr(
        lookup._opened().reader(),
        "begin_offsets",
        lambda offsets, *rest: reads.append(offsets.tolist()) or begin(offsets, *rest),
    )
    lookup.fetch([900, 3, 900, 40])
    lookup.fetch([3, 40, 41])
    lookup.fetch([41, 900])
    assert reads == [[3, 40, 900], [41]]


def test_a_lookup_reads_the_version_it_was_made_from(table):
    lookup = LanceLookup(table, key="id", columns=["id", "text"])
    sent = pickle.dumps(lookup)
    table.update(where="id = 3", values={"text": "changed"})
    table.delete("id = 5")
    assert lookup.fetch([3, 5])["text"] == ["row 3", "row 5"]
    assert len(sent) < 4096
    assert pickle.loads(sent).fetch([3, 5])["text"] == ["row 3", "row 5"]
    assert LanceLookup(table, key="id", columns=["text"]).fetch([3])["text"] == ["changed"]
    assert LanceLookup(table, key="id", version=1, columns=["id"]).version == 1


def test_another_table_of_the_same_name_is_refused(db, table):
    sent = pickle.dumps(LanceLookup(table, columns=["id"]))
    db.drop_table("points")
    new = db.create_table("points", rows_of(400))
    new.add(rows_of(400, 400))
    new.add(rows_of(200, 800))
    with pytest.raises(RuntimeError, match="another of the same name"):
        pickle.loads(sent).fetch([3])


def test_what_a_user_changes_is_not_what_the_next_one_gets(lookup):
    for keys in ([1, 2, 3], [1, 2, 3], [3]):
        batch = lookup.fetch(keys)
        assert batch["id"].tolist() == keys
        batch["id"].zero_()
        batch["vec"].zero_()


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, unique=True), max_size=12))
def test_recent_rows_are_those_of_the_table_within_their_bytes(reads):
    values = pa.record_batch({"x": pa.array(range(100, 131))})
    recent = RecentRows(30 * 8)
    for offsets in map(np.array, map(sorted, reads)):
        batch = recent.read(offsets, lambda rows: values.take(pa.array(rows)))
        assert batch.column(0).to_pylist() == (offsets + 100).tolist()
        assert recent._bytes == sum(each.nbytes for each, _ in recent._batches.values()) <= 240
        assert {place[0] for place in recent._places.values()} <= set(recent._batches)


def test_threads_may_use_one_lookup(lookup):
    failed = []

    def fetch(start):
        for key in range(start, start + 60):
            got = lookup.fetch([key, (key * 7) % 1000])["id"].tolist()
            failed.extend([] if got == [key, (key * 7) % 1000] else [key])

    threads = [threading.Thread(target=fetch, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


# -- in transforms, and so in workers ----------------------------------------------------------


class WithPartner:
    """Adds the text of another row, and the nearest other one."""

    def __init__(self, lookup):
        self.lookup = lookup

    def __call__(self, batch):
        other = self.lookup.fetch(999 - batch["id"])
        near = self.lookup.nearest(batch["vec"], 1, exclude=batch["id"])
        return {"id": batch["id"], "other": other["id"], "near": near["id"], "text": other["text"]}


@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": 0},
        soaked({"num_workers": 1, "multiprocessing_context": "fork"}),
        soaked({"num_workers": 2}),
    ],
    ids=["here", "fork", "forkserver"],
)
def test_workers_open_a_lookup_by_themselves(table, lookup, options):
    lookup.fetch([1])  # open in this process
    transform = WithPartner(lookup)
    arguments = {"format": "torch", "columns": ["id", "vec"], "transform": transform}
    streamed = LanceIterableTorchDataset(table, batch_size=250, shuffle=True, **arguments)
    loaders = [LanceDataLoader(streamed, **options)]
    if options["num_workers"]:
        mapped = LanceTorchDataset(table, **arguments)
        loaders.append(DataLoader(mapped, batch_size=500, **options))
    for loader in loaders:
        seen = 0
        for batch in loader:
            assert batch["other"].tolist() == (999 - batch["id"]).tolist()
            assert batch["text"] == [f"row {999 - id}" for id in batch["id"].tolist()]
            assert ((batch["near"][:, 0] - batch["id"]).abs() == 1).all()
            seen += len(batch["id"])
        assert seen == 1000


def test_transform_threads_share_a_lookup(table, lookup):
    dataset = LanceIterableTorchDataset(
        table,
        format="torch",
        columns=["id", "vec"],
        transform=WithPartner(lookup),
        transform_threads=3,
        batch_size=50,
    )
    assert all((batch["other"] == 999 - batch["id"]).all() for batch in dataset)


# -- nearest -----------------------------------------------------------------------------------


def exact(table, vectors, k, exclude=(), where=lambda id: True):
    rows = table.search().limit(2000).to_arrow()
    stored = np.stack(rows["vec"].to_numpy(zero_copy_only=False))
    found = []
    for number, vector in enumerate(vectors):
        away = ((stored - vector) ** 2).sum(axis=1)
        unwanted = set(exclude[number]) if len(exclude) else set()
        ids = rows["id"].to_numpy()
        order = [
            i for i in np.argsort(away, kind="stable") if ids[i] not in unwanted and where(ids[i])
        ]
        found.append(ids[order[:k]].tolist())
    return found


@pytest.fixture
def scattered(db):
    """500 rows at random places in eight dimensions."""
    vectors = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    rows = {
        "id": np.arange(500) + 1000,
        "name": [f"n{i}" for i in range(500)],
        "vec": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 8),
    }
    return db.create_table("scattered", pa.table(rows)), vectors


@pytest.mark.parametrize("count", [1, 7])
def test_the_nearest_rows_of_a_batch(scattered, count):
    table, vectors = scattered
    lookup = LanceLookup(table, key="id")
    wanted = vectors[:count] + 0.01
    near = lookup.nearest(torch.from_numpy(wanted), 5)
    assert near["id"].tolist() == exact(table, wanted, 5)
    assert near["vec"].shape == (count, 5, 8)
    assert near["_distance"].dtype == torch.float32
    away = (near["vec"] - torch.from_numpy(wanted)[:, None]).square().sum(-1)
    assert torch.allclose(away, near["_distance"], atol=1e-4)
    assert near["name"] == [[f"n{id - 1000}" for id in ids] for ids in near["id"].tolist()]
    own = [[1000 + i] for i in range(count)]
    assert lookup.nearest(wanted, 5, exclude=own)["id"].tolist() == exact(table, wanted, 5, own)
    flat = lookup.nearest(wanted, 5, exclude=torch.arange(count) + 1000)
    assert flat["id"].tolist() == exact(table, wanted, 5, own)
    several = [[1000 + i, 1001 + i, 77] for i in range(count)]
    ids = lookup.nearest(wanted, 3, exclude=several, filter="id < 1100")["id"].tolist()
    assert ids == exact(table, wanted, 3, several, lambda id: id < 1100)


def test_an_index_is_used_where_there_is_one(scattered):
    table, vectors = scattered
    table.create_index("vec", config=IvfFlat(distance_type="cosine", num_partitions=1))
    lookup = LanceLookup(table, key="id", columns=["id"])
    near = lookup.nearest(vectors[:3] * 5, 1)
    assert near["id"].tolist() == [[1000], [1001], [1002]]
    assert near["_distance"].abs().max() < 1e-3  # by cosine, the index's own metric


def test_too_few_rows_are_an_error_or_nulls(scattered):
    table, vectors = scattered
    lookup = LanceLookup(table, key="id", columns=["id"])
    with pytest.raises(ValueError, match=r"vector 0 has 3 nearest rows of k=5 .*missing='null'"):
        lookup.nearest(vectors[:2], 5, filter="id < 1003")
    padded = LanceLookup(table, key="id", columns=["id"], missing="null", fill_null=-1)
    near = padded.nearest(vectors[:2], 5, filter="id < 1003")
    assert near["id"].shape == (2, 5)
    assert (near["id"][:, 3:] == -1).all()
    assert torch.isinf(near["_distance"][:, 3:]).all()


def test_formats_of_the_nearest(scattered):
    table, vectors = scattered
    expected = exact(table, vectors[:2], 3)

    def near(format, count=2):
        lookup = LanceLookup(table, key="id", columns=["id"], format=format)
        return lookup.nearest(vectors[:count], 3)

    assert [[row["id"] for row in rows] for rows in near("python")] == expected
    assert near("python_col")["id"] == expected
    assert near("arrow")["id"].to_pylist() == np.ravel(expected).tolist()
    assert near("pandas")["id"].tolist() == np.ravel(expected).tolist()
    assert near("torch", 0)["id"].shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": np.zeros(4)}, r"shape \(n, 4\), as column 'vec' has, not \(4,\)"),
        ({"vectors": np.zeros((1, 5))}, r"shape \(n, 4\)"),
        ({"k": 0}, "k must be a whole number from 1 on"),
        ({"column": "tokens"}, "column='tokens' is no column of vectors.*'vec'"),
        ({"exclude": [1, 2]}, "exclude must have a key, or a sequence of keys, for each of 1"),
        ({"metric": "l3"}, "metric must be"),
        ({"filter": 3}, "filter must be an SQL condition, not 3"),
        ({"vectors": "abcd"}, r"vectors must be numbers of the shape \(n, 4\).*not 'abcd'"),
        ({"vectors": [[1.0], [1.0, 2.0]]}, r"vectors must be numbers of the shape \(n, 4\)"),
    ],
)
def test_wrong_questions_are_refused(lookup, change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        lookup.nearest(**{"vectors": np.zeros((1, 4)), "k": 2, **change})


def test_lists_of_different_lengths_need_a_shape(table):
    with pytest.raises(ValueError, match="'tokens' has lists of different lengths"):
        LanceLookup(table).nearest(np.zeros((1, 4)), 2)
    near = LanceLookup(table, ragged="pad").nearest(np.zeros((2, 4)), 2)
    assert near["tokens"].shape[:2] == near["tokens_length"].shape == (2, 2)


def test_a_search_that_fails_names_the_table(lookup):
    with pytest.raises(RuntimeError, match="table 'points'.* with filter='nope = 3' failed"):
        lookup.nearest(np.zeros((1, 4)), 2, filter="nope = 3")


def test_by_uri_and_of_memory(tmp_path, table):
    by_uri = LanceLookup(uri=tmp_path / "db", table_name="points", key="id", columns=["id"])
    assert pickle.loads(pickle.dumps(by_uri)).fetch([4])["id"].tolist() == [4]
    memory = lancedb.connect("memory://").create_table("points", rows_of(20))
    sent = pickle.loads(pickle.dumps(LanceLookup(memory, key="text", columns=["id"])))
    assert sent.fetch(["row 7"])["id"].tolist() == [7]
    assert "points" in repr(by_uri)
    assert len(by_uri) == 1000


@pytest.mark.parametrize("exclude", [7, "a", b"ab"])
def test_what_is_excluded_is_for_each_vector(lookup, exclude):
    with pytest.raises(TypeError, match="exclude must have a key, or a sequence of keys, for each"):
        lookup.nearest(np.zeros((1, 4)), 1, exclude=exclude)


def test_a_column_of_the_name_of_the_distance_is_refused(table):
    lookup = LanceLookup(table, columns={"vec": "vec", "_distance": "id"})
    with pytest.raises(ValueError, match="nearest.. adds a column '_distance'.*columns="):
        lookup.nearest(np.zeros((1, 4)), 1)
