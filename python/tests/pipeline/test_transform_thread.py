# SPDX-License-Identifier: Apache-2.0
"""A transform does not notice that rows are read ahead: it runs as under torch's own loader."""

import contextlib
import contextvars
import random
import sqlite3
import threading
import warnings

import numpy as np
import pyarrow as pa
import pytest
import torch
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from loaders import ORDERS, flat, ids
from torch.utils.data import DataLoader

BOTH = [LanceIterableTorchDataset, LanceTorchDataset]
THREADS = pytest.mark.parametrize("threads", [0, 2])


def loader_of(table, transform, kind=LanceIterableTorchDataset, workers=0, **options):
    options = {"columns": ["id"], "format": "torch", "batch_size": 32, **options}
    return LanceDataLoader(kind(table, transform=transform, **options), num_workers=workers)


# -- what is bound to a thread, or changes between two calls --------------------------------


def test_a_tokenizer_that_is_set_up_anew_for_each_call_cuts_each_column_as_it_says(db):
    # Here, as the worker processes below import this file.
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = " ".join(["word"] * 2000)
    table = db.create_table("texts", pa.table({"text": [words] * 120}))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"word": 0, "?": 1, "_": 2}, unk_token="?")),
        pad_token="_",
    )
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()

    def shapes(batch):
        lengths = (128, 16)
        made = [tokenizer(batch["text"], truncation=True, max_length=most) for most in lengths]
        return [{len(row) for row in each["input_ids"]} for each in made]

    loader = loader_of(table, shapes, columns=["text"], batch_size=4)
    for _ in range(3):
        assert list(loader) == [[{128}, {16}]] * 30


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_what_is_bound_to_its_thread_can_be_used(table, kind, on_error):
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE squares AS SELECT 3 AS id, 9 AS square")
    asked = []

    def look_up(batch):
        asked.append(len(batch["id"]))
        query = "SELECT square FROM squares WHERE id = ?"
        found = [connection.execute(query, (each,)).fetchone() for each in ids(batch)]
        if on_error == "skip" and any(found):
            raise ValueError("a square")
        return found

    options = {"on_error": on_error, "batch_size": 8}
    batches = list(loader_of(table, look_up, kind, **options))
    assert flat(batches).count((9,)) == (on_error == "raise")
    assert len(flat(batches)) == 1000 - (on_error == "skip")
    # The first batch is tried in halves until its only bad row is found.
    tries = [8, 8, 4, 4, 2, 1, 1, 2, 7] if on_error == "skip" else [8]
    assert asked == tries + [8] * 124


# -- random states ---------------------------------------------------------------------------


def draw(batch):
    """Draws from each random state that a process has, after other numbers of numbers."""
    for each in batch["id"][:5].tolist():
        random.random()
        np.random.rand(each % 3)
    return {"id": batch["id"], "torch": torch.rand(4), "numpy": np.random.rand(2),
            "random": random.random()}  # fmt: skip


def trained(loader, epochs=2):
    """What a seeded run comes to: its batches, and what the model's own dropout made of them."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    seen = []
    dropout = torch.nn.Dropout()
    for batch in (each for _ in range(epochs) for each in loader):
        step = dropout(torch.ones(8))
        seen.append({**{name: np.asarray(value).tolist() for name, value in batch.items()},
                     "step": step.tolist()})  # fmt: skip
    return seen


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("kind", "workers"),
    [(LanceIterableTorchDataset, 0), (LanceIterableTorchDataset, 2), (LanceTorchDataset, 2)],
)
def test_a_seeded_run_repeats_itself(table, kind, workers):
    options = {"shuffle": True} if kind is LanceIterableTorchDataset else {}
    runs = [trained(loader_of(table, draw, kind, workers, **options)) for _ in range(2)]
    assert runs[0] == runs[1]
    assert len({tuple(each["torch"]) for each in runs[0]}) == len(runs[0])


@pytest.mark.parametrize("order", ORDERS)
def test_a_seeded_run_is_that_of_torchs_own_loader(table, order):
    options = {"columns": ["id"], "format": "torch", "batch_size": 32, **ORDERS[order]}
    ours = loader_of(table, draw, **options)
    plain = LanceIterableTorchDataset(table, **options)

    class Torchs(torch.utils.data.IterableDataset):
        def __iter__(self):
            return map(draw, plain)

    expected = trained(DataLoader(Torchs(), batch_size=None))
    assert trained(ours) == expected
    dataset = LanceIterableTorchDataset(table, transform=draw, **options)
    assert trained(DataLoader(dataset, batch_size=None)) == expected


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("threads", [0, 2])
def test_reading_ahead_draws_from_no_global_state(wide_range, order, threads):
    dataset = LanceIterableTorchDataset(
        wide_range, transform=dict, transform_threads=threads, format="torch", **ORDERS[order]
    )
    states = [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]
    batches = list(dataset)
    assert len(batches) == 200
    assert states == [
        torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()
    ]  # fmt: skip


# -- modes and context ---------------------------------------------------------------------------

REQUEST = contextvars.ContextVar("request", default="none")


def modes(batch):
    return {
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"),
        "product": (torch.ones(2, 2) @ torch.ones(2, 2)).dtype,
        "device": torch.empty(1).device.type,
        "request": REQUEST.get(),
    }


@contextlib.contextmanager
def in_request(name):
    token = REQUEST.set(name)
    yield
    REQUEST.reset(token)


@THREADS
@pytest.mark.parametrize(
    "mode",
    [
        contextlib.nullcontext,
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.autocast("cpu", torch.float16),
        lambda: in_request("r17"),
    ],
    ids=["none", "no_grad", "inference", "bfloat16", "float16", "contextvars"],
)
def test_a_transform_has_the_modes_and_the_context_of_whoever_iterates(table, mode, threads):
    loader = loader_of(table, modes, transform_threads=threads, batch_size=8)
    with mode():
        batches = list(loader)
        expected = modes(None)
    assert batches == [expected] * 125


def test_a_transform_makes_tensors_on_the_default_device_in_threads_too(table):
    loader = loader_of(table, modes, transform_threads=2, batch_size=8)
    batches = iter(loader)
    with torch.device("meta"):
        assert {batch["device"] for batch in batches} == {"meta"}
    assert {batch["device"] for batch in loader} == {"cpu"}


def test_what_a_transform_sets_in_a_thread_of_its_own_is_not_seen_elsewhere(table):
    found = []

    def set_modes(batch):
        found.append((torch.is_grad_enabled(), REQUEST.get()))
        if threading.current_thread() is not threading.main_thread():
            torch.set_grad_enabled(False)
            REQUEST.set("another")
        return batch

    list(loader_of(table, set_modes, transform_threads=2, batch_size=8))
    assert found == [(True, "none")] * 125
    assert torch.is_grad_enabled()


# -- when it is called, and where ------------------------------------------------------------------


class Recorder:
    """Notes the batches that it is called with, and in which threads."""

    def __init__(self):
        self.calls = []
        self.threads = set()

    def __call__(self, batch):
        self.calls.append(ids(batch))
        self.threads.add(threading.current_thread().name.partition("_")[0])
        return batch


@pytest.mark.parametrize("order", ORDERS)
def test_a_transform_is_called_when_its_batch_is_asked_for(wide_range, order):
    transform = Recorder()
    loader = loader_of(wide_range, transform, **ORDERS[order])
    taken = []
    for batch in loader:
        taken.append(ids(batch))
        assert transform.calls == taken
        if len(taken) == 5:
            break
    state = loader.state_dict()
    assert transform.calls == taken
    resumed = loader_of(wide_range, transform, **ORDERS[order])
    resumed.load_state_dict(state)
    taken += [ids(batch) for batch in resumed]
    assert transform.calls == taken
    assert len(taken) == len(loader)
    assert transform.threads == {threading.main_thread().name}


def thread_of(batch):
    thread = threading.current_thread()
    return "main" if thread is threading.main_thread() else thread.name.partition("_")[0]


@pytest.mark.parametrize("kind", BOTH)
def test_in_a_worker_it_runs_in_the_workers_main_thread(table, kind):
    loader = loader_of(table, thread_of, kind, workers=1)
    assert set(loader) == {"main"}


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_take_over_after_the_first_batch(table, threads):
    transform = Recorder()
    loader = loader_of(table, transform, transform_threads=threads, shuffle=True, batch_size=8)
    batches = [ids(batch) for batch in loader]
    assert sorted(transform.calls) == sorted(batches)
    assert transform.calls[0] == batches[0]
    assert transform.threads == {"MainThread", "lance-transform"}
    assert thread_of(None) == "main"
    assert [*loader_of(table, thread_of, transform_threads=threads)][1:] == ["lance-transform"] * 30


# -- threads, and a transform that draws ----------------------------------------------------------


def draws_from(state):
    return {
        "torch": lambda batch: torch.rand(2).tolist(),
        "numpy.random": lambda batch: np.random.rand(2).tolist(),
        "random": lambda batch: [random.random()],
    }[state]


@pytest.mark.parametrize("state", ["torch", "numpy.random", "random"])
def test_a_transform_that_draws_from_a_global_state_stays_in_the_thread_that_iterates(table, state):
    transform, recorder = draws_from(state), Recorder()

    def both(batch):
        recorder(batch)
        return {"drawn": transform(batch)}

    def run(threads):
        return trained(loader_of(table, both, transform_threads=threads))

    expected = run(0)
    with pytest.warns(UserWarning, match=f"draws from the global random state of {state}, and so"):
        assert run(2) == expected
    assert recorder.threads == {threading.main_thread().name}


def test_a_transform_with_a_generator_of_its_own_runs_in_threads_and_draws_nothing(table):
    def crop(batch):
        own = torch.Generator().manual_seed(int(batch["id"][0]))
        return torch.rand(2, generator=own).tolist(), thread_of(batch)

    def run(threads):
        loader = loader_of(table, crop, transform_threads=threads)
        return list(loader), torch.rand(2).tolist()

    torch.manual_seed(0)
    ours, drawn = run(2)
    torch.manual_seed(0)
    expected, expected_drawn = run(0)
    assert drawn == expected_drawn
    assert [each[0] for each in ours] == [each[0] for each in expected]
    assert {each[1] for each in ours[1:]} == {"lance-transform"}


def test_a_transform_that_draws_is_warned_about_once(table):
    loader = loader_of(table, draws_from("torch"), transform_threads=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            list(loader)
    assert len(caught) == 1


def test_threads_without_a_transform_change_nothing(table):
    with_threads = loader_of(table, None, transform_threads=2)
    assert [ids(batch) for batch in with_threads] == [ids(each) for each in loader_of(table, None)]
    started = {each.name.partition("_")[0] for each in threading.enumerate()}
    assert "lance-transform" not in started
