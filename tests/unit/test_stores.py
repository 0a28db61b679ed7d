"""What the outputs keep on disk, whatever a reload makes of them."""

import pytest

from agent.config_schema import InfluxOutput, NullOutput, RejectedTable, SpoolTable
from agent.store.stores import Stores, settle

URL = "http://127.0.0.1:1"


def influx(**more):
    return InfluxOutput(name="out", url=URL, **more)


@pytest.fixture
def stores(tmp_path):
    made = Stores(tmp_path)
    yield made
    made.close()


def test_an_influxdb_has_a_spool_and_a_folder_for_what_it_refuses(stores, tmp_path):
    store = stores.open(influx(), URL)
    assert store.spool.folder == tmp_path / "spool" / "out"
    assert store.rejected.folder == tmp_path / "rejected" / "out" and store.rejected.target == URL
    assert stores.get("out") is store and stores.get("other") is None


def test_an_output_keeps_its_store_over_reloads(stores):
    store = stores.open(influx(), URL)
    spool, rejected = store.spool, store.rejected
    assert stores.open(influx(ring_bytes=1 << 20, spool=None), URL) is store
    assert store.spool is spool and store.rejected is rejected


def test_a_spool_comes_when_it_is_wanted(stores, tmp_path):
    store = stores.open(influx(spool=None), URL)
    assert store.spool is None and not (tmp_path / "spool").exists()
    assert stores.open(influx(), URL).spool is store.spool is not None


def test_other_outputs_have_neither(stores, tmp_path):
    store = stores.open(NullOutput(name="null"), "nowhere")
    assert store.spool is None and store.rejected is None and not list(tmp_path.iterdir())


def test_settings_take_effect_when_they_are_settled(stores):
    store = stores.open(influx(), URL)
    other = influx(spool=SpoolTable(max_bytes=1 << 20), rejected=RejectedTable(max_bytes=1 << 21))
    stores.open(other, "there")
    assert store.rejected.target == URL
    settle(store, other, "there")
    assert store.rejected.target == "there"


def test_files_of_a_spool_that_is_not_wanted_any_more_are_told_of(stores, tmp_path, caplog):
    (tmp_path / "spool" / "out").mkdir(parents=True)
    stores.open(influx(spool=None), URL)
    assert caplog.records == []
    (tmp_path / "spool" / "out" / "left.lp.gz").touch()
    stores.open(influx(spool=None), URL)
    [record] = caplog.records
    assert record.output == "out"


def test_who_watches_is_told_of_changes_until_it_leaves(stores):
    store = stores.open(influx(), URL)
    told = []
    watch = lambda: told.append(1)  # noqa: E731
    store.watch(watch)
    store.changed()
    store.unwatch(watch)
    store.changed()
    assert told == [1]


def test_a_file_in_the_place_of_a_folder_is_a_problem_for_a_person(stores, tmp_path):
    (tmp_path / "spool").touch()
    with pytest.raises(OSError):
        stores.open(influx(), URL)
