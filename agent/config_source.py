"""From files to one tree of plain values: read, merge, fill in references.

Knows TOML files and nothing about which keys the agent has. Three steps, each of which reports what is
wrong and goes on, so that a person sees all of it at once:

1. every file is read (:func:`read_tree` names them),
2. their tables are merged key by key, arrays of tables appended in the order of the files,
3. ``${NAME}``, ``${file:PATH}`` and ``${credential:NAME}`` are replaced in every string; ``$$`` gives ``$``.
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

from agent.config_values import Filled, quote
from agent.errors import Problem

REFERENCE_BYTES_MAX = 64 * 1024
"""Longest text that a file or a credential may put into a value."""

_CONFIG_BYTES_MAX = 4 * 1024 * 1024
_FILES_MAX = 256
_DEPTH_MAX = 32

# A doubled dollar, a complete reference, or a dollar that is neither, in this order.
_REFERENCE = re.compile(r"\$\$|\$\{([^${}]*)\}|\$")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CREDENTIAL = re.compile(r"[A-Za-z0-9_.@-]{1,255}")


class Source:
    """The merged tree of a configuration, where each part of it comes from, and what was wrong on the way."""

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.tree: dict[str, Any] = {}
        self.problems: list[Problem] = []
        self.unread = False
        """True if a file could not be read: what seems to be missing may stand there."""
        self._origins: dict[str, Path] = {}

    def report(self, path: str, message: str) -> None:
        """Add a problem with the key *path*; with several files, the message names the one it is in."""
        if len(self.files) > 1 and (origin := self._origin(path)) is not None:
            message = f"{message} (in {origin})"
        self.problems.append(Problem(path, message))

    def _origin(self, path: str) -> Path | None:
        while path and path not in self._origins:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self._origins.get(path)

    def merge(self, table: dict[str, Any], file: Path) -> None:
        """Add what *file* holds. A key that another file has set already is a problem."""
        self._merge(self.tree, table, "", file)

    def _merge(self, into: dict[str, Any], table: dict[str, Any], path: str, file: Path) -> None:
        for key, value in table.items():
            where = join(path, key)
            present = into.get(key)
            if key not in into:
                # Tables and arrays are copied, for the next file may add to them.
                into[key] = value if not isinstance(value, (dict, list)) else type(value)()
                self._origins[where] = file
                present = into[key]
            elif not (isinstance(value, dict) and isinstance(present, dict)) and not (
                _is_tables(value) and _is_tables(present)
            ):
                first = self._origin(where)
                self.problems.append(
                    Problem(where, f"set twice, in {first} and in {file}; remove one of them")
                )
                continue
            if isinstance(value, dict) and isinstance(present, dict):
                self._merge(present, value, where, file)
            elif isinstance(value, list) and isinstance(present, list):
                for item in value:
                    self._origins[f"{where}[{len(present)}]"] = file
                    present.append(item)


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def join(path: str, key: str) -> str:
    """The path of *key* inside *path*; a key that is not a bare TOML key is quoted."""
    shown = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else quote(key)
    return f"{path}.{shown}" if path else shown


def read_tree(path: Path) -> Source:
    """Read *path* and then ``conf.d/*.toml`` beside it, in the order of their names. Never raises."""
    source = Source()
    folder = path.parent / "conf.d"
    try:
        parts = sorted(part for part in folder.iterdir() if part.name.endswith(".toml"))
    except FileNotFoundError:
        parts = []
    except OSError as error:
        parts = []
        source.unread = True
        source.problems.append(Problem(str(folder), f"cannot be read: {error.strerror}"))
    if len(parts) > _FILES_MAX:
        source.problems.append(
            Problem(str(folder), f"holds {len(parts)} files; at most {_FILES_MAX} are read")
        )
        parts = parts[:_FILES_MAX]
    source.files = [path, *parts]
    tables = [(file, _read_file(file, source)) for file in source.files]
    for file, table in tables:
        if table is None:
            source.unread = True
        else:
            source.merge(table, file)
    source.tree = _fill(source.tree, "", source, 0)
    return source


def _read_file(file: Path, source: Source) -> dict[str, Any] | None:
    try:
        data = _read_bytes(file, _CONFIG_BYTES_MAX)
        return tomllib.loads(data.decode())
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
    except UnicodeDecodeError as error:
        message = f"is not UTF-8 (byte {error.start})"
    except tomllib.TOMLDecodeError as error:
        message = f"is not TOML: {error}"
    except RecursionError:
        message = "is not TOML that can be read: nested too deeply"
    source.problems.append(Problem(str(file), message))
    return None


def _read_bytes(file: Path, bytes_max: int) -> bytes:
    """The whole of *file*. Raises OSError, also if it is longer than *bytes_max*."""
    with open(file, "rb") as stream:
        data = stream.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise OSError(f"longer than {bytes_max} bytes")
    return data


def _fill(value: Any, path: str, source: Source, depth: int) -> Any:
    """*value* with the references in its strings replaced; a string that cannot be is left as it is."""
    if depth > _DEPTH_MAX:
        source.report(path, "is nested too deeply")
        return None
    if isinstance(value, dict):
        return {key: _fill(item, join(path, key), source, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, f"{path}[{index}]", source, depth + 1) for index, item in enumerate(value)]
    if isinstance(value, str) and "$" in value:
        try:
            return fill(value, captures=path.startswith("map["))
        except ValueError as error:
            source.report(path, str(error))
            return UNFILLED
    return value


class _Unfilled:
    """Stands for a string whose reference could not be replaced; the problem is reported already."""


UNFILLED = _Unfilled()
"""Placeholder that a reader of the tree passes over in silence."""


def fill(text: str, captures: bool = False) -> str:
    """*text* with its references replaced. What they stand for is not looked at again.

    With *captures*, ``$1``, ``${1}`` and a lone ``$`` stay as they are.

    Raises ValueError that names every reference that could not be replaced, and no other part of *text*.
    """
    problems: list[str] = []
    referred = False

    def replace(match: re.Match[str]) -> str:
        nonlocal referred
        if match[0] == "$$":
            return "$"
        if captures and (match[1] or "0").isdecimal():
            return match[0]
        if match[1] is None:
            problems.append('a lone "$": write "$$" for a dollar sign, or a reference such as "${NAME}"')
            return ""
        referred = True
        try:
            return resolve(match[1])
        except ValueError as error:
            problems.append(str(error))
            return ""

    filled = _REFERENCE.sub(replace, text)
    if problems:
        raise ValueError("; ".join(dict.fromkeys(problems)))
    return Filled(filled, text) if referred else filled


def resolve(reference: str) -> str:
    """What ``${reference}`` stands for. Raises ValueError."""
    kind, colon, name = reference.partition(":")
    if not colon:
        if not _VARIABLE.fullmatch(reference):
            raise ValueError(
                f'got {quote("${" + reference + "}")}; wanted "${{NAME}}" with the name of a variable, '
                '"${file:PATH}" or "${credential:NAME}"'
            )
        try:
            return os.environ[reference]
        except KeyError:
            raise ValueError(f"the environment variable {reference} is not set") from None
    if kind == "file":
        if not name.startswith("/"):
            raise ValueError(f'"${{file:…}}" wants an absolute path; got {quote(name)}')
        return _read_reference(Path(name), f"the file {quote(name)}")
    if kind == "credential":
        if not _CREDENTIAL.fullmatch(name) or name in (".", ".."):
            raise ValueError(f'"${{credential:…}}" wants the name of a credential; got {quote(name)}')
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise ValueError(
                f"the credential {quote(name)} is not there: no credentials were passed "
                "(LoadCredential= in the unit passes them)"
            )
        text = _read_reference(Path(folder) / name, f"the credential {quote(name)}")
        if not text:
            # As penstock.service passes it where the file of its LoadCredential= is missing.
            raise ValueError(
                f"the credential {quote(name)} is empty: put it into /etc/penstock/{name}, "
                "or into the file that LoadCredential= in the unit names, and restart the service"
            )
        return text
    raise ValueError(f'unknown kind of reference {quote(kind)}; wanted "file" or "credential"')


def _read_reference(file: Path, what: str) -> str:
    try:
        text = _read_bytes(file, REFERENCE_BYTES_MAX).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{what} is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ValueError(f"{what} cannot be read: {reason}") from None
    # Editors and `echo` end a file with a newline that is no part of the secret.
    return text.removesuffix("\n").removesuffix("\r")
