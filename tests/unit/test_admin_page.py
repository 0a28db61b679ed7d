"""The page's files are served as they should be, and every answer tells browsers how little it may do."""

import asyncio
import base64
import re
import ssl
from pathlib import Path

import aiohttp
import pytest

from agent.admin import files
from agent.admin.access import Access, access_for
from agent.admin.client import ask, credentials
from agent.admin.files import HEADERS, read_page
from agent.admin.server import start
from agent.config import Agent
from agent.errors import ControlError
from tests.integration.certificates import make_certificates
from tests.unit.test_admin import Running, Service, run

PAGE = Path(files.__file__).parent / "page"
TOKEN = Access(b"s3cret")


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_every_file_of_the_page_is_served_with_its_type_packed_if_asked_and_once_only(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        for path in read_page():
            name = path[1:] or "index.html"
            async with running.over_tcp.get(path, headers={"Accept-Encoding": "identity"}) as response:
                text = await response.read()
                assert response.status == 200 and "Content-Encoding" not in response.headers
                assert response.headers["Cache-Control"] == "no-cache"
                kind = response.headers["Content-Type"]
            tag = response.headers["ETag"]
            if name != "index.html":
                assert text == (PAGE / name).read_bytes()
            wanted = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "html": "text/html"}
            assert kind == f"{wanted[name.rpartition('.')[2]]}; charset=utf-8"
            async with running.over_tcp.get(
                path, headers={"Accept-Encoding": "gzip"}, compress=None
            ) as response:
                assert response.headers["Content-Encoding"] == "gzip"
                assert await response.read() == text
            # A proxy that packs makes a tag weak.
            for shown in (tag, f'"other", {tag}', f"W/{tag}"):
                async with running.over_tcp.get(path, headers={"If-None-Match": shown}) as response:
                    assert response.status == 304 and await response.read() == b""
            async with running.over_tcp.get(path, headers={"If-None-Match": '"other"'}) as response:
                assert response.status == 200

    run(tmp_path, body)


def test_ours_are_small_and_fetch_nothing_from_elsewhere() -> None:
    ours = [one for one in PAGE.iterdir() if not one.name.startswith("uplot")]
    assert sum(one.stat().st_size for one in ours) < 70_000
    for one in ours:
        text = one.read_text()
        assert len(text.splitlines()) < 400, one.name
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|\bstyle=", text
        ), one
        # The name space of SVG is an address that nobody asks.
        assert not re.search(r"https?://", text.replace("http://www.w3.org/2000/svg", "")), one.name


def test_without_the_library_the_page_does_not_ask_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "index.html").write_text("<head><!-- plots --></head>")
    (folder / "uplot.js").write_text("half of it")
    monkeypatch.setattr(files, "files", lambda _: tmp_path)

    page = read_page.__wrapped__()
    assert set(page) == {"/"} and page["/"].body == b"<head></head>"
    (folder / "uplot.css").write_text("the other half")
    page = read_page.__wrapped__()
    assert set(page) == {"/", "/uplot.js", "/uplot.css"}
    assert b'src="/uplot.js"' in page["/"].body


def test_all_answers_have_the_headers(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        for client in (running.over_tcp, running.over_unix):
            for path in (
                "/",
                "/page.js",
                "/healthz",
                "/readyz",
                "/metrics",
                "/api/status",
                "/api/fleet",
                "/api/stream",
                "/no",
            ):
                async with client.get(path) as response:
                    assert HEADERS.items() <= response.headers.items(), path
                    assert "unsafe" not in response.headers["Content-Security-Policy"]

    run(tmp_path, body)


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        ("Bearer s3cret", 200),
        ("bearer  s3cret", 200),
        (basic("anybody", "s3cret"), 200),
        (basic("", "s3cret"), 200),
        ("", 401),
        ("Bearer s3cre", 401),
        ("Bearer s3crett", 401),
        ("Bearer \xff", 401),
        ("Token s3cret", 401),
        (basic("s3cret", ""), 401),
        ("Basic !", 401),
        ("Basic", 401),
    ],
)
def test_who_shows_no_token_is_told_nothing(tmp_path: Path, shown: str, status: int) -> None:
    async def body(running: Running) -> None:
        headers = {"Authorization": shown} if shown else {}
        for path in ("/", "/page.js", "/metrics", "/api/status", "/api/reload"):
            async with running.over_tcp.get(path, headers=headers) as response:
                assert response.status == (405 if status == 200 and path == "/api/reload" else status), path
                if status == 401:
                    assert response.headers["WWW-Authenticate"] == 'Basic realm="penstock"'
                    assert "error" in await response.json()
        for path in ("/healthz", "/readyz"):
            assert (await running.get(path))[0] == 200
        async with running.over_unix.get("/api/status") as response:
            assert response.status == 200

    run(tmp_path, body, TOKEN)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8690", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8690", 200),
        ("192.0.2.7", 200),
        ("rebound.example.org:8690", 403),
        ("localhost.example.org", 403),
        ("127.0.0.1.example.org", 403),
    ],
)
def test_a_name_that_somebody_else_points_here_gets_nothing(tmp_path: Path, host: str, status: int) -> None:
    async def body(running: Running) -> None:
        for path in ("/", "/page.js", "/api/status", "/api/stream"):
            async with running.over_tcp.get(path, headers={"Host": host}) as response:
                assert response.status == status, path
        for path in ("/healthz", "/metrics"):
            assert (await running.get(path, Host=host))[0] == 200
        async with running.over_unix.get("/api/status", headers={"Host": host}) as response:
            assert response.status == 200

    run(tmp_path, body)


def test_tls_is_spoken_with_the_certificate_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_certificates(tmp_path)
    monkeypatch.delenv("PENSTOCK_TOKEN", raising=False)
    (tmp_path / "token").write_text("s3cret\n")
    agent = Agent(
        admin="127.0.0.1:0",
        admin_token="s3cret",
        admin_cert=str(folder / "server.pem"),
        admin_key=str(folder / "server.key"),
    )

    async def main() -> None:
        admin = await start(agent.admin, Service(), access=access_for(agent))
        url, known = f"https://{admin.address}", credentials(tmp_path / "token", folder / "ca.pem")
        try:
            status, document = await asyncio.to_thread(ask, url, "GET", "/api/status", 10.0, known)
            assert (status, document["outputs"][0]["name"]) == (200, "influx")
            with pytest.raises(ControlError, match=r"not trusted.*--ca"):
                await asyncio.to_thread(ask, url, "GET", "/api/status", 10.0)
            monkeypatch.setenv("PENSTOCK_TOKEN", "other")
            others = credentials(None, folder / "ca.pem")
            assert (await asyncio.to_thread(ask, url, "GET", "/api/status", 10.0, others))[0] == 401
            with pytest.raises(ControlError):
                await asyncio.to_thread(ask, f"http://{admin.address}", "GET", "/", 10.0)
            context = ssl.create_default_context(cafile=folder / "ca.pem")
            async with aiohttp.ClientSession(headers={"Authorization": "Bearer s3cret"}) as client:
                async with client.get(f"{url}/api/stream", ssl=context) as response:
                    assert await response.content.readline() == b"retry: 2000\n"
        finally:
            await admin.aclose()

    asyncio.run(main())


def test_a_certificate_that_cannot_be_used_shows_at_once(tmp_path: Path) -> None:
    folder = make_certificates(tmp_path)
    one, other = str(folder / "server.pem"), str(folder / "client.key")
    with pytest.raises(ControlError, match=r"agent\.admin_cert: cannot be used"):
        access_for(Agent(admin_cert=one, admin_key=other))
    agent = Agent(admin_cert=one, admin_key=str(folder / "server.key"))
    before = access_for(agent)
    assert access_for(agent) == before
    (folder / "server.pem").write_bytes((folder / "server.pem").read_bytes() + b"\n")
    assert access_for(agent) != before


def luminance(color: str) -> float:
    """As WCAG has it."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [":root {", ':root[data-theme="dark"] {'])
def test_text_stands_out_from_all_that_it_may_stand_on(theme: str) -> None:
    """A checker cannot tell of cards, which fill up from below."""
    css = (PAGE / "page.css").read_text()
    colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", css.split(theme)[1].split("}")[0]))
    papers = {
        **dict.fromkeys(("ink", "muted", "lost"), ("paper", "card", "fill")),
        "water": ("paper", "card"),
        **{name: (f"{name}-paper", "card") for name in ("warn", "well")},
    }
    papers["ink"] += ("lost-paper", "warn-paper", "well-paper")
    papers["lost"] += ("lost-paper",)
    for name, grounds in papers.items():
        for ground in grounds:
            light, dark = sorted((luminance(colors[name]), luminance(colors[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{name} on {ground}"
    # What is no text, but must be seen.
    for number in range(1, 9):
        light, dark = sorted((luminance(colors[f"plot-{number}"]), luminance(colors["card"])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3, number
