"""Read the path or URL of a store that a user gives, and refuse those where no store can be.
Nothing is opened here.

A store needs files that appear whole: a local (or mounted) folder, or an object store, where one
request writes an object. Through archives, web servers and file-transfer protocols, a reader would
find incomplete files.
"""

import os
import re
from urllib.parse import unquote

from phasegrid.errors import SweepError

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "memory")
_ALLOWED = (
    "a folder, file:///absolute/path, s3://bucket/prefix, gs://bucket/prefix or"
    " az://container/prefix"
)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)


def local_path(url: str) -> str | None:
    """Return the absolute path of a folder, given as a path or as a ``file:`` URL; None for the URL
    of an object store.

    A ``file:`` URL is percent-decoded (RFC 8089), since `pathlib.Path.as_uri` encodes it; a path is
    used unchanged.

    >>> local_path("file:///srv/my%20results"), local_path("s3://bucket/results")
    ('/srv/my results', None)

    Raises:
        SweepError: for a URL where no store can be; the message lists the allowed URLs.
    """
    match = _SCHEME.fullmatch(url)
    scheme, rest = (match[1].lower(), match[2]) if match else ("", url)
    if scheme == "file":
        return _path_of_file_url(url, rest)
    if rest.startswith("//") and scheme:
        if scheme in OBJECT_STORES and "::" not in rest:
            return None
        raise SweepError(f"the storage {url}: no store can be at {scheme}://; use {_ALLOWED}")
    if "::" in url or (scheme in OBJECT_STORES and rest.startswith("/")):
        raise SweepError(f"the storage {url}: this is neither a path nor a URL; use {_ALLOWED}")
    return os.path.abspath(os.path.expanduser(url))


def _path_of_file_url(url: str, rest: str) -> str:
    """Return the path of ``file:///path``, ``file://localhost/path`` or ``file:/path``."""
    host = ""
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        rest = slash + path
    if host not in ("", "localhost") or not rest.startswith("/"):
        found = f"it names a machine, {host!r}" if host else "its path is not absolute"
        raise SweepError(
            f"the storage {url}: {found}; write file:///absolute/path, or the path alone"
        )
    return os.path.abspath(unquote(rest))
