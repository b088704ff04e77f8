# SPDX-License-Identifier: Apache-2.0
"""Where Lightning's epoch ends before a loader's: the resumed run begins the next one, too."""

import importlib
import logging
import warnings

import pytest
from loaders import KINDS, iterable, mapped

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on speed
MODES = ["min_size", "max_size", "max_size_cycle"]


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def runs():
    return importlib.import_module("lightning_runs")


@pytest.mark.few(2)
@KINDS
@pytest.mark.parametrize("mode", ["min_size", "max_size_cycle"])
def test_both_begin_their_next_epoch_after_the_last_batch(tmp_path, table, runs, make, mode):
    whole = runs.fit(runs.Both(table, make, mode), tmp_path)
    done = len(whole) // 2
    resumed = runs.Both(table, make, mode)
    assert runs.fit(resumed, tmp_path / "again", tmp_path / f"step={done}.ckpt") == whole[done:]


@pytest.mark.few(3)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("limit", [{"limit_train_batches": 4}, {"limit_train_batches": 0.5}])
def test_an_epoch_that_is_cut_short_is_over(tmp_path, table, runs, mode, limit):
    whole = runs.fit(runs.Both(table, iterable, mode), tmp_path, **limit)
    done = len(whole) // 2
    checkpoint = tmp_path / f"step={done}.ckpt"
    resumed = runs.Both(table, iterable, mode)
    assert runs.fit(resumed, tmp_path / "again", checkpoint, **limit) == whole[done:]


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("make", "options"),
    [
        pytest.param(iterable, {"limit_train_batches": 3}, id="limited"),
        pytest.param(mapped, {"limit_train_batches": 3}, id="limited-mapped"),
        pytest.param(iterable, {"overfit_batches": 3}, id="overfitted"),
    ],
)
def test_one_loader_begins_anew_after_an_epoch_that_is_cut_short(
    tmp_path, table, runs, make, options
):
    whole = runs.fit(runs.Remaking(lambda: make(table)), tmp_path, **options)
    for done in (2, 3, 4):
        again = runs.Remaking(lambda: make(table))
        checkpoint = tmp_path / f"step={done}.ckpt"
        assert runs.fit(again, tmp_path / "again", checkpoint, **options) == whole[done:]


@pytest.mark.few(3)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("by", ["epochs", "steps"])
def test_a_data_modules_states_of_an_epochs_end(tmp_path, table, runs, mode, by):
    def fit(folder, checkpoint=None):
        model = runs.Both(table, iterable, mode)
        module = runs.Module(model.loaders, mode)
        steps = 14 if mode == "min_size" else 20
        limit = {"epochs": 2} if by == "epochs" else {"epochs": None, "max_steps": steps}
        return runs.fit(model, folder, checkpoint, every=None, datamodule=module, **limit)

    whole = fit(tmp_path)
    done = len(whole) // 2
    assert fit(tmp_path / "again", tmp_path / f"step={done}.ckpt") == whole[done:]


@pytest.mark.parametrize("first", [1, 5])
def test_loaders_may_count_other_epochs_than_lightning(tmp_path, table, runs, first):
    def both():
        model = runs.Both(table, iterable, "max_size")
        for loader in model.loaders:
            loader.set_epoch(first)
        return model

    whole = runs.fit(both(), tmp_path)
    for done in (9, 10):
        resumed = runs.fit(both(), tmp_path / "again", tmp_path / f"step={done}.ckpt")
        assert resumed == whole[done:]


@pytest.mark.few(1)
@pytest.mark.parametrize("mode", MODES)
def test_an_epoch_that_was_stopped_goes_on_and_says_so(tmp_path, table, runs, mode):
    def fit(folder, checkpoint=None, callbacks=()):
        model = runs.Both(table, iterable, mode)
        module = runs.Module(model.loaders, mode)
        return runs.fit(
            model, folder, checkpoint, every=None, datamodule=module, callbacks=callbacks
        )

    whole = fit(tmp_path / "whole")
    stopped = fit(tmp_path, callbacks=[runs.StopAt(5)])
    assert stopped == whole[:5]
    with pytest.warns(RuntimeWarning, match=r"at position 500 of its epoch 0.*set_epoch\(1\)"):
        rest = fit(tmp_path / "again", tmp_path / "step=5.ckpt")
    assert stopped + rest == whole[: len(whole) // 2]


def test_nobody_is_warned_of_an_epoch_that_is_over(tmp_path, table, runs):
    def fit(folder, checkpoint=None):
        model = runs.Both(table, iterable, "max_size")
        module = runs.Module(model.loaders, "max_size")
        return runs.fit(model, folder, checkpoint, every=None, datamodule=module)

    fit(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*stopped before its end")
        fit(tmp_path / "again", tmp_path / "step=10.ckpt")
