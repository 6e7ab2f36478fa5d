"""What is particular to S3: how requests are sent, and what its errors mean for the person who meets them."""

import math
import os
from typing import Any

from storage.base import StoreError, StoreUnavailable

PART = 16 << 20
"""Bytes of one request of an upload or download in several; a file below two parts is sent at once."""

ONE_REQUEST = {"max_concurrency": 1}
"""A small file is read without asking for its size first."""

BLOCKS = {"block_size": 8 << 20}
"""Bytes read ahead of an open file."""

THERE, CONFLICT = "PreconditionFailed", "ConditionalRequestConflict"
"""Errors of a conditional write: the object is there; another conditional write to it is under way."""

_PARTS_AT_ONCE = 4
_MOST_PARTS = 10_000
_PASS = {408, 409, 429, "RequestTimeout", "NoSuchUpload"}
"""Errors below status 500 that pass, by status or name; the last is that of an upload whose end was asked for twice."""
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "TemporaryRedirect", "IllegalLocationConstraint"}
_RIGHTS = "s3:ListBucket on the bucket; s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload below"


def options() -> dict[str, Any]:
    """Return the options of a connection.

    The address, region and credentials come from the environment and files that AWS documents (AWS_ENDPOINT_URL,
    AWS_ENDPOINT_URL_S3, AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID, AWS_PROFILE, ...). Transient errors are tried again by
    botocore, with growing rests; AWS_RETRY_MODE and AWS_MAX_ATTEMPTS say how.
    """
    return {"config_kwargs": {"retries": {"mode": os.environ.get("AWS_RETRY_MODE", "standard")}}}


def transfer(size: int) -> dict[str, int]:
    """Return how a file of `size` bytes is sent or fetched in parts; memory holds `max_concurrency` of them."""
    return {"chunksize": max(PART, math.ceil(size / _MOST_PARTS)), "max_concurrency": _PARTS_AT_ONCE}


def faults() -> tuple[type[Exception], ...]:
    """Return the classes of error that the client raises by itself. Raises ImportError where s3fs is missing."""
    import s3fs  # noqa: F401
    from botocore.exceptions import BotoCoreError

    return (BotoCoreError,)


def probe(fs: Any, root: str, uri: str) -> None:
    """Ask for one name below the root: raises where the bucket, the rights or the way to the server are missing."""
    bucket, _, prefix = root.partition("/")
    try:
        fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{prefix}/" if prefix else "", MaxKeys=1)
    except FileNotFoundError as error:  # also the answer of a server that is none of S3
        raise _no_bucket(uri, endpoint(fs)) from error


def _no_bucket(uri: str, server: str) -> StoreError:
    bucket = uri.partition("://")[2].partition("/")[0]
    return StoreError(
        f"store {uri}: there is no bucket {bucket!r} at {server}.\n"
        f"Correct the address (and AWS_ENDPOINT_URL, if set), or make it: aws s3 mb s3://{bucket}"
    )


def endpoint(fs: Any) -> str:
    """Return the address of the server, where a connection was set up."""
    return fs.s3.meta.endpoint_url


def code(error: BaseException) -> str:
    """Return the name that S3 gave an error; nothing where it did not come from S3."""
    return _response(error).get("Error", {}).get("Code", "")


def _status(error: BaseException) -> int:
    """Return the HTTP status of an error; 0 where it did not come from S3."""
    return _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _response(error: BaseException | None) -> dict[str, Any]:
    while error is not None:
        if response := getattr(error, "response", None):
            return response
        error = error.__cause__
    return {}


def explained(error: Exception, uri: str, server: str) -> StoreError | None:
    """Return an error that says what was found, why, and what to do; None where S3 is not at fault."""
    from botocore import exceptions

    name = code(error)
    if isinstance(
        error,
        exceptions.NoCredentialsError | exceptions.PartialCredentialsError | exceptions.CredentialRetrievalError
        | exceptions.ProfileNotFound | exceptions.TokenRetrievalError | exceptions.SSOError,
    ):  # fmt: skip
        return StoreError(
            f"store {uri}: {error}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE with a profile of "
            "~/.aws, or give this machine a role."
        )
    if isinstance(error, exceptions.ParamValidationError | exceptions.InvalidRegionError):
        return StoreError(f"store {uri} is not an address: {error}. Give s3://bucket/prefix.")
    if isinstance(error, exceptions.BotoCoreError):
        return StoreUnavailable(
            f"store {uri} cannot be reached at {server}: {error}\n"
            "Is the server up, is AWS_ENDPOINT_URL its address, and does this machine's network lead there?"
        )
    if name == "NoSuchBucket":
        return _no_bucket(uri, server)
    if isinstance(error, FileExistsError | FileNotFoundError) and name not in _PASS:
        return None
    if name in _ELSEWHERE:
        return StoreError(f"store {uri} is in another region than asked for ({error}). Set AWS_DEFAULT_REGION to its.")
    if isinstance(error, PermissionError):
        return StoreError(
            f"store {uri} at {server} denies access: {error} ({name}).\n"
            f"Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their rights: {_RIGHTS} the prefix."
        )
    if _status(error) == 501:
        return StoreError(
            f"store {uri} at {server} answered {name}: {error}\nA store must know If-None-Match, the write that is "
            "refused where a file is. Use a server that does, or a newer version of this one."
        )
    if _status(error) >= 500 or _status(error) in _PASS or name in _PASS:
        return StoreUnavailable(
            f"store {uri} at {server} answered {name}, however often it was asked: {error}\n"
            "What is finished is kept; run the same command again."
        )
    if name:
        return StoreError(f"store {uri} at {server} refused a request: {error} ({name}).")
    return None
