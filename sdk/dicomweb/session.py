"""Single requests to the server: what may pass is tried again, what does not is told in a line."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.dicomweb.server import ArchiveError, Server
from pathgene_rt.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    import requests

MAY_PASS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""What a server answers that is restarted, overloaded, or behind a gateway that waits for it."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 15.0

_MEANINGS = {
    401: "it does not know who asks; check --token-file and --cert",
    403: "it does not allow this; ask its administrator",
    404: "it does not have this; check the address",
    406: "it does not have this in the wanted form",
    409: "it refuses all that was to be stored",
    413: "it takes no body as large as this",
    507: "its disk is full",
}


def require_dicomweb() -> None:
    """Raise MissingExtraError where the extra is not installed."""
    for package in ("requests", "pydicom"):
        if find_spec(package) is None:
            raise MissingExtraError(
                f"DICOMweb needs {package}; run pip install 'pathgene-rt[dicomweb]'"
            )


@dataclass(frozen=True)
class Answer:
    """``status`` is 200 to 299; the whole body is there."""

    status: int
    content_type: str
    body: bytes


class Session:
    """Requests to one server, from any thread. Proxies, netrc files and redirections are not
    followed: what is sent goes to the server that was named, or nowhere."""

    def __init__(self, server: Server, token: CancellationToken | None = None) -> None:
        require_dicomweb()
        self.server = server
        self.retries = 0
        """Requests that were repeated so far."""
        self._token = token or CancellationToken()
        self._stopped = threading.Event()
        self._token.on_cancel(self._stopped.set)
        self._of_thread = threading.local()
        self._sessions: list[requests.Session] = []
        self._lock = threading.Lock()

    def get(self, path: str, accept: str, parameters: Mapping[str, str] | None = None) -> Answer:
        """Raises ArchiveError, CancelledError."""
        return self._send("GET", path, {"Accept": accept}, parameters, None)

    def post(self, path: str, content_type: str, accept: str, body: bytes) -> Answer:
        """Raises as :meth:`get`. Sent again where nobody knows whether it came: only what may be
        sent twice."""
        headers = {"Content-Type": content_type, "Accept": accept}
        return self._send("POST", path, headers, None, body)

    def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        parameters: Mapping[str, str] | None,
        body: bytes | None,
    ) -> Answer:
        deadline = time.monotonic() + self.server.retry_s
        wait_s = FIRST_WAIT_S
        while True:
            self._token.raise_if_cancelled()
            failure, answer = self._try(method, path, headers, parameters, body)
            if answer is not None:
                return answer
            if time.monotonic() + wait_s > deadline:
                raise ArchiveError(f"{self.server.url}: {failure}; try again later")
            with self._lock:
                self.retries += 1
            self._stopped.wait(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _try(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        parameters: Mapping[str, str] | None,
        body: bytes | None,
    ) -> tuple[str, Answer | None]:
        """Why it may be tried again, or the answer. Raises ArchiveError for what does not pass."""
        import requests

        url = f"{self.server.url}{path}"
        try:
            got = self._session().request(
                method,
                url,
                params=parameters,
                data=body,
                headers=dict(headers),
                timeout=(min(10.0, self.server.timeout_s), self.server.timeout_s),
                allow_redirects=False,
            )
        except requests.exceptions.SSLError as error:
            raise ArchiveError(
                f"{self.server.url}: its certificate is not trusted, or ours is not "
                f"({_inner(error)}); check --ca and --cert"
            ) from error
        except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema) as error:
            raise UsageError(f"{url}: is no address") from error
        except requests.exceptions.Timeout:
            return f"no answer for {self.server.timeout_s:g} s", None
        except (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError):
            return "it cannot be reached, or broke off", None
        except requests.exceptions.RequestException as error:
            raise ArchiveError(f"{self.server.url}: {_inner(error)}") from error
        if 200 <= got.status_code < 300:
            return "", Answer(got.status_code, got.headers.get("Content-Type", ""), got.content)
        if got.status_code in MAY_PASS:
            return f"it answers {got.status_code} {got.reason}", None
        if 300 <= got.status_code < 400:
            raise ArchiveError(
                f"{self.server.url}: it sends us to another address, which is not followed; give "
                "the address itself"
            )
        what = _MEANINGS.get(got.status_code, "it refuses the request")
        raise ArchiveError(
            f"{self.server.url}: {got.status_code} {got.reason} for {_shown(path)}: {what}"
        )

    def _session(self) -> requests.Session:
        """Of this thread: those of requests are for one at a time."""
        found: requests.Session | None = getattr(self._of_thread, "session", None)
        if found is None:
            import requests

            found = requests.Session()
            found.trust_env = False
            found.verify = True if self.server.ca is None else str(self.server.ca)
            if self.server.certificate is not None:
                own = str(self.server.certificate)
                found.cert = own if self.server.key is None else (own, str(self.server.key))
            # Pixels are compressed already.
            found.headers["Accept-Encoding"] = "identity"
            if self.server.token:
                found.headers["Authorization"] = f"Bearer {self.server.token}"
            self._of_thread.session = found
            with self._lock:
                self._sessions.append(found)
        return found

    def close(self) -> None:
        """Close the connections. Idempotent."""
        with self._lock:
            for one in self._sessions:
                one.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _shown(path: str) -> str:
    """``path`` without the numbers of a thousand frames."""
    before, frames, _ = path.partition("/frames/")
    return f"{before}/frames" if frames else path


def _inner(error: BaseException) -> str:
    """The last words of an error that holds others."""
    return " ".join(str(error.args[0] if error.args else error).split())[-200:]
