"""Where a run's results go: a folder that all machines see."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from pathgene_rt.archive.layout import ArchiveLayout
from pathgene_rt.archive.publish import attempt_place, discard, discard_all, publish, stamp_of
from pathgene_rt.archive.tasks import CaseTask
from pathgene_rt.cases.files import remove_case
from pathgene_rt.cases.places import CASES_FOLDER, ResultPlaces
from pathgene_rt.extraction.earlier import Earlier, earlier_features
from pathgene_rt.extraction.result_identity import ResultIdentity
from pathgene_rt.files import writable_folder
from pathgene_rt.report.stored import earlier_report

Wanted = Callable[[], ResultIdentity]


class Results(Protocol):
    """Results by their keys: ``<slide>`` of predict, ``<slide>.h5`` of extract, with several
    bundles ``<bundle>/<slide>.h5``, and ``cases/<case>``.

    Each has one at most, whole or not at all, whatever dies. Methods raise OutputError.
    """

    def earlier_report(
        self, key: str, bundle_sha256: str, wanted: Wanted, *, features: bool, partial: bool
    ) -> Earlier:
        """Whether a report is there that serves."""
        ...

    def earlier_features(self, key: str, encoder_sha256: str, wanted: Wanted) -> Earlier:
        """Whether features are there that serve. Raises OutputError if they are of another
        encoder."""
        ...

    def stamp(self, key: str) -> Hashable:
        """Tells the result that is there, None if none, from one that takes its place."""
        ...

    def attempt(self, name: str, *keys: str) -> AbstractContextManager[Path]:
        """A folder of this machine to make the results ``keys`` in, which goes at the end."""
        ...

    def publish(
        self, made: Path, name: str, key: str, before: Hashable, serves: Callable[[], bool]
    ) -> bool:
        """Put ``made``, a whole result of the attempt ``name``, in its place. ``before`` is the
        :meth:`stamp` of the result that it replaces; one that came meanwhile stays if it
        ``serves``. Whether it was published."""
        ...

    def case(
        self, task: CaseTask, name: str, ids: Mapping[Path, str]
    ) -> AbstractContextManager[ResultPlaces]:
        """Where the results of the slides of the case lie to be read; what is written to the case's
        folder there is its result when the context ends."""
        ...

    def remove_case(self, case: str) -> None:
        """A slide's report goes that the case's result was made of."""
        ...

    def paused(self) -> bool:
        """Whether no slide is to be begun."""
        ...

    def drop_attempt(self, name: str) -> bool:
        """Remove what a worker that died left of an attempt; whether it had begun."""
        ...

    def drop_attempts(self) -> None:
        """The same of all that earlier runs left."""
        ...


class FolderResults:
    """:class:`Results` in the folder of ``layout``."""

    def __init__(self, layout: ArchiveLayout) -> None:
        self._layout = layout

    def earlier_report(
        self, key: str, bundle_sha256: str, wanted: Wanted, *, features: bool, partial: bool
    ) -> Earlier:
        folder = self._layout.out / key
        return earlier_report(folder, bundle_sha256, wanted, features=features, partial=partial)

    def earlier_features(self, key: str, encoder_sha256: str, wanted: Wanted) -> Earlier:
        return earlier_features(self._layout.out / key, encoder_sha256, wanted)

    def stamp(self, key: str) -> Hashable:
        return stamp_of(self._layout.out / key)

    def attempt(self, name: str, *keys: str) -> AbstractContextManager[Path]:
        for key in keys:
            if "/" in key:
                writable_folder((self._layout.out / key).parent)
        return attempt_place(self._layout, name)

    def publish(
        self,
        made: Path,
        name: str,  # noqa: ARG002
        key: str,
        before: Hashable,
        serves: Callable[[], bool],
    ) -> bool:
        return publish(made, self._layout.out / key, self._layout, before, serves)

    @contextmanager
    def case(
        self,
        task: CaseTask,  # noqa: ARG002
        name: str,  # noqa: ARG002
        ids: Mapping[Path, str],
    ) -> Iterator[ResultPlaces]:
        yield ResultPlaces(self._layout.out, None, ids)

    def remove_case(self, case: str) -> None:
        remove_case(self._layout.out / CASES_FOLDER / case)

    def paused(self) -> bool:
        return self._layout.pause.exists()

    def drop_attempt(self, name: str) -> bool:
        left = self._layout.attempts / name
        begun = left.exists()
        discard(left, self._layout)
        return begun

    def drop_attempts(self) -> None:
        discard_all(self._layout)
