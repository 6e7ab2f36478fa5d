"""One small set of images with captions in every form in which people keep them."""

import base64
import csv
import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Image

from tests.factories.hostile_images import encoded_image

CAPTIONS = ("a red boat", "two dogs, one asleep", "ein süßer Hund")
"""The captions of the set, in its order."""


def images() -> list[bytes]:
    """Return the encoded images of the set, of two sizes."""
    rng = random.Random(7)
    return [encoded_image(rng, "PNG", size) for size in ((48, 48), (64, 40), (48, 48))]


def _write(folder: Path) -> list[str]:
    """Write the images below a folder; return their names."""
    names = ["0.png", "sub dir/1.PNG", "sub dir/2.png"]
    for name, data in zip(names, images(), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return names


def _sidecars(suffix: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for name, caption in zip(_write(root), CAPTIONS, strict=True):
            text = json.dumps({"caption": caption}) if suffix == ".json" else caption
            (root / name).with_suffix(suffix).write_text(text)

    return write


def _metadata_jsonl(root: Path) -> None:
    rows = zip(_write(root), CAPTIONS, strict=True)
    (root / "metadata.jsonl").write_text("".join(json.dumps({"file_name": n, "text": c}) + "\n" for n, c in rows))


def _metadata_csv(root: Path) -> None:
    """As Excel writes it: with a byte order mark."""
    with (root / "metadata.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([("file_name", "text"), *zip(_write(root), CAPTIONS, strict=True)])


def _metadata_parquet(root: Path) -> None:
    pq.write_table(pa.table({"file_name": _write(root), "text": CAPTIONS}), root / "metadata.parquet")


def _tar(root: Path) -> None:
    with tarfile.open(root / "0.tar", "w") as tar:
        for number, (data, caption) in enumerate(zip(images(), CAPTIONS, strict=True)):
            for suffix, content in (("png", data), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"a.b/{number}.v1.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _table(embedded: bool = True, folder: Path | None = None) -> pa.Table:
    names = _write(folder) if folder else [None] * 3
    values = [{"bytes": data if embedded else None, "path": name} for data, name in zip(images(), names, strict=True)]
    return pa.table({"image": values, "text": CAPTIONS})


def _parquet(root: Path) -> None:
    pq.write_table(_table(), root / "a.parquet", row_group_size=2)


def _parquet_bytes(root: Path) -> None:
    """As img2dataset writes it."""
    columns = {"url": ["u"] * 3, "caption": CAPTIONS, "key": ["0"] * 3, "jpg": pa.array(images(), pa.binary())}
    pq.write_table(pa.table(columns), root / "00000.parquet")


def _parquet_paths(root: Path) -> None:
    pq.write_table(_table(embedded=False, folder=root), root / "a.parquet")


def _json_paths(root: Path) -> None:
    rows = zip(_write(root), CAPTIONS, strict=True)
    (root / "train.jsonl").write_text("".join(json.dumps({"image": n, "caption": c}) + "\n" for n, c in rows))


def _json_list(root: Path) -> None:
    """As LLaVA's sets and many annotation tools have it."""
    rows = [{"image": name, "caption": caption} for name, caption in zip(_write(root), CAPTIONS, strict=True)]
    (root / "data.json").write_text(json.dumps(rows, indent=1))


def _kohya(root: Path) -> None:
    """As kohya's merge_captions_to_metadata.py writes it: absolute paths of images."""
    rows = {f"/home/me/{name}": {"caption": caption} for name, caption in zip(_write(root), CAPTIONS, strict=True)}
    (root / "meta_cap.json").write_text(json.dumps(rows, indent=2))


def _coco(root: Path) -> None:
    """As COCO's captions_val2017.json, with two captions of each image."""
    names = _write(root)
    listed = [{"id": 10 + number, "file_name": name, "license": 3} for number, name in enumerate(names)]
    texts = [{"image_id": 10 + number, "caption": text} for number, text in enumerate(CAPTIONS)]
    further = [text | {"caption": "something else"} for text in reversed(texts)]
    document = {"info": {}, "licenses": [], "images": listed, "annotations": texts + further}
    (root / "captions.json").write_text(json.dumps(document))


def _json_base64(pack: Callable[[bytes], bytes], suffix: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        lines = (
            json.dumps({"image": base64.b64encode(data).decode(), "caption": caption}, ensure_ascii=False)
            for data, caption in zip(images(), CAPTIONS, strict=True)
        )
        (root / f"a.jsonl{suffix}").write_bytes(pack("\n".join(lines).encode()))

    return write


def zstd(data: bytes) -> bytes:
    """Pack as Zstandard."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def _csv(root: Path) -> None:
    with (root / "captions.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([("Image", "Prompt"), *zip(_write(root), CAPTIONS, strict=True)])


def _dataset() -> Dataset:
    return Dataset(_table()).cast_column("image", Image())


def _saved(root: Path) -> None:
    _dataset().save_to_disk(str(root))


def _saved_splits(root: Path) -> None:
    DatasetDict(train=_dataset(), test=_dataset().select([0])).save_to_disk(str(root))


def _hub(root: Path) -> None:
    """As push_to_hub writes it."""
    (root / "data").mkdir()
    pq.write_table(_table(), root / "data" / "train-00000-of-00001.parquet")
    pq.write_table(_table().slice(0, 1), root / "data" / "test-00000-of-00001.parquet")
    files = [{"split": split, "path": f"data/{split}-*"} for split in ("train", "test")]
    card = json.dumps({"configs": [{"config_name": "default", "data_files": files}]})
    (root / "README.md").write_text(f"---\n{card}\n---\n# A set\n")


FORMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "txt beside images": (_sidecars(".txt"), "folder"),
    "caption beside images": (_sidecars(".caption"), "folder"),
    "json beside images": (_sidecars(".json"), "folder"),
    "metadata.jsonl": (_metadata_jsonl, "folder"),
    "metadata.csv": (_metadata_csv, "folder"),
    "metadata.parquet": (_metadata_parquet, "folder"),
    "tar": (_tar, "webdataset"),
    "parquet": (_parquet, "parquet"),
    "parquet of bytes": (_parquet_bytes, "parquet"),
    "parquet of paths": (_parquet_paths, "parquet"),
    "jsonl of paths": (_json_paths, "jsonl"),
    "jsonl of base64": (_json_base64(bytes, ""), "jsonl"),
    "jsonl.gz": (_json_base64(gzip.compress, ".gz"), "jsonl"),
    "jsonl.zst": (_json_base64(zstd, ".zst"), "jsonl"),
    "jsonl in UTF-16": (_json_base64(lambda data: data.decode().encode("utf-16"), ""), "jsonl"),
    "json list": (_json_list, "jsonl"),
    "json of kohya": (_kohya, "jsonl"),
    "json of COCO": (_coco, "jsonl"),
    "csv": (_csv, "csv"),
    "save_to_disk": (_saved, "arrow"),
    "save_to_disk with splits": (_saved_splits, "arrow"),
    "hub layout": (_hub, "parquet"),
}
"""Writer of a form into an empty folder, and the name by which the form is found."""


def write_form(form: str, root: Path) -> Path:
    """Write the set in a form; return its folder."""
    root.mkdir(parents=True, exist_ok=True)
    FORMS[form][0](root)
    return root
