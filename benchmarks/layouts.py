"""The same random rows in the layouts that are compared, and a reader of each with its best settings."""

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset

from lightgen_core.data.batches import TokenSource, prefetch
from storage.tables import schema, to_parquet

BATCH, FILES, BUFFER = 256, 16, 1000
COLUMN_TYPES = {"id": pa.int64(), "latents": pa.binary(), "text": pa.binary(), "text_length": pa.int32()}


@dataclass(frozen=True)
class Size:
    """Latents of channels x side x side; text of `least` to `most` words of `text_width` values; half precision."""

    name: str
    side: int
    least: int
    most: int
    text_width: int
    channels: int = 16

    @property
    def metadata(self) -> dict[str, object]:
        """Return the metadata that the tokens stage writes."""
        return {
            "dtype": "float16",
            "channels": self.channels,
            "height": self.side,
            "width": self.side,
            "text_width": self.text_width,
        }


SIZES = {size.name: size for size in (Size("paper", 32, 8, 32, 1024), Size("demo", 6, 8, 20, 128))}


def write(folder: Path, size: Size, samples: int) -> int:
    """Write the same random rows in all layouts and return their bytes."""
    rng, total = np.random.default_rng(0), 0
    for layout in ("parquet", "npz", "tar"):
        (folder / layout).mkdir(parents=True)
    for shard, ids in enumerate(np.array_split(np.arange(samples), FILES)):
        lengths = rng.integers(size.least, size.most + 1, len(ids))
        latents = rng.standard_normal((len(ids), size.channels, size.side, size.side), np.float32).astype(np.float16)
        text = [rng.standard_normal((count, size.text_width), np.float32).astype(np.float16) for count in lengths]
        total += latents.nbytes + sum(states.nbytes for states in text)
        raw = [image.tobytes() for image in latents], [states.tobytes() for states in text]
        table = pa.table({"id": ids, "latents": raw[0], "text": raw[1], "text_length": lengths}).cast(
            schema(COLUMN_TYPES, size.metadata)
        )
        (folder / f"parquet/tokens-{shard:05d}.parquet").write_bytes(to_parquet(table))
        for index, number in enumerate(ids):
            np.savez(folder / f"npz/{number}-image.npz", moments=latents[index])
            np.savez(folder / f"npz/{number}-text.npz", text_emb=text[index])
        with tarfile.open(folder / f"tar/tokens-{shard:05d}.tar", "w") as tar:
            for number, image, states in zip(ids, *raw, strict=True):
                for name, data in ((f"{number}.latents", image), (f"{number}.text", states)):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return total


Batches = Iterable[tuple[np.ndarray, torch.Tensor, torch.Tensor, torch.Tensor]]
"""ids, latents or tokens, text, mask of every batch of a pass."""


def collate(size: Size, rows: list[tuple[int, np.ndarray, np.ndarray]]) -> tuple:
    """Collate rows into tensors."""
    lengths = np.array([len(text) for _, _, text in rows])
    text = np.zeros((len(rows), lengths.max(), size.text_width), np.float16)
    for index, (_, _, states) in enumerate(rows):
        text[index, : len(states)] = states
    mask = np.arange(lengths.max()) < lengths[:, None]
    latents = np.stack([image for _, image, _ in rows])
    return np.array([row[0] for row in rows]), *map(torch.from_numpy, (latents, text, mask))


def from_bytes(size: Size, number: int, latents: bytes, text: bytes) -> tuple[int, np.ndarray, np.ndarray]:
    """Parse a row from raw values."""
    shape = (size.channels, size.side, size.side)
    text_values = np.frombuffer(text, np.float16).reshape(-1, size.text_width)
    return number, np.frombuffer(latents, np.float16).reshape(shape), text_values


def ours(folder: Path, size: Size, samples: int, workers: int) -> Callable[[int], Batches]:
    """Our Parquet: the order is a permutation of all rows."""
    source = TokenSource(sorted((folder / "parquet").iterdir()), patch=2, batch_size=BATCH, seed=0)

    def batches(epoch: int) -> Iterator[tuple]:
        steps = range(epoch * (samples // BATCH), (epoch + 1) * (samples // BATCH))
        for batch in prefetch(source.batch, steps, depth=2) if workers else map(source.batch, steps):
            yield batch.ids, batch.tokens, batch.text, batch.text_mask

    return batches


class Released(Dataset):
    """Two npz files for each image, opened when asked for, as the released loader does."""

    def __init__(self, folder: Path, samples: int):
        self.folder, self.samples = folder / "npz", samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, number: int) -> tuple[int, np.ndarray, np.ndarray]:
        image = np.load(self.folder / f"{number}-image.npz")["moments"]
        return number, image, np.load(self.folder / f"{number}-text.npz")["text_emb"]


def released(folder: Path, size: Size, samples: int, workers: int) -> Callable[[int], Batches]:
    """npz files: the order is a permutation of all rows."""
    loader = DataLoader(
        Released(folder, samples),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=partial(collate, size),
    )
    return lambda _: loader


def webdataset(folder: Path, size: Size, samples: int, workers: int) -> Callable[[int], Batches]:
    """Tar files: shards in random order, rows through a buffer."""
    import webdataset as wds

    tars = [str(tar) for tar in sorted((folder / "tar").iterdir())]
    pipeline = (
        wds.WebDataset(tars, shardshuffle=len(tars), empty_check=False)
        .shuffle(BUFFER)
        .map(partial(_tar_row, size))
        .batched(BATCH, collation_fn=partial(collate, size), partial=False)
    )
    loader = DataLoader(pipeline, None, num_workers=workers, persistent_workers=workers > 0)
    return lambda _: loader


def _tar_row(size: Size, sample: dict) -> tuple[int, np.ndarray, np.ndarray]:
    return from_bytes(size, int(sample["__key__"]), sample["latents"], sample["text"])


def hugging_face(folder: Path, size: Size, samples: int, workers: int) -> Callable[[int], Batches]:
    """`datasets`, streaming our Parquet: shards in random order, rows through a buffer.

    One shard at a time fills the buffer and rows are taken from it by the batch: 20 times as fast as by default.
    """
    files = [str(file) for file in sorted((folder / "parquet").iterdir())]
    stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    stream = stream.shuffle(seed=0, buffer_size=BUFFER, max_buffer_input_shards=1)
    rows = partial(_stream_rows, size)
    batched = stream.batch(BATCH, drop_last_batch=True)
    loader = DataLoader(batched, None, num_workers=workers, persistent_workers=workers > 0, collate_fn=rows)

    def batches(epoch: int) -> Iterable:
        stream.set_epoch(epoch)
        batched.set_epoch(epoch)
        return loader if workers else map(rows, stream.iter(BATCH, drop_last_batch=True))

    return batches


def _stream_rows(size: Size, rows: dict[str, list]) -> tuple:
    columns = (rows[name] for name in ("id", "latents", "text"))
    return collate(size, [from_bytes(size, *row) for row in zip(*columns, strict=True)])


READERS: dict[str, tuple[Callable[[Path, Size, int, int], Callable[[int], Batches]], str]] = {
    "LightGen": (ours, "all rows"),
    "released: npz": (released, "all rows"),
    "WebDataset": (webdataset, f"buffer of {BUFFER}"),
    "HF datasets, streaming": (hugging_face, f"buffer of {BUFFER}"),
}
"""By name: makes a reader of a folder, size, number of samples and number of workers, which makes the batches of an
epoch; and what it shuffles."""
