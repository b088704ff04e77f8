# SPDX-License-Identifier: Apache-2.0
"""The comparison with other loaders: that it runs, and that what it compares is the same."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from limits import HANGS
from soak import soaked

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import cells  # noqa: E402
from cell import Run, Task, check, resume, variance_ratio  # noqa: E402
from peers import Job, Source, load  # noqa: E402
from workloads import LABELS, WORKLOADS  # noqa: E402

OURS = ("ours", "ours_cached")
MODULES = (*OURS, "memmap", "torch_tensors", "lancedb_permutation", "lancedb_streaming")
ROWS = {kind: 128 if kind == "images" else 512 for kind in WORKLOADS}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("benchmarks")


def ways():
    """Each with one of its workloads after the other, and with the others in a soak."""
    every = [(module, way) for module in MODULES for way in load(module).ways]
    for number, (module, way) in enumerate(every):
        for place, kind in enumerate(way.kinds):
            case = pytest.param if place == number % len(way.kinds) else soaked
            yield case(module, way, kind, id=f"{way.name}-{kind}")


@pytest.mark.few(4)
@pytest.mark.parametrize(("module", "way", "kind"), list(ways()))
def test_every_way_gives_each_row_of_an_epoch_once_and_resumes(root, module, way, kind):
    source = Source(kind, ROWS[kind], root)
    load(module).prepare(source)
    job = Job(source, batch_size=64)
    ids = []
    for batch in way.open(job):
        check(job, batch)
        ids += batch["id"].tolist()
    assert len(ids) == source.rows // 64 * 64
    assert len(set(ids)) == len(ids)
    assert ids != sorted(ids)
    assert resume(way, job)["resumed_at"] == pytest.approx(0.5, abs=0.1)


def test_a_run_goes_on_from_epoch_to_epoch(root):
    for module in ("ours", "lancedb_streaming"):
        source = Source("embeddings", 1_000, root)
        load(module).prepare(source)
        run = Run(load(module).ways[0], Job(source, batch_size=100))
        assert run.for_seconds(60, batches=25) == 2_500


def test_the_check_refuses_what_does_not_belong_together(root):
    source = Source("embeddings", 1_000, root)
    load("memmap").prepare(source)
    job = Job(source, batch_size=100)
    batch = next(iter(load("memmap").ways[0].open(job)))
    check(job, batch)
    with pytest.raises(ValueError, match="labels"):
        check(job, {**batch, "label": batch["label"].flip(0) + 1})
    with pytest.raises(ValueError, match="columns"):
        check(job, {"id": batch["id"]})


def test_the_measure_of_mixing_is_one_for_a_true_shuffle_and_large_for_sorted_rows():
    labels = np.repeat(np.arange(LABELS), 10_000)
    shuffled = np.random.default_rng(0).permutation(labels)
    assert variance_ratio(np.split(shuffled, 400), 1, len(labels)) == pytest.approx(1, abs=0.15)
    assert variance_ratio(np.split(labels, 400), 1, len(labels)) > 100
    assert variance_ratio(np.split(labels, 400)[:16], 16, len(labels)) is None


def raises(task, results):
    results.send({"speed": 1.0})
    raise OSError("no such shard")


def dies(task, results):
    os.kill(os.getpid(), 9)


def hangs(task, results):
    results.send({"speed": 1.0, "child": subprocess.Popen(["sleep", "100"]).pid})
    time.sleep(100)


@pytest.mark.parametrize(
    ("cell", "limit", "error"),
    [
        (raises, 60, "OSError: no such shard"),
        (dies, 60, "its process died"),
        soaked(hangs, 10, "no end"),
    ],
)
def test_a_loader_that_fails_is_a_line_in_the_results(root, cell, limit, error):
    found = cells.run(cell, Task("ours", 0, Job(Source("embeddings", 1, root))), limit)
    assert error in found["error"]
    assert ("speed" in found) == (cell is not dies)
    if cell is hangs:
        assert cells.is_over(found["child"])


@pytest.mark.soak
def test_one_command_writes_figures_and_plots(root):
    command = [sys.executable, BENCHMARKS / "side_by_side.py", "--scale", "tiny", "--no-growth"]
    command += ["--workloads", "embeddings", "--peers", "ours", "memmap"]
    command += ["--data", root / "data", "--out", root / "out" / "peers"]
    subprocess.run(command, check=True, capture_output=True, timeout=HANGS)
    found = json.loads((root / "out" / "peers.json").read_text())
    assert [cell["way"] for cell in found["cells"] if "error" in cell] == []
    assert all(cell["speed"] > 0 and cell["resume"] > 0 for cell in found["cells"])
    assert len(found["cells"]) == 4
    text = (root / "out" / "peers.md").read_text()
    assert "ours, shuffle=True" in text
    assert "memmap gather" in text
    assert (root / "out" / "peers.png").stat().st_size > 10_000
    assert (root / "out" / "peers_mixing.png").exists()
