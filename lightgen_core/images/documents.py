"""Rows of one JSON document: a list of objects, kohya's metadata, or COCO's captions."""

import json
from collections.abc import Sequence
from typing import Any, BinaryIO

from lightgen_core.images.sample import IMAGE_SUFFIXES, codec_of

_IMAGE_ENDS = tuple(f".{suffix}" for suffix in IMAGE_SUFFIXES)
_DOCUMENT_BYTES = 1 << 30
"""Longest JSON document; JSON lines may be of any length."""


def document_rows(file: BinaryIO) -> list[Any] | None:
    """Return the rows of a JSON document; None if it is none.

    Of kohya's tools, an object of one object for each image: its name becomes `file_name`. An object of a caption, or
    a list of captions, for each image: `file_name` and `caption`. Of COCO, `images` and `annotations`: a row for each
    image, with the list of its captions as `caption`.
    """
    data = file.read(_DOCUMENT_BYTES + 1)
    try:
        value = json.loads(data.decode(codec_of(data))) if len(data) <= _DOCUMENT_BYTES else None
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        images, annotations = value.get("images"), value.get("annotations")
        if isinstance(images, list) and isinstance(annotations, list):
            return _coco_rows(images, annotations)
        if value and all(isinstance(row, dict) for row in value.values()):
            return [{"file_name": name, **row} for name, row in value.items()]
        if value and all(name.lower().endswith(_IMAGE_ENDS) for name in value):
            return [{"file_name": name, "caption": caption} for name, caption in value.items()]
    return value if isinstance(value, list) else None


def _coco_rows(images: Sequence[Any], annotations: Sequence[Any]) -> list[Any]:
    """Return a row for each image, then those of captions whose image is not listed."""
    captions: dict[str, list[Any]] = {}
    others = []
    for annotation in annotations:
        if not isinstance(annotation, dict):
            others.append(annotation)
        elif "caption" in annotation:
            captions.setdefault(str(annotation.get("image_id")), []).append(annotation["caption"])
    rows: list[Any] = []
    for image in images:
        found = captions.pop(str(image["id"]), None) if isinstance(image, dict) and "id" in image else None
        rows.append({**image, "caption": found} if found else image)
    return [*rows, *({"image_id": image, "caption": texts} for image, texts in captions.items()), *others]
