"""The structs of what guards the database. A guard is on if its table is there."""

from typing import Annotated

from agent.config_kinds import Choice, Duration, Flag, Integer, Number, Text
from agent.config_table import Array, Table

POLICIES = ("overflow", "drop_tag", "drop")
SERIES_MAX = 100_000_000
LIMITS_MAX = 64


class CardinalityLimit(Table, frozen=True, kw_only=True):
    """``[[cardinality.limit]]``: a limit of measurements, or of a tag of theirs."""

    measurement: Annotated[str, Text(wanted='a name, or a glob such as "http*"', empty=False)] = "*"
    tag: Annotated[str, Text()] = ""
    max_series: Annotated[int, Integer(0, SERIES_MAX)]
    policy: Annotated[str, Choice(*POLICIES, empty=True)] = ""


class Cardinality(Table, frozen=True, kw_only=True):
    """``[cardinality]``: how many series there may be, and what becomes of those beyond."""

    max_series: Annotated[int, Integer(1, SERIES_MAX)] = 1_000_000
    window: Annotated[float, Duration("1s", "30d")] = 3600.0
    policy: Annotated[str, Choice(*POLICIES)] = "overflow"
    mode: Annotated[str, Choice("enforce", "observe")] = "enforce"
    reserve: Annotated[float, Number(0, 0.9)] = 0.25
    limit: Annotated[tuple[CardinalityLimit, ...], Array(CardinalityLimit, LIMITS_MAX)] = ()


class Collisions(Table, frozen=True, kw_only=True):
    """``[collisions]``: lines of one series and time in a batch are made one."""

    same_field: Annotated[str, Choice("last", "nudge")] = "last"


FIELD_TYPES = ("float", "integer", "unsigned", "boolean", "string")


class TypesField(Table, frozen=True, kw_only=True):
    """``[[types.field]]``: a field whose type is given, whatever came first."""

    measurement: Annotated[str, Text(wanted="the name of a measurement", empty=False)]
    field: Annotated[str, Text(wanted="the name of a field", empty=False)]
    type: Annotated[str, Choice(*FIELD_TYPES)]


class Types(Table, frozen=True, kw_only=True):
    """``[types]``: each field has one type, as it has in the database."""

    conflict: Annotated[str, Choice("reject", "rename")] = "reject"
    coerce: Annotated[bool, Flag()] = True
    max_fields: Annotated[int, Integer(1000, 10_000_000)] = 100_000
    field: Annotated[tuple[TypesField, ...], Array(TypesField, 10_000)] = ()
