"""A real DICOMweb server on loopback: Orthanc with its plugin, in a folder of its own."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

from tests.support.tools import require_program

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_START_S = 60.0


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Orthanc:
    """The server, running inside the ``with``. ``settings`` go over those that tests need."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self._program = require_program("Orthanc", "orthanc orthanc-dicomweb")
        self.port = free_port()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "Name": "tests",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.port,
            "HttpServerEnabled": True,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "StudiesMetadata": "Full"},
            "HttpThreadsCount": 8,
            "MaximumStorageSize": 0,
            **settings,
        }
        self._config = folder / "orthanc.json"
        self._config.write_text(json.dumps(config))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def start(self) -> None:
        log = (self.folder / "orthanc.log").open("ab")
        self._process = subprocess.Popen(
            [self._program, str(self._config)], stdout=log, stderr=log, cwd=self.folder
        )
        log.close()
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            if self._process.poll() is not None:
                break
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError((self.folder / "orthanc.log").read_text(errors="replace")[-2000:])

    def kill(self) -> None:
        """As a crash ends it; in order it takes seconds."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def store(self, *paths: Path) -> None:
        """By Orthanc's own interface, so that what is tested does not prepare its test."""
        for path in paths:
            self.rest("/instances", path.read_bytes())

    def instances(self) -> list[dict[str, Any]]:
        """The main tags of all that it holds."""
        found: list[dict[str, Any]] = self.rest("/instances?expand")
        return found

    def rest(self, path: str, data: bytes | None = None) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=data)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
