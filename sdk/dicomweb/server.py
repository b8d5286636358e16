"""Which server, how it is trusted, and as whom we ask."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pathgene_rt.errors import FileAccessError, UsageError
from pathgene_rt.files import reason


class ArchiveError(FileAccessError):
    """A server that does not answer, refuses, or answers what it should not. Nothing is known of
    what it holds; later it may be all right."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """The DICOMweb service ``url``.

    ``token`` is sent as a bearer token; ``ca`` is a file of the certificates that are trusted in
    place of the public ones, ``certificate`` (and ``key``, if not in it) the one that shows who we
    are. A certificate that is not trusted ends the connection; there is no way not to look.
    ``timeout_s`` is for one answer to begin, or to go on; what may pass is tried again for
    ``retry_s``. ``connections`` are those at once for frames.
    """

    url: str
    token: str = field(default="", repr=False)
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    timeout_s: float = 30.0
    retry_s: float = 60.0
    connections: int = 4

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{self.url!r} is no address; give e.g. https://pacs/dicom-web")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UsageError("the address holds more than host and path; give the token in a file")
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise UsageError(
                f"{self.url} is not encrypted, and pictures of patients would be read on the way; "
                "give https://"
            )
        if self.key is not None and self.certificate is None:
            raise UsageError("--key goes with --cert")
        for what, path in (("--ca", self.ca), ("--cert", self.certificate), ("--key", self.key)):
            if path is not None and not path.is_file():
                raise UsageError(f"{what} {path}: there is no such file")
        if not 0.1 <= self.timeout_s <= 3600 or not 0 <= self.retry_s <= 86_400:
            raise UsageError("--timeout is 0.1 to 3600 s, --retry 0 to 86400 s")
        if not 1 <= self.connections <= 32:
            raise UsageError(f"--connections {self.connections} is out of range; choose 1 to 32")

    @classmethod
    def of(cls, url: str, *, token_file: Path | None = None, **options: object) -> Self:
        """With the token in ``token_file``. Raises UsageError."""
        token = ""
        if token_file is not None:
            try:
                token = token_file.read_text(encoding="ascii").strip()
            except (OSError, ValueError) as error:
                why = reason(error) if isinstance(error, OSError) else "it is not ASCII"
                raise UsageError(f"cannot read the token in {token_file}: {why}") from error
            if not token or any(one.isspace() for one in token):
                raise UsageError(f"{token_file} is to hold a token and nothing else")
        return cls(url=url.rstrip("/"), token=token, **options)  # type: ignore[arg-type]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
