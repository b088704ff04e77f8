# SPDX-License-Identifier: Apache-2.0
"""The comparison of mixtures: that it runs with what is installed, and measures what it says."""

import doctest
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import mixing_report  # noqa: E402
import mixtures  # noqa: E402
from mixing_peers import WAYS  # noqa: E402
from mixing_tables import BATCH, Part  # noqa: E402
from peers import load  # noqa: E402

SCALE = mixtures.Scale(
    rows=2_000, rounds=1, warm_up=0.0, seconds=0.01, counted=10 * BATCH, stop_at=4
)
HERE = ("ours, from the tables", "ours, cached on disk", "torchdata MultiNodeWeightedSampler")


class Results(dict):
    """What a cell sends."""

    def send(self, found):
        self.update(found or {})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("mixtures")


def task_of(root, name):
    number = next(number for number, way in enumerate(WAYS) if way.name == name)
    parts = tuple(Part("embeddings", SCALE.rows, root, (each,)) for each in range(4))
    if WAYS[number].whole:
        parts = (Part("embeddings", 4 * SCALE.rows, root, (0, 1, 2, 3)),)
    for part in parts:
        load(WAYS[number].forms).prepare(part)
    return mixtures.Task(number, parts, SCALE, count=True)


@pytest.mark.parametrize("name", ["ours, one table", *HERE])
def test_every_way_gives_what_is_asked_for_and_is_counted(root, name):
    found = Results()
    mixtures.measure(task_of(root, name), found)
    assert found["speed"] > 0
    if name == "ours, one table":
        assert "after_batches" not in found
    elif name.startswith("ours"):
        assert found["after_batches"] <= found["after_rows"] < 16
    else:
        assert found["after_batches"] > 2


@pytest.mark.soak
@pytest.mark.parametrize("name", HERE)
def test_a_state_goes_on_with_the_next_batch(root, name):
    found = Results()
    mixtures.resume(task_of(root, name), found)
    assert found["resume_0_0"] == "exact"
    assert found["resume_2_1"] == "exact"
    if name.startswith("ours"):
        assert found["resume_0_2"] == "exact"


def test_words_and_counts_are_those_of_their_examples():
    run = doctest.testmod(mixtures)
    assert run.attempted > 3
    assert run.failed == 0


def test_a_loader_that_is_not_installed_is_left_out_and_named(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "peers.grain_", None)
    bench = mixtures.Bench(root, SCALE, root / "out" / "mixtures", ["Grain MapDataset.mix"])
    bench.run()
    assert bench.found["ways"] == {}
    assert list(bench.found["missing"]) == ["Grain MapDataset.mix"]


def test_the_table_has_a_line_for_each_way(root):
    way = {"package": "p 1", "setting": "s", "rows": 9, "speeds": [1.0, 3.0], "after_rows": 2.5}
    found = {
        "machine": {"cpus": 2},
        "date": "2026-01-02",
        "counted": 512,
        "ways": {
            "ours": {**way, "resume_0_0": "exact"},
            "other": {**way, "resume_0_0": "error: x"},
        },
        "missing": {"third": "ImportError: no module"},
    }
    table = mixing_report.dated(found).splitlines()
    assert "2026-01-02" in table[0]
    assert table[-2:] == [
        "| **ours** | 3 | - | 2 | exact | - | - |",
        "| other | 3 | - | 2 | error | - | - |",
    ]
    mixtures.save(root / "out" / "mixtures", found)
    assert "Left out: third" in (root / "out" / "mixtures.md").read_text()
