"""The folder of an evaluation: images as GenEval's scripts read them, and a verdict for each.

    evaluation.json              what decides the images, and who judged them
    results.jsonl                a line for each image: file, category, prompt, verdict, seed
    00012/metadata.jsonl         prompt 12, in GenEval's form
    00012/samples/0003.png       its image 3
    scores.json, scores.md       the result, as JSON and as tables

A line is written after its image, so what a killed evaluation leaves is whole.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flows.errors import UserError
from lightgen_core.images.codec import decode_image, encode_png

ABOUT, RESULTS = "evaluation.json", "results.jsonl"
_ROW = frozenset({"filename", "tag", "prompt", "seed", "reason"})
"""Fields of a line that are no verdict."""


class KeptImages:
    """Images and verdicts of an evaluation, found by the seed of each."""

    def __init__(self, folder: Path, images: Mapping[str, Any], judge: Mapping[str, Any]) -> None:
        """Open a folder, or begin one.

        Args:
            images: what decides them; another one means another folder.
            judge: who judges; another one means that the images are judged again.

        Raises:
            UserError: the folder holds another evaluation.
        """
        self.folder = folder
        self._rows: dict[int, dict[str, Any]] = {}
        about = json.loads(json.dumps({"pictures": images, "judge": judge}))
        earlier = self._earlier()
        if earlier is not None:
            self._require_same(earlier["pictures"], about["pictures"])
            self._read(judged=earlier["judge"] == about["judge"])
        (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n")

    def has(self, seed: int, caption: str) -> bool:
        """Return whether an image, or the reason for having none, is kept."""
        row = self._rows.get(seed)
        if row is None or row["prompt"] != caption:
            return False
        return row["filename"] is None or (self.folder / row["filename"]).is_file()

    def verdict(self, seed: int) -> dict[str, Any] | None:
        """Return a kept image's verdict, or None if it has to be judged."""
        row = {name: value for name, value in self._rows[seed].items() if name not in _ROW}
        return row or None

    def image(self, seed: int) -> np.ndarray | None:
        """Return a kept image, uint8 (height, width, 3); None if the source withheld it."""
        name = self._rows[seed]["filename"]
        return decode_image((self.folder / name).read_bytes()) if name else None

    def path(self, seed: int) -> str | None:
        """Return the file of a kept image, below the folder."""
        return self._rows[seed]["filename"]

    def write_prompt(self, prompt: int, metadata: Mapping[str, Any]) -> None:
        """Write a prompt's metadata once."""
        path = self.folder / f"{prompt:05d}" / "metadata.jsonl"
        if not path.is_file():
            (path.parent / "samples").mkdir(parents=True, exist_ok=True)
            _replace(path, (json.dumps(metadata) + "\n").encode())

    def add(self, prompt: int, number: int, image: np.ndarray, row: Mapping[str, Any]) -> None:
        """Keep an image and its row."""
        name = f"{prompt:05d}/samples/{number:04d}.png"
        _replace(self.folder / name, encode_png(image))
        self.add_row({"filename": name, **row})

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Keep the row of an image that is kept, or of one that the source withheld."""
        self._rows[row["seed"]] = dict(row)
        with (self.folder / RESULTS).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def judge(self, seed: int, verdict: Mapping[str, Any]) -> None:
        """Replace the verdict of a kept image."""
        row = self._rows[seed]
        ends = {name: value for name, value in row.items() if name in ("seed", "reason")}
        self.add_row({name: row[name] for name in ("filename", "tag", "prompt")} | dict(verdict) | ends)

    def finish(self, seeds: list[int]) -> None:
        """Write the results in the order of their images, each once."""
        lines = "".join(json.dumps(self._rows[seed]) + "\n" for seed in seeds)
        _replace(self.folder / RESULTS, lines.encode())

    def _earlier(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.folder / ABOUT).read_text())
        except FileNotFoundError:
            if not (self.folder / RESULTS).is_file():
                return None
            raise UserError(
                f"{self.folder} holds {RESULTS} without {ABOUT}, so of an evaluation that is not known; -o names "
                "another folder"
            ) from None
        except ValueError as error:
            raise UserError(f"{self.folder / ABOUT} is damaged ({error}); -o names another folder") from error

    def _require_same(self, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        names = [name for name in {**earlier, **now} if earlier.get(name) != now.get(name)]
        if names:
            name = names[0]
            raise UserError(
                f"{self.folder} holds images of another evaluation; {', '.join(names)} differ ({name}: "
                f"{str(earlier.get(name))[:80]} there, {str(now.get(name))[:80]} now). -o names another folder"
            )

    def _read(self, judged: bool) -> None:
        """Read the whole lines of the results; without their verdicts if somebody else judged."""
        path = self.folder / RESULTS
        text = path.read_text() if path.is_file() else ""
        for line in text.splitlines(keepends=True):
            if line.endswith("\n"):  # the last one of a killed evaluation may be cut
                row = json.loads(line)
                kept = row if judged else {name: value for name, value in row.items() if name in _ROW}
                self._rows[row["seed"]] = kept
        if text and not text.endswith("\n"):
            _replace(path, text[: text.rfind("\n") + 1].encode())


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)
