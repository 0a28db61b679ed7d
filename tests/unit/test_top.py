"""The live screen: what its frames say at every size, what keys do, and that names obey nobody."""

import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from agent.admin.figures import rate as per_second
from agent.admin.figures import volume
from agent.admin.following import events
from agent.admin.top import View, frame, sort_keys
from agent.admin.top_sections import Second
from agent.admin.top_table import fold, middle
from agent.terminal import printable, printable_lines


def listener(name: str, received: int = 0, kernel: int = 0, queue: int = 0, **dropped: int) -> dict[str, Any]:
    return {
        "name": name,
        "received": received,
        "dropped": dropped,
        "kernel_drops": kernel,
        "queue_bytes": queue,
        "receive_buffer_bytes": 1000,
    }


def output(name: str, delivered: int = 0, *, state: str = "ok", **more: Any) -> dict[str, Any]:
    ledger = {"delivered": delivered, "rejected": 0, "missed": 0, "dropped": {}, "waiting": 0, "spool": None}
    return {
        "name": name,
        "state": state,
        "breaker": "closed",
        "limit": 4,
        "last_error": "",
        **{key: value for key, value in more.items() if key not in ledger},
        "ledger": {key: more.get(key, value) for key, value in ledger.items()},
    }


def document(
    at: float,
    listeners: list[dict[str, Any]],
    outputs: list[dict[str, Any]],
    rates: dict[str, Any] | None = None,
    **status: Any,
) -> dict[str, Any]:
    everything: dict[str, Any] = {
        "version": "0.1.0",
        "state": "running",
        "pid": 7,
        "started": 1.0,
        "uptime": 273_600.0,
        "not_ready": [],
        "detail": [],
        "slo": [],
        "delay": {},
        "guards": None,
        "threads": [],
        "events": [],
        "samples": [],
        "ledger": {"balance": "moving"},
        "listeners": listeners,
        "outputs": outputs,
    }
    return {"time": at, "rates": rates or {"listeners": {}, "outputs": {}}, "status": everything | status}


def lines(second: Second, view: View | None = None, width: int = 80, height: int | None = None) -> list[str]:
    found = [line.plain.rstrip() for line in frame(second, view or View(), width, height)]
    assert all(cell_len(line) <= width for line in found), found
    assert height is None or len(found) <= height, found
    return found


def busy() -> Second:
    before = document(
        100.0,
        [listener("udp://127.0.0.1:8089", 1000), listener("statsd", 10, series_full=3)],
        [output("influx", 900), output("archive", 5)],
        threads=[{"name": "lane-0", "cpu_ns": 0}],
    )
    now = document(
        102.0,
        [
            listener("udp://127.0.0.1:8089", 1_625_662, queue=20),
            listener("statsd", 82_418, 8, series_full=15, decode=4),
        ],
        [
            output("influx", 1_625_514, waiting=4102),
            output(
                "archive",
                5,
                state="retrying",
                breaker="open",
                waiting=912_004,
                last_error="cannot connect: refused",
                spool={"bytes": 1_288_490_189},
            ),
        ],
        delay={"influx": {"p50": 0.0941, "p99": 0.2402}, "archive": None},
        slo=[{"output": "archive", "state": "fast"}, {"output": "influx", "state": "ok"}],
        threads=[{"name": "lane-0", "cpu_ns": 1_700_000_000}],
    )
    return Second(now, before)


def test_a_frame_tells_rates_between_two_seconds_and_why_something_was_lost() -> None:
    found = lines(busy(), width=120)
    assert found[0].startswith("penstock 0.1.0 · running 3 d 4 h · ledger moving")
    assert found[0].endswith("q s r p ?")
    assert found[1] == "objective: archive burns fast"
    assert found[2] == (
        "in 853,535/s · out 812,307/s · lost 12/s · waiting 916,106 · p99 240 ms"
        " · spool 1.2 GiB · processor 85 %"
    )
    assert "udp://127.0.0.1:8089      812,331          0         0    2 %" in found
    assert "statsd                     41,204          8         4    0 %  decode 4, series_full 12" in found
    assert "influx   ok            812,307    4,102         -   94 ms  240 ms    4" in found
    assert found[-1] == (
        "archive  retrying            0  912,004   1.2 GiB       -       -    4  cannot connect: refused;"
        " breaker open"
    )


def test_without_an_earlier_second_of_the_same_agent_there_are_its_own_rates() -> None:
    rates = {"listeners": {"a": {"received": 12.0, "lost": 3.0}}, "outputs": {"o": {"delivered": 9.0}}}
    now = document(5.0, [listener("a", 500)], [output("o", 700)], rates)
    other = document(4.0, [listener("a", 9000)], [output("o", 9000)], pid=6)
    for second in (Second(now), Second(now, other)):
        found = lines(second)
        assert found[1].startswith("in 12/s · out 9/s · lost 3/s")
        [row] = [line for line in found if line.startswith("a ")]
        assert row.split() == ["a", "12", "-", "-", "0", "%"]


@pytest.mark.parametrize("height", [8, 9, 10, 12, 16, 24, 50, None])
@pytest.mark.parametrize("width", [1, 20, 39, 40, 61, 80, 200])
def test_a_frame_fits(width: int, height: int | None) -> None:
    for section in range(5):
        view = View()
        view.press(str(section))
        found = lines(busy(), view, width, height)
        listed = any(line.startswith(("LISTENER", "OUTPUT")) for line in found)
        if section < 3:
            assert listed == (width >= 40 and (height is None or height >= 10))
    view = View()
    view.press("?")
    assert lines(busy(), view, width, height)


def test_columns_go_from_the_right_and_reasons_into_a_line_of_their_own() -> None:
    found = lines(busy(), width=80)
    at = next(index for index, line in enumerate(found) if line.startswith("archive"))
    assert found[at].split() == ["archive", "retrying", "0", "912,004", "1.2", "GiB", "-", "-", "4"]
    assert found[at + 1] == "    cannot connect: refused; breaker open"
    [titles] = [line for line in lines(busy(), width=40) if line.startswith("LISTENER")]
    assert titles.split() == ["LISTENER", "received/s", "dropped/s"]
    [row] = [line for line in lines(busy(), width=40) if line.startswith("udp")]
    assert row.split() == ["udp:/…0.0.1:8089", "812,331", "0"]


def test_few_lines_are_shared_out_and_what_is_left_is_counted() -> None:
    listeners = [listener(f"l{index:02d}", index) for index in range(64)]
    second = Second(document(1.0, listeners, [output("o")]))
    found = lines(second, height=24)
    assert any(line.startswith("OUTPUT") for line in found)
    shown = [line for line in found if line.startswith("l")]
    [more] = [line for line in found if line.endswith(" more")]
    assert int(more.split()[1]) == 64 - len(shown)
    assert len(lines(second)) > 64


def test_keys_scroll_to_the_end_and_not_beyond() -> None:
    listeners = [listener(f"l{index:02d}") for index in range(64)]
    second, view = Second(document(1.0, listeners, [output("o")])), View()
    view.press("1")

    def first() -> str:
        return next(line for line in lines(second, view, height=24) if line.startswith("l")).split()[0]

    assert first() == "l00"
    view.press("down")
    assert first() == "l01"
    view.press("page down")
    assert first() > "l10"
    view.press("end")
    assert first() < "l64"
    assert lines(second, view, height=24)[-1].startswith("l63")
    view.press("up")
    view.press("home")
    assert first() == "l00"
    view.press("up")
    assert first() == "l00"


def test_s_goes_through_the_columns_and_r_turns_the_order_around() -> None:
    rates = {
        "listeners": {name: {"received": n} for name, n in (("b", 5), ("a", 7), ("c", 6))},
        "outputs": {},
    }
    second = Second(document(1.0, [listener(name) for name in "bac"], [], rates))

    def order(view: View) -> str:
        return "".join(line[0] for line in lines(second, view) if line[:2] in ("a ", "b ", "c "))

    view = View()
    assert order(view) == "bac"
    view.press("r")
    assert order(view) == "cab"
    view.press("r")
    view.press("s")
    assert (view.sort, order(view)) == ("listener", "abc")
    view.press("s")
    assert (view.sort, order(view)) == ("received/s", "acb")
    assert any("received/s↓" in line for line in lines(second, view))
    view.press("r")
    assert order(view) == "bca"
    for _ in sort_keys():
        view.press("s")
    assert view.sort == "listener"
    assert order(View("received/s")) == "acb"


def test_other_keys() -> None:
    view = View()
    view.press("p")
    assert "paused" in lines(busy(), view)[0]
    view.press(" ")
    assert "paused" not in lines(busy(), view)[0]
    view.press("2")
    assert [line for line in lines(busy(), view) if line.startswith("LISTENER")] == []
    view.press("2")
    assert [line for line in lines(busy(), view) if line.startswith("LISTENER")] != []
    view.press("?")
    assert lines(busy(), view, height=24)[0] == "Keys"
    view.press("x")
    assert not view.over
    view.press("q")
    assert view.over


def test_an_agent_that_has_gone_is_told_with_the_age_of_the_numbers() -> None:
    found = [line.plain for line in frame(busy(), View(), 80, 24, "no agent is running here")]
    assert found[1].startswith("these numbers are of ") and found[1].endswith(": no agent is running here")


HOSTILE = "[red]\x1b]0;owned\x07\x9b31m\u202egnp\n[/]\\"


def test_what_comes_from_the_network_is_never_obeyed() -> None:
    offender = {
        "measurement": HOSTILE,
        "tag": HOSTILE,
        "refused": 1,
        "series": 1,
        "per_minute": 1,
        "samples": [HOSTILE],
    }
    second = Second(
        document(
            1.0,
            [listener(HOSTILE)],
            [output(HOSTILE, state=HOSTILE, last_error=HOSTILE)],
            detail=[HOSTILE],
            not_ready=[HOSTILE],
            guards={"offenders": [offender]},
            events=[{"time": 1.0, "kind": "output", "name": HOSTILE, "text": HOSTILE}],
            samples=[{"time": 1.0, "listener": HOSTILE, "reason": "decode", "line": HOSTILE}],
        )
    )
    out = io.StringIO()
    console = Console(file=out, width=300, color_system=None)
    for line in frame(second, View(), 300, None):
        console.print(line)
    text = out.getvalue()
    assert not any(char in text for char in "\x1b\x07\x9b\u202e")
    assert text.count("[red]\\x1b]0;owned\\x07\\x9b31m\\u202egnp\\x0a[/]\\") >= 9
    assert printable("tab\there") == "tab\\x09here"
    assert printable_lines("a\x1b\nb\r\n") == "a\\x1b\nb\\x0d\n"


def test_wide_characters_take_two_columns() -> None:
    second = Second(document(1.0, [listener("温度" * 30)], [output("o")]))
    for width in (40, 41, 80):
        lines(second, width=width)


def test_numbers_are_short() -> None:
    assert [per_second(one) for one in (0, 0.25, 9.94, 12.4, 812331.2)] == [
        "0",
        "0.2",
        "9.9",
        "12",
        "812,331",
    ]
    assert [volume(one) for one in (0, 812, 1023, 1 << 20, 5 << 50)] == [
        *("0 B", "812 B", "1.0 KiB", "1.0 MiB", "5120 TiB")
    ]


def test_text_is_cut_in_the_middle_and_folded_at_words() -> None:
    from rich.text import Text

    assert middle(Text("udp://127.0.0.1:8089"), 12).plain == "udp:….1:8089"
    assert [one.plain for one in fold(Text("a bc defghij"), 4)] == ["a bc", "defg", "hij"]


def test_events_of_a_stream_are_told_apart() -> None:
    stream = (
        b'retry: 2000\nid: 1\nevent: hello\ndata: {"a": 1}\n\nid: 2\nevent: second\ndata: {"b": 2}\n\n: x\n\n'
    )
    assert list(events(stream.splitlines(keepends=True))) == [("hello", {"a": 1}), ("second", {"b": 2})]
