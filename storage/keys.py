"""The key of an artifact: a hash of what is made from what, by which version of the code."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY_LENGTH = 20
"""Hex digits of a key: 80 bits, so a store of a million artifacts meets a collision with probability 1e-12."""


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN.

    Raises:
        TypeError: the value holds something JSON has no form for.
        ValueError: the value holds NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def artifact_key(stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Return the key of the artifact that `stage` makes.

    Args:
        stage: the stage's name.
        version: the version of the stage's code; raised by hand when a change of code changes the bytes.
        config: the part of the recipe that decides the bytes, and nothing that does not.
        inputs: the key of every input artifact, by stage name.

    The same arguments give the same key on any machine and in any process.
    """
    identity = {"stage": stage, "version": version, "config": dict(config), "inputs": dict(inputs)}
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:KEY_LENGTH]
