# SPDX-License-Identifier: Apache-2.0
"""What a loader says about its speed: its counts are exact, its hints name the argument."""

import logging
import re

import pytest
from lancedb.integrations._torch.loader import throughput as pace_module
from lancedb.integrations._torch.loader.throughput import Meters, Pace, Stopwatch, hint
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)


def streamed(table, **options):
    return LanceIterableTorchDataset(
        table, columns=["id"], format="torch", **{"batch_size": 64, **options}
    )


def stream_loader(table, workers):
    return LanceDataLoader(streamed(table), num_workers=workers)


def map_loader(table, workers):
    dataset = LanceTorchDataset(table, columns=["id"], format="torch", batch_size=64)
    return LanceDataLoader(dataset, num_workers=workers, drop_last=True)


def paced(waiting, working):
    pace = Pace()
    pace.add(rows=1, working=working, waiting=waiting)
    return pace


@pytest.mark.parametrize("make", [stream_loader, map_loader])
@pytest.mark.parametrize("workers", [0, 2])
def test_stats_say_how_far_the_epoch_has_come(table, make, workers):
    loader = make(table, workers)
    assert {name: loader.stats()[name] for name in ("epoch", "step", "steps", "delivered")} == {
        "epoch": 0, "step": 0, "steps": 15, "delivered": 0,
    }  # fmt: skip
    batches = iter(loader)
    for _ in range(4):
        next(batches)
    stats = loader.stats()
    assert (stats["epoch"], stats["step"], stats["steps"]) == (0, 4, 15)
    assert stats["delivered"] == 4 * 64
    assert 0 < stats["wait_share"] <= 1
    assert stats["rows_per_second"] == pytest.approx(256 / (stats["waiting"] + stats["working"]))
    list(batches)
    next(iter(loader))
    stats = loader.stats()
    assert (stats["epoch"], stats["step"], stats["delivered"]) == (1, 1, 16 * 64)
    assert stats["rows"] >= 960


def test_a_short_last_batch_counts_as_what_it_is(table):
    loader = LanceDataLoader(streamed(table, drop_last=False))
    assert sum(len(batch["id"]) for batch in loader) == 1000
    assert loader.stats()["delivered"] == 1000


def test_a_resumed_epoch_counts_the_steps_before_it(table):
    loader = LanceDataLoader(streamed(table))
    next(iter(loader))
    resumed = LanceDataLoader(streamed(table))
    resumed.load_state_dict(loader.state_dict())
    next(iter(resumed))
    stats = resumed.stats()
    assert (stats["step"], stats["steps"], stats["delivered"]) == (2, 15, 64)


def test_the_postfix_shows_epoch_step_speed_and_waiting(table):
    loader = LanceDataLoader(streamed(table))
    next(iter(loader))
    shown = loader.postfix()
    assert (shown["epoch"], shown["step"]) == ("0", "1/15")
    assert re.fullmatch(r"[\d,]+", shown["rows/s"])
    assert re.fullmatch(r"\d+%", shown["wait"])


def test_the_first_batch_counts_for_no_hint(monkeypatch):
    ticks = iter([10.0, 18.0, 19.0, 20.0, 22.0, 22.5])
    monkeypatch.setattr(pace_module.time, "perf_counter", lambda: next(ticks))
    pace, steady = Pace(), Pace()
    watch = Stopwatch(pace, after_first=steady)
    for _ in range(3):
        watch.ask()
        watch.deliver(1)
    assert (pace.rows, pace.waiting, pace.working) == (3, 9.5, 3.0)
    assert (steady.rows, steady.waiting, steady.working) == (2, 1.5, 3.0)


def test_hints_are_looked_for_after_five_seconds_and_ever_more_rarely():
    meters = Meters({})

    def is_due(second):
        meters.steady.working = second
        return meters.advice_is_due()

    assert [second for second in range(90) if is_due(second)] == [5, 10, 20, 40, 80]


@pytest.mark.parametrize(("look_after", "steps"), [(1e9, 15), (0.0, 4)])
def test_hints_come_where_nobody_asks_for_the_end(table, monkeypatch, caplog, look_after, steps):
    monkeypatch.setattr(pace_module, "_SECONDS", look_after)
    monkeypatch.setattr(pace_module, "_WAITS_FOR_READER", -1.0)
    loader = LanceDataLoader(streamed(table))
    batches = iter(loader)
    monkeypatch.setattr(pace_module, "_SECONDS", 0.0)
    with caplog.at_level(logging.WARNING, "lancedb.integrations.torch"):
        for _ in range(steps - 1):
            next(batches)
        assert ("waited" in caplog.text) == (look_after == 0.0)
        next(batches)
    assert "waited" in caplog.text


def test_waiting_and_working_are_told_apart(monkeypatch):
    ticks = iter([10.0, 13.0, 20.0, 21.0])
    monkeypatch.setattr(pace_module.time, "perf_counter", lambda: next(ticks))
    pace = Pace()
    watch = Stopwatch(pace)
    for rows in (5, 7):
        watch.ask()
        watch.deliver(rows)
    assert (pace.rows, pace.waiting, pace.working) == (12, 4.0, 7.0)
    assert pace.wait_share == pytest.approx(4 / 11)


@pytest.mark.parametrize(
    ("slowest", "order", "workers", "named"),
    [
        ("reading", "block", 0, "readahead"),
        ("reading", "global", 0, "shuffle=True"),
        ("reading", "sampler", 0, "LanceIterableTorchDataset"),
        ("converting", "none", 0, "num_workers=2"),
        ("transforming", "block", 3, "num_workers=6"),
    ],
)
def test_who_waits_for_batches_is_told_what_to_change(slowest, order, workers, named):
    seconds = {"reading": 0.1, "converting": 0.1, "transforming": 0.1, slowest: 5.0}
    advice = hint(paced(waiting=6, working=4), seconds, order, workers)
    assert "waited 60% of the time" in advice
    assert slowest in advice
    assert named in advice


IN_THREADS = "if it may run in threads, transform_threads=4, else num_workers=2"


@pytest.mark.parametrize(
    ("transforming", "workers", "threads", "advice"),
    [
        (4.0, 0, 0, f"transforming takes 40% of the time: {IN_THREADS}"),
        (30.0, 0, 0, f"transforming takes 100% of the time: {IN_THREADS}"),  # by another clock
        (2.0, 0, 0, "mostly for reading: try a larger readahead"),  # 4 of 6 seconds are the rest
        (9.0, 0, 2, "mostly for transforming: try num_workers=2"),
        (9.0, 2, 0, "mostly for transforming: try num_workers=4"),
        (9.0, 0, None, "mostly for transforming: try num_workers=2"),  # a map-style dataset
    ],
)
def test_a_transform_in_the_thread_that_iterates_is_told_of_threads(
    transforming, workers, threads, advice
):
    seconds = {"reading": 8.0, "converting": 0.1, "transforming": transforming}
    assert advice in hint(paced(waiting=6, working=4), seconds, "block", workers, threads)


def test_the_time_in_a_transform_is_time_that_the_consumer_waits(table, monkeypatch, caplog):
    monkeypatch.setattr(pace_module, "_SECONDS", 0.0)
    dataset = streamed(table, transform=lambda batch: sorted(range(100_000), key=lambda n: -n))
    loader = LanceDataLoader(dataset)
    with caplog.at_level(logging.WARNING, "lancedb.integrations.torch"):
        list(loader)
    stats = loader.stats()
    assert stats["waiting"] > stats["transforming"] > 0
    assert dataset.stats()["waiting"] > stats["transforming"]
    assert f"of the time: {IN_THREADS}" in caplog.text


def test_rows_that_fit_in_memory_are_advised_to_be_kept_there():
    seconds = {"reading": 5.0, "converting": 0.1, "transforming": 0.1}
    for size, shown in ((540_000_000, "540 MB"), (5_200_000_000, "5.2 GB")):
        advice = hint(paced(waiting=6, working=4), seconds, "block", 0, cache_bytes=size)
        assert f"try cache=True, which reads the {shown} of these rows once" in advice


@pytest.mark.parametrize("cache", [True, False, "auto"])
def test_what_is_kept_already_or_cannot_be_is_not_advised(wide_range, cache, monkeypatch):
    dataset = LanceIterableTorchDataset(wide_range, shuffle=True, cache=cache)
    assert (dataset._bytes_to_cache() is None) == (cache is not False)
    monkeypatch.setattr("lancedb.integrations._torch.datasets.row_cache.memory_bytes", lambda: 10)
    assert dataset._bytes_to_cache() is None


def test_bytes_read_and_bytes_out_of_memory_are_counted_apart(table):
    loader = LanceDataLoader(LanceIterableTorchDataset(table, shuffle=True, cache=True))
    run_once(loader)
    first = loader.stats()
    run_once(loader)
    second = loader.stats()
    assert first["bytes"] > 0 == first["cached_bytes"]
    assert (second["bytes"], second["cached_bytes"]) == (first["bytes"], first["bytes"])


def test_a_progress_bar_says_which_rank_it_is_of(table, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    loader = LanceDataLoader(LanceIterableTorchDataset(table, shuffle=True))
    assert loader.postfix()["rank"] == "1/2"


def run_once(loader):
    for _ in loader:
        pass


@pytest.mark.parametrize(
    ("waiting", "working", "workers", "named"),
    [
        (0.01, 10, 4, "num_workers=2"),
        (0.01, 10, 1, None),
        (0.01, 10, 0, None),
        (1, 9, 4, None),
        (2, 1, 0, None),  # too short an epoch to tell
    ],
)
def test_batches_that_wait_for_the_training_step_are_a_hint_only_where_workers_could_go(
    waiting, working, workers, named
):
    seconds = {"reading": 1.0, "converting": 1.0, "transforming": 1.0}
    advice = hint(paced(waiting, working), seconds, "block", workers)
    assert advice is None if named is None else named in advice


def test_a_loader_gives_each_hint_once(table, monkeypatch, caplog):
    monkeypatch.setattr(pace_module, "_SECONDS", 0.0)
    monkeypatch.setattr(pace_module, "_WAITS_FOR_READER", 0.0)
    loader = LanceDataLoader(streamed(table))
    with caplog.at_level(logging.WARNING, "lancedb.integrations.torch"):
        for _ in range(5):
            list(loader)
    remedies = [record.getMessage().rpartition(": ")[2] for record in caplog.records]
    assert remedies
    assert len(remedies) == len(set(remedies))
