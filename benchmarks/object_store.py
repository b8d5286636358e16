"""Slides of an S3 server on this machine, beside local files, without and with faults:

    python -m benchmarks.object_store --slides 6 --faults 500 [--endpoint http://127.0.0.1:8123]

The server is that of ``--endpoint`` with the credentials of AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY, such as Ceph's RADOS gateway; else moto's, which speaks S3's protocol over
HTTP but is no store for use. `archive extract`'s worker reads the slides through fsspec and s3fs,
as it does in an archive, whole and by ranges, in turns with local files. Then a proxy stands before
the server that answers some requests with 503, cuts bodies short, and stalls.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np

from pathgene_rt.archive import stores
from pathgene_rt.archive.stores import StoredSlide, list_store
from pathgene_rt.archive.tasks import SlideTask, WorkerSpec, package_sha256
from pathgene_rt.archive.worker import Worker
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.errors import SlideReadError
from pathgene_rt.features.hdf5 import read_features
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny

STALL_S = 1.0


class FaultyProxy(BaseHTTPRequestHandler):
    """Hands requests on to the server at ``port``; ``share`` of those that read fail."""

    protocol_version = "HTTP/1.1"
    port = 0
    share = 0.0
    chance = random.Random(0)
    faults: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        kind = ""
        if self.chance.random() < self.share:
            kind = self.chance.choice(("503", "truncated", "stalled"))
            self.faults[kind] += 1
        if kind == "503":
            self._answer(503, [("Content-Length", "0")], b"")
            return
        if kind == "stalled":
            time.sleep(STALL_S)
            self.close_connection = True
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.port)
        upstream.request(self.command, self.path, headers=dict(self.headers.items()))
        answer = upstream.getresponse()
        body = answer.read()
        upstream.close()
        drop = ("transfer-encoding", "connection", "content-length")
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in drop]
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(body))
        headers.append(("Content-Length", length or "0"))
        if kind == "truncated" and body:
            body = body[: len(body) // 2]
            self.close_connection = True
        self._answer(answer.status, headers, body)

    do_HEAD = do_GET  # noqa: N815 - as the base class calls it

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def worker_on(folder: Path, out: Path, *, ranges: bool = False) -> Worker:
    bundle = folder / "tiny.pgrt"
    with Bundle.open(bundle) as opened:
        digest = opened.sha256
    out.mkdir()
    engine = {"backend": "onnxruntime", "threads": 1}
    spec = WorkerSpec(
        "extract",
        str(bundle),
        digest,
        str(out),
        engine=engine,
        stage_limit=10**10,
        ranges=ranges,
    )
    worker = Worker(package_sha256(), asdict(spec))
    assert worker.open().refusal == ""
    return worker


def timed(worker: Worker, sources: list[str]) -> float:
    """Seconds for all, each prepared while the one before is done."""
    tasks = [SlideTask(Path(source).stem, source) for source in sources]
    began = time.perf_counter()
    for number, task in enumerate(tasks):
        if number + 1 < len(tasks):
            worker.prepare(tasks[number + 1])
        ended = worker.do(task, str(number))
        assert ended.outcome == "done", ended.message
    return time.perf_counter() - began


def with_faults(folder: Path, slides: dict[str, Path], faults: int) -> None:
    """Fetch the slides, by address, in turn until there were so many faults."""
    stores.WAIT_S, stores.BLOCK_BYTES = 0.01, 256 << 10
    FaultyProxy.share, wrong, failed, right = 0.2, 0, 0, 0
    urls = list(slides)
    while sum(FaultyProxy.faults.values()) < faults:
        url = urls[(right + failed + wrong) % len(urls)]
        target = folder / "fetched" / slides[url].name
        try:
            StoredSlide(url).fetch(target.parent)
        except SlideReadError:
            failed += 1
            continue
        same = target.read_bytes() == slides[url].read_bytes()
        right, wrong = right + same, wrong + (not same)
    print(
        f"{sum(FaultyProxy.faults.values())} faults {dict(FaultyProxy.faults)}: {right} slides "
        f"fetched right, {failed} failures told, {wrong} wrong"
    )


@contextmanager
def server_at(endpoint: str) -> Iterator[str]:
    """The server's address: ``endpoint``, else that of moto's in a process of its own."""
    if endpoint:
        yield endpoint
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    moto = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(moto, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


class Counted:
    """Bytes that came of stored slides."""

    count = 0

    @classmethod
    def install(cls) -> None:
        read = StoredSlide.read

        def counting(self: StoredSlide, first: int, count: int, part: str = "") -> bytes:
            data = read(self, first, count, part)
            cls.count += len(data)
            return data

        StoredSlide.read = counting  # type: ignore[method-assign]


def in_turns(folder: Path, local: list[Path], urls: list[str], turns: int) -> None:
    """Times of the slides as files, staged and by ranges; features must be equal."""
    size = sum(path.stat().st_size for path in local)
    times: dict[str, list[float]] = {"files": [], "staged": [], "by ranges": []}
    sent: dict[str, int] = {}
    for turn in range(turns + 1):
        for what, taken in times.items():
            out = folder / f"{what} {turn}"
            worker = worker_on(folder, out, ranges=what == "by ranges")
            Counted.count = 0
            seconds = timed(worker, [str(path) for path in local] if what == "files" else urls)
            worker.close()
            sent[what] = Counted.count
            if turn:  # the first warms caches
                taken.append(seconds)
            for path in local:
                first = read_features(folder / f"files {turn}" / f"{path.stem}.h5")
                found = read_features(out / f"{path.stem}.h5")
                assert np.array_equal(first.features, found.features)
    tiles = len(first.features)
    print(
        f"{len(local)} slides, {size / 1e6:.0f} MB, {tiles} tiles in the last: "
        f"{statistics.median(times['files']):.2f} s from files, median of {turns} turns"
    )
    for what in ("staged", "by ranges"):
        pairs = [there / here for there, here in zip(times[what], times["files"], strict=True)]
        print(
            f"{statistics.median(times[what]):.2f} s {what} ({statistics.median(pairs):.2f} x, "
            f"{min(pairs):.2f} to {max(pairs):.2f}), {sent[what] / size:.3f} bytes fetched for "
            "each stored",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=6)
    parser.add_argument("--side-px", type=int, default=6144)
    parser.add_argument("--tissue", type=float, default=0.1, help="Share of each slide.")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--endpoint", default="")
    parser.add_argument("--bundle", type=Path, help="Instead of one that costs nothing.")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="store-"))
    if options.bundle is None:
        tiny.tiny_bundle(folder / "tiny.pgrt")
    else:
        (folder / "tiny.pgrt").hardlink_to(options.bundle)
    local = [folder / f"s{number}.svs" for number in range(options.slides)]
    for number, path in enumerate(local):
        side = options.side_px
        write_slide(path, (side, side), seed=number, tissue_share=options.tissue)
    with server_at(options.endpoint) as endpoint:
        import boto3

        os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
        client = boto3.client("s3")
        bucket = f"slides-{os.getpid()}"
        client.create_bucket(Bucket=bucket)
        for path in local:
            client.upload_file(str(path), bucket, path.name)
        Counted.install()
        urls = [url for url, _ in list_store(f"s3://{bucket}")]
        in_turns(folder, local, urls, options.turns)
        FaultyProxy.port = int(endpoint.rpartition(":")[2])
        proxy = ThreadingHTTPServer(("127.0.0.1", 0), FaultyProxy)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{proxy.server_port}"
        with_faults(folder, dict(zip(urls, local, strict=True)), options.faults)
        proxy.shutdown()
        for path in local:
            client.delete_object(Bucket=bucket, Key=path.name)


if __name__ == "__main__":
    main()
