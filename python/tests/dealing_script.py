# SPDX-License-Identifier: Apache-2.0
"""What each of two ranks runs under torchrun: loaders in the hands of Accelerate and Fabric."""

import json
import sys
from pathlib import Path

import lightning
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from torch.utils.data import DataLoader

OPTIONS = {"table_name": "points", "columns": ["id"], "format": "torch", "batch_size": 50}


def error_of(loader) -> str:
    try:
        next(iter(loader))
    except RuntimeError as error:
        return str(error)
    return "no error"


def ids(loader) -> list[int]:
    return [id for batch in loader for id in batch["id"].tolist()]


def main() -> None:
    uri, out = Path(sys.argv[1]), Path(sys.argv[2])
    accelerator = Accelerator(cpu=True)
    streamed = LanceIterableTorchDataset(uri=uri, shuffle=True, **OPTIONS)
    mapped = LanceTorchDataset(uri=uri, **OPTIONS)
    found = {}
    for name, dataset, shuffle in (("streamed", streamed, None), ("mapped", mapped, True)):
        loader = LanceDataLoader(dataset, shuffle=shuffle)
        found[f"{name} by accelerate"] = ids(accelerator.prepare(loader))
        found[f"{name} is left alone"] = accelerator.prepare(loader) is loader
        fabric = lightning.Fabric(accelerator="cpu", devices=2, strategy="ddp")
        fabric.launch()
        found[f"{name} by fabric"] = ids(fabric.setup_dataloaders(loader))
    plain = accelerator.prepare(DataLoader(streamed, batch_size=None))
    if accelerator.is_main_process:  # the only one that would read
        found["dispatched"] = error_of(plain)
    accelerator.wait_for_everyone()
    apart = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=False))
    found["sharded"] = error_of(apart.prepare(DataLoader(streamed, batch_size=None)))
    (out / f"{accelerator.process_index}.json").write_text(json.dumps(found))
    accelerator.end_training()


if __name__ == "__main__":
    main()
