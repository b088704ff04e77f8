# SPDX-License-Identifier: Apache-2.0
"""A transform that was written for one row is told that it is given a batch, and of which form."""

import io

import pyarrow as pa
import pytest
import torch
from lancedb.integrations._torch.common.counters import Stats
from lancedb.integrations._torch.convert.transform import Output

BATCH = pa.record_batch(
    {"x": [1.0, 2.0], "text": ["A", "B"], "data": [b"a", b"b"], "y": pa.array([1, 2], pa.int64())}
)


def raised(format, transform):
    """What a traceback says below the error; before Python 3.11, above it."""
    with pytest.raises((ValueError, TypeError, RuntimeError, AttributeError, IndexError)) as caught:
        Output(format, transform)(BATCH, Stats())
    error = caught.value
    return getattr(error, "__notes__", None) or [str(error.__cause__)]


@pytest.mark.parametrize(
    ("format", "transform"),
    [
        ("torch", lambda row: float(row["x"])),
        ("torch", lambda row: row["x"].item()),
        ("torch", lambda row: 1 if row["x"] > 1 else 0),
        ("torch", lambda row: [0, 1, 2][row["y"]]),
        ("torch", lambda row: row["text"].lower()),
        ("torch", lambda row: io.BytesIO(row["data"])),
        ("torch", lambda row: {"A": 1}[row["text"]]),
        ("python", lambda row: row["x"] * 2),
        ("python", lambda row: row.items()),
        ("python_col", lambda row: float(row["x"])),
        ("python_col", lambda row: int(row["text"])),
        ("arrow", lambda row: row["text"].lower()),
        ("pandas", lambda row: float(row["x"])),
        ("pandas", lambda row: 1 if row["x"] > 1 else 0),
        ("numpy", lambda row: float(row["x"])),
        (None, lambda row: float(row["x"])),
    ],
)
def test_it_is_said_that_a_batch_is_given(format, transform):
    (note,) = raised(format, transform)
    assert note.startswith("transform is called with a whole batch, not with one row; here with ")


@pytest.mark.parametrize(
    ("format", "form"),
    [
        ("torch", "a dict of batched columns, {'x': Tensor of shape (2,), 'text': a list of 2, "),
        ("python", "a list of 2 row dicts: [one(row) for row in batch] is a batch again"),
        ("python_col", "a dict of batched columns, {'x': a list of 2"),
        (None, "a pyarrow.RecordBatch of 2 rows, as no format= is given: batch.to_pylist()"),
    ],
)
def test_the_form_of_the_batch_is_named(format, form):
    def transform(batch):
        raise TypeError("float() argument must be a string or a real number, not 'list'")

    assert form in raised(format, transform)[0]


def test_other_errors_are_left_as_they_are():
    for error in (KeyError("z"), ValueError("could not convert string to float: 'a'"), OSError(5)):

        def transform(batch, error=error):
            raise error

        with pytest.raises(type(error)) as caught:
            Output("torch", transform)(BATCH, Stats())
        assert not hasattr(caught.value, "__notes__")
        assert caught.value.__cause__ is None


def test_a_transform_of_batches_is_not_disturbed():
    made = Output("torch", lambda batch: batch["x"] * 2)(BATCH, Stats())
    assert torch.equal(made, torch.tensor([2.0, 4.0], dtype=torch.float64))
