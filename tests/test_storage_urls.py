"""What is given as a store's place is understood, or refused by name; never half understood."""

from pathlib import Path

import pytest

from phasegrid.errors import SweepError
from phasegrid.store.files.urls import local_path
from phasegrid.store.store import Store


@pytest.mark.parametrize("name", ["my store", "Größe", "50%", "a#b?c", "x+y", "per%20cent"])
def test_the_uri_that_pathlib_makes_of_a_folder_leads_to_that_folder(
    tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    made = Store.open(str(folder), create=True)
    assert Store.open(folder.as_uri()).id == made.id
    assert Store.open(folder.as_uri(), create=True).id == made.id
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///srv/a%20b", "/srv/a b"),
        ("file://localhost/srv", "/srv"),
        ("FILE:///srv", "/srv"),
        ("file:/srv/a", "/srv/a"),
        ("/srv/a%20b", "/srv/a%20b"),
        ("/srv/a:b@c", "/srv/a:b@c"),
        ("results", str(Path.cwd() / "results")),
        ("~/results", str(Path.home() / "results")),
    ],
)
def test_a_path_is_taken_as_it_is_and_a_file_url_is_decoded(url: str, path: str) -> None:
    assert local_path(url) == path


@pytest.mark.parametrize("url", ["s3://bucket/x", "gs://bucket/x", "az://box/x", "memory://x"])
def test_an_object_store_is_no_folder(url: str) -> None:
    assert local_path(url) is None


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("zip://results.zip", "no store can be at zip://"),
        ("zip://x::s3://bucket/results.zip", "no store can be at zip://"),
        ("simplecache::s3://bucket/x", "neither a path nor a URL"),
        ("s3://bucket/x::y", "no store can be at s3://"),
        ("http://host/results", "no store can be at http://"),
        ("https://host/results", "no store can be at https://"),
        ("ftp://host/results", "no store can be at ftp://"),
        ("sftp://host/results", "no store can be at sftp://"),
        ("github://org:repo/x", "no store can be at github://"),
        ("local:///srv", "no store can be at local://"),
        ("file://machine/share", "it names a machine, 'machine'"),
        ("file:results", "its path is not absolute"),
        ("s3:/bucket/x", "neither a path nor a URL"),
    ],
)
def test_what_no_store_can_be_at_is_refused_with_what_is_allowed(url: str, found: str) -> None:
    with pytest.raises(SweepError, match=f"{found}.*(use a folder|write) ?.*file:///absolute/path"):
        local_path(url)
