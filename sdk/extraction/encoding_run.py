"""One encoder's run over the tiles of one slide, from what an earlier run left to the bag."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from pathgene_rt.bundle.tile_policy import TilePolicy
from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.errors import EncodedTileError, TileDecodeError
from pathgene_rt.extraction.decode_choice import DecodeChoice, Decoding
from pathgene_rt.extraction.extract import (
    Encoding,
    TileOrder,
    TileProgress,
    bag_of_grid,
    encode_slide,
    feature_dim,
)
from pathgene_rt.extraction.feature_journal import FeatureJournal
from pathgene_rt.extraction.prepare import PreparedSlide
from pathgene_rt.extraction.result_identity import ResultIdentity
from pathgene_rt.extraction.run_identity import RunIdentity
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.growing import GrowingBag
from pathgene_rt.features.hdf5 import write_features
from pathgene_rt.features.left_out import excluded
from pathgene_rt.features.tile_attributes import Origin
from pathgene_rt.features.tile_flags import TileFlags
from pathgene_rt.geometry import BoolArray, Float32Array, Int64Array
from pathgene_rt.quality.check import CheckedSlide
from pathgene_rt.quality.inspection import TileInspection
from pathgene_rt.slides.slide import EncodedSource
from pathgene_rt.streaming.encoder_service import EncodeStats
from pathgene_rt.tiles.read_order import locality_order

BatchObserver = Callable[[FeatureBag, BoolArray, Int64Array], bool]
"""Called after each batch, from the encoder's thread, with the bag in progress, which of its rows
are there (bool [N]), and the rows int64 [k] that have just come. False: no more are wanted."""


@dataclass(frozen=True)
class EncodedSlide:
    """A slide's ``bag`` of the tiles that were encoded, and how it came about.

    ``decode`` says how pixels were decoded, ``warnings`` what a reader of the report should know,
    ``made_from`` which slide and options it is of. ``stats`` are those since the last time that the
    way of decoding had to be changed. ``level_rule`` is the bundle's.
    """

    bag: FeatureBag
    stats: EncodeStats
    decode: str
    made_from: ResultIdentity
    level_rule: str
    warnings: tuple[str, ...] = ()
    journal: FeatureJournal | None = None

    def write_features(self, path: Path) -> None:
        """Make ``path`` the features file of the bag. Raises OutputError."""
        journal = self.journal
        if journal is not None and journal.path == path and len(self.bag) == journal.tiles:
            journal.commit(self.bag.flags)
        else:
            write_features(path, self.bag, Origin(level_rule=self.level_rule))


def inspection_of(prepared: PreparedSlide) -> TileInspection:
    """Every check of the slide's tiles."""
    grid = prepared.grid
    return TileInspection(CheckedSlide(prepared.slide_id, grid.mpp, len(grid)))


class EncodingRun:
    """The tiles ``rows`` int64 [n] of a slide, by default all, on their way through one encoder.

    ``choice`` decided on ``decode``. ``inspection`` looks at every tile; runs that share pixels
    share it. ``policy`` leaves tiles out of what is observed. As a context manager it closes what
    :meth:`begin` opens.
    """

    def __init__(
        self,
        choice: DecodeChoice,
        decode: Decoding,
        level_rule: str,
        policy: TilePolicy | None,
        inspection: TileInspection,
        rows: Int64Array | None = None,
    ) -> None:
        self.inspection = inspection
        self._choice = choice
        self._prepared = prepared = choice.prepared
        self._decode = decode
        self._level_rule = level_rule
        self._policy = policy
        self._spec, self._info = choice.service.engine.spec, choice.service.engine.info
        self._made_from = ResultIdentity.of(prepared.path, choice.options, self._info.precision)
        grid = prepared.grid
        self._order = TileOrder(locality_order(grid) if rows is None else rows, choice.batch)
        self._growing = GrowingBag(feature_dim(self._spec), len(grid))
        bag = bag_of_grid(prepared.slide_id, grid, self._spec, self._growing.features)
        flags = TileFlags.none_checked(inspection.names, len(bag))
        self._bag = replace(bag, flags=flags)
        self._seen: BoolArray = np.zeros(len(bag), dtype=np.bool_)
        self._observe: BatchObserver | None = None
        self._journal: FeatureJournal | None = None
        self._firsts: set[int] = set()
        self._notes: list[str] = []

    def begin(self, features_path: Path | None, observe: BatchObserver | None = None) -> None:
        """Keep rows beside ``features_path``, if it is given, and take over those that are there,
        as the options say; ``observe`` what comes. Raises OutputError."""
        self._observe = observe
        if features_path is None:
            return
        identity = RunIdentity.of(
            self._made_from,
            self._prepared.slide.reader,
            self._decode.name,
            self._prepared.grid,
            self._order,
            self._spec,
            self._info,
        )
        resume = self._choice.options.resume
        self._journal = journal = FeatureJournal(
            features_path, self._bag, self._growing, self._order, identity, resume=resume
        )
        self._order = order = replace(self._order, done=journal.done)
        self._firsts |= journal.done
        for first, found in journal.flags.items():
            kept = order.rows_of(first, order.batch)
            flags = TileFlags.from_text(found, len(kept))
            self.inspection.restore(kept, self._prepared.grid.xy[kept], flags)
        if observe is not None and journal.done:
            self._observed(order.rows_done())

    def encode(self, progress: TileProgress | None = None) -> EncodeStats:
        """Encode the tiles that are not there yet. Raises as :func:`encode_slide` does."""
        decode, token = self._decode, self._choice.token
        try:
            return encode_alike([self], token.child(), decode.source, progress)[0]
        except (EncodedTileError, TileDecodeError) as error:
            encoded = self._growing.encoded
            self._notes.append(f"not decoded on the GPU from tile {encoded} on: {error}")
            return encode_alike([self], token, None, progress)[0]

    def result(self, stats: EncodeStats) -> EncodedSlide:
        """The bag, after :meth:`encode`. How slides stored like this one are decoded best is
        measured now, if nobody has. Raises CancelledError."""
        bag, prepared, decode = self._bag, self._prepared, self._decode
        bag = replace(bag, flags=self.inspection.of_rows(np.arange(len(bag))))
        if not self._growing.is_whole:
            bag = bag.take(self._growing.done)
        assert bag.flags is not None  # it was just made with them
        prepared.quality.update(bag.flags.quality)
        notes = [*self._notes]
        if self._journal is not None and self._journal.note:
            notes.append(self._journal.note)
        found = self.inspection.warnings
        warnings = (*prepared.slide.info.warnings, *prepared.warnings, *notes, *found)
        why = decode.why
        if decode.untried and self._growing.is_whole and self._choice.engines.cache is not None:
            why = f"{decode.name}; from now on {self._choice.measure()}"
        return EncodedSlide(
            bag,
            stats,
            prepared.concealed(why),
            self._made_from,
            self._level_rule,
            tuple(prepared.concealed(warning) for warning in warnings),
            self._journal,
        )

    def close(self) -> None:
        """Leave what is on the disk as it is. Idempotent."""
        if self._journal is not None:
            self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _encoding(self, progress: TileProgress | None) -> Encoding:
        order = replace(self._order, done=frozenset(self._firsts))
        return Encoding(self._choice.service, self._growing, order, self._on_batch, progress)

    def _on_batch(self, first: int, came: Int64Array, features: Float32Array) -> bool:
        if self._journal is not None:
            self._journal.write(first, came, features, self.inspection.record(came).text)
        self._firsts.add(first)
        return self._observed(came)

    def _observed(self, came: Int64Array) -> bool:
        """Show the observer the tiles that came, but for those that heads do not see."""
        if self._observe is None:
            return True
        bag, seen = self._bag, self._seen
        if self._policy is None:
            return self._observe(bag, self._growing.done, came)
        flags = self.inspection.of_rows(came)
        seen[came] = ~excluded(flags, self._policy, bag.slide_id)
        return self._observe(bag, seen.copy(), came[seen[came]])


def encode_alike(
    runs: Sequence[EncodingRun],
    token: CancellationToken,
    source: EncodedSource | None = None,
    progress: TileProgress | None = None,
) -> list[EncodeStats]:
    """Encode the tiles of ``runs``, which are of one slide, decode alike and share their
    inspection; each tile is read once. Raises as :func:`encode_slide` does, of which ``source`` is.
    """
    first = runs[0]
    choice = first._choice
    return encode_slide(
        choice.prepared.slide,
        choice.prepared.grid,
        [run._encoding(progress) for run in runs],
        choice.reduction,
        readers=choice.options.readers,
        approximate=first._decode.approximate,
        source=source,
        inspection=first.inspection,
        io_timeout_s=choice.options.io_timeout_s,
        token=token,
    )
