"""One slide to the features of several bundles, whose tiles are read once where they are alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from pathgene_rt.archive.tasks import error_of
from pathgene_rt.errors import EngineError, PathGeneError, SlideError
from pathgene_rt.extraction.prepare import prepare_slide
from pathgene_rt.extraction.slide_extractor import encode_jointly
from pathgene_rt.options import PredictOptions
from pathgene_rt.predictor import Predictor
from pathgene_rt.slides.given_slide import GivenSlide
from pathgene_rt.tiles.read_order import locality_order


def extract(
    predictors: Sequence[Predictor],
    slide: Path | GivenSlide,
    options: PredictOptions,
    outs: Sequence[Path | None],
    warn: Callable[[str], None],
) -> int:
    """Write the features by each of ``predictors``, whose tiles are alike
    (:attr:`Preprocess.tiling`), to the file of ``outs`` with its number; how many tiles that was,
    of all together. ``warn`` and what is raised are those of :meth:`Predictor.extract`.
    """
    if len(predictors) == 1:
        return len(predictors[0].extract(slide, options, out=outs[0], warn=warn)[0])
    with ExitStack() as stack:
        preprocess = predictors[0].bundle.preprocess
        prepared = stack.enter_context(prepare_slide(slide, preprocess, options))
        if isinstance(slide, GivenSlide):
            slide.expect(prepared.grid, locality_order(prepared.grid))
        encoders = [predictor.slide_encoder for predictor in predictors]
        found = encode_jointly(encoders, prepared, options, outs)
        for encoded, out in zip(found, outs, strict=True):
            if out is not None:
                encoded.write_features(out)
    told = [line for encoded in found for line in encoded.warnings]
    told += [line for predictor in predictors for line in predictor.engine_warnings]
    for warning in dict.fromkeys(told):
        warn(warning)
    return sum(len(encoded.bag) for encoded in found)


def by_tiling(predictors: Mapping[str, Predictor]) -> list[list[str]]:
    """The names of those whose tiles are alike, together."""
    groups: dict[object, list[str]] = {}
    for name, predictor in predictors.items():
        groups.setdefault(predictor.bundle.preprocess.tiling, []).append(name)
    return list(groups.values())


def each_group(
    groups: Sequence[Sequence[str]],
    work: Callable[[Sequence[str]], int],
    note: Callable[[str], None],
) -> int:
    """The sum of what ``work`` gives for each of ``groups``; one that its slide or an engine fails
    leaves the others their results. Where an engine fails one of several, each is tried alone: it
    need not fail the rest.

    Raises the first of these errors at the end, with the group's names; all others at once.
    """
    done, failures = 0, list[PathGeneError]()
    waiting = [list(group) for group in groups]
    while waiting:
        group = waiting.pop(0)
        try:
            done += work(group)
        except EngineError as error:
            if len(group) == 1:
                failures.append(_named(error, group))
                continue
            note(f"{', '.join(group)} are encoded apart: {error}")
            waiting[:0] = [[name] for name in group]
        except SlideError as error:
            failures.append(_named(error, group))
    if failures:
        raise failures[0]
    return done


def _named(error: PathGeneError, group: Sequence[str]) -> PathGeneError:
    """``error`` of some of several bundles."""
    names = ", ".join(filter(None, group))
    return error_of(type(error).__name__, f"{names}: {error}") if names else error
