"""[[shape]] and [[map]] do as the reference does, and run no more programs than need be."""

import re
from collections.abc import Sequence

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from agent._core import Rules, read_format
from agent.config_rules import METRIC_TYPES, Map, Shape, ShapeTag
from agent.rules import map_rule, shape_rule, template_rules
from agent.templates import compile_templates
from tests.reference import rules as reference
from tests.reference.rules import Head

NAMES = ["http", "http_eu", "httpd", "cpu", "mem", "a b", "x,y", "é"]
KEYS = ["host", "path", "id", "user_id", "dc", "k=v", "z"]
VALUES = [
    "a",
    "web1",
    "/user/7",
    "/user/",
    "/user/7/posts/x",
    "é€😀",
    "x,y z=",
    "a\\b",
    "GET",
    "PUT",
    "b" * 20,
]
GLOBS = [
    "*",
    "http*",
    "cpu",
    "!httpd",
    "*_*",
    "h?tp",
    "[!c]*",
    "!m*",
    "user_*",
    "*id",
    "path",
    "P*",
    "/user/*",
]


def escape(text: str, marks: str) -> str:
    return re.sub(f"([{marks}])", r"\\\1", text)


def written(head: Head) -> bytes:
    """The head in canonical form, its tags in the order in which they stand."""
    text = escape(head.measurement, ", ")
    for key, value in head.tags.items():
        text += f",{escape(key, ', =')}={escape(value, ', =')}"
    return text.encode()


def expected(head: Head, before: Head) -> bytes:
    """As :func:`written`, but with sorted tags if anything has changed."""
    return written(head if head == before else in_order(head))


def in_order(head: Head) -> Head:
    return head._replace(tags=dict(sorted(head.tags.items(), key=lambda item: item[0].encode())))


def globs(least: int = 0) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(GLOBS), min_size=least, max_size=3).map(tuple)


TAGS = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=5)
HEADS = st.builds(Head, st.sampled_from(NAMES), TAGS, st.just(""))
LENGTHS = st.sampled_from([0, 0, 0, 1, 2, 3, 5])
TAG_RULES = st.builds(
    ShapeTag,
    templates=st.lists(
        st.sampled_from(["/user/:id", "/user/:id/posts/:post", "/:a/:b", ":x", "/user/"]), max_size=2
    ).map(tuple),
    allow=globs(),
    otherwise=st.sampled_from(["__other__", "", "o"]),
    max_length=LENGTHS,
)
SHAPES = st.builds(
    Shape,
    measurement=globs(1),
    drop=st.sampled_from([False] * 9 + [True]),
    rename=st.sampled_from(["", "", "cpu", "http_x", "a b"]),
    drop_tags=globs(),
    rename_tags=st.dictionaries(st.sampled_from(KEYS), st.sampled_from([*KEYS, "new"]), max_size=2),
    add_tags=st.dictionaries(st.sampled_from([*KEYS, "new"]), st.sampled_from(["x", "é y"]), max_size=2),
    max_length=LENGTHS,
    tags=st.dictionaries(st.sampled_from(KEYS), TAG_RULES, max_size=2),
)


@settings(max_examples=500)
@given(st.lists(SHAPES, max_size=5), HEADS, st.integers(0, 3))
@example([Shape(rename_tags={"a": "b", "b": "a"})], Head("m", {"a": "1", "b": "2"}), 0)
@example([Shape(rename="cpu", drop_tags=("x",)), Shape(measurement=("cpu",), drop=True)], Head("m", {}), 0)
@example([Shape(tags={"k": ShapeTag(max_length=2)})], Head("m", {"k": "a\\b"}), 0)
def test_shapes_are_applied_as_the_reference_says(shapes: Sequence[Shape], head: Head, agents: int) -> None:
    own = dict(list(head.tags.items())[agents:])
    extra = {key: value for key, value in head.tags.items() if key not in own}
    whole = Head(head.measurement, {**own, **extra})
    wanted = reference.shape(shapes, whole)
    found = Rules([shape_rule(one) for one in shapes]).apply(
        written(Head(head.measurement, own)), extra=written(Head("", extra))
    )
    assert not found["given_up"]
    assert found["dropped"] == ("denied" if wanted is None else None)
    if wanted is not None:
        assert found["changed"] or wanted == whole
        # What was changed and is then as before is sorted, too.
        assert found["head"] == (
            expected(wanted, whole) if not found["changed"] else written(in_order(wanted))
        )


MAP_TEXTS = ["", "m", "$1", "${1}_$2", "x$1y", "#$1", "time"]


@st.composite
def maps(draw: st.DrawFn) -> Map:
    pattern = draw(
        st.one_of(
            st.lists(st.sampled_from(["web", "*", "eu1", "requests", "[ab]*"]), min_size=1, max_size=4).map(
                ".".join
            ),
            st.just(""),
        )
    )
    regex = (
        ""
        if pattern
        else draw(st.sampled_from(["web\\.(.*)", "(a|b)*?\\.?(.*)", "(\\w+)\\.(\\w+)", ".*(1)?"]))
    )
    captures = (re.compile(regex).groups if regex else pattern.count("*")) or 0
    texts = [
        text for text in MAP_TEXTS if all(int(one) <= captures for one in re.findall(r"\$\{?(\d)", text))
    ]
    return Map(
        match=pattern,
        regex=regex,
        types=tuple(draw(st.sets(st.sampled_from(METRIC_TYPES), max_size=2))),
        action=draw(st.sampled_from(["map"] * 9 + ["drop"])),
        measurement=draw(st.sampled_from(texts)),
        tags=draw(st.dictionaries(st.sampled_from(KEYS), st.sampled_from(texts), max_size=3)),
        field=draw(st.sampled_from(texts)),
    )


@settings(max_examples=500)
@given(
    st.lists(maps(), max_size=5),
    st.lists(
        st.sampled_from(["web", "eu1", "requests", "a", "b2", "", "x\\", "é,"]), min_size=1, max_size=5
    ).map(".".join),
    HEADS,
    st.sampled_from(["", *METRIC_TYPES]),
)
def test_names_are_mapped_as_the_reference_says(
    rules: Sequence[Map], name: str, head: Head, metric_type: str
) -> None:
    wanted = reference.map_name(rules, name, head, metric_type)
    found = Rules((), [map_rule(one) for one in rules]).apply(
        written(head), name=name.encode(), type=1 << METRIC_TYPES.index(metric_type) if metric_type else 0
    )
    assert found["dropped"] == ("denied" if wanted is None else None)
    if wanted is not None:
        assert (found["field"] or b"").decode() == wanted.field
        assert found["head"] == expected(wanted, head)


NODES = ["a", "b", "cpu", "web1", "", "x y", "é"]
FILTERS = st.lists(st.sampled_from(["*", "a", "b", "cpu"]), max_size=3).map(".".join)
PARTS = st.lists(
    st.sampled_from(["", "measurement", "host", "dc", "field", "time"]), min_size=0, max_size=4
).flatmap(
    lambda parts: st.sampled_from(["measurement", "measurement*"]).map(lambda last: ".".join([*parts, last]))
)


@settings(max_examples=300)
@given(
    st.dictionaries(
        FILTERS, st.tuples(PARTS, st.sampled_from(["", " dc=eu", " time=x,q=1"])), min_size=1, max_size=4
    ),
    st.lists(st.sampled_from(NODES), min_size=1, max_size=6).map(".".join),
    st.sampled_from(["_", ".", "", "--"]),
)
def test_templates_mean_the_same_both_ways(
    templates: dict[str, tuple[str, str]], path: str, join: str
) -> None:
    """As the reader of Graphite has them, and as rules for names, which StatsD uses."""
    assume(path.strip())
    texts = [f"{filter} {parts}{tags}".strip() for filter, (parts, tags) in templates.items()]
    line = f"{path} 1 17\n".encode()
    read = read_format(line, "graphite", graphite=compile_templates(texts, join))
    assume(read["accepted"])
    head, fields, _ = re.split(rb"(?<!\\) ", read["body"])
    plain = read_format(line, "graphite")["body"]
    found = Rules((), template_rules(texts, 1, join.encode())).apply(
        re.split(rb"(?<!\\) ", plain)[0], name=path.encode()
    )
    field = found["field"] or b"value"
    assert re.sub(rb"([ ,=])", rb"\\\1", field) + b"=1" == fields
    measurement, *tags = re.split(rb"(?<!\\),", head)
    assert found["head"] == b",".join([measurement, *sorted(tags)])


def documented(
    rules: Sequence[Map], name: str, metric_type: str = "counter"
) -> tuple[bytes, bytes | None] | str:
    bit = 1 << METRIC_TYPES.index(metric_type)
    found = Rules((), [map_rule(one) for one in rules]).apply(b"raw", name=name.encode(), type=bit)
    return found["dropped"] or (found["head"], found["field"])


def test_the_shapes_that_others_document() -> None:
    """What mappings of StatsD names are used for, as the manual of statsd_exporter shows it, in our words."""
    # Nodes that become labels; the more special rule stands first.
    dispatcher = [
        Map(
            match="shop.dispatcher.*.*.*",
            measurement="dispatcher_events",
            tags={"processor": "$1", "action": "$2", "outcome": "$3", "job": "shop_dispatcher"},
        ),
        Map(
            match="*.signup.*.*",
            measurement="signup_events",
            tags={"provider": "$2", "outcome": "$3", "job": "${1}_server"},
        ),
    ]
    assert documented(dispatcher, "shop.dispatcher.mail.send.ok") == (
        b"dispatcher_events,action=send,job=shop_dispatcher,outcome=ok,processor=mail",
        None,
    )
    assert documented(dispatcher, "web.signup.github.failed") == (
        b"signup_events,job=web_server,outcome=failed,provider=github",
        None,
    )
    assert documented(dispatcher, "web.signup.github") == (b"raw", None)
    # A regular expression over parts of a node.
    regex = [
        Map(regex=r"host-([a-z0-9]+)--([a-z]+)\.(.+)", measurement="$3", tags={"host": "$1", "rack": "$2"})
    ]
    assert documented(regex, "host-a7--west.load.avg") == (b"load.avg,host=a7,rack=west", None)
    # What goes, and what is for one type only.
    some = [
        Map(match="*.debug.*", action="drop"),
        Map(
            match="app.*.latency",
            types=("timing",),
            measurement="latency",
            tags={"app": "$1"},
            field="seconds",
        ),
        Map(match="app.*.latency", measurement="latency_count"),
    ]
    assert documented(some, "x.debug.y") == "denied"
    assert documented(some, "app.shop.latency", "timing") == (b"latency,app=shop", b"seconds")
    assert documented(some, "app.shop.latency", "counter") == (b"latency_count", None)
    # Names from captures, and everything else kept out by a last rule.
    names = [Map(match="*.ok.*", measurement="${2}_$1"), Map(match="*"), Map(regex=".*", action="drop")]
    assert documented(names, "total.ok.jobs") == (b"jobs_total", None)
    assert documented(names, "plain") == (b"raw", None)
    assert documented(names, "any.thing") == "denied"


def test_rules_are_for_their_listeners() -> None:
    rules = Rules((), [map_rule(Map(match="*", measurement="m"), listeners=0b100)])
    assert [rules.apply(b"x", name=b"a", listener=number)["mapped"] for number in range(4)] == [
        False,
        False,
        True,
        False,
    ]


def test_a_thousand_rules_cost_an_unknown_name_few_programs() -> None:
    maps = [Map(match=f"app{i}.*.requests", measurement=f"m{i}", tags={"host": "$1"}) for i in range(1000)]
    shapes = [Shape(measurement=(f"m{i}*",), drop_tags=("x*y",)) for i in range(1000)]
    rules = Rules([shape_rule(one) for one in shapes], [map_rule(one) for one in maps])
    found = rules.apply(b"raw", name=b"app777.web.requests")
    assert found["head"] == b"m777,host=web"
    # The map's, and of each of m7*, m77* and m777* what it says of the tag "host".
    assert found["runs"] <= 1 + 3
    assert rules.apply(b"raw", name=b"other.web.requests")["runs"] == 0


def test_rules_that_take_too_long_are_given_up() -> None:
    slow = Map(regex="(?:.*a){40}b", measurement="slow")
    rules = Rules((), [map_rule(slow), map_rule(Map(regex=".*", measurement="all"))])
    found = rules.apply(b"raw", name=b"a" * 60000)
    assert (found["head"], found["given_up"]) == (b"raw", True)
    assert rules.apply(b"raw", name=b"a" * 30)["head"] == b"all"


@pytest.mark.parametrize("name", [b"a.\xff", b"a.\xe2\x82"])
def test_a_capture_that_is_no_text_costs_the_metric(name: bytes) -> None:
    rules = Rules((), [map_rule(Map(match="a.*", measurement="$1"))])
    assert rules.apply(b"raw", name=name)["dropped"] == "utf8"


def test_a_name_that_gets_too_long_costs_the_metric() -> None:
    rules = Rules((), [map_rule(Map(match="*", measurement="$1$1$1"))])
    assert rules.apply(b"raw", name=b"x" * 25000)["dropped"] == "key_too_long"
