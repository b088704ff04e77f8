# SPDX-License-Identifier: Apache-2.0
"""Guarantee 9: a transform's context gives each row the same random numbers wherever it is made."""

import functools
import itertools
import random

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import rows_of
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceMixedTorchDataset,
    LanceTorchDataset,
)
from loaders import through_json
from torch.utils.data import DataLoader


def augment(batch, context):
    """What each row drew, in every way there is that does not depend on its batch."""
    return {
        "id": batch["id"],
        "offset": torch.from_numpy(context.offsets.copy()),
        "random": torch.from_numpy(context.random(2)),
        "integers": torch.from_numpy(context.integers(-5, 100)),
        "normal": torch.from_numpy(context.normal(2, 2)),
        "own": torch.tensor([context.numpy_generator(row).random() for row in range(len(context))]),
        "epoch": torch.full_like(batch["id"], context.epoch),
    }


def augment_good(batch, context):
    if BAD.intersection(batch["id"].tolist()):
        context.random(3)  # which moves nobody's numbers
        raise ValueError("cannot be decoded")
    return augment(batch, context)


BAD = {3, 500, 501, 777}


def drawn(batches):
    """By row and epoch, all that it drew; a row that comes twice in an epoch has two of them."""
    rows = {}
    for batch in batches:
        columns = {name: values.tolist() for name, values in batch.items()}
        for row in range(len(columns["id"])):
            values = {name: column[row] for name, column in columns.items()}
            at = (values.pop("id"), values.pop("epoch"))
            rows.setdefault(at, []).append(values)
    return rows


def iterable(table, workers=0, **options):
    ours = ("multiprocessing_context", "persistent_workers")
    loader = {name: options.pop(name) for name in ours if name in options}
    arguments = {"transform": augment, "batch_size": 50, "shuffle": True, "drop_last": False}
    dataset = LanceIterableTorchDataset(
        table, columns=["id"], format="torch", **{**arguments, **options}
    )
    return LanceDataLoader(dataset, num_workers=workers, **loader)


def mapped(table, workers=0, **options):
    names = ("seed", "transform", "on_error")
    ours = {name: options.pop(name) for name in names if name in options}
    dataset = LanceTorchDataset(
        table, columns=["id"], format="torch", **{"transform": augment, **ours}
    )
    return LanceDataLoader(dataset, num_workers=workers, **{"batch_size": 50, **options})


def plain(dataset, workers=0, **options):
    whole = isinstance(dataset, LanceIterableTorchDataset)
    return DataLoader(dataset, batch_size=None if whole else 64, num_workers=workers, **options)


@pytest.fixture
def expected(table):
    """What rows draw in epochs 0 and 1, one batch after the other in this thread."""
    loader = iterable(table, shuffle=False)
    return drawn([*loader, *loader])


WAYS = {
    "other batches": {"batch_size": 7},
    "no order": {"shuffle": False, "batch_size": 64},
    "single rows shuffled": {"shuffle": "global"},
    "threads": {"transform_threads": 3},
    "windows": {"block_rows": 4, "window_rows": 64, "lanes": 4},
    "skipping": {"on_error": "skip"},
    "skipping in threads": {"on_error": "skip", "transform_threads": 2},
    "one process that forked": {"workers": 1, "multiprocessing_context": "fork"},
    "forked from a server": {"workers": 2, "persistent_workers": True},
    "skipping in workers": {"workers": 2, "on_error": "skip"},
}


@pytest.mark.few(8)
@pytest.mark.parametrize("way", WAYS)
def test_rows_draw_the_same_in_whatever_way_batches_are_made(table, expected, way):
    loader = iterable(table, **WAYS[way])
    assert drawn([*loader, *loader]) == expected


@pytest.mark.soak
def test_rows_draw_the_same_in_workers_that_are_spawned(table, expected):
    loader = iterable(table, workers=1, multiprocessing_context="spawn")
    assert drawn(loader) == {at: rows for at, rows in expected.items() if at[1] == 0}


@pytest.mark.few(1)
@pytest.mark.parametrize(("workers", "shuffle"), [(0, False), (2, True)])
def test_rows_of_a_map_style_dataset_draw_the_same(table, expected, workers, shuffle):
    loader = mapped(table, workers, shuffle=shuffle, persistent_workers=workers > 0)
    assert drawn([*loader, *loader]) == expected
    loader = mapped(table, workers, shuffle=shuffle, transform=augment_good, on_error="skip")
    kept = {at: rows for at, rows in expected.items() if at[0] not in BAD}
    assert drawn([*loader, *loader]) == kept


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("shuffle", "options"),
    [(True, {}), (False, {"transform_threads": 2}), (True, {"workers": 2})],
)
def test_rows_that_are_tried_one_by_one_draw_what_they_would_have(
    table, expected, shuffle, options
):
    loader = iterable(table, shuffle=shuffle, transform=augment_good, on_error="skip", **options)
    kept = {at: rows for at, rows in expected.items() if at[0] not in BAD}
    assert drawn([*loader, *loader]) == kept


@pytest.mark.soak
def test_in_torchs_own_loader_too(table, expected):
    first = {at: rows for at, rows in expected.items() if at[1] == 0}
    streamed = iterable(table).dataset
    for workers in (0, 2):
        streamed.set_epoch(0)
        assert drawn(plain(streamed, workers)) == first
    for workers, context in ((0, None), (2, "fork"), (2, "forkserver")):
        rows = mapped(table, seed=0).dataset
        loader = plain(
            rows, workers, multiprocessing_context=context, persistent_workers=workers > 0
        )
        batches = []
        for epoch in range(2):
            rows.set_epoch(epoch)
            batches += loader
        assert drawn(batches) == expected


@pytest.mark.few(1)
@pytest.mark.parametrize("make", [iterable, mapped])
def test_rows_draw_the_same_after_a_resume_at_any_batch(table, expected, make):
    loader = make(table, batch_size=300)
    states, whole = [loader.state_dict()], []
    for batch in itertools.chain(loader, loader):
        whole.append(batch)
        states.append(loader.state_dict())
    assert drawn(whole) == expected
    for done, state in enumerate(states[:4]):
        resumed = make(table, workers=done % 2, batch_size=300)
        resumed.load_state_dict(through_json(state))
        assert drawn(resumed) == drawn(whole[done:4])


@pytest.mark.parametrize("world_size", [2, 4])
def test_rows_draw_the_same_on_any_number_of_ranks(table, expected, world_size):
    loaders = [
        iterable(table, rank=rank, world_size=world_size, batch_size=25)
        for rank in range(world_size)
    ]
    assert drawn(itertools.chain(*loaders, *loaders)) == expected


def test_two_loaders_over_one_map_style_dataset_have_epochs_of_their_own(table, expected):
    loader = mapped(table)
    other = LanceDataLoader(loader.dataset, batch_size=50)
    other.set_epoch(1)
    pairs = list(zip(loader, other, strict=True))
    assert drawn([*(one for one, _ in pairs), *(two for _, two in pairs)]) == expected


def test_a_seed_of_the_dataset_is_before_that_of_its_loader(table, expected):
    assert drawn(mapped(table, seed=0)) != drawn(mapped(table, seed=1))
    own = LanceTorchDataset(table, columns=["id"], format="torch", transform=augment, seed=0)
    first = {at: rows for at, rows in expected.items() if at[1] == 0}
    assert drawn(LanceDataLoader(own, seed=5, shuffle=True, batch_size=50)) == first


def test_rows_that_come_several_times_an_epoch_draw_anew_each_time(db, table):
    """A permutation table may name a row as often as it likes."""
    ids = table.search().with_row_id(True).limit(40).to_arrow()
    twice = ids.select(["_rowid"]).rename_columns(["row_id"])

    chosen = pa.concat_tables([twice, twice.slice(0, 10), twice.slice(5, 5)])
    chosen = chosen.append_column("split_id", pa.array([0] * len(chosen), pa.uint64()))
    permutation = db.create_table("permutation", chosen)
    options = {"permutation_table": permutation, "batch_size": 9}
    rows = drawn(iterable(table, shuffle=False, **options))
    assert {len(each) for each in rows.values()} == {1, 2, 3}
    values = [tuple(each["random"]) for repeats in rows.values() for each in repeats]
    assert len(set(values)) == len(values) == len(chosen)

    def as_sets(rows):
        return {at: sorted(map(repr, each)) for at, each in rows.items()}

    for order in (True, "global"):
        for workers in (0, 2):
            assert as_sets(drawn(iterable(table, workers, shuffle=order, **options))) == as_sets(
                rows
            )
    dataset = LanceTorchDataset(
        table,
        columns=["id"],
        format="torch",
        transform=augment,
        permutation_table=permutation,
    )
    assert as_sets(drawn(LanceDataLoader(dataset, shuffle=True, batch_size=8))) == as_sets(rows)


def test_rows_that_are_drawn_by_weights_draw_anew_each_time(table):
    options = {"sample_weights": "label", "shuffle": "global"}
    rows = drawn(iterable(table, **options))
    assert max(map(len, rows.values())) >= 2
    values = [tuple(each["random"]) for repeats in rows.values() for each in repeats]
    assert len(set(values)) == len(values) == 1000
    ranks = [iterable(table, rank=r, world_size=2, batch_size=25, **options) for r in range(2)]
    again = drawn(itertools.chain(*ranks))
    assert {at: sorted(map(repr, each)) for at, each in again.items()} == {
        at: sorted(map(repr, each)) for at, each in rows.items()
    }


def test_global_random_states_are_left_alone(table):
    def states():
        return torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()

    iterator = iter(plain(mapped(table, seed=0).dataset))
    before = states()
    for _ in iterator:
        assert states() == before


def test_offsets_are_those_of_the_table(table):
    chosen = LanceIterableTorchDataset(
        table,
        columns=["id"],
        filter="label = 3",
        format="torch",
        transform=augment,
        shuffle="global",
        batch_size=10,
        drop_last=False,
    )
    for batch in chosen:
        assert batch["offset"].tolist() == batch["id"].tolist()


def test_generators_of_a_batch_are_the_same_where_the_batch_is(table):
    def noise(batch, context):
        assert context.torch_generator() is context.torch_generator()
        return torch.rand(len(context), generator=context.torch_generator()).tolist()

    dataset = mapped(table, seed=3, transform=noise).dataset
    batches = [dataset.__getitems__(rows).columns for rows in ([0, 1], [0, 1], [1, 0], [0, 2])]
    assert batches[0] == batches[1]
    assert len({tuple(batch) for batch in batches}) == 3


def test_without_a_seed_random_values_are_refused_and_offsets_known(table):
    dataset = LanceTorchDataset(
        table,
        columns=["id"],
        format="torch",
        transform=lambda batch, context: (context.offsets.tolist(), context.epoch),
    )
    assert dataset[3].columns == ([3], None)
    draws = LanceTorchDataset(
        table, format="torch", transform=lambda batch, context: context.random()
    )
    with pytest.raises(RuntimeError, match="no seed for random values.*seed=0.*LanceDataLoader"):
        draws[3]
    draws.set_epoch(2)
    assert draws[3].columns.shape == (1,)


def test_one_row_in_a_notebook_is_that_of_epoch_0(table, expected):
    dataset = mapped(table, seed=0).dataset
    assert drawn([dataset[17].columns])[17, 0] == expected[17, 0]
    assert drawn([dataset[[17]].columns])[17, 0] == expected[17, 0]
    dataset.set_epoch(1)
    assert drawn([dataset[17].columns])[17, 1] == expected[17, 1]


def test_a_sum_of_datasets_draws_by_part(table):
    one, two = (mapped(table, seed=0, transform=with_source).dataset for _ in range(2))
    both = one + two
    batch = both.__getitems__([5, 1005, 6]).columns
    assert batch["offset"].tolist() == [5, 5, 6]
    assert batch["source"].tolist() == [0, 1, 0]
    assert len(set(batch["random"].tolist())) == 3
    again = both.__getitems__([1005]).columns
    assert again["random"].tolist() == batch["random"].tolist()[1:2]


def with_source(batch, context):
    columns = {"random": context.random(), "source": context.source, "offset": context.offsets}
    return {
        name: torch.from_numpy(values.copy())
        for name, values in columns.items()
        if values is not None
    }


# -- which transforms are given a context ------------------------------------------------------


class Augmentation:
    def __call__(self, batch, context):
        return context

    def method(self, batch, context):
        return context

    def alone(self, batch):
        return None


class Module(torch.nn.Module):
    def forward(self, batch, context):
        return context


def with_model(model, batch, context):
    return context


def by_name(batch, context, crop):
    return context


def same(function):
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapped


ASKING = {
    "lambda": lambda batch, context: context,
    "object": Augmentation(),
    "method": Augmentation().method,
    "module": Module(),
    "partial": functools.partial(with_model, None),
    "partial by name": functools.partial(by_name, crop=3),
    "decorated": same(augment),
}
NOT_ASKING = {
    "one": lambda batch: None,
    "default": lambda batch, context=None: context,
    "any number": lambda *args: args[1:] or None,
    "method": Augmentation().alone,
    "bound by name": functools.partial(lambda batch, context: context, context=None),
    "built in": dict,
}


@pytest.mark.parametrize("name", ASKING)
def test_who_takes_two_arguments_is_given_a_context(table, name):
    dataset = LanceTorchDataset(
        table, columns=["id"], format="torch", transform=ASKING[name], seed=0
    )
    assert dataset[3] is not None
    assert dataset._output.takes_context


@pytest.mark.parametrize("name", NOT_ASKING)
@pytest.mark.filterwarnings("ignore:transform .* returned None")
def test_who_takes_one_is_given_none(table, name):
    dataset = LanceTorchDataset(table, columns=["id"], format="torch", transform=NOT_ASKING[name])
    assert not dataset._output.takes_context
    dataset[3]


@pytest.mark.parametrize(
    "transform", [lambda: None, by_name, lambda batch, *, crop: batch, Augmentation.method]
)
def test_who_can_be_called_in_neither_way_is_refused_at_once(table, transform):
    with pytest.raises(TypeError, match="called with the batch, or with the batch and a context"):
        LanceTorchDataset(table, transform=transform)


def test_shapes_and_ranges(table):
    def draw(batch, context):
        assert context.random().shape == (4,)
        assert context.random(2, 3).shape == context.random((2, 3)).shape == (4, 2, 3)
        assert context.normal(0).shape == (4, 0)
        highs = np.array([1, 2, 3, 4])
        several = context.integers(0, highs, 100)
        assert several.shape == (4, 100)
        assert (several.max(axis=1) == highs - 1).all()
        assert context.integers(torch.zeros(4, dtype=torch.int64), 5).dtype == np.int64
        assert context.numpy_generator(-1) is context.numpy_generator(3)
        assert (context.integers(2**63 - 1, 2**63) == 2**63 - 1).all()
        for wrong, error in [
            (lambda: context.integers(3, 3), ValueError),
            (lambda: context.integers(0, 1.5), TypeError),
            (lambda: context.integers(0, 2**63 + 1), ValueError),
            (lambda: context.integers(0, 2**64), ValueError),
            (lambda: context.integers(np.uint64(2**63), 2**63), ValueError),
            (lambda: context.integers(0, [1, 2]), ValueError),
            (lambda: context.random(-1), ValueError),
            (lambda: context.random(2.0), ValueError),
            (lambda: context.numpy_generator(4), IndexError),
        ]:
            with pytest.raises(error):
                wrong()
        return batch

    mapped(table, seed=0, transform=draw).dataset.__getitems__([1, 2, 3, 4])


@pytest.mark.parametrize("seed", [True, 1.0, "1"])
def test_a_seed_is_a_whole_number(table, seed):
    with pytest.raises(TypeError, match="seed must be a whole number"):
        LanceTorchDataset(table, seed=seed)


# -- mixtures ----------------------------------------------------------------------------------


def augment_mixed(batch, context):
    """What each row drew, and of which source it is."""
    made = augment(batch, context)
    return {**made, "source": torch.from_numpy(context.source.copy())}


def mixture(tables, workers=0, kind=LanceDataLoader, **options):
    weights = {"many": 5, "few": 1}
    mix = options.get("mix", "rows")
    of_batch = {"format": "torch", "transform": augment_mixed}
    own = of_batch if mix == "batches" else {}
    sources = {
        name: LanceIterableTorchDataset(tables[name], columns=["id"], shuffle=True, **own)
        for name in weights
    }
    whole = {} if own else of_batch
    ours = {"batch_size": 40, "stop": 480, **whole, **options}
    dataset = LanceMixedTorchDataset(sources, weights, **ours)
    if kind is DataLoader:
        return DataLoader(
            dataset, batch_size=None, num_workers=workers, multiprocessing_context="forkserver"
        )
    return LanceDataLoader(dataset, num_workers=workers, persistent_workers=workers > 0)


def as_drawn(batches):
    """All that rows drew, in no order."""
    return sorted(repr((at, each)) for at, came in drawn(batches).items() for each in came)


@pytest.fixture
def tables(db, table):
    """One of 1,000 rows, and one of 30, which is gone through several times an epoch."""
    return {"many": table, "few": db.create_table("few", rows_of(30, 5000))}


@pytest.mark.few(1)
@pytest.mark.filterwarnings("ignore:.*fewer than one step:UserWarning")
@pytest.mark.parametrize("mix", ["rows", "batches"])
def test_rows_of_a_mixture_draw_the_same_wherever_they_are_made(tables, mix):
    loader = mixture(tables, mix=mix)
    states, whole = [], []
    for batch in itertools.chain(loader, loader):
        whole.append(batch)
        states.append(loader.state_dict())
    expected = as_drawn(whole)
    rows = drawn(whole)
    for (id, _), came in rows.items():
        assert {each["source"] for each in came} == {int(id >= 5000)}
    # A small source repeats, within an epoch of the mixture and from one to the next.
    few = [tuple(each["random"]) for (id, _), came in rows.items() if id >= 5000 for each in came]
    assert len(few) == len(set(few)) >= 5 * 30
    workers = mixture(tables, 2, mix=mix)
    assert as_drawn([*workers, *workers]) == expected
    if mix == "rows":
        other = mixture(tables, 2, DataLoader)
    else:
        other = mixture(tables, transform_threads=2, mix=mix)
    assert as_drawn([*other, *other]) == expected
    loaders = [
        mixture(tables, mix=mix, rank=rank, world_size=4, batch_size=10) for rank in range(4)
    ]
    assert as_drawn(itertools.chain(*loaders, *loaders)) == expected
    resumed = mixture(tables, mix=mix)
    resumed.load_state_dict(through_json(states[6]))
    assert as_drawn([*resumed, *resumed]) == as_drawn(whole[7:])
