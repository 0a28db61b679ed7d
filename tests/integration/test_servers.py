"""The databases that other tests talk to: they start, keep their data over a restart, and end."""

from pathlib import Path

import pytest

from tests.integration.servers import influxd, victoria_metrics


def test_influxd_keeps_its_data_and_address_over_a_restart(tmp_path: Path) -> None:
    with influxd(tmp_path) as server:
        url, database = server.url, server.create_database()
        assert server.write(database, b'm,t=v f=1.5,s="x" 7\n').status == 204
        refused = server.write(database, b"m f=\n")
        assert refused.status == 400 and "missing field value" in refused.text
        server.stop()
        with pytest.raises(OSError):
            server.write(database, b"m f=1 1\n")
        server.start()
        assert server.url == url
        assert server.query("SELECT * FROM m", database) == [
            {"name": "m", "columns": ["time", "f", "s", "t"], "values": [[7, 1.5, "x", "v"]]}
        ]
        with pytest.raises(RuntimeError, match="parsing"):
            server.query("SELEKT", database)


def test_influxd_takes_settings(tmp_path: Path) -> None:
    with influxd(tmp_path, settings={"http": {"max-body-size": 10}}) as server:
        assert server.write(server.create_database(), b"m f=1 1\n" * 2).status == 413


def test_victoria_metrics_gives_back_what_was_written(tmp_path: Path) -> None:
    with victoria_metrics(tmp_path) as server:
        assert server.write(b"m,t=v f=1.5 1700000000000000000\n").status == 204
        assert server.export('{__name__="m_f"}') == [
            {"metric": {"__name__": "m_f", "t": "v"}, "values": [1.5], "timestamps": [1700000000000]}
        ]


def test_frozen_server_does_not_answer_until_thawed(tmp_path: Path) -> None:
    with influxd(tmp_path) as server:
        server.freeze()
        with pytest.raises(OSError):
            server.request("GET", "/ping", seconds_max=0.2)
        server.thaw()
        assert server.request("GET", "/ping").status == 204
