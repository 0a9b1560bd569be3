import hashlib
import stat

import pytest

from vanishing import files


def test_text_and_bytes_are_written_as_they_are(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    files.write(path, "é\n")
    assert path.read_bytes() == b"\xc3\xa9\n"
    files.write(path, b"\0\r\n")
    assert path.read_bytes() == b"\0\r\n"
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_others_may_read_what_was_written(tmp_path):
    files.write(tmp_path / "file", "x")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_failure_leaves_what_was_there(tmp_path, before):
    path = tmp_path / "file"
    if before:
        path.write_bytes(before)
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as handle:
        handle.write(b"half")
        raise KeyboardInterrupt
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([before] if before else [])


def test_a_reader_sees_the_old_content_until_the_new_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with files.replacing(path) as handle:
        handle.write(b"new")
        handle.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_two_writers_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with files.replacing(path) as first, files.replacing(path) as second:
        first.write(b"1" * 10)
        second.write(b"2" * 5)
    assert path.read_bytes() == b"1" * 10


def test_what_a_killed_writer_has_left_goes_and_what_a_living_one_has_stays(tmp_path):
    path, others = tmp_path / "file", tmp_path / ".file2.k1ll3d_x"
    (tmp_path / ".file.k1ll3d_x").write_bytes(b"half")
    others.write_bytes(b"half")
    with files.replacing(path) as living:
        living.write(b"living")
        files.write(path, b"second")
        assert len(list(tmp_path.iterdir())) == 3
    assert set(tmp_path.iterdir()) == {path, others}
    assert path.read_bytes() == b"living"


def test_a_link_into_a_cache_is_replaced_and_the_cache_kept(tmp_path):
    cached, path = tmp_path / "cached", tmp_path / "file"
    cached.write_bytes(b"cached")
    path.hardlink_to(cached)
    files.write(path, b"new")
    assert (cached.read_bytes(), path.read_bytes()) == (b"cached", b"new")


def test_the_hash_is_sha256_of_the_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 100_000)
    assert files.sha256(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()
