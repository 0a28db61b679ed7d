"""One agent for a folder: who has it, and what the second one is told."""

import os
from pathlib import Path

import pytest

from agent.errors import ControlError
from agent.lock import HOLDER, FolderLock


def test_the_second_is_told_who_has_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    with FolderLock(folder, "agent.state_dir", "/etc/a.toml"):
        second = FolderLock(folder, "agent.state_dir", "/etc/b.toml")
        with pytest.raises(ControlError) as refused:
            second.take()
        assert not second.held
        assert str(refused.value) == (
            f"agent.state_dir: {folder}: another agent runs with it: process {os.getpid()} (/etc/a.toml); "
            "stop that one, or choose another folder"
        )
    assert folder.stat().st_mode & 0o777 == 0o700
    with FolderLock(folder, "agent.state_dir", "/etc/b.toml") as third:
        assert third.held


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1}'])
def test_what_the_holder_left_is_not_trusted(tmp_path: Path, text: str) -> None:
    with FolderLock(tmp_path, "agent.state_dir", "a"):
        (tmp_path / HOLDER).write_text(text)
        with pytest.raises(ControlError, match="another agent runs with it; stop"):
            FolderLock(tmp_path, "agent.state_dir", "b").take()


def test_a_folder_that_takes_no_file_can_be_locked(tmp_path: Path) -> None:
    (tmp_path / HOLDER).mkdir()
    with FolderLock(tmp_path, "agent.state_dir", "a"), pytest.raises(ControlError, match="another agent"):
        FolderLock(tmp_path, "agent.state_dir", "b").take()


def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ControlError, match=r"state_dir: .*/file/state: cannot use the folder: Not a dir"):
        FolderLock(tmp_path / "file" / "state", "agent.state_dir", "a").take()
