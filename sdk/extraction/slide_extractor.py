"""From slides and their grids to their bags, with one encoder or with several at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.bundle.tile_policy import TilePolicy, excluding
from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.engines.registry import EngineFactory
from pathgene_rt.extraction.decode_choice import DecodeChoice, PredictProbabilities
from pathgene_rt.extraction.encoding_run import (
    BatchObserver,
    EncodedSlide,
    EncodingRun,
    encode_alike,
    inspection_of,
)
from pathgene_rt.extraction.extract import TileProgress
from pathgene_rt.extraction.prepare import PreparedSlide
from pathgene_rt.geometry import Int64Array
from pathgene_rt.options import EngineOptions, PredictOptions
from pathgene_rt.streaming.encoder_service import EncoderService, EncodeStats


class SlideEncoder:
    """Encodes slides with one encoder. Thread-safe; slides at the same time share it in turn.

    ``probabilities_of`` is what a bag means to the heads; ``engines`` made the encoder, and makes
    others that :mod:`~pathgene_rt.extraction.decode_choice` needs. The bag of an encoded slide has
    all tiles, with their flags; ``policy`` leaves some out of what batches are observed, and has
    every tile looked at.
    """

    def __init__(
        self,
        service: EncoderService,
        preprocess: Preprocess,
        options: EngineOptions,
        probabilities_of: PredictProbabilities,
        engines: EngineFactory,
        policy: TilePolicy | None = None,
    ) -> None:
        self._service = service
        self._preprocess = preprocess
        self._options = options
        self._probabilities_of = probabilities_of
        self._engines = engines
        self._policy = excluding(policy)
        self._trying = threading.Lock()

    def encode(
        self,
        prepared: PreparedSlide,
        options: PredictOptions,
        *,
        rows: Int64Array | None = None,
        observe: BatchObserver | None = None,
        features_path: Path | None = None,
        token: CancellationToken | None = None,
        progress: TileProgress | None = None,
    ) -> EncodedSlide:
        """The bag of the tiles ``rows`` int64 [n] of the slide's grid, taken in that order until
        ``observe`` wants no more; of all tiles by default.

        If ``features_path`` is given, rows are kept beside it as they come, and those that an
        earlier run of the same kind kept are taken over with ``options.resume``. Raises SlideError,
        EngineError, OutputError, CancelledError.
        """
        choice = self._choice(prepared, options, token or CancellationToken())
        decode, inspection = choice.choose(), inspection_of(prepared)
        rule = self._preprocess.level_rule
        run = EncodingRun(choice, decode, rule, self._policy, inspection, rows)
        with run, prepared.timed("encode"):
            run.begin(features_path, observe)
            stats = run.encode(progress)
        return run.result(stats)

    def _choice(
        self, prepared: PreparedSlide, options: PredictOptions, token: CancellationToken
    ) -> DecodeChoice:
        return DecodeChoice(
            prepared,
            options,
            token,
            self._service,
            self._preprocess.reduction,
            self._options.batch,
            self._probabilities_of,
            self._engines,
            self._trying,
            looks_at_all=self._policy is not None,
        )


def encode_jointly(
    encoders: Sequence[SlideEncoder],
    prepared: PreparedSlide,
    options: PredictOptions,
    features_paths: Sequence[Path | None],
    token: CancellationToken | None = None,
) -> list[EncodedSlide]:
    """What :meth:`SlideEncoder.encode` gives with each of ``encoders``, of equal
    :attr:`Preprocess.tiling`, for all tiles of the slide. Those that decode alike get the same
    pixels, read once; those whose GPU decodes itself read for themselves. ``options.resume`` must
    not be set. Raises as there, and then there is no bag of any.
    """
    token = token or CancellationToken()
    runs: list[EncodingRun] = []
    alike: dict[object, list[EncodingRun]] = {}
    for encoder in encoders:
        choice = encoder._choice(prepared, options, token)
        decode = choice.choose()
        group = alike.setdefault(encoder if decode.source is not None else decode.name, [])
        inspection = group[0].inspection if group else inspection_of(prepared)
        rule = encoder._preprocess.level_rule
        runs.append(EncodingRun(choice, decode, rule, encoder._policy, inspection))
        group.append(runs[-1])
    stats: dict[EncodingRun, EncodeStats] = {}
    with ExitStack() as stack, prepared.timed("encode"):
        for run, path in zip(runs, features_paths, strict=True):
            stack.enter_context(run).begin(path)
        for group in alike.values():
            found = [group[0].encode()] if len(group) == 1 else encode_alike(group, token.child())
            stats.update(zip(group, found, strict=True))
    return [run.result(stats[run]) for run in runs]
