"""Check the heads of a recipe's filters: are their files there, and do they fit the embeddings."""

from flows.sizes import embedding_width
from lightgen_core.filters.embedding_head import EmbeddingHead, HeadError
from tasks.config.recipe import Recipe


def check_heads(recipe: Recipe) -> list[tuple[str, str, str]]:
    """Return check, state and finding for each head."""
    filters, width = recipe.dedup.filters, embedding_width(recipe.embeddings.model)
    rows = []
    for config in filters.heads if filters else ():
        check = f"head {config.name}"
        try:
            head = EmbeddingHead.load(config)
        except HeadError as error:
            rows.append((check, "missing", str(error)))
            continue
        found = f"{config.weights}, of embeddings of {head.width} values"
        if width is not None and width != head.width:
            rows.append((check, "missing", f"{found}; {recipe.embeddings.model} gives {width}"))
        else:
            rows.append((check, "ok", found))
    return rows
