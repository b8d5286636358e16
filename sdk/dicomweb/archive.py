"""What an archive is asked for: QIDO-RS finds, WADO-RS reads, STOW-RS stores (PS3.18, 10)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pathgene_rt.dicomweb.multipart import read_parts, syntax_in, write_parts
from pathgene_rt.dicomweb.server import ArchiveError
from pathgene_rt.dicomweb.session import Session

JSON = "application/dicom+json"
_DICOM = "application/dicom"
_FRAMES = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
PAGE = 100
_MOST_SERIES = 100_000
_UID = re.compile(r"\d+(\.\d+)+")

_SERIES, _STUDY, _MODALITY = "0020000E", "0020000D", "00080060"
_FAILED, _REASON, _OBJECT, _STORED = "00081198", "00081197", "00081155", "00081199"
_REASONS = {
    0x0110: "processing failure",
    0x0122: "it takes no such objects",
    0xA700: "out of resources",
    0xA900: "the object is of another class than it says",
    0xC000: "it does not understand the object",
    0xC122: "it takes no such transfer syntax",
}


def is_uid(text: object) -> bool:
    """Whether ``text`` is a UID (PS3.5, 9), which names files and addresses here."""
    return isinstance(text, str) and len(text) <= 64 and _UID.fullmatch(text) is not None


@dataclass(frozen=True, order=True)
class SeriesKey:
    """What names a series to the server."""

    study: str
    series: str

    @property
    def path(self) -> str:
        return f"/studies/{self.study}/series/{self.series}"


class Archive:
    """The server of ``session``. Every method raises ArchiveError and CancelledError."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def find_series(self, filters: Mapping[str, str] | None = None) -> Iterator[SeriesKey]:
        """The slide series (modality SM) that match ``filters``, page by page, each once."""
        seen: set[SeriesKey] = set()
        while len(seen) < _MOST_SERIES:
            parameters = {
                **(filters or {}),
                "Modality": "SM",
                "includefield": _STUDY,
                "limit": str(PAGE),
                "offset": str(len(seen)),
            }
            answer = self.session.get("/series", JSON, parameters)
            rows = [] if answer.status == 204 else self._objects(answer.body, "series")
            # A server that knows no offset gives the same again.
            new = [key for key in map(self._key, rows) if key not in seen]
            seen.update(new)
            yield from dict.fromkeys(new)
            if len(rows) < PAGE or not new:
                return

    def _key(self, row: Mapping[str, Any]) -> SeriesKey:
        try:
            study, series = row[_STUDY]["Value"][0], row[_SERIES]["Value"][0]
        except (KeyError, IndexError, TypeError) as error:
            raise self._strange("a series that it found has no UID") from error
        if not (is_uid(study) and is_uid(series)):
            raise self._strange("what it calls the UID of a series is none")
        return SeriesKey(study, series)

    def metadata(self, key: SeriesKey) -> list[dict[str, Any]]:
        """The attributes of each object of a series, as DICOM JSON."""
        return self._objects(self.session.get(f"{key.path}/metadata", JSON).body, "metadata")

    def frames(
        self, key: SeriesKey, instance: str, numbers: Sequence[int], syntax: str = ""
    ) -> tuple[str, list[bytes]]:
        """The transfer syntax and the frames ``numbers`` (from 1 on) of an object as it is stored,
        in one request; raises also where they come in another than ``syntax``, if that is known.
        """
        listed = ",".join(map(str, numbers))
        path = f"{key.path}/instances/{instance}/frames/{listed}"
        answer = self.session.get(path, _FRAMES)
        try:
            parts = read_parts(answer.content_type, answer.body)
        except ValueError as error:
            raise self._strange(str(error)) from error
        if len(parts) != len(numbers):
            raise self._strange(f"{len(numbers)} frames were asked for, and {len(parts)} came")
        found = {one.transfer_syntax or syntax_in(answer.content_type) for one in parts}
        if len(found) != 1 or not all(one.data for one in parts):
            raise self._strange("frames are empty, or in more than one transfer syntax")
        (came,) = found
        if not came:
            raise self._strange("it does not say in which transfer syntax frames are")
        if syntax and came != syntax:
            raise self._strange(f"frames came in {came}, and before in {syntax}")
        return came, [one.data for one in parts]

    def store(self, study: str, objects: Mapping[str, bytes]) -> None:
        """Store DICOM files, by their SOP instance UIDs, in ``study``. Raises also where the server
        did not take each of them."""
        content_type, body = write_parts(objects.values(), _DICOM)
        answer = self.session.post(f"/studies/{study}", content_type, JSON, body)
        document = self._json(answer.body)
        told = document[0] if isinstance(document, list) and document else document
        if not isinstance(told, dict):
            raise self._strange("it does not say what it stored")
        failed = {
            _value(one, _OBJECT): int(_value(one, _REASON) or 0)
            for one in told.get(_FAILED, {}).get("Value", ())
        }
        stored = {_value(one, _OBJECT) for one in told.get(_STORED, {}).get("Value", ())}
        lacking = [uid for uid in objects if uid in failed or uid not in stored]
        if lacking:
            code = failed.get(lacking[0], 0)
            why = _REASONS.get(code, "it does not say why")
            raise ArchiveError(
                f"{self.session.server.url}: it did not take {len(lacking)} of {len(objects)} "
                f"results (reason {code:04X}: {why}); they are kept, store them later"
            )

    def _objects(self, body: bytes, what: str) -> list[dict[str, Any]]:
        found = self._json(body)
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise self._strange(f"its {what} are no list of objects")
        return found

    def _json(self, body: bytes) -> Any:
        try:
            return json.loads(body)
        except ValueError as error:
            raise self._strange("its answer is no JSON") from error

    def _strange(self, what: str) -> ArchiveError:
        return ArchiveError(f"{self.session.server.url}: {what}; check the server")


def _value(item: Mapping[str, Any], tag: str) -> Any:
    values = item.get(tag, {}).get("Value") or [None]
    return values[0]
