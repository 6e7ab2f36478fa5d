"""`lightgen export`: a student as a folder that diffusers loads, with its cards; optionally on the hub."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.checkpoint import Checkpoint, find_student
from flows.commands.cards import CardData, data_card, model_card
from flows.commands.licences import sources_of, student_licence
from flows.commands.lineage import Lineage, trace_lineage
from flows.errors import UserError
from flows.folders import is_exported, require_student, require_writable
from flows.terminal import stage_bar
from lightgen_core.encoders.model_ref import parse_model_ref

if TYPE_CHECKING:
    from lightgen_core.sampling.text_to_image import TextToImage

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def export(
    checkpoint: str | Path,
    folder: Path,
    store_uri: str | None = None,
    components: str = "auto",
    licence: str | None = None,
    push: str | None = None,
    private: bool = False,
) -> str:
    """Export a student; return where it is: the folder, or the page of the hub.

    Args:
        folder: written whole or not at all; an earlier export is replaced, anything else refused.
        components: frozen ones inside the folder: all, none, or auto: those that have no name on the hub.
        licence: identifier for the card; by default it follows from the sources.
        push: org/name of a model repository, made if it is not there. private: then so.

    Raises:
        UserError: no student, a folder that holds something else, or a hub that refuses.
    """
    if push and not REPOSITORY.fullmatch(push):
        raise UserError(f"--push {push!r}: expected ORG/NAME, such as someone/tiny-student")
    if folder.exists() and not is_exported(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} holds something else than an exported student; name an empty or a new folder")
    found = find_student(checkpoint, store_uri)
    require_student(found.folder)
    if is_exported(found.folder) and found.folder.resolve() == folder.resolve():
        raise UserError(f"{folder} is the student itself; name another folder")
    require_writable(folder.parent)
    partial = folder.parent / f".partial-{folder.name}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with stage_bar("export"):
            _write(found, partial, push or folder.name, components, licence)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _push(folder, push, private) if push else str(folder)


def _write(found: Checkpoint, folder: Path, name: str, components: str, licence: str | None) -> None:
    import torch

    from lightgen_core.model.save import StudentError
    from lightgen_core.sampling.load import load_text_to_image
    from lightgen_core.sampling.pipeline import LightGenPipeline

    try:
        model = load_text_to_image(found.folder, torch.device("cpu"))
    except StudentError as error:
        raise UserError(str(error)) from error
    inside = _inside(model, components)
    model.info = model.info.model_copy(update=_pinned(model, inside))
    LightGenPipeline.of(model, inside).save_pretrained(folder)
    data = _card_data(found, model, name, inside, licence)
    (folder / "README.md").write_text(model_card(data), encoding="utf-8")
    (folder / "DATA_CARD.md").write_text(data_card(data), encoding="utf-8")
    if data.lineage:
        (folder / "lineage.json").write_text(json.dumps(_record(data.lineage), indent=1) + "\n")
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.rglob("*"):  # some of the libraries' files are for this user alone
        file.chmod((0o777 if file.is_dir() else 0o666) & ~umask)


def _inside(model: "TextToImage", components: str) -> tuple[str, ...]:
    """Return the frozen components that go into the folder."""
    names = {"vae": model.info.codec, "text_encoder": model.info.text_encoder}
    if components == "auto":
        return tuple(part for part, name in names.items() if parse_model_ref(name).path is not None)
    if components == "none" and (own := [name for name in names.values() if parse_model_ref(name).path is not None]):
        raise UserError(
            f"--components none: {', '.join(own)} have no name on the hub: nobody else could load the model; use auto"
        )
    return tuple(names) if components == "all" else ()


def _pinned(model: "TextToImage", inside: tuple[str, ...]) -> dict[str, str]:
    """Return the names of components that stay outside, with the commit that this machine has of them."""
    pinned = {}
    for part, field in (("vae", "codec"), ("text_encoder", "text_encoder")):
        name = getattr(model.info, field)
        if part not in inside and not (ref := parse_model_ref(name)).pinned and (commit := ref.commit()):
            pinned[field] = f"{name.partition('@')[0]}@{commit}"
    return pinned


def _card_data(
    found: Checkpoint, model: "TextToImage", name: str, inside: tuple[str, ...], licence: str | None
) -> CardData:
    lineage = trace_lineage(found.artifact) if found.artifact else None
    info = model.info.model_dump(mode="json")
    sources, side = sources_of(lineage, info), model.codec.stride * model.info.patch
    return CardData(
        name=name,
        licence=licence or (student_licence(sources) if lineage else "other"),
        info=info,
        parameters=sum(weight.numel() for weight in model.student.parameters()),
        size=(model.info.grid[0] * side, model.info.grid[1] * side),
        inside=inside,
        sources=sources,
        lineage=lineage,
    )


def _record(lineage: Lineage) -> dict[str, Any]:
    """Return the manifests without their lists of files."""
    stages = {stage: manifest.model_dump(mode="json") for stage, manifest in lineage.manifests.items()}
    for manifest in stages.values():
        manifest.pop("files")
    return {"student": lineage.student, "lost": list(lineage.lost), "stages": stages}


def _push(folder: Path, repository: str, private: bool) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx

    api = HfApi()
    try:
        page = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="LightGen export")
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = "log in with `hf auth login`, or set HF_TOKEN" if status in (401, 403) else "try again later"
        raise UserError(f"the hub refuses {repository} with status {status}; {hint}. {folder} is complete") from error
    except (httpx.HTTPError, OSError) as error:
        raise UserError(f"the hub cannot be reached: {error}. {folder} is complete; push it again later") from error
    return str(page)
