"""Where the results of slides and cases lie, and what outputs call them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pathgene_rt.cases.table import Case
from pathgene_rt.pseudonyms import Pseudonyms, shown_id


@dataclass(frozen=True)
class ResultPlaces:
    """``out/<slide>/`` and ``out/cases/<case>/``, named by pseudonyms where there are any."""

    out: Path
    pseudonyms: Pseudonyms | None = None

    def slide_name(self, slide: Path) -> str:
        """What messages call the slide: its file's name, or its pseudonym."""
        return slide.name if self.pseudonyms is None else self.pseudonyms.of(slide.stem)

    def slide_folder(self, slide: Path) -> Path:
        """The folder is called by the slide's id: the file's stem, or its pseudonym."""
        return self.out / shown_id(slide.stem, self.pseudonyms)

    def case_name(self, case: Case) -> str:
        return shown_id(case.case_id, self.pseudonyms)

    def case_folder(self, case: Case) -> Path:
        return self.out / "cases" / self.case_name(case)
