# SPDX-License-Identifier: Apache-2.0
"""State dicts from anywhere: taken as they are meant, or refused by name; none runs code."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from conftest import rows_of
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.order.epoch_order import EpochOrder
from lancedb.integrations._torch.order.state import start_of
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)

ROWS = 100
WINDOWS = {"shuffle": True, "block_rows": 2, "window_rows": 16, "lanes": 2}
FIELDS = ["format_version", "epoch", "position", "plan", "worker"]
LAYOUT = ["block_rows", "window_rows", "lanes", "chunk"]
# The tables of these tests are never written to, so that one serves all examples.
SAME_TABLE = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
    max_examples=60,
)


def nested(depth):
    value = [1]
    for _ in range(depth):
        value = [value]
    return value


class Bomb:
    """A value that no one may compare, or count with."""

    def __eq__(self, other):
        raise AssertionError("a value in a state was compared")

    __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __int__ = __index__ = __eq__
    __hash__ = None


ODD = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2**31,
    2**50,
    2**62,
    2**63,
    2**64,
    -(2**63),
    10**5000,
    1.0,
    float("nan"),
    float("inf"),
    "",
    "0",
    "x" * 10**6,
    b"\xff",
    [],
    {},
    {"id": 0, "of": 1, "steps": -1},
    {"id": 7, "of": 9, "steps": 3},
    nested(5000),
    np.int64(3),
    np.zeros(2),
    torch.zeros(2),
    torch.tensor(0),
    Bomb(),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
VALUES = st.sampled_from(ODD) | JSON


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    import lancedb

    folder = tmp_path_factory.mktemp("hostile")
    return lancedb.connect(folder / "db").create_table("points", rows_of(ROWS))


def iterable(table):
    dataset = LanceIterableTorchDataset(
        table, columns=["id"], format="torch", batch_size=10, **WINDOWS
    )
    return LanceDataLoader(dataset)


def mapped(table):
    dataset = LanceTorchDataset(table, columns=["id"], format="torch")
    return LanceDataLoader(dataset, batch_size=10, shuffle=True)


def alone(table):
    return iterable(table).dataset


@pytest.fixture(scope="module", params=[iterable, mapped, alone])
def subject(request, table):
    """What loads states, in the middle of its second epoch; and the state and the batch there."""
    subject = request.param(table)
    subject.set_epoch(1)
    batches = iter(subject)
    for _ in range(3):
        next(batches)
    state = subject.state_dict()
    batch = next(batches)["id"].tolist()
    return subject, json.loads(json.dumps(state)), batch


def go_on(subject):
    return next(iter(subject))["id"].tolist()


def assert_taken_or_refused(subject, state, hostile):
    """A refusal names what is wrong and changes nothing; what is taken can be iterated."""
    subject, good, batch = subject
    subject.load_state_dict(good)
    try:
        subject.load_state_dict(hostile)
    except (TypeError, ValueError) as error:
        said = str(error)
        assert any(name in said for name in ("state", *FIELDS, *state["plan"]))
        assert len(said) < 5000
        assert subject.state_dict() == good
        assert go_on(subject) == batch
        return
    after = subject.state_dict()
    assert 0 <= after["position"] <= ROWS
    rows = [row for some in subject for row in some["id"].tolist()]
    assert len(set(rows)) == len(rows)
    assert set(rows) <= set(range(ROWS))


@pytest.mark.few(1)
@given(data=st.data())
@SAME_TABLE
def test_a_state_with_any_field_changed(subject, data):
    state = copy.deepcopy(subject[1])
    fields = [(state, name) for name in FIELDS] + [(state["plan"], name) for name in state["plan"]]
    where, name = data.draw(st.sampled_from(fields))
    where[name] = data.draw(VALUES)
    assert_taken_or_refused(subject, subject[1], state)


@given(data=st.data())
@SAME_TABLE
def test_a_state_with_any_layout(subject, data):
    sizes = st.integers(-1, 200) | st.sampled_from([2**20, 2**40, 2**50, 2**50 + 1, 2**62])
    state = copy.deepcopy(subject[1])
    state["plan"].update({name: data.draw(sizes) for name in LAYOUT})
    state["position"] = data.draw(st.integers(0, ROWS))
    assert_taken_or_refused(subject, subject[1], state)


@given(data=st.data())
@SAME_TABLE
def test_a_truncated_state(subject, data):
    state = copy.deepcopy(subject[1])
    part = data.draw(st.sampled_from([state, state["plan"]]))
    gone = data.draw(st.sets(st.sampled_from(sorted(part)), min_size=1))
    for name in gone:
        del part[name]
    load, good = subject[0].load_state_dict, subject[1]
    load(good)
    with pytest.raises(ValueError) as caught:
        load(state)
    assert any(name in str(caught.value) for name in gone)
    assert subject[0].state_dict() == good


@pytest.mark.few(1)
@given(hostile=VALUES | st.dictionaries(st.sampled_from(FIELDS), VALUES))
@SAME_TABLE
@example(hostile=["format_version", "epoch", "position", "plan"])
@example(hostile={name: {} for name in FIELDS[:4]})
def test_what_is_no_state_at_all(subject, hostile):
    assume(not isinstance(hostile, Bomb))
    subject, good, batch = subject
    subject.load_state_dict(good)
    with pytest.raises((TypeError, ValueError), match="state"):
        subject.load_state_dict(hostile)
    assert subject.state_dict() == good
    assert go_on(subject) == batch


def test_a_state_from_the_future_says_so(subject):
    loads, good, _ = subject
    with pytest.raises(ValueError, match="format_version 4, and this version of lancedb-torch rea"):
        loads.load_state_dict({**good, "format_version": 4, "plan": {"another": "plan"}})
    # What a later version adds to the same format is none of this version's business.
    loads.load_state_dict({**good, "later": 1, "plan": {**good["plan"], "later": nested(10)}})
    assert loads.state_dict() == good


class Executes:
    """What a pickle of makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_torchs_safe_loader_takes_a_state_and_no_code(subject, tmp_path):
    loads, good, _ = subject
    torch.save(good, tmp_path / "good.pt")
    loads.load_state_dict(torch.load(tmp_path / "good.pt", weights_only=True))
    torch.save({**good, "plan": Executes(tmp_path / "run")}, tmp_path / "bad.pt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "bad.pt", weights_only=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("position", [ROWS - 1, ROWS - 2])
def test_rows_that_cannot_be_dealt_to_the_ranks_are_refused_where_the_state_is_loaded(
    table, position
):
    options = {"columns": ["id"], "batch_size": 10, "drop_last": False}
    loader = LanceDataLoader(LanceIterableTorchDataset(table, rank=0, world_size=3, **options))
    before = loader.state_dict()
    with pytest.raises(ValueError, match=f"from position {position} on cannot be divided among 3"):
        loader.load_state_dict({**before, "position": position})
    assert loader.state_dict() == before
    assert len(list(loader)) == len(loader)


@pytest.mark.parametrize(
    "epoch",
    [-1, 2**63, 10**5000, 1.0, True, None, "1", nested(5000)],
    ids=lambda epoch: type(epoch).__name__,
)
def test_an_epoch_that_cannot_be_is_refused(subject, epoch):
    loads, good, batch = subject
    loads.load_state_dict(good)
    with pytest.raises(ValueError, match="epoch must be a whole number (from 0 on|up to)"):
        loads.set_epoch(epoch)
    assert start_of(2**62).epoch == 2**62
    assert loads.state_dict() == good
    assert go_on(loads) == batch


def test_a_layout_of_very_many_lanes_costs_no_memory():
    plan = EpochOrder(2**60, block_rows=1, window_rows=2**10, lanes=2**50, chunk=1)
    rows = plan.rows_at(np.arange(2**49, 2**49 + 50))
    assert len(np.unique(rows)) == 50
    assert "_all_permuted" not in vars(plan)
