"""Globs and regular expressions of the rules, compiled to what the core runs (``ext/pattern.h``).

A pattern is for a whole text: ``cpu*`` and ``cpu.*`` match ``cpu_total``, ``cpu`` matches only itself.
The core runs it in linear time, so back-references and look-around are refused; what is taken means what it
means to Python's ``re.fullmatch`` with ``re.ASCII``: ``\\d``, ``\\w`` and ``\\s`` are of ASCII, ``.`` is any
character of any script.

In a glob ``*`` is any text, ``?`` any character, ``[a-z]`` one of these and ``[!a-z]`` one of the others. In
a glob of *nodes*, which are what dots separate, none of them goes over a dot and every ``*`` is a capture.
"""

import re
import struct
import warnings
from collections.abc import Iterable
from typing import NamedTuple

from agent._core import Pattern
from agent.config_values import quote

STEPS_MAX = 2048
"""Of one program."""

CAPTURES_MAX = 16

REPEATS_MAX = 1000
"""The largest number in ``{m,n}``."""

NESTED_MAX = 50
"""Groups in groups."""

_LAST = 0x10FFFF

# The order of pattern_op_t, and of pattern_kind_t.
_CHAR, _CLASS, _RANGE, _ANY, _ALL, _SPLIT, _JUMP, _SAVE, _BEGIN, _END, _FOUND = range(11)
_PROGRAM, _LITERAL, _PREFIX = range(3)

Ranges = tuple[tuple[int, int], ...]
"""Characters, first and last of each run, in order and apart from each other."""


class Char(NamedTuple):
    code: int


class Set(NamedTuple):
    ranges: Ranges


class Step(NamedTuple):
    """What is a step as it stands: any character, the beginning, the end."""

    op: int


class Group(NamedTuple):
    node: "Node"
    capture: int


class Row(NamedTuple):
    nodes: tuple["Node", ...]


class Choice(NamedTuple):
    nodes: tuple["Node", ...]


class Repeat(NamedTuple):
    node: "Node"
    low: int
    high: int | None
    lazy: bool


Node = Char | Set | Step | Group | Row | Choice | Repeat


def _ranges(pairs: Iterable[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(pairs):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _others(ranges: Ranges) -> Ranges:
    found, next_code = [], 0
    for low, high in ranges:
        if low > next_code:
            found.append((next_code, low - 1))
        next_code = high + 1
    if next_code <= _LAST:
        found.append((next_code, _LAST))
    return tuple(found)


def _of(text: str) -> Ranges:
    return _ranges((ord(one), ord(one)) for one in text)


_DIGITS: Ranges = ((ord("0"), ord("9")),)
_WORDS = _ranges([*_DIGITS, (ord("A"), ord("Z")), (ord("a"), ord("z")), (ord("_"), ord("_"))])
_BLANKS = _of(" \t\n\r\f\v")
_SETS = {
    "d": _DIGITS,
    "w": _WORDS,
    "s": _BLANKS,
    "D": _others(_DIGITS),
    "W": _others(_WORDS),
    "S": _others(_BLANKS),
}
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
_COUNTS = re.compile(r"\{([0-9]*)(?:(,)([0-9]*))?\}")


class _Regex:
    """One regular expression, read from the left. What ``re`` takes too, so nothing is checked twice."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.captures = 0
        self.depth = 0

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self, wanted: str) -> bool:
        if not self.text.startswith(wanted, self.at):
            return False
        self.at += len(wanted)
        return True

    def choice(self) -> Node:
        rows = [self.row()]
        while self.take("|"):
            rows.append(self.row())
        return rows[0] if len(rows) == 1 else Choice(tuple(rows))

    def row(self) -> Node:
        nodes = []
        while self.at < len(self.text) and self.peek() not in "|)":
            nodes.append(self.repeated(self.one()))
        return Row(tuple(nodes))

    def one(self) -> Node:
        char = self.peek()
        self.at += 1
        match char:
            case ".":
                return Step(_ANY)
            case "^":
                return Step(_BEGIN)
            case "$":
                return Step(_END)
            case "[":
                return Set(self.set())
            case "(":
                return self.group()
            case "\\":
                found = self.escape()
                return Char(found) if isinstance(found, int) else Set(found)
        return Char(ord(char))

    def group(self) -> Node:
        capture = 0
        if self.take("?"):
            if not self.take(":"):
                kind = self.text[self.at - 2 : self.at + 2]
                raise ValueError(f"has {quote(kind)}: only plain groups and (?:…) are supported")
        else:
            self.captures += 1
            capture = self.captures
        self.depth += 1
        if self.depth > NESTED_MAX:
            raise ValueError(f"has more than {NESTED_MAX} groups in each other")
        node = self.choice()
        self.depth -= 1
        self.at += 1
        return Group(node, capture) if capture else node

    def escape(self, in_set: bool = False) -> int | Ranges:
        char = self.peek()
        self.at += 1
        if char in _SETS:
            return _SETS[char]
        if char in _CONTROLS:
            return ord(_CONTROLS[char])
        if in_set and char == "b":
            return ord("\b")
        if char in ("x", "u"):
            digits = self.text[self.at : self.at + (2 if char == "x" else 4)]
            self.at += len(digits)
            return int(digits, 16)
        if char.isdigit():
            raise ValueError(f'has "\\{char}": a reference back to a group is not supported')
        if char.isascii() and char.isalpha():
            raise ValueError(f'has "\\{char}", which is not supported')
        return ord(char)

    def set(self) -> Ranges:
        negated = self.take("^")
        pairs: list[tuple[int, int]] = []
        first = True
        while first or self.peek() != "]":
            first = False
            low = self.member()
            if isinstance(low, int):
                high = low
                if self.peek() == "-" and self.text[self.at + 1] != "]":
                    self.at += 1
                    last = self.member()
                    assert isinstance(last, int)
                    high = last
                pairs.append((low, high))
            else:
                pairs.extend(low)
        self.at += 1
        return _others(_ranges(pairs)) if negated else _ranges(pairs)

    def member(self) -> int | Ranges:
        char = self.peek()
        self.at += 1
        return self.escape(in_set=True) if char == "\\" else ord(char)

    def repeated(self, node: Node) -> Node:
        counts = _COUNTS.match(self.text, self.at)
        if counts is not None and counts[0] != "{}":
            self.at = counts.end()
            low = int(counts[1] or 0)
            high = low if counts[2] is None else int(counts[3]) if counts[3] else None
            if max(low, high or 0) > REPEATS_MAX:
                raise ValueError(f"has {counts[0]}; at most {REPEATS_MAX} are allowed")
        elif self.peek() and self.peek() in "*+?":
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[self.peek()]
            self.at += 1
        else:
            return node
        lazy = self.take("?")
        if not lazy and self.peek() == "+":
            raise ValueError('has a "+" behind a repetition, which is not supported')
        if high != 1 and high != 0 and _may_be_empty(node):
            raise ValueError("repeats what may be empty")
        return Repeat(node, low, high, lazy)


def _may_be_empty(node: Node) -> bool:
    match node:
        case Group():
            return _may_be_empty(node.node)
        case Row():
            return all(map(_may_be_empty, node.nodes))
        case Choice():
            return any(map(_may_be_empty, node.nodes))
        case Repeat():
            return node.low == 0 or _may_be_empty(node.node)
        case Step():
            return node.op in (_BEGIN, _END)
    return False


class _Program:
    """The steps of a tree, in the order in which they are tried."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int, int, int]] = []
        self.classes: list[bytes] = []

    def add(self, op: int, x: int = 0, y: int = 0, z: int = 0) -> int:
        if len(self.steps) >= STEPS_MAX:
            raise ValueError(f"is too large: it takes more than {STEPS_MAX} steps")
        self.steps.append((op, x, y, z))
        return len(self.steps) - 1

    def split(self, at: int, inside: int, behind: int, lazy: bool) -> None:
        self.steps[at] = (_SPLIT, 0, behind, inside) if lazy else (_SPLIT, 0, inside, behind)

    def node(self, node: Node) -> None:
        match node:
            case Char():
                self.add(_CHAR, z=node.code)
            case Step():
                self.add(node.op)
            case Set():
                self.set(node.ranges)
            case Group():
                self.add(_SAVE, y=2 * (node.capture - 1))
                self.node(node.node)
                self.add(_SAVE, y=2 * (node.capture - 1) + 1)
            case Row():
                for one in node.nodes:
                    self.node(one)
            case Choice():
                self.choice(node.nodes)
            case Repeat():
                self.repeat(node)

    def choice(self, nodes: tuple[Node, ...]) -> None:
        ends = []
        for one in nodes[:-1]:
            at = self.add(_SPLIT)
            self.node(one)
            ends.append(self.add(_JUMP))
            self.split(at, at + 1, len(self.steps), lazy=False)
        self.node(nodes[-1])
        for end in ends:
            self.steps[end] = (_JUMP, 0, 0, len(self.steps))

    def repeat(self, node: Repeat) -> None:
        for _ in range(node.low):
            self.node(node.node)
        if node.high is None:
            at = self.add(_SPLIT)
            self.node(node.node)
            self.add(_JUMP, z=at)
            self.split(at, at + 1, len(self.steps), node.lazy)
            return
        splits = []
        for _ in range(node.high - node.low):
            splits.append(self.add(_SPLIT))
            self.node(node.node)
        for at in splits:
            self.split(at, at + 1, len(self.steps), node.lazy)

    def set(self, ranges: Ranges) -> None:
        """A class of the characters below U+0100, and beside it the ranges of those above."""
        bits = bytearray(32)
        for low, high in ranges:
            for code in range(low, min(high, 255) + 1):
                bits[code >> 3] |= 1 << (code & 7)
        above = [(max(low, 256), high) for low, high in ranges if high > 255]
        every = above == [(256, _LAST)]
        if bytes(bits) not in self.classes:
            self.classes.append(bytes(bits))
        number = self.classes.index(bytes(bits))
        ends = []
        for low, high in [] if every else above:
            at = self.add(_SPLIT)
            self.add(_RANGE, x=low >> 16, y=low & 0xFFFF, z=high)
            ends.append(self.add(_JUMP))
            self.split(at, at + 1, len(self.steps), lazy=False)
        self.add(_CLASS, x=every, y=number)
        for end in ends:
            self.steps[end] = (_JUMP, 0, 0, len(self.steps))


def _leading(node: Node) -> tuple[str, bool]:
    """The text that everything begins with that *node* matches, and whether that is all of it."""
    match node:
        case Char() if not 0xD800 <= node.code < 0xE000:  # those stand for bytes that are no characters
            return chr(node.code), True
        case Group():
            return _leading(node.node)
        case Row():
            text = ""
            for one in node.nodes:
                more, whole = _leading(one)
                text += more
                if not whole:
                    return text, False
            return text, True
    return "", False


_REST = Repeat(Step(_ALL), 0, None, lazy=False)


def _compile(node: Node, captures: int) -> Pattern:
    if captures > CAPTURES_MAX:
        raise ValueError(f"has {captures} captures; at most {CAPTURES_MAX} are allowed")
    program = _Program()
    program.node(node)
    program.add(_FOUND)
    text, whole = _leading(node)
    kind = _LITERAL if whole and not captures else _PROGRAM
    if isinstance(node, Row) and node.nodes and node.nodes[-1] == _REST and not captures:
        kind = _PREFIX if _leading(Row(node.nodes[:-1])) == (text, True) else kind
    steps = b"".join(struct.pack("=BBHI", *step) for step in program.steps)
    return Pattern(steps, b"".join(program.classes), captures, text.encode(), kind)


def compile_regex(text: str) -> Pattern:
    """A regular expression. Raises ValueError with what is wrong with it, or not supported."""
    with warnings.catch_warnings():
        # "[[" may come to mean something else one day.
        warnings.simplefilter("error", FutureWarning)
        try:
            re.compile(text, re.ASCII)
        except (re.error, FutureWarning, OverflowError, RecursionError) as error:
            raise ValueError(f"is no regular expression: {error}") from None
    reader = _Regex(text)
    return _compile(reader.choice(), reader.captures)


def compile_glob(text: str, nodes: bool = False) -> Pattern:
    """A glob, of whole texts or of *nodes*. Raises ValueError."""
    found: list[Node] = []
    captures = 0
    step: Node = Set(_others(_of("."))) if nodes else Step(_ALL)
    at = 0
    while at < len(text):
        char = text[at]
        at += 1
        if char == "*":
            star = Repeat(step, 0, None, lazy=False)
            if nodes:
                captures += 1
                found.append(Group(star, captures))
            elif not found or found[-1] != star:
                found.append(star)
        elif char == "?":
            found.append(step)
        elif char == "[":
            ranges, at = _glob_set(text, at, nodes)
            found.append(Set(ranges))
        else:
            found.append(Char(ord(char)))
    return _compile(Row(tuple(found)), captures)


def _glob_set(text: str, at: int, nodes: bool) -> tuple[Ranges, int]:
    """The characters of the set that begins at *at*, and where it ends."""
    negated = text.startswith("!", at)
    start = at + negated
    end = text.find("]", start + 1)
    if end < 0:
        raise ValueError('has a "[" that is never closed; "[[]" stands for the character itself')
    pairs, k = [], start
    while k < end:
        low = high = ord(text[k])
        if k + 2 < end and text[k + 1] == "-":
            high = ord(text[k + 2])
            if high < low:
                raise ValueError(f"has {quote(text[k : k + 3])}, whose end is before its beginning")
            k += 2
        pairs.append((low, high))
        k += 1
    if not negated:
        return _ranges(pairs), end + 1
    return _others(_ranges([*pairs, (ord("."), ord("."))] if nodes else pairs)), end + 1


class Globs(NamedTuple):
    """A list of globs: one of *wanted* must match (none: any text will do), and none of *unwanted*."""

    wanted: tuple[Pattern, ...]
    unwanted: tuple[Pattern, ...]


def compile_globs(globs: Iterable[str]) -> Globs:
    """The list, in which a glob with a leading ``!`` excludes. Raises ValueError."""
    wanted, unwanted = [], []
    for glob in globs:
        if glob.startswith("!"):
            unwanted.append(compile_glob(glob[1:]))
        else:
            wanted.append(compile_glob(glob))
    return Globs(tuple(wanted), tuple(unwanted))
