"""``/query``: what clients ask before they write. Nothing can be queried here."""

import re

_CREATE = re.compile(r"\s*CREATE\s+(DATABASE|RETENTION\s+POLICY)\s+\S", re.IGNORECASE)
_SHOW = re.compile(r"\s*SHOW\s+DATABASES\s*", re.IGNORECASE)


def answer(text: str) -> dict[str, object]:
    """The answer to the statements in *text*, in the form of InfluxDB 1.

    A database is created without anything being done, since none is needed to write; the list of them is
    empty. Any other statement gets an error of its own.
    """
    results: list[dict[str, object]] = []
    for number, statement in enumerate(one for one in text.split(";") if one.strip()):
        result: dict[str, object] = {"statement_id": number}
        if _SHOW.fullmatch(statement):
            result["series"] = [{"name": "databases", "columns": ["name"]}]
        elif not _CREATE.match(statement):
            result["error"] = "this is an agent that takes writes; it answers no queries"
        results.append(result)
    return {"results": results}
