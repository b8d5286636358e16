"""Who may ask the server, and what every answer carries.

A page on the internet can make a browser send requests to this machine, and can make its own name
point here (DNS rebinding). So the Host must be one that this server is reached by, an Origin must
be this server's own, and requests that another site began are refused. With a token, which
``--host`` demands, each request needs it: as a cookie, set when the address with the token is
opened, or as "Authorization: Bearer".
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable, Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "pathgene_view"
MIN_TOKEN = 16
MAX_URL = 4096

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware. ``hosts`` are the names that the server is reached by, without port; with
    ``any_address`` also every IP address literal (for a server that listens on all of them)."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Iterable[str],
        port: int,
        token: str | None = None,
        any_address: bool = False,
    ) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts}
        self._port = port
        self._token = token
        self._any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no WebSocket here: the connection is closed

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("only GET", 405, {"Allow": "GET, HEAD"})
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_URL:
            return PlainTextResponse("address too long", 414)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            return PlainTextResponse("not a name of this server", 403)
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"http://{hosts[0].lower()}":
            return PlainTextResponse("asked by another site", 403)
        site, dest = headers.get("sec-fetch-site"), headers.get("sec-fetch-dest")
        if site not in (None, "same-origin", "none") and dest != "document":
            return PlainTextResponse("asked by another site", 403)
        return self._without_token(scope, headers) if self._token is not None else None

    def _is_own(self, host: str) -> bool:
        name, port = _split(host.lower())
        if port != self._port:
            return False
        if name in self._hosts:
            return True
        if not self._any_address:
            return False
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = next((value for name, value in query if name == "token"), None)
        if given is not None and self._is_token(given):
            rest = urlencode([pair for pair in query if pair[0] != "token"])
            # A path of two slashes would be another host's address.
            path = "/" + scope["path"].lstrip("/\\")
            answer = RedirectResponse(f"{path}?{rest}" if rest else path, 303)
            # Reports are pages of no origin, whose links a browser takes for another site's: with
            # "strict" it would follow them without the cookie. All that is served is read by GET.
            answer.set_cookie(COOKIE, given, httponly=True, samesite="lax", path="/")
            return answer
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if self._is_token(bearer) or self._is_token(_cookie(headers.get("cookie", ""))):
            return None
        return PlainTextResponse("open the address with ?token= that the command printed", 401)

    def _is_token(self, given: str) -> bool:
        assert self._token is not None
        return hmac.compare_digest(given.encode(), self._token.encode())


def _split(host: str) -> tuple[str, int | None]:
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        return host, 80
    return name, int(port) if port.isascii() and port.isdigit() and len(port) < 6 else None


def _cookie(text: str) -> str:
    try:
        found = SimpleCookie(text).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""
