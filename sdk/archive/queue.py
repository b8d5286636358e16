"""In which order an archive's slides are handed out."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence

from pathgene_rt.archive.source import ArchiveSlide, cases_of
from pathgene_rt.archive.tasks import CaseTask, SlideTask, Task


def in_order(
    slides: Sequence[ArchiveSlide], last: Collection[str] = (), *, by_case: bool = True
) -> list[ArchiveSlide]:
    """The slides of the highest priority first, of these the largest, so that no large one is left
    when workers run out of others. With ``by_case`` slides of one case follow each other, and cases
    count as large as all their slides. Those whose ids are in ``last``, which failed before, come
    at the end.
    """
    groups = cases_of(slides) if by_case else {}
    size_of_case = {case: sum(slide.size for slide in own) for case, own in groups.items()}
    priority_of_case = {case: max(one.priority for one in own) for case, own in groups.items()}

    def key(slide: ArchiveSlide) -> tuple[bool, int, int, str, int, str]:
        case = slide.case if slide.case in groups else ""
        priority = priority_of_case.get(case, slide.priority)
        size = size_of_case.get(case, slide.size)
        return slide.slide_id in last, -priority, -size, case, -slide.size, slide.slide_id

    return sorted(slides, key=key)


class TaskQueue:
    """What is still to be handed out: slides in order, and each case as soon as the last of its
    slides has ended. ``cases`` are those that are to be predicted, with their slides in the order
    that they have there."""

    def __init__(
        self, slides: Iterable[ArchiveSlide], cases: Mapping[str, Sequence[ArchiveSlide]]
    ) -> None:
        self._waiting: deque[ArchiveSlide] = deque(slides)
        self._first: deque[Task] = deque()
        self._members = cases
        self._left = {case: len(own) for case, own in self._members.items()}
        self._failed: set[str] = set()

    def __len__(self) -> int:
        """Tasks that can be handed out now."""
        return len(self._waiting) + len(self._first)

    def next(self) -> Task:
        """The next task. Raises IndexError where there is none now."""
        task = self.peek()
        (self._first or self._waiting).popleft()
        return task

    def peek(self) -> Task:
        """What :meth:`next` would give. Raises IndexError where there is none now."""
        if self._first:
            return self._first[0]
        slide = self._waiting[0]
        case = slide.case if slide.case in self._members else ""
        return SlideTask(slide.slide_id, slide.source, slide.size, case, slide.mpp, slide.hidden_id)

    def again(self, task: Task) -> None:
        """Hand ``task`` out once more, before all others."""
        self._first.append(task)

    def ended(self, task: Task, *, failed: bool) -> None:
        """A slide is done or has failed for good: its case may be next."""
        if not isinstance(task, SlideTask) or not task.case:
            return
        if failed:
            self._failed.add(task.slide_id)
        self._left[task.case] -= 1
        if self._left[task.case] == 0:
            members = self._members[task.case]
            self._first.append(
                CaseTask(
                    task.case,
                    tuple((slide.slide_id, slide.source) for slide in members),
                    tuple(one.slide_id for one in members if one.slide_id in self._failed),
                )
            )
