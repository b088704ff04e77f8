# SPDX-License-Identifier: Apache-2.0
"""Loaders seen through OpenTelemetry: one observable instrument for each figure."""

from __future__ import annotations

import functools
import itertools
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from ..common.process import PROCESS

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

    from .loader import LanceDataLoader


class _Figure(NamedTuple):
    """One entry of ``loader.stats()`` as an instrument."""

    key: str
    name: str
    unit: str
    description: str
    is_counter: bool = True


_FIGURES = (
    _Figure("delivered", "rows_total", "", "Rows delivered to the training loop."),
    _Figure("bytes", "read_bytes_total", "B", "Arrow bytes read from the table."),
    _Figure("skipped", "skipped_rows_total", "", "Rows left out by on_error."),
    _Figure("reading", "reading_seconds_total", "s", "Seconds spent reading, over all threads."),
    _Figure("converting", "converting_seconds_total", "s", "Seconds spent converting to a format."),
    _Figure("transforming", "transforming_seconds_total", "s", "Seconds spent in transform."),
    _Figure("waiting", "waiting_seconds_total", "s", "Seconds the training loop waited."),
    _Figure("working", "working_seconds_total", "s", "Seconds the training loop worked."),
    _Figure("epoch", "epoch", "", "The epoch under way.", False),
    _Figure("step", "step", "", "Batches of the epoch delivered on this rank.", False),
)


class Observed:
    """The loaders of this process, and whether they are shown."""

    def __init__(self) -> None:
        self.loaders: weakref.WeakSet[LanceDataLoader] = weakref.WeakSet()
        self.numbers = itertools.count()
        self.is_instrumented = False


def watch(loader: LanceDataLoader) -> dict[str, Any]:
    """Have a loader observed for as long as it lives; returns its attributes."""
    observed = PROCESS.part(Observed)
    observed.loaders.add(loader)
    table = loader.dataset.table_name  # type: ignore[attr-defined]
    return {"table": table, "loader": next(observed.numbers)}


def instrument_loader_metrics(meter_provider: MeterProvider | None = None) -> bool:
    """Show every `LanceDataLoader` of this process as OpenTelemetry metrics.

    The instruments are ``lancedb_loader_rows_total``, ``lancedb_loader_read_bytes_total``,
    ``lancedb_loader_skipped_rows_total``, ``lancedb_loader_reading_seconds_total``,
    ``..._converting_...``, ``..._transforming_...``, ``..._waiting_...``, ``..._working_...``,
    ``lancedb_loader_epoch`` and ``lancedb_loader_step``, with the attributes ``table`` and
    ``loader`` (a number in this process). Loaders made before and after are observed alike, as
    long as they live. lancedb's own metrics, of object stores, come by
    ``lancedb.otel.instrument_lancedb_metrics``.

    Parameters
    ----------
    meter_provider : opentelemetry.metrics.MeterProvider, optional
        Where the instruments go. Default: the global provider. Later calls, which are safe, leave
        the instruments where they are.

    Returns
    -------
    bool
        True: the instruments are there.

    Raises
    ------
    ImportError
        If opentelemetry-api is not installed.

    Examples
    --------
    >>> from opentelemetry.sdk.metrics import MeterProvider
    >>> from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    >>> from lancedb.integrations.torch import instrument_loader_metrics
    >>> provider = MeterProvider([InMemoryMetricReader()])
    >>> instrument_loader_metrics(provider)
    True
    """
    try:
        from opentelemetry.metrics import get_meter_provider
    except ImportError as error:
        raise ImportError(
            "instrument_loader_metrics needs OpenTelemetry: pip install 'lancedb-torch[otel]', and "
            "opentelemetry-sdk to export what is measured"
        ) from error
    observed = PROCESS.part(Observed)
    if observed.is_instrumented:
        return True
    meter = (meter_provider or get_meter_provider()).get_meter("lancedb.integrations.torch")
    for figure in _FIGURES:
        create = (
            meter.create_observable_counter if figure.is_counter else meter.create_observable_gauge
        )
        create(
            f"lancedb_loader_{figure.name}",
            callbacks=[functools.partial(_observe, figure.key)],
            unit=figure.unit,
            description=figure.description,
        )
    observed.is_instrumented = True
    return True


def _observe(key: str, options: CallbackOptions) -> list[Observation]:
    """The figure of every loader that lives."""
    from opentelemetry.metrics import Observation

    loaders = list(PROCESS.part(Observed).loaders)
    return [Observation(loader.stats()[key], loader.metric_attributes) for loader in loaders]
