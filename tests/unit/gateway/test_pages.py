"""The Explorer's files as the gateway serves them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from aviary.gateway.pages import Pages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html><title>Aviary</title>")
    (tmp_path / "assets" / "index-Ab3_x-9Z.js").write_text("export {};\n" * 500)
    (tmp_path / "assets" / "theme.js").write_text("1;")
    (tmp_path / ".sources").write_text("0")
    return tmp_path


async def get(
    pages: Pages, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asked = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await pages.serve(path, {"type": "http", "method": method, "headers": asked}, send)
    start, body = sent
    told = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], told, body["body"]


@pytest.mark.parametrize("path", ["/", "/leaderboard", "/models", "/traffic", "/battles/bt-1"])
async def test_every_page_is_the_app(folder: Path, path: str) -> None:
    pages = Pages(folder)
    assert pages.has(path)
    status, headers, body = await get(pages, path)
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert "script-src 'self';" in headers["content-security-policy"]
    assert b"Aviary" in body


@pytest.mark.parametrize(
    "path", ["/index.html", "/.sources", "/assets/", "/assets/no.js", "/other"]
)
def test_nothing_else_is(folder: Path, path: str) -> None:
    assert not Pages(folder).has(path)


async def test_a_file_with_a_hash_is_kept_for_ever_and_compressed(folder: Path) -> None:
    pages = Pages(folder)
    path = "/assets/index-Ab3_x-9Z.js"
    _, headers, body = await get(pages, path, accept_encoding="br, gzip")
    assert "immutable" in headers["cache-control"]
    assert headers["content-encoding"] == "gzip"
    assert gzip.decompress(body) == (folder / path[1:]).read_bytes()
    _, headers, body = await get(pages, path)
    assert "content-encoding" not in headers
    assert body == (folder / path[1:]).read_bytes()


async def test_a_file_without_one_is_asked_for_again(folder: Path) -> None:
    pages = Pages(folder)
    _, headers, _ = await get(pages, "/assets/theme.js")
    assert headers["cache-control"] == "no-cache"
    status, _, body = await get(pages, "/assets/theme.js", if_none_match=headers["etag"])
    assert (status, body) == (304, b"")


async def test_head_has_the_length_and_no_body(folder: Path) -> None:
    _, headers, body = await get(Pages(folder), "/", "HEAD")
    assert body == b""
    assert int(headers["content-length"]) == len((folder / "index.html").read_bytes())


async def test_without_a_built_app_the_page_says_so(tmp_path: Path) -> None:
    pages = Pages(tmp_path / "static")
    assert pages.has("/")
    _, _, body = await get(pages, "/")
    assert b"without its Explorer" in body
