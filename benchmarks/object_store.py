"""Slides of an S3 server on this machine, beside local files, without and with faults:

    python -m benchmarks.object_store --slides 6 --faults 500

The server is moto's, which speaks S3's protocol over HTTP but is no store for use; before it stands
a proxy that answers some requests with 503, cuts bodies short, and stalls. `archive extract`'s
worker stages the slides through fsspec and s3fs, as it does in an archive.
"""

from __future__ import annotations

import argparse
import http.client
import logging
import os
import random
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
from moto.server import ThreadedMotoServer

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
    sent = 0

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
        type(self).sent += len(body)
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
        target = folder / "fetched"
        try:
            with target.open("wb") as file:
                StoredSlide(url).fetch(file)
        except SlideReadError:
            failed += 1
            continue
        same = target.read_bytes() == slides[url].read_bytes()
        right, wrong = right + same, wrong + (not same)
    print(
        f"{sum(FaultyProxy.faults.values())} faults {dict(FaultyProxy.faults)}: {right} slides "
        f"fetched right, {failed} failures told, {wrong} wrong"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=6)
    parser.add_argument("--side-px", type=int, default=3072)
    parser.add_argument("--faults", type=int, default=500)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="store-"))
    tiny.tiny_bundle(folder / "tiny.pgrt")
    local = [folder / f"s{number}.svs" for number in range(options.slides)]
    for number, path in enumerate(local):
        write_slide(path, (options.side_px, options.side_px), seed=number)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0)
    server.start()
    FaultyProxy.port = server.get_host_and_port()[1]
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), FaultyProxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    # To the server itself for writing, through the proxy for reading.
    import boto3

    endpoint = f"http://127.0.0.1:{FaultyProxy.port}"
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="slides")
    for path in local:
        client.upload_file(str(path), "slides", path.name)
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{proxy.server_port}"
    size = sum(path.stat().st_size for path in local)
    urls = [url for url, _ in list_store("s3://slides")]
    here, there = worker_on(folder, folder / "here"), worker_on(folder, folder / "staged")
    ranged = worker_on(folder, folder / "by ranges", ranges=True)
    local_s = timed(here, [str(path) for path in local])
    print(f"{len(local)} slides, {size / 1e6:.0f} MB: {local_s:.1f} s from files")
    for what, worker in (("staged", there), ("by ranges", ranged)):
        FaultyProxy.sent = 0
        stored_s = timed(worker, urls)
        out = folder / what
        for path in local:
            pair = [read_features(one / f"{path.stem}.h5") for one in (folder / "here", out)]
            assert np.array_equal(pair[0].features, pair[1].features)
        print(
            f"{stored_s:.1f} s {what} ({stored_s / local_s:.2f} x), "
            f"{FaultyProxy.sent / size:.3f} bytes fetched for each stored"
        )
    with_faults(folder, dict(zip(urls, local, strict=True)), options.faults)
    here.close()
    there.close()
    ranged.close()
    proxy.shutdown()
    server.stop()


if __name__ == "__main__":
    main()
