# SPDX-License-Identifier: Apache-2.0
"""What is read of other people's private parts is there in the installed versions.

Where one of these fails, the guard that its comment names has gone quiet: look at how the package
does it now. The parts of lancedb are what reading itself needs.
"""

import importlib

import accelerate.state
import pytest
from lancedb.integrations._torch.frameworks import accelerate as of_accelerate
from lancedb.integrations._torch.frameworks import lightning as of_lightning
from lancedb.integrations._torch.frameworks.private import part_of
from lancedb.integrations._torch.workers import watchdog
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from lancedb.remote.table import RemoteTable
from torch.utils.data import DataLoader

NAMED = [
    # The collating of rows that are lazy, and of whole batches.
    ("torch.utils.data", "_utils.collate.default_collate_fn_map"),
    ("torch.utils.data", "_utils.collate.collate"),
    # Which loader asks for rows, and whether its workers stay.
    ("torch.utils.data._utils.fetch", "_BaseDatasetFetcher"),
    ("torch.utils.data._utils.worker", "_worker_loop"),
    # Whether batches of this process are to be seen by the profiler.
    ("torch.autograd", "_profiler_enabled"),
    # The death of a worker.
    ("torch.utils.data", "_utils.signal_handling._remove_worker_pids"),
    ("torch.utils.data.dataloader", "_MultiProcessingDataLoaderIter._shutdown_workers"),
    # Whether the ranks were given the same arguments.
    ("torch.distributed", "distributed_c10d._get_default_store"),
    # Lists, made at once.
    ("torch.nested._internal.nested_tensor", "NestedTensor"),
    # Small columns without shared memory.
    ("torch", "UntypedStorage._new_shared_fd_cpu"),
    # What a fork server imports beside what we ask for.
    ("multiprocessing.forkserver", "_forkserver._preload_modules"),
    # Loaders that shard batches once more, and the end of an accumulation.
    ("accelerate.state", "GradientState._shared_state"),
    ("accelerate.state", "GradientState._add_dataloader"),
    ("accelerate.state", "GradientState._remove_dataloader"),
    ("accelerate.state", "GradientState.active_dataloader"),
    ("accelerate.data_loader", "DataLoaderDispatcher"),
    ("accelerate.data_loader", "SkipDataLoader"),
    # Epochs and states of Lightning's loops.
    ("lightning.pytorch.loops.fit_loop", "_FitLoop"),
    ("lightning.pytorch.loops.training_epoch_loop", "_TrainingEpochLoop"),
    ("lightning.pytorch.loops.evaluation_loop", "_EvaluationLoop"),
    ("lightning.pytorch.loops.prediction_loop", "_PredictionLoop"),
    ("lightning.pytorch.utilities.combined_loader", "_MaxSize"),
    ("lightning.pytorch.utilities.combined_loader", "_MaxSizeCycle"),
    ("lightning.pytorch.utilities.combined_loader", "_MinSize"),
    ("lightning.pytorch.utilities.combined_loader", "_Sequential"),
    # Reading.
    ("lancedb._lancedb", "PermutationReader.from_tables"),
    ("lancedb._lancedb", "PermutationReader.take_offsets"),
    ("lancedb._lancedb", "PermutationReader.output_schema"),
    ("lancedb.background_loop", "LOOP.loop"),
    ("lancedb.permutation", "Permutation._ensure_open"),
    ("lancedb.remote.table", "RemoteTable._ensure_open"),
    ("lancedb.remote.table", "RemoteTable._serialized_connection_state"),
]


@pytest.mark.parametrize(("module", "path"), NAMED, ids=".".join)
def test_a_named_part_is_there(module, path):
    assert part_of(importlib.import_module(module), path) is not None


def test_the_parts_of_an_open_table_are_there(table):
    for path in ("_conn.uri", "_conn.serialize", "_table.query", "_table.is_open"):
        assert part_of(table, path) is not None, path
    assert part_of(table, "_namespace_path", "none") in (None, [])
    assert part_of(table, "_conn.read_consistency_interval", "none") is None


def test_the_parts_of_a_remote_table_are_there():
    assert {"_checkout_version", "_branch"} <= set(RemoteTable.__init__.__code__.co_names)


def test_the_parts_of_torchs_iterator_over_workers_are_there(table):
    loader = DataLoader(range(4), num_workers=1, persistent_workers=True)
    batches = iter(loader)
    for path in (
        "_workers",
        "_workers_status",
        "_worker_pids_set",
        "_worker_result_queue._writer.close",
    ):
        assert part_of(batches, path) is not None, path
    assert part_of(batches, "_shutdown") is False
    assert part_of(loader, "_iterator") is batches
    assert list(batches)


def test_the_parts_of_lightnings_trainer_are_there():
    from lightning.pytorch import Trainer

    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    assert part_of(trainer, "current_epoch") == 0
    assert part_of(trainer, "overfit_batches") == 0
    assert part_of(trainer, "fit_loop._combined_loader_states_to_load") == []
    assert part_of(trainer, "ckpt_path", "none") is None
    assert part_of(trainer, "num_training_batches") == float("inf")
    fit = trainer.fit_loop
    assert part_of(fit, "restarting") is False
    assert part_of(fit, "epoch_progress.current.ready") == 0
    assert part_of(fit, "epoch_progress.current.processed") == 0
    assert part_of(fit, "epoch_loop.batch_progress.current.completed") == 0
    assert part_of(fit, "epoch_loop.batch_progress.total.completed") == 0
    assert part_of(fit, "epoch_loop.batch_progress.is_last_batch") is False


# -- without them ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part", ["_shared_state", "_add_dataloader", "_remove_dataloader", "active_dataloader"]
)
def test_an_epoch_goes_its_way_where_accelerate_has_changed(table, monkeypatch, part):
    accelerate.state.GradientState()
    monkeypatch.delattr(accelerate.state.GradientState, part)
    loader = LanceDataLoader(LanceIterableTorchDataset(table, batch_size=100))
    loader._is_accelerate_prepared = True
    assert len(list(loader)) == 10
    of_accelerate.refuse_blind_skip(loader.dataset)


@pytest.mark.parametrize("kind", ["_FitLoop", "_EvaluationLoop"])
def test_a_loop_of_lightnings_without_a_trainer_is_heeded_no_more(kind):
    loop = type(kind, (), {})()
    assert of_lightning.epoch_of(loop) is None
    assert not of_lightning.overfits(loop)
    of_lightning.refuse_late_state(loop)


def test_workers_that_say_nothing_of_themselves_are_taken_to_be_at_work():
    batches = type("Iterator", (), {})()
    assert watchdog.watch(batches) is None
    assert watchdog.first_ended(batches) is None
    watchdog.kill_workers(batches)


def test_torch_without_a_registry_of_collating_says_which_torch_is_needed(monkeypatch):
    from lancedb.integrations._torch.convert import collate

    monkeypatch.delattr("torch.utils.data._utils.collate.default_collate_fn_map")
    with pytest.raises(ImportError, match=r"needs torch>=2\.4"):
        collate.register()
