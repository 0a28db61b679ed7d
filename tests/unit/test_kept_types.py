"""The types of fields in the control plane: the file, the log lines, the folder of what was left out."""

import json
import logging
import tomllib
from pathlib import Path

import pytest

from agent import kept_types
from agent.config import Types, TypesField
from agent.guards import Guards
from agent.kept_types import KeptTypes


class Left(Guards):
    """Guards that have left something out."""

    def __init__(self, *left: tuple[bytes, str, str]) -> None:
        self.left = list(left)

    def take_rejected(self) -> list[tuple[bytes, str, str]]:
        left, self.left = self.left, []
        return left


ONE = (b"cpu\\ x,host=a\\,b,t=x\\ y va\\=l=1i 17", "float", "integer")
TWO = (b'm v="a=b, c\n" -5', "boolean", "string")


def test_what_is_left_out_is_kept_with_its_reason_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = KeptTypes()
    kept.look_after(None, 0.0, 0)
    kept.open(Types(max_fields=1000), tmp_path)
    kept.look_after(Left(ONE, TWO, ONE), 100.0, 1_000_000_000)
    (record,) = caplog.records
    said = record.__dict__
    assert record.levelno == logging.WARNING and record.message == "a field came in another type than it has"
    assert (said["measurement"], said["field"], said["kept"], said["came"]) == (
        "cpu x",
        "va=l",
        "float",
        "integer",
    )
    assert said["fields"] == 2
    assert tomllib.loads(said["remedy"]) == {
        "types": {"field": [{"measurement": "cpu x", "field": "va=l", "type": "integer"}]}
    }
    kept.look_after(Left(TWO), 130.0, 2_000_000_000)
    assert len(caplog.records) == 1
    kept.look_after(Left(ONE, TWO), 161.0, 3_000_000_000)
    assert caplog.records[1].__dict__["field"] == "v" and len(caplog.records) == 2
    folder = tmp_path / "rejected" / "_guard"
    reasons = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    assert 'type conflict: field "va=l" of "cpu x" is float, came as integer 1i' in str(reasons)
    assert sum(path.read_bytes().count(b"cpu") for path in folder.glob("*.lp")) == 3
    kept.close()


def test_the_file_is_opened_once_and_its_size_takes_a_restart(tmp_path: Path) -> None:
    kept = KeptTypes()
    kept.open(None, tmp_path)
    assert kept.types is None and kept.stats() == {} and list(tmp_path.iterdir()) == []
    kept.open(Types(max_fields=1000), tmp_path)
    assert kept.stats() == {"fields": 0, "fields_unguarded": 0}
    assert (tmp_path / "types").stat().st_size == 64 + 1000 * 64
    kept.configure(Types(field=(TypesField(measurement="a,b", field="c=d e", type="string"),)))
    kept.open(Types(max_fields=1000), tmp_path)
    with pytest.raises(ValueError, match="1000 is running and 2000 is wanted"):
        kept.open(Types(max_fields=2000), tmp_path)
    kept.close()


def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "types").write_text("mine")
    with pytest.raises(OSError, match="Invalid argument"):
        KeptTypes().open(Types(), tmp_path)
    assert (tmp_path / "types").read_text().rstrip("\0") == "mine"


def test_names_are_pinned_as_lines_have_them() -> None:
    assert kept_types._written("a,b c=d", ", ") == b"a\\,b\\ c=d"
    assert kept_types._written("a,b c=d", ",= ") == b"a\\,b\\ c\\=d"
