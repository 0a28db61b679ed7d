"""What collectd's plugin write_http sends with ``Format "JSON"``: an array of value lists.

    [{"values":[1,2],"dstypes":["derive","derive"],"dsnames":["rx","tx"],"time":1700000000.123,"interval":10,
      "host":"h","plugin":"interface","plugin_instance":"eth0","type":"if_octets","type_instance":""}]

https://www.collectd.org/documentation/manpages/collectd.conf.html#plugin-write-http

A value becomes a point as in Telegraf's parser of collectd: measurement ``PLUGIN_DSNAME``, tags ``host``,
``instance``, ``type`` and ``type_instance``, field ``value``. What has no value is null, and left out.
"""

from collections.abc import Iterator

import orjson

from agent.inputs.http.refused import Refused

Point = tuple[str, dict[str, str], dict[str, float], int]

_TAGS = (
    ("host", "host"),
    ("plugin_instance", "instance"),
    ("type", "type"),
    ("type_instance", "type_instance"),
)


def points(data: bytes) -> list[Point]:
    """The points of a body; times in nanoseconds. Raises Refused, 400, for what is no such array."""
    try:
        lists = orjson.loads(data)
        if not isinstance(lists, list):
            raise ValueError("it is no array")
        return [point for one in lists for point in _of_list(one)]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise Refused(400, f"the body is not what collectd's write_http sends: {error!r}") from error


def _of_list(one: dict[str, object]) -> Iterator[Point]:
    values, names, plugin, time = one["values"], one["dsnames"], one["plugin"], one["time"]
    if not (isinstance(values, list) and isinstance(names, list) and len(values) == len(names)):
        raise ValueError("values and dsnames are two arrays of one length")
    if not isinstance(plugin, str) or not plugin or not isinstance(time, int | float):
        raise ValueError("plugin is a name, and time a number")
    tags = {tag: value for key, tag in _TAGS if isinstance(value := one.get(key), str) and value}
    for name, value in zip(names, values, strict=True):
        if not isinstance(name, str):
            raise ValueError("a dsname is a text")
        if value is None:
            continue
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError("a value is a number or null")
        # Times are written in milliseconds.
        yield f"{plugin}_{name}", tags, {"value": float(value)}, round(time * 1000) * 1_000_000
