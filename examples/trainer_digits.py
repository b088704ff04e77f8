# SPDX-License-Identifier: Apache-2.0
"""Train with `transformers.Trainer`, and resume from one of its checkpoints.

    python examples/trainer_digits.py --stop-after 40
    python examples/trainer_digits.py --resume

Give ``Trainer`` the map-style `LanceTorchDataset`: it makes the sampler, shards batches over
processes, and skips indices, not rows, when it resumes. Three arguments matter.
``default_collate`` takes the columns of a batch as they are, where Trainer's own collator would go
through them row by row; ``remove_unused_columns=False`` for the same reason (read only what is
needed by ``columns=``); and ``data_seed`` must be set, as the order of a resumed run follows from
it. ``rows.jsonl`` has the ids of every step.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from digits import make_model, make_table
from lancedb.integrations.torch import LanceTorchDataset
from torch import nn
from torch.utils.data import default_collate
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint


class Classifier(nn.Module):
    """The CNN as Trainer wants it: named columns in, loss and scores out."""

    def __init__(self, rows: Path):
        super().__init__()
        self.model = make_model()
        self.rows = rows

    def forward(self, id: torch.Tensor, image: torch.Tensor, label: torch.Tensor) -> dict:
        with open(self.rows, "a") as file:
            file.write(json.dumps(id.tolist()) + "\n")
        scores = self.model(image[:, None])
        return {"loss": nn.functional.cross_entropy(scores, label), "logits": scores}


class StopAfter(TrainerCallback):
    """Saves a checkpoint at a step and ends the run there."""

    def __init__(self, step: int | None):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def main() -> None:
    """Train, and save a checkpoint at the end of each epoch or where it is told to stop."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for what is made")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--stop-after", type=int, help="step to save and stop at")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    args = parser.parse_args()
    set_seed(0)
    uri, checkpoints = args.out / "lancedb", args.out / "trainer"
    if not args.resume:
        make_table(uri)
    dataset = LanceTorchDataset(
        uri=uri, table_name="digits", columns=["id", "image", "label"], format="torch"
    )
    settings = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=64,
        learning_rate=3e-3,
        save_strategy="epoch",
        remove_unused_columns=False,
        seed=0,
        data_seed=0,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        Classifier(args.out / "rows.jsonl"),
        settings,
        train_dataset=dataset,
        data_collator=default_collate,
        callbacks=[StopAfter(args.stop_after)],
    )
    trainer.train(
        resume_from_checkpoint=get_last_checkpoint(str(checkpoints)) if args.resume else None
    )
    trainer.save_model(str(args.out / "trained"))


if __name__ == "__main__":
    main()
