"""Names that stand for slides and cases in every output, so that none of them can be read there.

A pseudonym is HMAC-SHA256 (RFC 2104) of the name under a site's secret key. A hash without a key
would be no protection: accession numbers follow a scheme, so all of them can be tried.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pathgene_rt.errors import UsageError, slide_failure
from pathgene_rt.files import reason
from pathgene_rt.slide_ids import slide_id_of

KEY_VARIABLE = "PATHGENE_RT_PSEUDONYM_KEY"
KEY_BYTES = (32, 4096)
"""The least and the most bytes of a key's file."""

PSEUDONYM_DIGITS = 20
"""80 bits: among ten million slides the chance that any two share a pseudonym is under 1e-10."""


@dataclass(frozen=True)
class Pseudonyms:
    """The pseudonyms under ``key``: the same name always has the same one. Whoever has the key can
    find the name by trying; without it nobody can.

    ``lasting`` says that the key is kept, so that a later run finds what this one did.
    """

    key: bytes = field(repr=False)
    lasting: bool = True

    def __post_init__(self) -> None:
        if len(self.key) < KEY_BYTES[0]:
            raise UsageError(
                f"a pseudonym key of {len(self.key)} bytes can be guessed; give at least "
                f"{KEY_BYTES[0]} random bytes"
            )

    @classmethod
    def random(cls) -> Self:
        """Under a key that nobody keeps: names cannot be found again, not by the site either."""
        return cls(secrets.token_bytes(KEY_BYTES[0]), lasting=False)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Under the site's key: the file's bytes as they are. Raises UsageError."""
        try:
            with path.open("rb") as file:
                key = file.read(KEY_BYTES[1] + 1)
        except OSError as error:
            raise UsageError(
                f"cannot read the pseudonym key {path}: {reason(error)}; give a file of "
                "random bytes"
            ) from error
        low, high = KEY_BYTES
        if not low <= len(key) <= high:
            held = f"{len(key)}" if len(key) <= high else f"more than {high}"
            raise UsageError(
                f"the pseudonym key {path} holds {held} bytes; give a file of {low} to {high} "
                "random bytes"
            )
        return cls(key)

    @classmethod
    def of_site(cls, path: Path | None = None) -> Self:
        """Under the key in the file ``path``, else in that which ``PATHGENE_RT_PSEUDONYM_KEY``
        names, else :meth:`random`. Raises UsageError.
        """
        if path is None and (named := os.environ.get(KEY_VARIABLE)):
            path = Path(named)
        return cls.random() if path is None else cls.from_file(path)

    def of(self, name: str) -> str:
        """What stands for a slide id or case id: hexadecimal digits."""
        raw = name.encode("utf-8", "surrogatepass")  # a file's name need not be text
        return hmac.new(self.key, raw, "sha256").hexdigest()[:PSEUDONYM_DIGITS]

    def conceal(self, text: str, slide: Path, *others: Path) -> str:
        """``text`` with the pseudonym of ``slide`` for its name, its path and whatever lies beside
        it, and for ``others``, files whose names may tell as much.
        """
        for path in (slide, *others):
            text = _pattern(path).sub(self.of(slide_id_of(slide)), text)
        return text

    @contextmanager
    def concealing(self, slide: Path, *others: Path) -> Iterator[None]:
        """Whatever the block raises is raised as a PathGeneError whose message does not name the
        slide; interrupts pass.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again without the name
            failure = slide_failure(error, slide_id_of(slide))
            hidden = type(failure)(self.conceal(str(failure), slide, *others))
            raise hidden.with_traceback(error.__traceback__) from None


def shown_id(name: str, pseudonyms: Pseudonyms | None) -> str:
    """What outputs call the slide or case ``name``."""
    return name if pseudonyms is None else pseudonyms.of(name)


def is_pseudonym(name: str) -> bool:
    """Whether ``name`` has the form of one."""
    return re.fullmatch(rf"[0-9a-f]{{{PSEUDONYM_DIGITS}}}", name) is not None


def _pattern(path: Path) -> re.Pattern[str]:
    """What tells ``path``: itself, a file beside it (slides of several), its name, its stem."""
    whole = {str(path), str(path.absolute()), str(path.resolve())}
    folders = {str(Path(text).parent) for text in whole} - {".", path.absolute().anchor}
    ends = r"[\s:,;'\"()]"
    beside = [rf"{re.escape(folder)}[/\\][^\s:,;'\"()/\\]+(?={ends}|$)" for folder in folders]
    names = dict.fromkeys((path.name, path.stem, slide_id_of(path)))
    words = [rf"(?<![^\W_]){re.escape(name)}(?![^\W_])" for name in names]
    exact = sorted(map(re.escape, whole), key=len, reverse=True)
    return re.compile("|".join([*exact, *beside, *words]))
