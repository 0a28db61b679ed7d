"""What a relay has handed on, in files: read by the next process, and bounded."""

import os

from agent.relay.journal import Journal

RECORDS = [(f"{number:032x}-{number:08x}", f"edge-{number % 3}") for number in range(25)]


def filled(folder, records, **settings):
    journal = Journal(folder, **settings)
    for record in records:
        journal.append(*record)
    return journal


def test_the_next_process_knows_what_was_handed_on(tmp_path):
    filled(tmp_path, RECORDS[:10])  # killed: nothing is closed
    again = filled(tmp_path, RECORDS[10:])
    assert list(again) == list(Journal(tmp_path)) == RECORDS


def test_the_oldest_go_and_no_more_than_twice_as_many_are_kept(tmp_path):
    journal = filled(tmp_path, RECORDS, records_max=10)
    assert list(journal) == RECORDS[10:]
    assert list(filled(tmp_path, RECORDS[:6], records_max=10))[-6:] == RECORDS[:6]
    assert len(os.listdir(tmp_path)) == 2
    assert len(list(Journal(tmp_path, records_max=10))) <= 20


def test_what_is_no_record_is_passed_over(tmp_path):
    journal = filled(tmp_path, RECORDS[:2])
    journal.close()
    with (tmp_path / "seen").open("ab") as file:
        file.write(b"\xff\xfe rubbish\n" + RECORDS[2][0].encode()[:20])
    assert list(filled(tmp_path, RECORDS[3:5])) == RECORDS[:2] + RECORDS[3:5]


def test_a_disk_that_refuses_is_told_of_and_stops_nothing(tmp_path, caplog, monkeypatch):
    journal = filled(tmp_path, RECORDS[:1])

    def full(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    journal.append(*RECORDS[1])
    monkeypatch.undo()
    journal.append(*RECORDS[2])
    assert "cannot be noted" in caplog.text and list(journal) == [RECORDS[0], RECORDS[2]]
