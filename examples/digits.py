# SPDX-License-Identifier: Apache-2.0
"""Train a small CNN on handwritten digits that live in an embedded LanceDB table."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import lancedb
import pyarrow as pa
import torch
from lancedb.integrations.torch import LanceTorchDataset
from lancedb.permutation import permutation_builder
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm


def read_digits() -> pa.Table:
    """The 1,797 digits that ship with scikit-learn: id, 8x8 image, label."""
    digits = load_digits()
    pixels = pa.array((digits.images / 16).astype("float32").ravel())
    images = pa.FixedSizeListArray.from_arrays(pa.FixedSizeListArray.from_arrays(pixels, 8), 8)
    return pa.table({"id": range(len(images)), "image": images, "label": digits.target})


def make_table(uri: Path) -> lancedb.table.Table:
    """The digits in a table of an embedded LanceDB."""
    return lancedb.connect(uri).create_table("digits", read_digits(), mode="overwrite")


def make_model() -> nn.Module:
    """Two convolutions and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 2 * 2, 10),
    )  # fmt: skip


def train(model: nn.Module, loader: DataLoader, epochs: int) -> list[float]:
    """Train with a progress bar; returns the loss of every step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses, rows, started = [], 0, time.perf_counter()
    with tqdm(total=epochs * len(loader), unit="step") as bar:
        for epoch in range(epochs):
            for batch in loader:
                loss = nn.functional.cross_entropy(model(batch["image"][:, None]), batch["label"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                rows += len(batch["label"])
                speed = rows / (time.perf_counter() - started)
                bar.set_description(f"epoch {epoch + 1}/{epochs}")
                bar.set_postfix(loss=f"{loss.item():.3f}", rows_per_s=f"{speed:,.0f}")
                bar.update()
    return losses


@torch.no_grad()
def predict(model: nn.Module, dataset: LanceTorchDataset) -> tuple[dict, torch.Tensor]:
    """All rows of a small dataset in one batch, and the model's predictions for them."""
    batch = next(iter(DataLoader(dataset, batch_size=len(dataset))))
    return batch, model.eval()(batch["image"][:, None]).argmax(1)


def plot(losses: list[float], batch: dict, predicted: torch.Tensor, path: Path) -> None:
    """The learning curve beside a grid of test digits with their predictions."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(10, 5), layout="constrained")
    left, right = figure.subfigures(1, 2)
    curve = left.subplots()
    curve.semilogy(losses)
    curve.set(title="Learning curve", xlabel="step", ylabel="cross-entropy loss")
    right.suptitle("Test digits: predicted label (red = wrong)")
    for axis, image, label, guess in zip(
        right.subplots(5, 6).flat, batch["image"], batch["label"], predicted, strict=False
    ):
        axis.imshow(image, cmap="gray_r")
        axis.set_title(int(guess), color="black" if guess == label else "red", fontsize=9)
        axis.axis("off")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Make the table and its splits, train through worker processes, test, and plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for what is made")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(0)

    table = make_table(args.out / "lancedb")
    splits = (
        permutation_builder(table)
        .split_random(ratios=[0.8, 0.2], seed=0, split_names=["train", "test"])
        .execute()
    )
    train_set = LanceTorchDataset(table, permutation_table=splits, split="train", format="torch")
    test_set = LanceTorchDataset(table, permutation_table=splits, split="test", format="torch")
    print(train_set, test_set, sep="\n")

    loader = DataLoader(
        train_set,
        batch_size=64,
        shuffle=True,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        multiprocessing_context="spawn" if args.workers else None,
    )
    model = make_model()
    losses = train(model, loader, args.epochs)

    batch, predicted = predict(model, test_set)
    accuracy = (predicted == batch["label"]).float().mean().item()
    plot(losses, batch, predicted, args.out / "digits.png")
    print(f"test accuracy {accuracy:.1%} on {len(test_set)} digits; see {args.out / 'digits.png'}")


if __name__ == "__main__":
    main()
