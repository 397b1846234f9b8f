"""Files are written in one step, seen at once, and looked up without a request each."""

from pathlib import Path

import pytest

from mmray import storage
from mmray.storage_cas import compare_and_swap

NAMES = ["plain.bin", "with space.bin", "quote'\".bin", "naïve-日本語-🎬.bin", "100%d.bin", "a#b?c.bin", "-dash.bin"]


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "root")
    bucket: str = request.getfixturevalue("s3_bucket")
    return f"{bucket}/storage"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_put_is_read_and_listed_under_any_name(root: str, name: str) -> None:
    uri = storage.join(root, "folder", name)
    storage.put(uri, b"content")
    assert storage.read_bytes(uri) == b"content"
    with storage.open_read(uri) as file:
        file.seek(3)
        assert file.read() == b"tent"
    assert uri in [entry.uri for entry in storage.files(root)]
    found = storage.entries([uri, uri + "-not"])
    assert isinstance(found[uri], storage.Entry)
    assert found[uri].size_bytes == 7
    assert isinstance(found[uri + "-not"], storage.Absent)


def test_a_tag_changes_with_the_content(root: str) -> None:
    uri = storage.join(root, "changing")
    storage.put(uri, b"one")
    before = storage.entries([uri])[uri]
    storage.put(uri, b"two")
    after = storage.entries([uri])[uri]
    assert isinstance(before, storage.Entry)
    assert isinstance(after, storage.Entry)
    assert before.tag != after.tag


def test_only_one_of_two_creates_a_file(root: str) -> None:
    uri = storage.join(root, "lock")
    assert compare_and_swap(uri, None, b"first") is not None
    assert compare_and_swap(uri, None, b"second") is None
    assert storage.read_bytes(uri) == b"first"


def test_nothing_appears_when_writing_fails(root: str) -> None:
    uri = storage.join(root, "broken")
    with pytest.raises(ZeroDivisionError), storage.create(uri) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert storage.files(root) == []
    assert storage.temporary_files(root) == []


def test_deleting_what_is_gone_is_no_error(root: str) -> None:
    uris = [storage.join(root, name) for name in ("a", "b")]
    storage.put(uris[0], b"")
    storage.delete(uris)
    storage.delete(uris)
    assert not storage.exists(uris[0])


def test_missing_files_say_so(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(root, "none"))
    with pytest.raises(FileNotFoundError):
        storage.open_read(storage.join(root, "none")).read()
    assert storage.files(storage.join(root, "none")) == []


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    assert len(storage.files(str(tmp_path))) == 1
