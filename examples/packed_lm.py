# SPDX-License-Identifier: Apache-2.0
"""Train a small language model on the same documents padded and packed, and compare.

    python examples/packed_lm.py

The documents are docstrings of Python's standard library, their bytes the tokens. Padded, a
document is a row of a batch, as long as the longest; packed, rows have one length and are filled
with documents (``batching=Packing(...)``). Positions begin anew in each document, attention sees
its own document only, and no document's last token predicts the first one of the next: so each
document has the same loss either way, and an epoch takes fewer steps of as many places.
"""

from __future__ import annotations

import argparse
import ast
import os
from collections.abc import Iterator
from pathlib import Path

import lancedb
import pyarrow as pa
import torch
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset, Packing
from torch import nn

LENGTH = 256  # of a row, and all that is used of a document
PADDED, PACKED = 16, 16  # rows of a batch


def docstrings() -> Iterator[str]:
    """Those of some modules of Python's standard library, and of what is in them."""
    for path in sorted(Path(os.__file__).parent.glob("[a-b]*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = ast.get_docstring(node)
                if text:
                    yield text


def make_table(uri: Path) -> lancedb.table.Table:
    """A row for each document: its number, its tokens, and how many these are."""
    tokens = [list(text.encode()[:LENGTH]) for text in docstrings()]
    rows = pa.table(
        {
            "id": range(len(tokens)),
            "tokens": pa.array(tokens, pa.list_(pa.uint8())),
            "n": [len(each) for each in tokens],
        }
    )
    return lancedb.connect(uri).create_table("docstrings", rows, mode="overwrite")


def padded_loader(uri: Path) -> LanceDataLoader:
    """Documents as rows of one length, by which positions and documents are known."""

    def described(batch: dict) -> dict:
        is_token = torch.arange(LENGTH) < batch["tokens_length"][:, None]
        positions = torch.arange(LENGTH).expand_as(batch["tokens"])
        return {**batch, "position_ids": positions, "document_ids": is_token.long()}

    return loader(uri, ragged="pad", pad_to=[LENGTH], batch_size=PADDED, transform=described)


def packed_loader(uri: Path) -> LanceDataLoader:
    """Documents packed into rows of one length."""
    return loader(uri, batching=Packing(LENGTH, rows=PACKED, lengths="n"))


def loader(uri: Path, **options) -> LanceDataLoader:
    dataset = LanceIterableTorchDataset(
        uri=uri,
        table_name="docstrings",
        columns=["id", "tokens"],
        format="torch",
        shuffle=True,
        drop_last=False,
        **options,
    )
    return LanceDataLoader(dataset)


class LanguageModel(nn.Module):
    """A small transformer that says what the next token is, document by document."""

    def __init__(self, width: int = 32, heads: int = 2):
        super().__init__()
        self.heads = heads
        self.token = nn.Embedding(256, width)
        self.place = nn.Embedding(LENGTH, width)
        self.of_attention = nn.Linear(width, 3 * width)
        self.layer = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 64), nn.GELU())
        self.scores = nn.Linear(64, 256)

    def forward(self, batch: dict) -> torch.Tensor:
        inputs = self.token(batch["tokens"].long()) + self.place(batch["position_ids"])
        documents = batch["document_ids"]
        may_see = (documents[:, :, None] == documents[:, None, :]).tril()
        parts = self.of_attention(inputs).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(*parts, attn_mask=may_see[:, None])
        return self.scores(self.layer(inputs + seen.transpose(1, 2).flatten(2)))


def token_losses(model: nn.Module, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each token but the first of its document; and which of `id` that is of."""
    documents = batch["document_ids"]
    is_target = (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] > 0)
    scores = model(batch)[:, :-1][is_target]
    targets = batch["tokens"][:, 1:][is_target].long()
    before = documents.max(1).values.cumsum(0) - documents.max(1).values
    numbers = (documents + before[:, None] - 1)[:, 1:][is_target]
    return nn.functional.cross_entropy(scores, targets, reduction="none"), numbers


@torch.no_grad()
def document_losses(model: nn.Module, batches: LanceDataLoader) -> dict[int, float]:
    """The mean loss of each document of two tokens or more."""
    losses: dict[int, float] = {}
    for batch in batches:
        found, numbers = token_losses(model, batch)
        sums = torch.zeros(len(batch["id"])).index_add(0, numbers, found)
        counts = numbers.bincount(minlength=len(batch["id"]))
        means = zip(batch["id"].tolist(), (sums / counts).tolist(), strict=True)
        losses |= {each: mean for each, mean in means if mean == mean}  # NaN: no target
    return losses


def train(model: nn.Module, batches: LanceDataLoader) -> tuple[int, float]:
    """One epoch; how many steps that were, and the share of places that had a token."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    steps = used = places = 0
    for batch in batches:
        loss = token_losses(model, batch)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
        used += int((batch["document_ids"] > 0).sum())
        places += batch["tokens"].numel()
    return steps, used / places


def main() -> None:
    """Compare the two ways: before training by the loss of each document, then by an epoch."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for what is made")
    args = parser.parse_args()
    uri = args.out / "lancedb"
    make_table(uri)
    torch.manual_seed(0)
    model = LanguageModel()
    begin = {name: value.clone() for name, value in model.state_dict().items()}
    alone = document_losses(model, padded_loader(uri))
    together = document_losses(model, packed_loader(uri))
    assert alone.keys() == together.keys()
    furthest = max(abs(alone[each] - together[each]) for each in alone)
    print(f"{len(alone)} documents, whose losses differ by at most {furthest:.1e}")
    for name, make in (("padded", padded_loader), ("packed", packed_loader)):
        model.load_state_dict(begin)
        steps, used = train(model, make(uri))
        losses = document_losses(model, packed_loader(uri)).values()
        mean = sum(losses) / len(losses)
        print(f"{name}: {steps} steps, {used:.1%} of the places used, loss {mean:.2f} after them")


if __name__ == "__main__":
    main()
