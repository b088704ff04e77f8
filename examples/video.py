# SPDX-License-Identifier: Apache-2.0
"""Train on clips of videos that are blobs, without reading whole videos.

    python examples/video.py

With ``blobs="file"`` each video of a batch is a file that is opened when it is read. `clips` takes
two frames out of each: it reads where the frames are, and then these two. What is fetched is a few
per cent of the videos, and the example says how much.

The videos are made here: a disc that moves to the left or to the right over a noisy background, as
AVI files of JPEG frames, so that Pillow can decode them. PyAV (``av.open(file)``) and torchcodec
(``VideoDecoder(file)``) take such files as well, for other codecs.
"""

from __future__ import annotations

import argparse
import io
import random
import struct
from pathlib import Path
from typing import BinaryIO

import lancedb
import numpy as np
import pyarrow as pa
import torch
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from lancedb.schema import blob
from PIL import Image
from torch import nn

SIDE, FRAMES, APART = 48, 60, 4


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a RIFF file."""
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def write_avi(frames: list[np.ndarray], rate: int = 30) -> bytes:
    """Frames of uint8 pixels as an AVI file of JPEGs, with its index at the end."""
    movie, index = b"movi", b""
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG")
        index += struct.pack("<4sIII", b"00dc", 16, len(movie), file.tell())
        movie += chunk(b"00dc", file.getvalue())
    height, width = frames[0].shape[:2]
    shape = struct.pack(
        "<14I", 10**6 // rate, 0, 0, 16, len(frames), 0, 1, 0, width, height, *[0] * 4
    )
    stream = struct.pack(
        "<4s4s10I4H", b"vids", b"MJPG", *[0] * 4, 1, rate, 0, len(frames), 0, 0, *[0] * 4
    )
    pixels = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", 0, 0, 0, 0, 0)
    streams = chunk(b"LIST", b"strl" + chunk(b"strh", stream) + chunk(b"strf", pixels))
    header = chunk(b"LIST", b"hdrl" + chunk(b"avih", shape) + streams)
    parts = header + chunk(b"LIST", movie) + chunk(b"idx1", index)
    return chunk(b"RIFF", b"AVI " + parts)


class Video:
    """Single frames of an AVI file of JPEGs: the index is read, then what is asked for.

    Parameters
    ----------
    file : binary file
        That can be sought.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        place = 12
        while True:
            file.seek(place)
            name, size, kind = struct.unpack("<4sI4s", file.read(12))
            if kind == b"movi":
                self._movie = place + 8
            if name == b"idx1":
                break
            place += 8 + size + size % 2
        file.seek(place + 8)
        self._index = np.frombuffer(file.read(size), "<u4").reshape(-1, 4)[:, 2:]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, number: int) -> np.ndarray:
        offset, size = self._index[number].tolist()
        self._file.seek(self._movie + offset + 8)
        return np.asarray(Image.open(io.BytesIO(self._file.read(size))))


def make_table(uri: Path, videos: int) -> lancedb.table.Table:
    """Videos as blobs, with the direction in which their disc moves."""
    numbers = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]

    def rows():
        for label in range(videos):
            start, height = numbers.uniform(0, SIDE), numbers.uniform(8, SIDE - 8)
            noise = numbers.integers(0, 90, (SIDE, SIDE))
            frames = []
            for time in range(FRAMES):
                centre = (start + (1 if label % 2 else -1) * time) % SIDE
                disc = (x - centre) ** 2 + (y - height) ** 2 < 36
                frames.append(np.where(disc, 255, noise).astype(np.uint8))
            yield {"label": label % 2, "video": write_avi(frames)}

    schema = pa.schema([pa.field("label", pa.int64()), blob("video")])
    table = lancedb.connect(uri).create_table("videos", schema=schema, mode="overwrite")
    table.add(list(rows()))
    return table


def clips(batch: dict) -> dict:
    """Two frames of each video, from anywhere in it, and how many bytes that took."""
    pixels = []
    for file in batch["video"]:
        video = Video(file)
        start = random.randrange(len(video) - APART)
        pixels.append(np.stack([video[start], video[start + APART]]))
    return {
        "clip": torch.from_numpy(np.stack(pixels)),
        "label": batch["label"],
        "read": sum(file.bytes_read for file in batch["video"]),
        "size": sum(file.size for file in batch["video"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("video-out"))
    parser.add_argument("--videos", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(0)
    random.seed(0)
    table = make_table(options.out / "lancedb", options.videos)
    dataset = LanceIterableTorchDataset(
        table, blobs="file", format="torch", transform=clips, shuffle=True, batch_size=32
    )
    loader = LanceDataLoader(dataset, num_workers=options.workers)
    model = nn.Sequential(
        nn.Conv2d(2, 16, 9, stride=2),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for epoch in range(options.epochs):
        right = rows = read = size = 0
        for batch in loader:
            scores = model(batch["clip"].float() / 255)
            loss = nn.functional.cross_entropy(scores, batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            right += int((scores.argmax(1) == batch["label"]).sum())
            rows += len(batch["label"])
            read, size = read + batch["read"], size + batch["size"]
        print(
            f"epoch {epoch}: {right / rows:.0%} of the directions right; read {read:,} of "
            f"{size:,} bytes ({read / size:.1%})"
        )


if __name__ == "__main__":
    main()
