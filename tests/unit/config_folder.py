"""A configuration in a folder of its own, for the tests that load one."""

from pathlib import Path

import pytest

from agent.config import Config, load
from agent.errors import ConfigError

LISTEN = '[[listen]]\naddress = "udp://127.0.0.1:8089"\n'
OUTPUT = '[[output]]\nname = "void"\ntype = "null"\n'
INFLUX = '[[output]]\nname = "influx"\ntype = "influxdb"\nurl = "http://127.0.0.1:8086"\n'
V2 = INFLUX + 'org = "o"\nbucket = "b"\n'


class Folder:
    """A configuration in a folder of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "penstock.toml"

    def write(self, text: str, name: str = "penstock.toml") -> None:
        file = self.path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)

    def load(self, text: str | None = None) -> Config:
        if text is not None:
            self.write(text)
        return load(self.file)

    def problems(self, text: str | None = None) -> list[str]:
        with pytest.raises(ConfigError) as raised:
            self.load(text)
        assert str(raised.value).splitlines() == [str(problem) for problem in raised.value.problems]
        return [str(problem) for problem in raised.value.problems]
