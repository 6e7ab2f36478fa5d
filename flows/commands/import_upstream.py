"""`lightgen import-upstream`: convert the paper's released weights to a student checkpoint."""

import logging
from pathlib import Path
from typing import Literal

from flows.errors import UserError
from flows.folders import require_writable, student_config

log = logging.getLogger("lightgen")

PATCH = 2
"""Side of a token of the released models, in latents."""


def import_to_folder(
    file: Path,
    output: Path,
    weights: Literal["ema", "raw"] | None,
    num_heads: int | None,
    codec: str,
    text_encoder: str,
    max_text_tokens: int,
) -> Path:
    """Write a student checkpoint from a released file; return its folder.

    Raw and averaged weights are both imported if the file has both. `weights` selects one of them; that one, or the
    only one in the file, then serves as both.

    Raises:
        UserError: a file or tensor that does not fit, or a folder with other contents.
    """
    output = output.resolve()
    if output.is_dir() and any(output.iterdir()) and student_config(output) is None:
        raise UserError(f"{output} holds something else than a student; give a new folder, or an empty one")
    require_writable(output.parent)
    from lightgen_core.model.save import save_student
    from lightgen_core.model.upstream import UpstreamError, upstream_student
    from lightgen_core.model.upstream_file import read_kinds
    from lightgen_core.sampling.text_to_image import StudentInfo

    try:
        kinds = read_kinds(file)
        chosen = {kind: kinds[kind] for kind in ((weights,) if weights else ("raw", "ema")) if kind in kinds}
        if not chosen:
            raise UpstreamError(
                f"{file} holds no {weights or 'raw or ema'} weights; it has {', '.join(kinds) or 'none'}"
            )
        raw, ema = next(iter(chosen.values())), list(chosen.values())[-1]
        student = upstream_student(raw, num_heads)
        averaged = student if ema is raw else upstream_student(ema, num_heads)
    except UpstreamError as error:
        raise UserError(str(error) if str(file) in str(error) else f"{file}: {error}") from error
    mar = student.mar.config
    if mar.token_width % PATCH**2:
        raise UserError(
            f"{file}: z_proj.weight reads tokens of {mar.token_width} values: expected channels x {PATCH} x {PATCH}"
        )
    info = StudentInfo(
        codec=codec,
        text_encoder=text_encoder,
        max_text_tokens=max_text_tokens,
        patch=PATCH,
        channels=mar.token_width // PATCH**2,
        latent_height=PATCH * mar.position_grid,
        latent_width=PATCH * mar.position_grid,
    )
    save_student(output, student, averaged.state_dict(), info.model_dump(mode="json"))
    log.info(
        "%.1f M parameters, width %d, %d heads, %s weights; it reads %s with %d words and draws through %s",
        *(sum(weight.numel() for weight in student.parameters()) / 1e6, mar.width, mar.heads),
        *(" and ".join(chosen), text_encoder, max_text_tokens, codec),
    )
    return output
