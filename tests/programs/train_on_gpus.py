"""Trains a tiny student as one of several processes: `python train_on_gpus.py FOLDER RANK PROCESSES cuda`, or cpu."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from tests.programs.train_as_rank import DDP, FSDP, fitted, in_parts

KINDS = ("ddpm", "muon")
LAYOUTS = {"ddp": DDP, "fsdp": FSDP}


def main(folder: Path, rank: int, processes: int, kind_of_device: str) -> None:
    """Train each kind in each layout, and one of them in parts; the first process writes the logs."""
    torch.set_num_threads(1)
    meet = {"init_method": f"file://{folder}/meet", "rank": rank, "world_size": processes}
    if kind_of_device == "cuda":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device, **meet)
    else:
        device = torch.device("cpu")
        dist.init_process_group("gloo", **meet)
    rows = {}
    for name, layout in LAYOUTS.items():
        for kind in KINDS:
            run = f"{name} {kind}"
            rows[run] = fitted(folder, folder / run, kind, layout, dropout=0.0, device=device).rows
        rows[f"{name} whole"] = fitted(folder, folder / f"{name} whole", "v", layout, device=device).rows
        rows[f"{name} parts"] = in_parts(folder, folder / f"{name} parts", "v", layout, device=device).rows
    if rank == 0:
        (folder / "rows.json").write_text(json.dumps(rows))
    dist.barrier()  # a process that leaves while another still works may abort it
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
