"""The page's files over HTTP: named by their content, kept for ever, compressed for who takes it."""

from __future__ import annotations

import gzip
import re

from tests.http.conftest import Api


async def test_page_names_its_files_by_their_content(api: Api) -> None:
    """No address in the page is absolute; the files that it names are there, and may be kept for ever."""
    answer = await api.http.get("/")
    assert answer.headers["cache-control"] == "no-cache"
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert not re.search(r'(src|href)="/', answer.text)
    named = re.findall(r'(?:src|href)="(static/[^"]+)"', answer.text)
    assert len(named) > 15
    for name in named:
        file = await api.http.get(f"/{name}")
        assert file.status_code == 200, name
        assert "immutable" in file.headers["cache-control"]
        again = await api.http.get(f"/{name}", headers={"If-None-Match": file.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


async def test_files_are_compressed_for_who_takes_it(api: Api) -> None:
    """The same file comes plain or as gzip, under tags of their own; without a version it is asked for."""
    plain = await api.http.get("/static/shell.js", headers={"Accept-Encoding": "identity"})
    packed = await api.http.get("/static/shell.js", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.text == plain.text
    assert len(gzip.compress(plain.content)) < len(plain.content) / 2
    assert plain.headers["etag"] != packed.headers["etag"]
    assert plain.headers["cache-control"] == "no-cache"


async def test_other_files_and_versions_are_not_there(api: Api) -> None:
    """What is none of the page's files, or of another version, is a 404."""
    for name in ("nothing.js", "../__init__.py", "0123456789abcdef/shell.js"):
        assert (await api.problem("GET", f"/static/{name}"))["status"] == 404
