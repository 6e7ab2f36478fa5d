"""Artifact keys: a hash of stage, code version, config and inputs."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY_LENGTH = 20
"""Hex digits of a key, 80 bits: among a million artifacts a collision has probability 1e-12."""


def canonical_json(value: Any) -> str:
    """Return the canonical JSON of a value: sorted keys, no spaces, no NaN.

    Raises:
        TypeError: the value holds something that JSON cannot express.
        ValueError: the value holds NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def artifact_key(stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Return the key of a stage's artifact, the same on any machine and in any process.

    Args:
        config: the part of the recipe that determines the bytes, and nothing else.
        inputs: the key of every input artifact, by stage name.
    """
    identity = {"stage": stage, "version": version, "config": dict(config), "inputs": dict(inputs)}
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:KEY_LENGTH]
