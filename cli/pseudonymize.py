"""``--pseudonymize``: whose key, and how to refuse slides without naming them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pathgene_rt.cli.console import Console
from pathgene_rt.errors import UsageError
from pathgene_rt.pseudonyms import KEY_VARIABLE, Pseudonyms

if TYPE_CHECKING:
    from collections.abc import Sequence


def choose_pseudonyms(wanted: bool, key: Path | None, console: Console) -> Pseudonyms | None:
    """Those under the site's key, else random ones with a note; None where none are wanted."""
    if not wanted:
        if key is not None:
            raise UsageError("--pseudonym-key alone does nothing; add --pseudonymize")
        return None
    pseudonyms = Pseudonyms.of_site(key)
    if not pseudonyms.lasting:
        console.note(
            "pseudonyms are random in this run, so slides done before are not found again; give "
            f"--pseudonym-key or ${KEY_VARIABLE}"
        )
    return pseudonyms


@contextmanager
def unnamed(pseudonyms: Pseudonyms | None) -> Iterator[None]:
    """The block looks for slides; what it refuses names none where there are pseudonyms."""
    try:
        yield
    except UsageError:
        if pseudonyms is None:
            raise
        raise UsageError(
            "these slides cannot be taken, and to say why would name one; the same command without "
            "--pseudonymize stops at the same place, before any work, and says it"
        ) from None


def find_unnamed(
    names: Sequence[str], pseudonyms: Pseudonyms | None, console: Console, *, recursive: bool
) -> list[Path]:
    """The slides that ``names`` stand for; an error names none where there are pseudonyms."""
    from pathgene_rt.slides.find import find_slides

    with unnamed(pseudonyms):
        return find_slides(names, recursive=recursive, told=console.note)
