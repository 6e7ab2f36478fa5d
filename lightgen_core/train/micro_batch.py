"""Rows of a step that pass through the model together: as many as fit the device, fewer after it ran out of memory."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightgen_core.config import FitConfig, LoopConfig, ParallelConfig
from lightgen_core.model.aligned import AlignedStudent
from lightgen_core.model.few_step import FewStepStudent
from lightgen_core.model.flops import few_step_head
from lightgen_core.model.mar import Student
from lightgen_core.model.memory import row_bytes, rows_that_fit, static_bytes, unsharded_gradient_bytes
from lightgen_core.train.parallel import DistributedState
from lightgen_core.train.step_noise import StepNoise

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MicroBatch:
    """Rows of a step, on the host, page-locked for a GPU; `weight` is their fraction of this process's rows."""

    row_offset: int
    weight: float
    batch: Any
    step_noise: StepNoise

    def pin_memory(self) -> "MicroBatch":
        """Copy to page-locked memory, from where a device reads without the host waiting."""
        return replace(self, batch=self.batch.pin_memory(), step_noise=self.step_noise.pin_memory())

    def to(self, device: torch.device) -> "MicroBatch":
        """Move to a device without waiting."""
        return replace(self, batch=self.batch.to(device), step_noise=self.step_noise.to(device))

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> "MicroBatch":
        """Return a copy with every tensor changed."""
        return replace(self, batch=self.batch.map_tensors(change), step_noise=self.step_noise.map_tensors(change))

    def halves(self) -> list["MicroBatch"]:
        """Cut into two of about half the rows each."""
        rows = len(self.batch.ids)
        middle = rows // 2
        return [
            MicroBatch(
                self.row_offset + start,
                self.weight * (stop - start) / rows,
                self.batch.rows(start, stop),
                self.step_noise.rows(start, stop),
            )
            for start, stop in ((0, middle), (middle, rows))
        ]


class MicroBatchSize:
    """Number of rows that pass through the model together.

    "auto": on a GPU as many as fit its memory by `model/memory.py`, all masked and with the set's longest text, as many
    in every process; on a CPU all. After `halve` never more than half of what ran out of memory.
    """

    def __init__(
        self, model: Any, config: FitConfig, parallel: ParallelConfig, ranks: DistributedState, device: torch.device
    ) -> None:
        self._model, self._config, self._parallel, self._ranks = model, config, parallel, ranks
        self._limit: int | None = None
        self._memory: int | None = None
        if parallel.micro_batch == "auto" and device.type == "cuda" and isinstance(model, Student | FewStepStudent):
            free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
            self._memory = min(ranks.gather(free))

    def of(self, rows: int, step: int, source: Any) -> int:
        """Return the size for a step of so many rows of this process."""
        size = rows if isinstance(self._parallel.micro_batch, str | None) else self._parallel.micro_batch
        if self._memory is not None and isinstance(self._config, LoopConfig):
            grid, text_tokens = source.largest(step)
            mar, model = self._model.mar.config, self._model
            head = few_step_head(model.head.sizes) if isinstance(model, FewStepStudent) else model.head.config
            projector = self._model.projector_config if isinstance(self._model, AlignedStudent) else None
            static = static_bytes(mar, head, self._config, projector)
            row = row_bytes(
                mar,
                head,
                self._config,
                tokens=grid[0] * grid[1],
                text_tokens=text_tokens,
                checkpointing=self._parallel.activation_checkpointing,
                projector=projector,
            )
            if self._parallel.parallel == "fsdp":
                static //= self._ranks.world_size
                if rows_that_fit(self._memory, static, row) < rows:
                    static += unsharded_gradient_bytes(mar, head)  # kept from one micro-batch to the next
            size = rows_that_fit(self._memory, static, row)
        return min(rows, size, self._limit or rows)

    def halve(self, parts: Sequence[MicroBatch]) -> list[MicroBatch] | None:
        """Return the parts of a step cut in halves, for it and all later steps; None where there is no smaller one.

        In several processes there is none: the others would wait for this one's gradients.
        """
        largest = max(len(part.batch.ids) for part in parts)
        if largest == 1 or self._ranks.world_size > 1:
            return None
        self._limit = (largest + 1) // 2
        logger.warning("out of memory at %d rows at once; going on with %d", largest, self._limit)
        return [half for part in parts for half in (part.halves() if len(part.batch.ids) > 1 else [part])]
