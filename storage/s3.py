"""Requests to S3, and its errors in words for the user."""

import math
import mimetypes
import os
from typing import Any

from storage.store import StoreError, StoreUnavailable

PART = 16 << 20
"""Bytes of one request of an upload or download in several; a file below two parts is sent in one request."""

ONE_REQUEST = {"max_concurrency": 1}
"""Options that read a small file without a request for its size."""

BLOCKS = {"block_size": 8 << 20}
"""Bytes read ahead of an open file."""

PRECONDITION_FAILED, CONFLICT = "PreconditionFailed", "ConditionalRequestConflict"
"""Errors of a conditional write: the object exists; another conditional write is under way."""

_CONCURRENT_PARTS = 4
_MAX_PARTS = 10_000
_TRANSIENT = {408, 409, 429, "RequestTimeout", "NoSuchUpload"}
"""Transient errors below status 500, by status or code; the last is of an upload that was completed twice."""
_WRONG_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "TemporaryRedirect", "IllegalLocationConstraint"}
_RIGHTS = "s3:ListBucket on the bucket; s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload below"


def options() -> dict[str, Any]:
    """Return the options of a connection.

    The address, region and credentials come from the environment and files that AWS documents (AWS_ENDPOINT_URL,
    AWS_ENDPOINT_URL_S3, AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID, AWS_PROFILE, ...). botocore retries transient
    errors with backoff, set by AWS_RETRY_MODE and AWS_MAX_ATTEMPTS.
    """
    return {"config_kwargs": {"retries": {"mode": os.environ.get("AWS_RETRY_MODE", "standard")}}}


def transfer(size: int) -> dict[str, int]:
    """Return the options that transfer a file of `size` bytes in parts, `max_concurrency` of them in memory."""
    return {"chunksize": max(PART, math.ceil(size / _MAX_PARTS)), "max_concurrency": _CONCURRENT_PARTS}


def content_type(path: str) -> dict[str, str]:
    """Return the option that names a file's type, so that a browser shows a page instead of saving it."""
    known, _ = mimetypes.guess_type(path)
    return {"ContentType": known} if known else {}


def client_errors() -> tuple[type[Exception], ...]:
    """Return the client's own error classes. Raises ImportError if s3fs is missing."""
    import s3fs  # noqa: F401
    from botocore.exceptions import BotoCoreError

    return (BotoCoreError,)


def probe(fs: Any, root: str, uri: str) -> None:
    """List one name below the root. Raises if the bucket, the rights or the server are missing."""
    bucket, _, prefix = root.partition("/")
    try:
        fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{prefix}/" if prefix else "", MaxKeys=1)
    except FileNotFoundError as error:  # also the answer of a server that does not speak S3
        raise _no_bucket(uri, endpoint(fs)) from error


def _no_bucket(uri: str, server: str) -> StoreError:
    bucket = uri.partition("://")[2].partition("/")[0]
    return StoreError(
        f"store {uri}: there is no bucket {bucket!r} at {server}.\n"
        f"Correct the address (and AWS_ENDPOINT_URL, if set), or make it: aws s3 mb s3://{bucket}"
    )


def endpoint(fs: Any) -> str:
    """Return the server's address, after a connection was set up."""
    return fs.s3.meta.endpoint_url


def code(error: BaseException) -> str:
    """Return the S3 code of an error; empty if it is not of S3."""
    return _response(error).get("Error", {}).get("Code", "")


def _status(error: BaseException) -> int:
    """Return the HTTP status of an error; 0 if it is not of S3."""
    return _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _response(error: BaseException | None) -> dict[str, Any]:
    while error is not None:
        if response := getattr(error, "response", None):
            return response
        error = error.__cause__
    return {}


def translate_error(error: Exception, uri: str, server: str) -> StoreError | None:
    """Return an error with cause and advice; None if S3 is not at fault."""
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
    if isinstance(error, FileExistsError | FileNotFoundError) and name not in _TRANSIENT:
        return None
    if name in _WRONG_REGION:
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
    if _status(error) >= 500 or _status(error) in _TRANSIENT or name in _TRANSIENT:
        return StoreUnavailable(
            f"store {uri} at {server} answered {name}, however often it was asked: {error}\n"
            "What is finished is kept; run the same command again."
        )
    if name:
        return StoreError(f"store {uri} at {server} refused a request: {error} ({name}).")
    return None
