# SPDX-License-Identifier: Apache-2.0
"""Loaders are seen through OpenTelemetry with the figures that their `stats()` give."""

import gc
import subprocess
import sys

import pytest
from lancedb.integrations._torch.common.process import PROCESS
from lancedb.integrations._torch.loader import opentelemetry as otel
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    instrument_loader_metrics,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader


@pytest.fixture
def reader(monkeypatch):
    """A reader of instruments that are made anew for this test."""
    monkeypatch.setattr(PROCESS.part(otel.Observed), "is_instrumented", False)
    gc.collect()
    reader = InMemoryMetricReader()
    assert instrument_loader_metrics(MeterProvider([reader]))
    return reader


def points(reader, loader):
    """name -> value of one loader's data points."""
    found = {}
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for metric in resource.scope_metrics[0].metrics:
            for point in metric.data.data_points:
                if point.attributes == loader.metric_attributes:
                    found[metric.name.removeprefix("lancedb_loader_")] = point.value
    return found


def dataset_of(table):
    return LanceIterableTorchDataset(table, columns=["id"], format="torch", batch_size=50)


def loader_of(table):
    return LanceDataLoader(dataset_of(table))


def test_the_figures_are_those_of_stats(table, reader):
    loader = loader_of(table)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    seen, stats = points(reader, loader), loader.stats()
    assert loader.metric_attributes["table"] == "points"
    assert (seen["rows_total"], seen["epoch"], seen["step"]) == (150, 0, 3)
    assert seen["waiting_seconds_total"] == stats["waiting"]
    assert 0 < seen["reading_seconds_total"] <= stats["reading"]
    assert set(seen) == {figure.name for figure in otel._FIGURES}


def test_two_loaders_of_one_table_are_told_apart(table, reader):
    first, second = loader_of(table), loader_of(table)
    next(iter(second))
    assert points(reader, first)["rows_total"] == 0
    assert points(reader, second)["rows_total"] == 50


def test_a_loader_that_is_gone_is_observed_no_more(table, reader):
    loader = loader_of(table)
    attributes = loader.metric_attributes
    assert points(reader, loader)
    del loader
    gc.collect()
    assert all(
        loader.metric_attributes != attributes for loader in PROCESS.part(otel.Observed).loaders
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_loaders_over_one_dataset_share_what_it_read(table, reader, workers):
    dataset = dataset_of(table)
    first, second = LanceDataLoader(dataset, num_workers=workers), LanceDataLoader(dataset)
    list(first)
    list(second)
    list(second)
    assert points(reader, first)["read_bytes_total"] == 8000
    assert points(reader, second)["read_bytes_total"] == 16000
    assert dataset.stats()["bytes"] == 24000
    list(first)
    assert first.stats()["bytes"] == 16000
    assert second.stats()["bytes"] == 16000


def test_no_counter_goes_back_when_another_loader_is_made(table, reader):
    dataset = dataset_of(table)
    first = LanceDataLoader(dataset)
    list(first)
    for workers in (1, 2, 1):
        LanceDataLoader(dataset, num_workers=workers)
        assert points(reader, first)["read_bytes_total"] == 8000
        assert dataset.stats()["bytes"] == 8000
    batches = iter(first)
    next(batches)
    assert points(reader, first)["read_bytes_total"] > 8000


def test_the_figures_of_a_loader_that_is_gone_are_nobody_elses(table, reader):
    dataset = dataset_of(table)
    list(LanceDataLoader(dataset))
    gc.collect()
    assert LanceDataLoader(dataset).stats()["bytes"] == 0
    assert dataset.stats()["bytes"] == 8000


def test_a_second_call_is_as_good_as_the_first_and_makes_nothing_twice(table, reader):
    other = InMemoryMetricReader()
    assert instrument_loader_metrics(MeterProvider([other]))
    loader = loader_of(table)
    assert points(reader, loader)
    assert not points(other, loader)


def test_units_are_those_of_lancedbs_own_metrics(table, reader):
    loader = loader_of(table)
    (scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
    units = {metric.name.removeprefix("lancedb_loader_"): metric.unit for metric in scope.metrics}
    assert loader.metric_attributes
    assert {units[name] for name in units if name.endswith("seconds_total")} == {"s"}
    assert units["read_bytes_total"] == "B"


@pytest.mark.soak
def test_without_opentelemetry_all_but_this_works_and_the_error_says_what_to_install():
    script = (
        "import sys\n"
        "sys.modules['opentelemetry'] = sys.modules['opentelemetry.metrics'] = None\n"
        "from lancedb.integrations.torch import instrument_loader_metrics\n"
        "try: instrument_loader_metrics()\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "lancedb-torch[otel]" in done.stdout, done.stderr
