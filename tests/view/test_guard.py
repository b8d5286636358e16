"""Only this machine's own page may ask, and only with the token where there is one."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from pathgene_rt.view.guard import COOKIE, Guard

TOKEN = "a token of enough length"


async def hello(request) -> PlainTextResponse:
    return PlainTextResponse("hello")


def client(token: str | None = None, *, any_address: bool = False) -> TestClient:
    app = Starlette(routes=[Route("/", hello), Route("/a/{b}", hello)])
    guard = Guard(
        app,
        hosts=["localhost", "127.0.0.1", "[::1]"],
        port=8765,
        token=token,
        any_address=any_address,
    )
    return TestClient(guard, "http://localhost:8765", follow_redirects=False)


def test_answers_carry_the_headers_that_keep_the_page_to_itself() -> None:
    answer = client().get("/")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert client().get("/nothing").headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "host", ["localhost:8765", "LOCALHOST:8765", "127.0.0.1:8765", "[::1]:8765"]
)
def test_own_names_are_answered(host: str) -> None:
    assert client().get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "localhost",
        "localhost:80",
        "localhost:8765.evil.example",
        "localhost:８７６５".encode(),
        "localhost:",
        "localhost:-8765",
        "127.0.0.2:8765",
        "192.168.0.7:8765",
        "",
        "[::1",
        "user@localhost:8765",
    ],
)
def test_other_names_are_refused(host: str) -> None:
    assert client().get("/", headers={"host": host}).status_code == 403


def test_a_server_for_all_addresses_takes_addresses_but_no_names() -> None:
    everywhere = client(TOKEN, any_address=True)
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert everywhere.get("/", headers={"host": "192.168.0.7:8765", **bearer}).status_code == 200
    assert everywhere.get("/", headers={"host": "evil.example:8765", **bearer}).status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://localhost:8765"}, 200),
        ({"origin": "http://127.0.0.1:8765"}, 403),
        ({"origin": "https://localhost:8765"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "image"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-dest": "empty"}, 403),
        # A link of another page may be followed to this one.
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}, 200),
    ],
)
def test_requests_that_other_sites_began_are_refused(headers: dict, status: int) -> None:
    assert client().get("/", headers=headers).status_code == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_nothing_but_reading_is_allowed(method: str) -> None:
    assert client().request(method, "/").status_code == 405


def test_addresses_that_are_too_long_are_refused() -> None:
    assert client().get("/a/" + "b" * 5000).status_code == 414
    assert client().get("/?" + "b" * 5000).status_code == 414


def test_with_a_token_every_request_needs_it() -> None:
    page = client(TOKEN)
    assert page.get("/").status_code == 401
    for wrong in ("", TOKEN[:-1], TOKEN + "x", "%00", "é"):
        assert page.get("/", params={"token": wrong}).status_code == 401
        assert page.get("/", headers={"cookie": f"{COOKIE}=wrong"}).status_code == 401
    assert page.get("/", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert page.get("/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_the_token_moves_from_the_address_into_a_cookie() -> None:
    page = client(TOKEN)
    answer = page.get("/a/b", params={"token": TOKEN, "x": "1"})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/a/b?x=1"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie
    assert page.get("/a/b").status_code == 200


def test_the_redirect_never_leads_to_another_host() -> None:
    for path in ("//evil.example/", "/\\evil.example/", "///evil.example"):
        answer = client(TOKEN).request("GET", "/", params={"token": TOKEN})
        guard = client(TOKEN)
        answer = guard.get(f"http://localhost:8765{path}", params={"token": TOKEN})
        assert answer.headers["location"].startswith("/evil.example"), path
