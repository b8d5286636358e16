"""Where the results of slides and cases lie, and what outputs call them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pathgene_rt.cases.table import Case
from pathgene_rt.pseudonyms import Pseudonyms, shown_id
from pathgene_rt.slide_ids import slide_id_of

CASES_FOLDER = "cases"
"""Of the results, for those of cases."""


@dataclass(frozen=True)
class ResultPlaces:
    """``out/<slide>/`` and ``out/cases/<case>/``, named by pseudonyms where there are any. ``ids``
    are those of slides that share their file's name with another.
    """

    out: Path
    pseudonyms: Pseudonyms | None = None
    ids: Mapping[Path, str] = field(default_factory=dict)

    def slide_id(self, slide: Path) -> str:
        """By its file's name, unless another slide has the same."""
        return self.ids.get(slide) or slide_id_of(slide)

    def slide_name(self, slide: Path) -> str:
        """What messages call the slide: its file's name if that tells it, else its id; or its
        pseudonym.
        """
        slide_id = self.slide_id(slide)
        if self.pseudonyms is not None:
            return self.pseudonyms.of(slide_id)
        return slide.name if slide_id == slide_id_of(slide) else slide_id

    def slide_folder(self, slide: Path) -> Path:
        """The folder is called by the slide's id or pseudonym."""
        return self.out / shown_id(self.slide_id(slide), self.pseudonyms)

    def features_file(self, slide: Path) -> Path:
        """``out/<slide>.h5``, where features are all that is wanted."""
        return self.out / f"{shown_id(self.slide_id(slide), self.pseudonyms)}.h5"

    def case_name(self, case: Case) -> str:
        return shown_id(case.case_id, self.pseudonyms)

    def case_folder(self, case: Case) -> Path:
        return self.out / CASES_FOLDER / self.case_name(case)
