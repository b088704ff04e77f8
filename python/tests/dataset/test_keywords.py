# SPDX-License-Identifier: Apache-2.0
"""Unknown keywords, and arguments set later, say what to do; signatures stay."""

import copy
import inspect
import pickle
import threading
import warnings

import lancedb
import pytest
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceLookup,
    LanceMixedTorchDataset,
    LanceTorchDataset,
)
from torch.utils.data import DataLoader

DATASETS = [LanceTorchDataset, LanceIterableTorchDataset]


@pytest.fixture(scope="module")
def table():
    return lancedb.connect("memory://").create_table("t", [{"x": x} for x in range(10)])


@pytest.mark.parametrize("kind", DATASETS)
@pytest.mark.parametrize(
    ("keyword", "advice"),
    [
        (
            "storage_options",
            r'pass connect_kwargs=\{"storage_options": \.\.\.\} together with uri=',
        ),
        ("api_key", r'pass connect_kwargs=\{"api_key": \.\.\.\}'),
        ("num_workers", r"belongs to the loader: LanceDataLoader\(dataset, num_workers="),
        ("pin_memory", r"belongs to the loader: LanceDataLoader\(dataset, pin_memory="),
        ("collate_fn", "belongs to the loader"),
        ("batchsize", "did you mean 'batch_size'"),
        ("colums", "did you mean 'columns'"),
        ("where", "did you mean 'filter'"),
        ("device", "made on the CPU: give the loader pin_memory=True"),
        ("dataset", "did you mean 'table'"),
        ("zzz", r"help\(Lance.*Dataset\) says which there are"),
    ],
)
def test_an_unknown_keyword_of_a_dataset_says_where_it_belongs(table, kind, keyword, advice):
    words = rf"{kind.__name__}\(\) got an unexpected keyword argument '{keyword}': .*{advice}"
    with pytest.raises(TypeError, match=words) as caught:
        kind(table, **{keyword: "a secret"})
    assert "a secret" not in str(caught.value)


def test_what_the_other_dataset_or_the_loader_has_is_said_of_the_map_style_one(table):
    either = r"argument of LanceIterableTorchDataset, or of LanceDataLoader\(dataset"
    for keyword in ("shuffle", "drop_last"):
        with pytest.raises(TypeError, match=either):
            LanceTorchDataset(table, **{keyword: True})
    with pytest.raises(TypeError, match="argument of LanceIterableTorchDataset$"):
        LanceTorchDataset(table, window_rows=8)


def test_lookups_and_mixtures_say_so_too(table):
    with pytest.raises(TypeError, match=r'pass connect_kwargs=\{"storage_options": \.\.\.\} tog'):
        LanceLookup(table, key="x", storage_options={})
    with pytest.raises(TypeError, match=r"open each source's table with lancedb.connect\(uri, sto"):
        LanceMixedTorchDataset({}, {}, storage_options={})
    with pytest.raises(TypeError, match="argument of LanceTorchDataset or LanceIterableTorchDat"):
        LanceMixedTorchDataset({}, {}, filter="x > 1")
    with pytest.raises(TypeError, match="did you mean 'columns'"):
        LanceLookup(table, key="x", colums=["x"])
    with pytest.raises(TypeError, match="it is an argument of LanceLookup"):
        LanceTorchDataset(table, missing="null")


@pytest.mark.parametrize("kind", DATASETS)
def test_two_arguments_by_position_are_refused_with_what_to_do(kind):
    with pytest.raises(TypeError, match="takes one argument by position, the table, and was given"):
        kind("data", "points")


@pytest.mark.parametrize(
    ("keyword", "advice"),
    [
        ("columns", "belongs to the dataset: give it to LanceTorchDataset or LanceIterable"),
        ("window_rows", "belongs to the dataset: give it to LanceIterableTorchDataset$"),
        ("workers", "did you mean 'num_workers'"),
        ("sede", "did you mean 'seed'"),
        ("epochs", "for epoch in loader"),
    ],
)
@pytest.mark.parametrize("kind", DATASETS)
def test_an_unknown_keyword_of_the_loader_says_where_it_belongs(table, kind, keyword, advice):
    words = rf"LanceDataLoader\(\) got an unexpected keyword argument '{keyword}': .*{advice}"
    with pytest.raises(TypeError, match=words):
        LanceDataLoader(kind(table, batch_size=2), **{keyword: 1})


@pytest.mark.parametrize("kind", DATASETS)
def test_signatures_are_what_editors_and_inspect_are_to_see(kind):
    shown = inspect.signature(kind).parameters
    assert next(iter(shown)) == "table"
    assert {"uri", "connect_kwargs", "format", "read_timeout"} <= set(shown)
    assert all(each.kind is not each.VAR_KEYWORD for each in shown.values())


def test_a_subclass_with_arguments_of_its_own_is_made_as_ever(table):
    class Mine(LanceTorchDataset):
        def __init__(self, *args, scale, **kwargs):
            super().__init__(*args, **kwargs)
            self.scale = scale

    assert Mine(table, scale=2).scale == 2
    with pytest.raises(TypeError, match="unexpected keyword argument 'scael'"):
        Mine(table, scale=2, scael=3)


@pytest.mark.parametrize("kind", DATASETS)
def test_a_warning_of_a_constructor_names_the_line_that_calls_it(table, kind):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kind(table, filter="x > 100")
        LanceIterableTorchDataset(table, batch_size=100)
        LanceDataLoader(LanceTorchDataset(table), batch_size=100, drop_last=True)
        source = LanceIterableTorchDataset(table)
        LanceMixedTorchDataset({"a": source}, {"a": 1})
    assert [each.filename for each in caught] == [__file__] * 4


def mixture(table, **options):
    return LanceMixedTorchDataset({"a": LanceIterableTorchDataset(table)}, {"a": 1}, **options)


@pytest.mark.parametrize("make", [*DATASETS, lambda table: mixture(table, batch_size=5)])
@pytest.mark.parametrize("copied", [lambda it: it, copy.deepcopy, lambda it: pickled(it)])
def test_an_argument_set_later_is_refused_where_nothing_would_change(table, make, copied):
    dataset = copied(make(table))
    with pytest.raises(AttributeError, match="make another one, with transform="):
        dataset.transform = dict
    assert not hasattr(dataset, "transform")
    dataset.batch_size = 2  # which is an attribute, and heeded
    assert len(next(iter(dataset))) == 2
    dataset.mine = 3
    assert dataset.mine == 3


def test_a_subclass_whose_methods_no_loader_calls_is_told_what_to_override(table):
    class Rows(LanceTorchDataset):
        def __getitem__(self, index):
            return super().__getitem__(index)

    class Batches(LanceIterableTorchDataset):
        def __iter__(self):
            return iter([])

    class Both(Rows):
        def __getitems__(self, indices):
            return [[each] for each in indices]

    assert Rows(table)[3] == LanceTorchDataset(table)[3]
    for loader in (DataLoader, LanceDataLoader):
        with pytest.raises(TypeError, match="Rows overrides __getitem__, .* override __getitems__"):
            next(iter(loader(Rows(table), batch_size=2)))
    assert next(iter(DataLoader(Both(table), batch_size=2, collate_fn=list))) == [[0], [1]]
    assert list(DataLoader(Batches(table), batch_size=None)) == []
    with pytest.raises(TypeError, match="Batches overrides __iter__, .* pass transform="):
        LanceDataLoader(Batches(table))


def name_of_the_thread(batch):
    return threading.current_thread().name


@pytest.mark.parametrize("make", [LanceIterableTorchDataset, mixture])
def test_where_a_transform_runs_and_how_far_is_read_may_be_said_later(table, make):
    dataset = make(table, transform=name_of_the_thread, batch_size=2)
    assert set(dataset) == {threading.current_thread().name}
    dataset.transform_threads, dataset.readahead = 2, 3
    assert any(name.startswith("lance-transform") for name in dataset)
    with pytest.raises(AttributeError, match="make another one, with cache="):
        dataset.cache = True


def pickled(dataset):
    return pickle.loads(pickle.dumps(dataset))


def test_a_subclass_may_have_attributes_that_are_called_like_arguments(table):
    class Mine(LanceTorchDataset):
        def __init__(self, table, transform):
            super().__init__(table)
            self.transform = transform

    assert Mine(table, dict).transform is dict
