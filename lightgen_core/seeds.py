"""Seeds by name: the randomness of a run follows from the recipe's seed and its purpose."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed for a name, such as (recipe.seed, "synthesis", image_id); names are independent."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
