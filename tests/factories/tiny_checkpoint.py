"""An untrained student of the scene world's geometry, as a folder that every command can load."""

from pathlib import Path
from typing import Any

from lightgen_core.config import HeadConfig, MarConfig, SamplerConfig
from lightgen_core.model.mar import new_student
from lightgen_core.model.save import save_student
from lightgen_core.sampling.text_to_image import StudentInfo


def save_tiny_checkpoint(folder: Path, **components: Any) -> Path:
    """Write a student of 3 x 3 tokens of 16 px, with other fields of its components; return its folder."""
    sizes = {"token_width": 64, "text_width": 128, "width": 32, "heads": 2, "position_grid": 3}
    depths = {"aligner_depth": 1, "encoder_depth": 1, "decoder_depth": 1, "text_depth": 1}
    made = new_student(MarConfig(**sizes, **depths), HeadConfig(width=32, depth=1, objective="v"), seed=0)
    frozen = {"codec": "zoo:autoencoder", "text_encoder": "zoo:t5", "max_text_tokens": 16} | components
    sampler = SamplerConfig(iterations=3, head_steps=3, head_sampler="ddim")
    info = StudentInfo(**frozen, patch=2, channels=16, latent_height=6, latent_width=6, sampler=sampler)
    save_student(folder, made, made.state_dict(), info.model_dump(mode="json"))
    return folder
