# SPDX-License-Identifier: Apache-2.0
"""Recipes from anywhere: what stands in one is data, which names a table or is an error."""

import dataclasses
import io
import pickle
import shutil
import threading
from pathlib import Path

import lancedb
import numpy as np
import pytest
from conftest import rows_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lancedb.integrations.torch import LanceTorchDataset
from soak import soaked

ROWS = 20
OF_A_RECIPE = {
    ("lancedb.integrations._torch.table.recipe", "Recipe"),
    ("lancedb.integrations._torch.table.sources", "UriSource"),
    ("lancedb.integrations._torch.table.sources", "ConnectionSource"),
    ("lancedb.integrations._torch.table.identity", "Identity"),
}
ODD = [
    *[None, True, -1, 0, 1.5, float("nan"), 2**70, 10**5000, [], {}, b"\xff", np.int64(3)],
    *["", "\0", "../points", "/", "a'; DROP TABLE points; --", "x" * 10**5, "日本"],
    *["__import__('os').mkdir('run')", "$(mkdir run)", "{0.__class__}", "file+uring:///etc"],
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    db = lancedb.connect(tmp_path_factory.mktemp("recipes") / "db")
    db.create_table("points", rows_of(ROWS))
    return db


def by_table(db):
    return LanceTorchDataset(db.open_table("points"), columns=["id"])


def by_uri(db):
    return LanceTorchDataset(uri=db.uri, table_name="points", columns=["id"])


MAKES = pytest.mark.parametrize("make", [by_table, soaked(by_uri)])


class Listed(pickle.Unpickler):
    """Loads what a recipe is made of and nothing else, as one who trusts nobody would."""

    def find_class(self, module, name):
        if (module, name) not in OF_A_RECIPE:
            raise pickle.UnpicklingError(f"a recipe holds no {module}.{name}")
        return super().find_class(module, name)


class Executes:
    """What a pickle of makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@MAKES
def test_a_recipe_is_loaded_by_who_loads_its_classes_alone_and_code_in_it_is_not(
    home, make, tmp_path
):
    recipe = make(home)._rows.view.recipe
    assert Listed(io.BytesIO(pickle.dumps(recipe))).load() == recipe
    for name in recipe.__getstate__():
        altered = dataclasses.replace(recipe, **{name: Executes(tmp_path / "run")})
        with pytest.raises(pickle.UnpicklingError, match="a recipe holds no "):
            Listed(io.BytesIO(pickle.dumps(altered))).load()
    assert not (tmp_path / "run").exists()


@MAKES
def test_loading_opens_nothing_and_needs_no_table(tmp_path, make):
    db = lancedb.connect(tmp_path / "db")
    db.create_table("points", rows_of(ROWS))
    raw = pickle.dumps(make(db))
    shutil.rmtree(tmp_path / "db")
    threads = threading.enumerate()
    loaded = pickle.loads(raw)
    assert (loaded.num_rows, loaded.table_name, loaded.version) == (ROWS, "points", 1)
    assert loaded._perm is None
    assert set(threading.enumerate()) <= set(threads)  # one of another test may have ended
    with pytest.raises((FileNotFoundError, RuntimeError, ValueError), match="points|no LanceDB"):
        loaded[0]


@MAKES
def test_a_pickle_cut_off_anywhere_is_refused_by_pickle_itself(home, make):
    raw = pickle.dumps(make(home))
    for length in range(len(raw)):
        with pytest.raises((pickle.UnpicklingError, EOFError)):
            pickle.loads(raw[:length])


@MAKES
@given(data=st.data())
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
    max_examples=60,
)
def test_whatever_its_fields_hold_a_recipe_opens_its_table_or_raises(home, make, data):
    recipe = make(home)._rows.view.recipe
    name = data.draw(st.sampled_from(["name", "branch", "version", "timeout"]))
    value = data.draw(st.sampled_from(ODD) | st.integers() | st.text(max_size=8))
    altered = dataclasses.replace(recipe, **{name: value})
    loaded = pickle.loads(pickle.dumps(altered))
    said = "nothing yet"
    try:
        table = loaded.in_time(loaded.open)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        said = str(error)
    else:
        assert table.name == "points"
        assert table.count_rows() == ROWS
    assert said
    assert home.list_tables().tables == ["points"]
    assert not list(Path(home.uri).rglob("run"))
