"""The sealing key that a single machine makes for itself."""

import base64
import os
from pathlib import Path

import pytest

from worker.adapters.key_file import FILE_NAME, KeyFileError, new_key_line, read_or_make


def _write(data_dir: Path, content: bytes, mode: int = 0o600) -> Path:
    path = data_dir / FILE_NAME
    path.write_bytes(content)
    path.chmod(mode)
    return path


def _refusal(data_dir: Path) -> str:
    with pytest.raises(KeyFileError) as caught:
        read_or_make(data_dir)
    return str(caught.value)


def test_a_fresh_key_line_is_an_id_and_32_bytes_in_base64() -> None:
    key_id, _, secret = new_key_line().partition(":")
    assert key_id.isalnum()
    assert len(base64.b64decode(secret, validate=True)) == 32


def test_two_fresh_keys_are_two_keys() -> None:
    assert new_key_line() != new_key_line()


def test_a_data_directory_without_a_key_gets_one_that_only_its_owner_can_read(tmp_path: Path) -> None:
    data_dir = tmp_path / "deep" / "data"
    line, made = read_or_make(data_dir)
    assert made
    assert (data_dir / FILE_NAME).read_text() == line + "\n"
    assert (data_dir / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert data_dir.stat().st_mode & 0o077 == 0


def test_a_key_that_was_made_is_used_from_then_on(tmp_path: Path) -> None:
    line, _ = read_or_make(tmp_path)
    assert read_or_make(tmp_path) == (line, False)


def test_nothing_but_the_key_is_left_in_the_directory(tmp_path: Path) -> None:
    read_or_make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_what_a_crashed_process_left_aside_is_not_taken_for_the_key(tmp_path: Path) -> None:
    aside = tmp_path / f".{FILE_NAME}.{os.getpid()}"
    aside.write_text("half a k")
    aside.chmod(0o600)
    line, made = read_or_make(tmp_path)
    assert made
    assert "half a k" not in line


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644], ids=lambda mode: f"{mode:o}")
def test_a_key_that_others_may_read_is_refused_with_the_mode_it_takes(tmp_path: Path, mode: int) -> None:
    path = _write(tmp_path, b"k1:hunter2\n", mode)
    assert _refusal(tmp_path) == f"{path} can be read by others (mode {mode:o}); it takes mode 600"


def test_a_data_directory_that_is_a_file_is_refused_in_one_line_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("")
    assert _refusal(path) == f"{path}: File exists"


def test_a_key_file_that_is_a_directory_is_refused_in_one_line_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.mkdir(mode=0o700)
    assert _refusal(tmp_path) == f"{path}: Is a directory"


def test_a_key_file_of_raw_bytes_is_refused_in_one_line_that_names_it(tmp_path: Path) -> None:
    path = _write(tmp_path, b"\xff" * 32)
    refusal = _refusal(tmp_path)
    assert refusal.startswith(f"{path}")
    assert "0xff" not in refusal


def test_a_key_file_that_is_gone_is_not_replaced_where_grants_are_stored(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").mkdir()
    with pytest.raises(KeyFileError, match="is missing, and grants are stored beside it"):
        read_or_make(tmp_path)
    assert not (tmp_path / "keys").exists()
