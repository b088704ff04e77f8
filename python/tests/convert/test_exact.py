# SPDX-License-Identifier: Apache-2.0
"""Whole numbers are as they were stored in every format, or an error names the one that is not."""

import numpy as np
import pyarrow as pa
import pytest
from lancedb.integrations.torch import LanceIterableTorchDataset, LanceTorchDataset

ID = 2**53 + 1
FLOATS = pa.array([0.5, 1.5], pa.float32())


def read(db, format, **columns):
    """What both datasets make of a table with these columns."""
    table = db.create_table("ids", pa.table(columns), mode="overwrite")
    streamed = LanceIterableTorchDataset(table, format=format, batch_size=2)
    return LanceTorchDataset(table, format=format)[[0, 1]], next(iter(streamed))


@pytest.mark.parametrize("format", ["numpy", "torch_row", "torch_col"])
@pytest.mark.parametrize("id", [ID, -ID, 2**63 - 1])
def test_an_id_that_floats_beside_it_would_round_is_refused(db, format, id):
    says = rf"column 'id' holds {id}, and format '{format}' makes floats of whole numbers beside"
    with pytest.raises(ValueError, match=says):
        read(db, format, id=[1, id], x=FLOATS)


@pytest.mark.parametrize(
    ("kind", "number"), [(pa.float32(), 2**24), (pa.float16(), 2**11), (pa.float64(), 2**53)]
)
def test_the_limit_is_that_of_the_floats_there_are(db, kind, number):
    floats = FLOATS.cast(kind)
    for made in read(db, "torch_col", id=[1, number], x=floats):
        assert made[0].tolist() == [1, number]
    with pytest.raises(
        ValueError, match=rf"holds {number + 1}, .* beyond 2\*\*{number.bit_length() - 1}"
    ):
        read(db, "torch_col", id=[1, number + 1], x=floats)


@pytest.mark.parametrize("format", ["numpy", "pandas"])
@pytest.mark.parametrize(
    "column",
    [
        pa.array([None, ID]),
        pa.array([None, 2**64 - 1], pa.uint64()),
        pa.array([[None, ID], []]),
        pa.array([{"a": None}, {"a": ID}]),
    ],
    ids=["id", "unsigned", "list", "struct"],
)
def test_an_id_among_nulls_which_pandas_would_round_is_refused(db, format, column):
    with pytest.raises(ValueError, match=r"column 'id' holds \d+, .* with nulls among them"):
        read(db, format, id=column)


def test_the_errors_ways_out_work(db):
    table = db.create_table("ids", pa.table({"id": [None, ID], "x": FLOATS}))
    filled = LanceTorchDataset(table, columns={"id": "coalesce(id, 0)"}, format="numpy")
    assert filled[[0, 1]].tolist() == [[0], [ID]]
    rounded = {"id": "CAST(coalesce(id, 0) AS DOUBLE)", "x": "x"}
    made = LanceTorchDataset(table, columns=rounded, format="torch_row")[[1]]
    assert made[0].tolist() == [2**53, 1.5]


@pytest.mark.parametrize("format", ["numpy", "pandas", "torch_row", "torch_col"])
def test_ids_that_stay_whole_numbers_are_as_they_were(db, format):
    for made in read(db, format, id=[ID, -ID], other=[2**62 + 1, 3]):
        rows = np.array([row.tolist() for row in made]) if format == "torch_row" else np.array(made)
        expected = np.array([[ID, 2**62 + 1], [-ID, 3]])
        assert (rows == (expected.T if format == "torch_col" else expected)).all()
