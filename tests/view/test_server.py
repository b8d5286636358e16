"""The command and its socket: what it listens on, what it refuses, how it ends."""

from __future__ import annotations

import asyncio
import http.client
import json
import resource
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import psutil
import pytest

from pathgene_rt.errors import OutputError, UsageError
from pathgene_rt.view import ViewOptions, serve
from pathgene_rt.view.server import is_loopback, listen
from tests.support.view_results import ViewResults
from tests.view.browser import START_S, viewer_process


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "0.0.0.0"}, "--token"),
        ({"host": "example.org"}, "--token"),
        ({"host": "0.0.0.0", "token": "short"}, "too short"),
        ({"port": 70_000}, "no port"),
        ({"port": -1}, "no port"),
        ({"language": "de"}, "en or zh"),
    ],
)
def test_options_that_cannot_be_are_one_clear_error(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ViewOptions(**options)


def test_only_this_machine_counts_as_loopback() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""))


def test_a_port_in_use_is_said_to_be(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} is in use.*--port"):
            serve(tmp_path, options=ViewOptions(port=port))


def test_a_folder_that_is_not_there_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot list"):
        serve(tmp_path / "nothing")


def test_the_command_reports_errors_with_its_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pathgene_rt.cli", "view", str(tmp_path)]
    ended = subprocess.run(
        [*command, "--host", "0.0.0.0"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: --host 0.0.0.0") and ended.stderr.count("\n") == 1


def test_ctrl_c_ends_everything_at_once(view_results: ViewResults) -> None:
    command = [sys.executable, "-m", "pathgene_rt.cli", "view", str(view_results.predictions)]
    with subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        own = urlsplit(process.stdout.readline().strip())
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        listening = http.client.HTTPConnection(own.hostname, own.port, timeout=START_S)
        listening.request("GET", "/api/events")
        stream = listening.getresponse()
        assert stream.readline().startswith(b"retry")
        process.send_signal(signal.SIGINT)
        process.wait(START_S)
        assert process.stderr.read() in ("", "error: interrupted; what was finished is kept\n")
        assert stream.read().strip() in (b"", b": still here")
    _, alive = psutil.wait_procs(children, START_S)
    assert alive == []


def raw(address: str, request: bytes) -> bytes:
    """The answer to bytes as they are, which clients would have tidied."""
    own = urlsplit(address)
    with socket.create_connection((own.hostname, own.port), START_S) as connection:
        connection.sendall(request)
        connection.settimeout(START_S)
        parts = []
        while part := connection.recv(65_536):
            parts.append(part)
        return b"".join(parts)


def test_paths_that_climb_get_nothing_as_they_are_sent(view_results: ViewResults) -> None:
    secret = (view_results.slides / "case-1.svs").read_bytes()[:64]
    with viewer_process(view_results.predictions, "--slides", str(view_results.slides)) as address:
        host = urlsplit(address).netloc.encode()
        for path in (
            b"/../../../../etc/passwd",
            b"/static/../../../../../etc/passwd",
            b"/static/..%2f..%2f..%2fetc%2fpasswd",
            b"/static//etc/passwd",
            b"/api/results/../slides/case-1.svs",
            b"/api/results/..%2fslides/picture/0",
            b"/api/results/%2e%2e/picture/0",
            b"/api/results/case-1/picture/..%2f..%2freport.json",
            b"/api/results/case-1/../../../slides/case-1.svs",
            b"\\..\\..\\etc\\passwd",
            b"http://evil.example/api/results",
            b"/api/results/\xff\xfe/layer",
            b"*",
        ):
            answer = raw(
                address,
                b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n",
            )
            assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 404"), (path, answer[:80])
            assert b"root:" not in answer and secret not in answer
        for broken in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"GET /\r\n\r\n"):
            assert not raw(address, broken + b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        plain = b"GET / HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"
        assert raw(address, plain).startswith(b"HTTP/1.1 200")


@pytest.mark.slow
def test_ten_thousand_requests_at_once_are_answered_or_refused_in_bounded_memory(
    view_results: ViewResults,
) -> None:
    """Each on a connection of its own, all begun before the first is answered."""
    flood = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 256)
    with viewer_process(view_results.predictions, "--slides", str(view_results.slides)) as address:
        own = urlsplit(address)
        with urlopen(f"{address}api/results/case-1/slide", timeout=START_S) as answer:
            slide = json.load(answer)
        server = next(
            one
            for one in psutil.Process().children(recursive=True)
            if any(c.laddr.port == own.port for c in one.net_connections("tcp"))
        )
        before = server.memory_info().rss
        most = [before]

        async def ask(number: int) -> int:
            """The status of the answer; 0 where the connection was closed without one."""
            level = slide["top_level"] - number % 4
            path = f"/api/results/case-1/tiles/{level}/{number % 7}/{number % 5}"
            reader, writer = await asyncio.open_connection(own.hostname, own.port)
            try:
                writer.write(
                    f"GET {path}?v={slide['identity']} HTTP/1.1\r\nHost: {own.netloc}\r\n"
                    "Connection: close\r\n\r\n".encode()
                )
                head = await reader.readline()
                await reader.read()
                return int(head.split()[1]) if head else 0
            except ConnectionError:
                return 0
            finally:
                writer.close()

        async def watch() -> None:
            while True:
                most[0] = max(most[0], server.memory_info().rss)
                await asyncio.sleep(0.1)

        async def all_at_once() -> Counter[int]:
            watching = asyncio.create_task(watch())
            found = await asyncio.gather(*(ask(number) for number in range(flood)))
            watching.cancel()
            return Counter(found)

        statuses = asyncio.run(all_at_once())
        assert set(statuses) <= {200, 404, 503}, statuses
        assert statuses[200] > 0
        assert most[0] - before < 400 << 20
        with urlopen(f"{address}api/results", timeout=START_S) as answer:
            assert answer.status == 200, "it goes on"
