# SPDX-License-Identifier: Apache-2.0
"""A mixture of three tables, each in an order of another kind."""

import itertools

import lancedb
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceMixedTorchDataset,
)
from rows import rows_of

SIZES = {"web": 1500, "code": 900, "books": 31}
SHUFFLES = {"web": True, "code": "global", "books": False}
WEIGHTS = {"web": 0.6, "code": 0.3, "books": 0.1}
FIRST = {name: 10_000 * number for number, name in enumerate(SIZES)}


def tables_in(directory):
    """Tables whose ids say which they are."""
    db = lancedb.connect(directory)
    return {name: db.create_table(name, rows_of(size, FIRST[name])) for name, size in SIZES.items()}


def sources(tables, **more):
    return {
        name: LanceIterableTorchDataset(table, shuffle=SHUFFLES.get(name, True), **more)
        for name, table in tables.items()
    }


def mixed(tables, weights=WEIGHTS, **options):
    return of_sources(sources(tables), weights, **options)


def of_sources(sources, weights=WEIGHTS, **options):
    options = {"batch_size": 48, "format": "torch", "stop": 480, **options}
    return LanceMixedTorchDataset(sources, weights, **options)


def ids(loader):
    return [batch["id"].tolist() for batch in loader]


def epochs_of(tables, count=3, **options):
    loader = LanceDataLoader(mixed(tables, **options))
    return [ids(loader) for _ in range(count)]


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def source_of(id):
    return max((first, name) for name, first in FIRST.items() if first <= id)[1]
