"""How much an archive is, and how long it will take, by a few of its slides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pathgene_rt.archive.pool import Died, Finished, Opened, WorkerPool
from pathgene_rt.archive.source import ArchiveSlide
from pathgene_rt.archive.tasks import SampleTask
from pathgene_rt.errors import EngineUnavailableError

SAMPLE = 3

_WAIT_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """``seconds`` of work of one worker on the ``sample_bytes`` of the slides of the sample; what
    all take is that by bytes. ``failed`` are slides of the sample that gave no time, with the
    reason; ``hours`` None where all of them failed.
    """

    slides: int
    bytes: int
    cases: int
    workers: int
    sample: tuple[str, ...]
    sample_bytes: int
    seconds: float
    failed: dict[str, str]
    hours: float | None

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def sample_of(slides: Sequence[ArchiveSlide], count: int = SAMPLE) -> list[ArchiveSlide]:
    """Slides of which each stands for as many bytes of the archive: a rate by bytes is that of the
    whole the better the more alike they are."""
    by_size = sorted((slide for slide in slides if slide.size), key=lambda slide: slide.size)
    total = sum(slide.size for slide in by_size)
    chosen: dict[str, ArchiveSlide] = {}
    seen = 0
    for slide in by_size:
        seen += slide.size
        while len(chosen) < count and seen > total * (2 * len(chosen) + 1) / (2 * count):
            if slide.slide_id in chosen:
                break
            chosen[slide.slide_id] = slide
    return list(chosen.values())


def estimate(slides: Sequence[ArchiveSlide], pool: WorkerPool) -> Estimate:
    """Have one worker of ``pool`` do a few of ``slides``, without results.

    Raises EngineUnavailableError if no worker can take part.
    """
    sample = sample_of(slides)
    seconds, measured, failed = 0.0, 0, dict[str, str]()
    workers = min(pool.wanted(), len(slides))
    for slide, ended in zip(sample, _measured(sample, pool), strict=True):
        if ended.ended.error is not None:
            failed[slide.slide_id] = str(ended.ended.error)
        else:
            seconds += ended.ended.seconds
            measured += slide.size
    total = sum(slide.size for slide in slides)
    return Estimate(
        slides=len(slides),
        bytes=total,
        cases=len({slide.case for slide in slides if slide.case}),
        workers=workers,
        sample=tuple(slide.slide_id for slide in sample),
        sample_bytes=measured,
        seconds=seconds,
        failed=failed,
        hours=seconds * total / measured / workers / 3600 if measured else None,
    )


def _measured(sample: Sequence[ArchiveSlide], pool: WorkerPool) -> Iterator[Finished]:
    worker = pool.start()
    opened = _next(pool)
    if isinstance(opened, Opened) and opened.hello.refusal:
        raise EngineUnavailableError(f"no worker can take part; {opened.hello.refusal}")
    for slide in sample:
        task = SampleTask(slide.slide_id, slide.source, slide.mpp, slide.hidden_id)
        pool.submit(worker, task, "")
        event = _next(pool)
        assert isinstance(event, Finished)
        yield event


def _next(pool: WorkerPool) -> Opened | Finished:
    while True:
        for event in pool.wait(_WAIT_S):
            if isinstance(event, Died):
                raise EngineUnavailableError(f"the worker died: {event.reason}")
            return event
