"""tokens: kept pictures and captions -> pre-tokenized Parquet: latents, text states, words."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightgen_core.pictures import from_bytes
from storage.artifact import Artifact
from storage.tables import read_table, schema
from tasks.stage import Job, stage


@stage(
    version=1,
    reads=("tokens",),
    weights=lambda recipe: (recipe.tokens.codec, recipe.tokens.text_encoder),
    on_device=True,
)
def tokens(job: Job, synthesis: Artifact, dedup: Artifact) -> None:
    """Write `tokens-*.parquet`, one for each shard of pictures. A caption is encoded once in a shard."""
    from lightgen_core.codec import LatentCodec
    from lightgen_core.half import to_bytes
    from lightgen_core.text_encoder import TextEncoder

    asked = job.recipe.tokens
    codec = LatentCodec.load(asked.codec, device=job.device())
    text_encoder = TextEncoder.load(asked.text_encoder, max_length=asked.max_words, device=job.device())
    verdict = read_table(dedup, "^keep", ["id", "kept"])
    keep = pa.array(verdict["id"].to_pylist()).filter(verdict["kept"].combine_chunks())
    for name, shard in job.mirrored(synthesis, "^images", "tokens"):
        rows = shard.filter(pc.is_in(shard["id"], keep))
        captions, back = np.unique(rows["caption"].to_pylist(), return_inverse=True)
        states = text_encoder.encode(captions.tolist())
        text = [to_bytes(state, asked.dtype) for state in states]
        latents = [codec.encode(pictures) for pictures in _pictures(rows, asked.batch_size)]
        whole = np.concatenate(latents)
        about = {"dtype": asked.dtype, "text_width": text_encoder.width} | dict(
            zip(("channels", "height", "width"), whole.shape[1:], strict=True)
        )
        columns = {
            "id": rows["id"],
            "caption": rows["caption"],
            "topic": rows["topic"],
            "latents": [to_bytes(latent, asked.dtype) for latent in whole],
            "text": [text[i] for i in back],
            "words": [len(states[i]) for i in back],
        }
        kinds = {
            "id": pa.int64(),
            "caption": pa.string(),
            "topic": pa.string(),
            "latents": pa.binary(),
            "text": pa.binary(),
            "words": pa.int32(),
        }
        job.write_table(name, pa.table(columns, schema(kinds, about)), {"captions_encoded": len(captions)})


def _pictures(rows: pa.Table, batch_size: int) -> Iterator[np.ndarray]:
    """Yield decoded pictures (n, height, width, 3), a batch at a time."""
    encoded = rows["image"].combine_chunks().field("bytes").to_pylist()
    for start in range(0, len(encoded), batch_size):
        yield np.stack([from_bytes(data) for data in encoded[start : start + batch_size]])
