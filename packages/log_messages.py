"""docs/messages.md: every line that the log may have, with its level, its fields and what to do about it.

Level, message and fields are read from the calls of loggers in agent/, the advice from LOG MESSAGES in
man/penstock.1, which is written by hand. ``make man`` runs this; a test holds each to the others.
"""

import ast
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "messages.md"
LEVELS = {
    "critical": "critical",
    "error": "error",
    "exception": "error",
    "warning": "warning",
    "info": "info",
    "debug": "debug",
}
"""Of the methods of a logger, the worst first."""

HEAD = """\
# Messages

Every line that the log may have, with the fields that it can come with. Lines are JSON in the journal:
`time`, `level`, `logger`, `message` as it stands here, then the fields. At most ten lines of one message
leave within ten seconds; the next one says how many were left out, as `suppressed`. `batch` is the id of
a batch, which the server is told too; see `[log] trace`.

Made by `make man` of the code and of LOG MESSAGES in penstock(1)."""


class Logged(NamedTuple):
    """One call of a logger."""

    level: str
    message: str
    fields: tuple[str, ...]
    where: str


def logged() -> Iterator[Logged]:
    """Every call of a logger in agent/. Raises ValueError for one whose level or message is not fixed."""
    trees = {path: ast.parse(path.read_text()) for path in sorted((ROOT / "agent").rglob("*.py"))}
    scopes = _Scopes(trees.values())
    for path, tree in trees.items():
        for call, within in _calls(tree):
            assert isinstance(call.func, ast.Attribute)
            where = f"{path.relative_to(ROOT)}:{call.lineno}"
            if call.func.attr == "isEnabledFor":
                continue
            message = call.args[0] if call.args else None
            if call.func.attr not in LEVELS or not isinstance(message, ast.Constant):
                raise ValueError(f"{where}: not one fixed level with one fixed text")
            extra = next((one.value for one in call.keywords if one.arg == "extra"), None)
            fields = tuple(dict.fromkeys(scopes.keys(extra, within)))
            yield Logged(LEVELS[call.func.attr], message.value, fields, where)


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, list[ast.AST]]]:
    """Calls of ``logger``, each with the functions and classes that it stands in, the innermost first."""

    def visit(node: ast.AST, within: list[ast.AST]) -> Iterator[tuple[ast.Call, list[ast.AST]]]:
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="logger"))):
                yield node, within
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                within = [node, *within]
        for child in ast.iter_child_nodes(node):
            yield from visit(child, within)

    return visit(tree, [])


class _Scopes:
    """Finds the keys of what is given as ``extra``."""

    def __init__(self, trees: Iterable[ast.Module]) -> None:
        self._functions: dict[str, ast.AST] = {}
        for tree in trees:
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    self._functions.setdefault(node.name, node)

    def keys(self, value: ast.AST | None, within: list[ast.AST]) -> Iterator[str]:
        """The keys of *value*, which stands in *within*: a dict, a name or attribute of one, or a call."""
        match value:
            case ast.Dict():
                for key, inner in zip(value.keys, value.values, strict=True):
                    if key is None:
                        yield from self.keys(inner, within)
                    elif isinstance(key, ast.Constant):
                        yield str(key.value)
            case ast.BinOp():
                yield from self.keys(value.left, within)
                yield from self.keys(value.right, within)
            case ast.Await():
                yield from self.keys(value.value, within)
            case ast.Call(func=ast.Attribute(attr=name)) if name in self._functions:
                function = self._functions[name]
                for node in ast.walk(function):
                    if isinstance(node, ast.Return):
                        yield from self.keys(node.value, [function])
            case ast.Name() | ast.Attribute():
                text = ast.unparse(value)
                for scope in within:
                    if found := list(self._assigned(text, scope, within)):
                        yield from found
                        return

    def _assigned(self, name: str, scope: ast.AST, within: list[ast.AST]) -> Iterator[str]:
        """The keys that *name* gets anywhere in *scope*, in the order of the text."""
        for node in ast.walk(scope):
            if isinstance(node, ast.AnnAssign | ast.AugAssign) and ast.unparse(node.target) == name:
                yield from self.keys(node.value, within)
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    if ast.unparse(target) == name:
                        yield from self.keys(node.value, within)
                    for part in ast.walk(target):
                        match part:
                            case ast.Subscript(slice=ast.Constant(value=key)):
                                if ast.unparse(part.value) == name:
                                    yield str(key)


def told() -> Iterator[tuple[str, str, str]]:
    """Level, message and advice of every entry in the manual."""
    text = (ROOT / "man" / "penstock.1").read_text()
    section = text.split("\n.SH LOG MESSAGES\n")[1].split("\n.SH ")[0] + "\n"
    for level, entries in re.findall(r"^\.SS (\w+)\n(.*?)(?=^\.SS |\Z)", section, re.DOTALL | re.MULTILINE):
        found = re.findall(r"^\.TP\n\.B ([^\n]*)\n(.*?)(?=^\.TP|\Z)", entries, re.DOTALL | re.MULTILINE)
        for message, advice in found:
            yield level, _unescaped(message), advice


def markdown(advice: str) -> str:
    """Text of the manual, with the few macros that it uses, as one line of Markdown."""
    parts = []
    for line in advice.splitlines():
        macro = re.match(r"\.([BIR]{1,2}) (.*)", line)
        if macro is None:
            parts.append(_unescaped(line).replace("|", "\\|"))
            continue
        fonts, words = macro[1], shlex.split(macro[2])
        if len(fonts) == 1:
            words = [" ".join(words)]
        marks = {"B": "`", "I": "*", "R": ""}
        shown = [(marks[fonts[at % len(fonts)]], _unescaped(word)) for at, word in enumerate(words)]
        parts.append("".join(f"{mark}{word}{mark}" for mark, word in shown).replace("|", "\\|"))
    return " ".join(parts)


def _unescaped(text: str) -> str:
    return text.replace("\\-", "-").replace("\\e", "\\").replace("\\&", "")


def document() -> str:
    """The text of docs/messages.md."""
    fields: defaultdict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for one in logged():
        fields[one.level, one.message].update(dict.fromkeys(one.fields))
    lines = [HEAD]
    for level in dict.fromkeys(LEVELS.values()):
        lines += ["", f"## {level}", "", "| message | fields | what to do |", "|---|---|---|"]
        # In the order of the manual, where one entry may speak of the one before.
        for of, message, advice in told():
            if of == level:
                shown = ", ".join(f"`{name}`" for name in fields[of, message])
                lines.append(f"| {message} | {shown} | {markdown(advice)} |")
    return "\n".join(lines) + "\n"
