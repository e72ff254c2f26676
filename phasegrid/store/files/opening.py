"""Open the files of a store at a folder's path or a URL."""

from phasegrid.errors import StoreError
from phasegrid.store.files.base import Files
from phasegrid.store.files.local import LocalFiles
from phasegrid.store.files.objects import ObjectFiles
from phasegrid.store.files.urls import local_path


def open_files(url: str) -> Files:
    """Return the files under a folder's path or a URL. Nothing is created or checked.

    Raises:
        SweepError: if no store can be at the URL (`urls`).
        StoreError: if the package for its kind of storage is not installed.
    """
    folder = local_path(url)
    if folder is not None:
        return LocalFiles(folder)
    import fsspec

    try:
        filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        scheme = url.partition(":")[0]
        extra = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}.get(scheme)
        install = f"pip install 'phasegrid[{extra}]'" if extra else f"pip install: {error}"
        raise StoreError(f"opening store {url}: {scheme}:// needs a package; {install}") from error
    except ValueError as error:
        raise StoreError(f"opening store {url}: {error}; use a folder, s3:// or gs://") from error
    return ObjectFiles(filesystem, root.rstrip("/"))
