# SPDX-License-Identifier: Apache-2.0
"""Train a CNN on JPEG images that are a binary column, decoded while it trains.

    python examples/images.py

A JPEG is a fraction of its pixels, so it is the JPEG that is stored and read. `decode` makes pixels
of a whole batch. It runs in threads beside the training step (``transform_threads``), as Pillow
lets go of Python's lock while it decodes: no worker process is needed. Pixels stay uint8 until they
are on the device, where making floats of them and normalising costs next to nothing: as float32
they would be four times as many bytes to keep, to hand over and to copy.

Images that are trained on are augmented: mirrored, shifted and made lighter or darker by random
numbers that the transform's context has for each row. A row has the same ones in whatever thread,
worker or rank it is decoded, and after every resume, and others in the next epoch.

The images are crops of the two photographs that ship with scikit-learn, and the task is to tell
which photograph a crop is of. Crops from the right of the photographs are kept for the test, and
share no pixel with those from the left.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import torch
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    TransformContext,
)
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn
from tqdm import tqdm

SIDE = 64
SPLIT = 400  # pixels left of it are for training
MEAN, STD = 0.45, 0.25


def make_table(uri: Path, crops: int = 700) -> lancedb.table.Table:
    """Random crops of each photograph as JPEG bytes, where they are from, and their label."""
    random = np.random.default_rng(0)
    rows = []
    for label, photograph in enumerate(load_sample_images().images):
        height, width, _ = photograph.shape
        for _ in range(crops):
            top = int(random.integers(height - SIDE))
            left = int(random.integers(width - SIDE))
            file = io.BytesIO()
            Image.fromarray(photograph[top : top + SIDE, left : left + SIDE]).save(file, "JPEG")
            rows.append({"jpeg": file.getvalue(), "left": left, "label": label})
    schema = pa.schema({"jpeg": pa.binary(), "left": pa.int64(), "label": pa.int64()})
    table = pa.Table.from_pylist(rows, schema=schema)
    return lancedb.connect(uri).create_table("crops", table, mode="overwrite")


def decode(batch: dict) -> dict:
    """Pixels for the bytes of a batch: uint8, channels first.

    It is defined at the top of a module, so that worker processes can import it, too.
    """
    images = [np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in batch["jpeg"]]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return {"image": pixels.contiguous(), "label": batch["label"]}


def augment(batch: dict, context: TransformContext) -> dict:
    """Decoded images, each mirrored, shifted by up to 4 pixels, and lighter or darker by chance."""
    batch = decode(batch)
    images = batch["image"].numpy()
    mirrored = context.random() < 0.5
    images[mirrored] = images[mirrored, :, :, ::-1]
    shifts = context.integers(-4, 5, 2)
    light = context.integers(-20, 21)
    for number, (down, right) in enumerate(shifts):
        images[number] = np.roll(images[number], (down, right), axis=(1, 2))
    lit = images.astype(np.int16) + light[:, None, None, None].astype(np.int16)
    return {**batch, "image": torch.from_numpy(lit.clip(0, 255).astype(np.uint8))}


def make_loader(uri: Path, filter: str, *, shuffle: bool = False) -> LanceDataLoader:
    """Batches of decoded images of some of the rows; only what is trained on is read."""
    dataset = LanceIterableTorchDataset(
        uri=uri,
        table_name="crops",
        columns=["jpeg", "label"],
        filter=filter,
        format="torch",
        transform=augment if shuffle else decode,
        transform_threads=2,
        batch_size=64,
        shuffle=shuffle,
        drop_last=shuffle,
        seed=0,
    )
    return LanceDataLoader(dataset, pin_memory=torch.cuda.is_available())


def normalised(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Bytes to the device first, floats there."""
    return images.to(device, non_blocking=True).float().div_(255).sub_(MEAN).div_(STD)


def make_model() -> nn.Module:
    """Three convolutions, and the mean over the image."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2),
    )  # fmt: skip


def train(model: nn.Module, loader: LanceDataLoader, epochs: int, device: torch.device) -> None:
    """Train with a progress bar, which also says how long the model waited for images."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with tqdm(total=epochs * len(loader), unit="step") as bar:
        for _ in loader.epochs(epochs):
            for batch in loader:
                scores = model(normalised(batch["image"], device))
                loss = nn.functional.cross_entropy(scores, batch["label"].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                bar.set_postfix(loss=f"{loss.item():.3f}", **loader.postfix())
                bar.update()


@torch.no_grad()
def accuracy(model: nn.Module, loader: LanceDataLoader, device: torch.device) -> float:
    """The share of images that are told rightly."""
    model.eval()
    right = [
        model(normalised(batch["image"], device)).argmax(1).cpu() == batch["label"]
        for batch in loader
    ]
    return torch.cat(right).float().mean().item()


def main() -> None:
    """Make the table, train on the left of the photographs, and test on the right."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for what is made")
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    uri = args.out / "lancedb"
    make_table(uri)
    model = make_model().to(device)
    train(model, make_loader(uri, f'"left" <= {SPLIT - SIDE}', shuffle=True), args.epochs, device)
    test = make_loader(uri, f'"left" >= {SPLIT}')
    print(f"accuracy {accuracy(model, test, device):.1%} on {test.dataset.num_rows} other crops")


if __name__ == "__main__":
    main()
