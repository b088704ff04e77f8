# SPDX-License-Identifier: Apache-2.0
"""Train a small language model on documents of different lengths, padded or packed.

    python examples/language_model.py
    python examples/language_model.py --packed

The documents are the docstrings of Python's standard library, their bytes the tokens: a row each,
a ``list<uint8>`` column. Two ways to make a batch of them:

- padded: a document is a row of the batch, filled up to the longest (``ragged="pad"``), with a mask
  that keeps padding out of attention and loss. Take it where a document is one example. Much of
  what is computed is padding: the loop says how much.
- packed: a `transform` puts the documents of a batch one after the other and cuts them into blocks
  of one length. Nearly nothing is padding, and every step has one shape but for the number of
  blocks. Take it for pretraining.

A packed batch has another number of rows than were read. That is allowed: epochs, steps and states
count documents, so every rank makes as many steps as the others, and resuming is exact. It also
says what a packing transform must not do: keep tokens for the next batch. That would be a state
that nobody saves, and one that differs with the number of workers. So the rest of a batch fills
its last block with padding, which is little where batches are large.
"""

from __future__ import annotations

import argparse
import ast
import os
import time
from collections.abc import Iterator
from pathlib import Path

import lancedb
import pyarrow as pa
import torch
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from torch import nn
from tqdm import tqdm

LONGEST = 256  # tokens of a document that are used, where it is padded
BLOCK = 128
PAD, END = 0, 255  # text has no byte 0, and UTF-8 no byte 255


def docstrings() -> Iterator[str]:
    """Those of the modules, classes and functions at the top of Python's standard library."""
    for path in sorted(Path(os.__file__).parent.glob("[a-h]*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = ast.get_docstring(node)
                if text:
                    yield text


def make_table(uri: Path) -> lancedb.table.Table:
    """A row for each document: its tokens, with an end-of-document token behind them."""
    tokens = [[*text.encode(), END] for text in docstrings()]
    rows = pa.table({"tokens": pa.array(tokens, pa.list_(pa.uint8()))})
    return lancedb.connect(uri).create_table("documents", rows, mode="overwrite")


def padded(batch: dict) -> dict:
    """Documents as rows, and which of their tokens are real."""
    tokens = batch["tokens"][:, :LONGEST].long()
    return {
        "tokens": tokens,
        "mask": torch.arange(tokens.shape[1]) < batch["tokens_length"][:, None],
    }


def packed(batch: dict) -> dict:
    """The documents of a batch one after the other, cut into blocks of one length.

    A token sees the document before its own, if that is in the same block, as is usual in
    pretraining; END tells the model where one ends. Nothing is left out.
    """
    tokens = batch["tokens"].values()
    tokens = nn.functional.pad(tokens, (0, -len(tokens) % BLOCK), value=PAD)
    tokens = tokens.reshape(-1, BLOCK).long()
    return {"tokens": tokens, "mask": tokens != PAD}


def make_loader(uri: Path, *, pack: bool) -> LanceDataLoader:
    """Batches of tokens and mask."""
    dataset = LanceIterableTorchDataset(
        uri=uri,
        table_name="documents",
        format="torch",
        ragged="jagged" if pack else "pad",
        transform=packed if pack else padded,
        batch_size=16,
        shuffle=True,
        seed=0,
    )
    return LanceDataLoader(dataset)


class LanguageModel(nn.Module):
    """A small transformer that says what the next token is."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.token = nn.Embedding(256, width)
        self.place = nn.Embedding(max(LONGEST, BLOCK), width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.scores = nn.Linear(width, 256)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        inputs = self.token(tokens) + self.place(torch.arange(length))
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        # True is what attention must not see: later tokens, and padding.
        return self.scores(self.layers(inputs, mask=future, src_key_padding_mask=~mask))


def loss_of(model: nn.Module, batch: dict) -> torch.Tensor:
    """The mean over real tokens only: padding is no target."""
    tokens, mask = batch["tokens"], batch["mask"]
    scores = model(tokens[:, :-1], mask[:, :-1])
    targets = tokens[:, 1:].masked_fill(~mask[:, 1:], -100)
    return nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=-100)


def train(model: nn.Module, loader: LanceDataLoader, steps: int) -> list[float]:
    """Train for some steps, with a progress bar; returns the loss of each."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses, real, computed, started = [], 0, 0, time.perf_counter()
    with tqdm(total=steps, unit="step") as bar:
        while len(losses) < steps:
            for _, batch in zip(range(steps - len(losses)), loader, strict=False):
                loss = loss_of(model, batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                real += int(batch["mask"].sum())
                computed += batch["mask"].numel()
                speed = real / (time.perf_counter() - started)
                bar.set_postfix(loss=f"{loss.item():.2f}", tokens_per_s=f"{speed:,.0f}")
                bar.update()
    print(f"padding: {1 - real / computed:.1%} of {computed} tokens")
    return losses


def main() -> None:
    """Make the table, and train on padded or packed batches of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for what is made")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--packed", action="store_true", help="pack documents into blocks")
    args = parser.parse_args()
    torch.manual_seed(0)
    make_table(args.out / "lancedb")
    loader = make_loader(args.out / "lancedb", pack=args.packed)
    losses = train(LanguageModel(), loader, args.steps)
    print(f"loss {losses[0]:.2f} at first, {sum(losses[-5:]) / 5:.2f} at last")


if __name__ == "__main__":
    main()
