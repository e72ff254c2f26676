"""Turn the errors of file systems into messages for people."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from phasegrid.errors import StoreError
from phasegrid.store.files.retry import is_full


@contextmanager
def reported(doing: str) -> Iterator[None]:
    """Turn any error of a file system into a StoreError; object stores have their own error types.

    Its `fault` is ``full`` if the storage has no room, ``fails`` if the storage does not work, and
    None if the storage works but one file in it is missing or damaged.
    """
    try:
        yield
    except StoreError:
        raise
    except NotADirectoryError as error:
        raise StoreError(f"{doing}: a file is where a folder should be ({error})") from error
    except PermissionError as error:
        raise StoreError(f"{doing}: permission denied ({error})", fault="fails") from error
    except Exception as error:
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        if is_full(error):
            what = f"the storage is full or takes no writes ({error}); make room, then run again"
            raise StoreError(f"{doing}: {what}", fault="full") from error
        fault: Literal["fails"] | None = "fails" if _is_of_storage(error) else None
        what = f"{type(error).__name__}: {error}{notes}{_advice(error)}"
        raise StoreError(f"{doing}: {what}", fault=fault) from error


def _advice(error: Exception) -> str:
    """Return advice for an error of an object store whose own message gives none."""
    if isinstance(error, FileNotFoundError) and "bucket" in str(error).lower():
        return "; make the bucket first: phasegrid makes none"
    if type(error).__name__ == "NoCredentialsError":
        return (
            "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, here and on every"
            " node"
        )
    if type(error).__name__ == "EndpointConnectionError":
        return "; is AWS_ENDPOINT_URL right, here and on every node?"
    return ""


def _is_of_storage(error: Exception) -> bool:
    """Say whether an error concerns the whole storage: it comes from the system, or from the client
    of a storage (botocore's errors are not OSErrors).
    """
    if isinstance(error, OSError):
        return not isinstance(error, (FileNotFoundError, FileExistsError, IsADirectoryError))
    return type(error).__module__.partition(".")[0] not in ("builtins", "pyarrow", "safetensors")
