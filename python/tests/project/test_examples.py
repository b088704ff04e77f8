# SPDX-License-Identifier: Apache-2.0
"""The examples, run as they are: they learn, and a run that is cut off goes on exactly.

Each way to start one is tried as a user does: by Python, by torchrun, and by the launchers that
Lightning and Ray bring along. What needs no start of its own runs in a process that begins with its
imports done.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import warm
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from limits import HANGS

EXAMPLES = Path(__file__).parents[3] / "examples"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
# One thread each, as torchrun has it: ranks and tests share the cores.
QUIET = {"PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

# What several examples import, and what torch's optimizers do.
IMPORTED = [
    "accelerate",
    "lancedb.integrations.torch",
    "lightning",
    "sklearn.datasets",
    "torch._dynamo",
    "tqdm",
]


def run(name, *arguments, ranks=None):
    """Run an example in a process of its own, or as ranks; what it printed."""
    launcher = [] if ranks is None else [*TORCHRUN, ranks]
    done = subprocess.run(
        list(map(str, [sys.executable, *launcher, EXAMPLES / name, *arguments])),
        capture_output=True,
        text=True,
        timeout=HANGS,
        check=False,
        env={**os.environ, **QUIET},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def run_warm():
    """Runs an example where its imports are done; gives what it printed."""

    def run_warm(name, *arguments, ranks=None):
        arguments = map(str, arguments)
        return starter.run(EXAMPLES / name, *arguments, ranks=ranks, timeout=HANGS)

    with warm.starter(*IMPORTED) as starter:
        yield run_warm


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def steps_of(out, ranks):
    """The ids of each global step, from what each rank wrote down."""
    files = [lines(out / f"rows-{rank}-of-{ranks}.jsonl") for rank in range(ranks)]
    return [[id for batch in step for id in batch] for step in zip(*files, strict=True)]


def two_epochs(out):
    """The global steps as one process without workers delivers them."""
    dataset = LanceIterableTorchDataset(
        uri=out / "lancedb", table_name="digits", format="torch", batch_size=64, shuffle=True
    )
    loader = LanceDataLoader(dataset)
    return [batch["id"].tolist() for _ in range(2) for batch in loader]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, run_warm):
    """The weights after two epochs on two ranks that nothing cut off."""
    out = tmp_path_factory.mktemp("whole")
    run_warm("ddp.py", "--out", out, ranks=2)
    return torch.load(out / "ddp.pt")["model"]


def assert_close(weights, expected):
    """Equal but for rounding; on other numbers of ranks batches are normalised otherwise."""
    plain = {name.removeprefix("module."): value for name, value in weights.items()}
    torch.testing.assert_close(plain, dict(expected), rtol=0, atol=1e-4)


@pytest.mark.soak
def test_ddp_stops_on_two_ranks_and_goes_on_with_two_to_the_same_weights_or_with_one(
    tmp_path, run_warm, trained
):
    run("ddp.py", "--out", tmp_path, "--stop-after", 40, ranks=2)
    checkpoint = (tmp_path / "ddp.pt").read_bytes()
    before = steps_of(tmp_path, 2)
    state = torch.load(tmp_path / "ddp.pt")["loader"]
    assert (state["epoch"], state["position"]) == (1, 12 * 64)
    run_warm("ddp.py", "--out", tmp_path, "--resume", ranks=2)
    assert before + steps_of(tmp_path, 2) == two_epochs(tmp_path)
    assert_close(torch.load(tmp_path / "ddp.pt")["model"], trained)
    (tmp_path / "ddp.pt").write_bytes(checkpoint)
    run_warm("ddp.py", "--out", tmp_path, "--resume", ranks=1)
    assert before + steps_of(tmp_path, 1) == two_epochs(tmp_path)


@pytest.mark.soak
def test_lightning_resumes_in_mid_epoch(tmp_path, run_warm):
    printed = run_warm("lightning_digits.py", "--out", tmp_path, "--stop-after", 40)
    before = steps_of(tmp_path, 1)
    printed += run_warm("lightning_digits.py", "--out", tmp_path, "--resume")
    assert printed.count("56 steps in all") == 2
    assert before + steps_of(tmp_path, 1) == two_epochs(tmp_path)


@pytest.mark.soak
def test_lightning_deals_rows_to_two_devices_once(tmp_path):
    run("lightning_digits.py", "--out", tmp_path, "--devices", 2)
    assert steps_of(tmp_path, 2) == two_epochs(tmp_path)


@pytest.mark.soak
def test_accelerate_stops_on_two_processes_and_goes_on_with_one(tmp_path, run_warm):
    run_warm("accelerate_digits.py", "--out", tmp_path, "--stop-after", 40, ranks=2)
    run_warm("accelerate_digits.py", "--out", tmp_path, "--resume", ranks=1)
    assert steps_of(tmp_path, 2) + steps_of(tmp_path, 1) == two_epochs(tmp_path)


@pytest.mark.soak
def test_transformers_trainer_resumes_to_the_same_weights(tmp_path, run_warm):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_warm("trainer_digits.py", "--out", whole)
    run_warm("trainer_digits.py", "--out", cut, "--stop-after", 40)
    assert len(lines(cut / "rows.jsonl")) == 40
    run_warm("trainer_digits.py", "--out", cut, "--resume")
    steps = lines(whole / "rows.jsonl")
    assert lines(cut / "rows.jsonl") == steps
    epochs = steps[:29], steps[29:]
    assert epochs[0] != epochs[1]
    for epoch in epochs:
        assert sorted(id for step in epoch for id in step) == list(range(1797))
    trained = [folder / "trained" / "model.safetensors" for folder in (whole, cut)]
    assert trained[0].read_bytes() == trained[1].read_bytes()


@pytest.mark.soak
def test_ray_goes_on_from_a_checkpoint_in_mid_epoch(tmp_path, trained):
    run("ray_digits.py", "--out", tmp_path, "--fail-after", 45)
    files = [lines(tmp_path / f"rows-{rank}-of-2.jsonl") for rank in (0, 1)]
    made = [line["step"] for line in files[0]]
    assert made == [*range(1, 46), *range(43, 57)]
    expected = two_epochs(tmp_path)
    for first, second in zip(*files, strict=True):
        assert first["step"] == second["step"]
        assert first["ids"] + second["ids"] == expected[first["step"] - 1]
    saved = [torch.load(path) for path in (tmp_path / "ray").glob("**/state.pt")]
    (last,) = [each for each in saved if each["step"] == 56]
    assert_close(last["model"], trained)


@pytest.mark.soak
def test_torchdatas_stateful_loader_resumes_to_the_same_weights(tmp_path, run_warm):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_warm("stateful.py", "--out", whole, "--workers", 0)
    run_warm("stateful.py", "--out", cut, "--stop-after", 40)
    run_warm("stateful.py", "--out", cut, "--resume")
    assert lines(whole / "rows.jsonl") == two_epochs(whole) == lines(cut / "rows.jsonl")
    models = [torch.load(folder / "stateful.pt")["model"] for folder in (whole, cut)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def numbers(pattern, printed):
    """The numbers of the line that says so."""
    (found,) = re.findall(pattern, printed)
    return [float(number) for number in found]


@pytest.mark.soak
def test_the_demo_learns_digits_and_plots_them(tmp_path):
    printed = run("digits.py", "--out", tmp_path, "--epochs", 4)
    accuracy, digits = numbers(r"test accuracy ([\d.]+)% on (\d+) digits", printed)
    assert accuracy >= 96
    assert 250 < digits < 450
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.soak
def test_images_are_decoded_and_told_apart(tmp_path, run_warm):
    printed = run_warm("images.py", "--out", tmp_path)
    accuracy, crops = numbers(r"accuracy ([\d.]+)% on (\d+) other crops", printed)
    assert accuracy > 85
    assert 350 < crops < 550


@pytest.mark.soak
def test_clips_of_videos_are_told_apart_from_a_part_of_their_bytes(tmp_path, run_warm):
    printed = run_warm("video.py", "--out", tmp_path, "--videos", 128, "--epochs", 3)
    last = re.findall(r"(\d+)% of the directions right; .* \((.*)%\)", printed)[-1]
    assert int(last[0]) > 90
    assert float(last[1]) < 10


@pytest.mark.soak
def test_hard_negatives_are_worth_their_search(tmp_path, run_warm):
    printed = run_warm("hard_negatives.py", "--out", tmp_path)
    recalls = [float(each) for each in re.findall(r"recall ([\d.]+)% at 1", printed)]
    assert len(recalls) == 4
    for by_chance, hard in zip(recalls[::2], recalls[1::2], strict=True):
        assert hard > 1.3 * by_chance > 0


@pytest.mark.soak
def test_documents_have_the_same_loss_padded_and_packed_and_packed_takes_fewer_steps(
    tmp_path, run_warm
):
    printed = run_warm("packed_lm.py", "--out", tmp_path)
    documents, furthest = numbers(r"(\d+) documents, .* by at most ([\d.e-]+)", printed)
    assert documents > 100
    assert furthest < 1e-4
    padded, share, _ = numbers(r"padded: (\d+) steps, ([\d.]+)% .* loss ([\d.]+)", printed)
    packed, used, _ = numbers(r"packed: (\d+) steps, ([\d.]+)% .* loss ([\d.]+)", printed)
    assert packed < 0.7 * padded
    assert used > 95 > share


def test_each_row_is_held_out_of_one_fold(tmp_path, run_warm):
    printed = run_warm("kfold.py", "--out", tmp_path)
    assert "1797 rows tested, 1797 different ones" in printed
    mean, spread = numbers(r"mean accuracy ([\d.]+)%, ([\d.]+)% from worst", printed)
    assert mean > 88
    assert spread < 8


def test_each_epoch_of_a_growing_table_is_one_version(tmp_path, run_warm):
    printed = run_warm("growing.py", "--out", tmp_path)
    epochs = lines(tmp_path / "epochs.jsonl")
    versions = [epoch["version"] for epoch in epochs]
    assert versions == sorted(set(versions))
    for number, epoch in enumerate(epochs):
        assert sorted(epoch["ids"]) == list(range(300 * (number + 1)))
        assert epoch["ids"] != sorted(epoch["ids"])
    accuracies = [float(found) for found in re.findall(r"test accuracy ([\d.]+)%", printed)]
    assert len(accuracies) == 4
    assert accuracies[-1] > 80


@pytest.mark.soak
def test_a_mixture_goes_on_with_other_ranks_and_workers(tmp_path, run_warm):
    """Cut off on one rank, it ends on two with workers, with the steps of a run of one piece."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert "the rare class is learned: True" in run_warm("mixture.py", "--out", whole)
    run_warm("mixture.py", "--out", cut, "--stop-after", 40)
    said = run_warm("mixture.py", "--out", cut, "--workers", 1, ranks=2)
    assert "the rare class is learned: True" in said
    steps = [(folder / "steps.jsonl").read_text().splitlines() for folder in (whole, cut)]
    assert len(steps[0]) == 150
    assert steps[0] == steps[1]
