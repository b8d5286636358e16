"""What HDF5 files of ours, of CLAM and of TRIDENT state about their tiles.

CLAM gives ``patch_size`` in pixels of ``patch_level``, with the level's ``downsample`` (a number or
one each for x and y); TRIDENT gives ``patch_size`` in pixels of the tile, ``patch_size_level0`` and
the slide's ``level0_width`` and ``level0_height``. Both say whose tiles they are: ``name``, and
CLAM the size of its level, ``level_dim``. STAMP gives ``unit`` "um", ``tile_size_um`` and
``tile_size_px``. We write CLAM's in level-0 pixels (``name`` too) and
beside them ``tile_px``, ``span_px``, ``mpp``, ``slide_id``, ``encoder_sha256``,
``pathgene_rt_version``, ``rows_crc32`` (of coords and features, in that order, as they are stored),
and where a slide was encoded ``run_sha256``, ``made_from`` and ``level_rule``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pathgene_rt.errors import FeatureFileError
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.geometry import SlideInfo
from pathgene_rt.package_versions import package_version

OURS = "pathgene_rt_version"
"""The attribute that files of ours have and no others."""

SENSIBLE = (1e-3, 1e9)
"""Between these lies every size in pixels and every scale; others are damage."""

UM_AT_1X = 10.0
"""Micrometres per pixel at which a microscope's 1x is taken to be: 0.5 at 20x, 0.25 at 40x."""

MAX_LEVEL_MISMATCH = 0.02
"""Of a level's stated downsample from the slide's; it is rounded differently by each reader."""


@dataclass(frozen=True)
class Origin:
    """How a file of ours came about: ``run_sha256`` is of all that decides its bits, ``made_from``
    says in JSON which slide and which options decide its content, ``level_rule`` is the bundle's:
    from which pyramid level pixels came."""

    run_sha256: str = ""
    made_from: str = ""
    level_rule: str = ""


def written_attributes(bag: FeatureBag, rows_crc32: int, origin: Origin) -> dict[str, Any]:
    """The attributes that a file of ours has; what ``origin`` does not say is left out."""
    return {
        "patch_size": round(bag.span_px),
        "patch_level": 0,
        "downsample": np.ones(2),
        "name": bag.slide_id,
        "slide_id": bag.slide_id,
        "tile_px": bag.tile_px,
        "span_px": bag.span_px,
        "mpp": bag.mpp,
        "encoder_sha256": bag.encoder_sha256 or "",
        OURS: package_version("pathgene-rt"),
        "rows_crc32": np.uint32(rows_crc32),
        **{name: text for name, text in asdict(origin).items() if text},
    }


class TileAttributes:
    """The attributes ``values`` of the file ``path``. Properties take senseless values as absent;
    what :meth:`span_on` needs must make sense."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self._path = path
        self._values = values

    @property
    def ours(self) -> bool:
        """Whether the file was written by this package."""
        return OURS in self._values

    @property
    def slide_id(self) -> str | None:
        """The slide, where the file is :attr:`ours`: other tools' ``name`` may be anything."""
        return self._text("slide_id") if self.ours else None

    @property
    def encoder_sha256(self) -> str | None:
        """The encoder's weights."""
        return self._text("encoder_sha256")

    @property
    def origin(self) -> Origin:
        """How the file came about, as far as it says so."""
        return Origin(
            *(self._text(name) or "" for name in ("run_sha256", "made_from", "level_rule"))
        )

    @property
    def made_from(self) -> dict[str, Any] | None:
        """Which slide and options decide the content, None where that is not stated."""
        try:
            stated = json.loads(self.origin.made_from)
        except ValueError:
            return None
        return stated if isinstance(stated, dict) else None

    @property
    def rows_crc32(self) -> int | None:
        """The checksum that was written with the rows."""
        value = self._values.get("rows_crc32")
        return value if isinstance(value, int) else None

    @property
    def tile_px(self) -> int:
        """Pixels a tile has for the encoder, 0 where that is not stated."""
        ours, tridents = self._positive("tile_px"), self._positive("patch_size")
        if "patch_size_level0" not in self._values:
            tridents = None
        return round(ours or tridents or self._positive("tile_size_px") or 0)

    @property
    def mpp(self) -> float:
        """Micrometres per pixel of a tile, NaN where that is not stated; a magnification is not."""
        stated = self._positive("mpp")
        side_um, side_px = self._positive("tile_size_um"), self._positive("tile_size_px")
        if stated is None and side_um is not None and side_px is not None:
            stated = side_um / side_px
        return stated or math.nan

    @property
    def nominal_mpp(self) -> float | None:
        """Micrometres per pixel of a tile by its magnification alone, where TRIDENT chose how much
        of level 0 a tile spans by the scanner's magnification and not by its scale."""
        zoom = self._positive("level0_magnification")
        target = self._positive("target_magnification")
        size, span = self._positive("patch_size"), self._positive("patch_size_level0")
        if zoom is None or target is None or size is None or span is None:
            return None
        return UM_AT_1X / target if abs(span - size * zoom / target) <= 1 else None

    @property
    def in_um(self) -> bool:
        """Whether places are in micrometres, as STAMP writes them, not in level-0 pixels."""
        return self._text("unit") in ("um", "\u00b5m", "\u03bcm")

    @property
    def span_px(self) -> float | None:
        """Level-0 pixels a tile spans."""
        if self.in_um:
            return float(self.tile_px) or None  # see places_of in layouts
        stated = self._positive("span_px") or self._positive("patch_size_level0")
        if stated is not None or "patch_level" not in self._values:
            return stated
        size, downsample = self._positive("patch_size"), self._positive("downsample")
        if downsample is None and self._values["patch_level"] == 0:
            downsample = 1.0
        return size * downsample if size is not None and downsample is not None else None

    def require_slide(self, info: SlideInfo, names: Collection[str]) -> None:
        """Raise FeatureFileError if the file states that its tiles are of another slide than
        ``info``, which is called any of ``names``.
        """
        stated = self._text("name")
        if stated is not None:
            given = re.split(r"[/\\]", stated)[-1]
            if given.casefold() not in {name.casefold() for name in names}:
                raise self._of_another_slide(f"its tiles are of {stated!r}, not {info.slide_id!r}")
        for level, stated_px in self._stated_sizes():
            if not 0 <= level < len(info.downsamples):
                continue  # :meth:`span_on` says more of it
            size = tuple(round(side / info.downsamples[level]) for side in info.size_px)
            slack = MAX_LEVEL_MISMATCH if level else 0.0
            if any(
                abs(one - other) > slack * other + 2 * bool(level)
                for one, other in zip(stated_px, size, strict=True)
            ):
                raise self._of_another_slide(
                    f"its level {level} has {stated_px[0]:g} x {stated_px[1]:g} px, that of "
                    f"{info.slide_id} {size[0]} x {size[1]}"
                )

    def span_on(self, info: SlideInfo) -> float:
        """Level-0 pixels a tile spans on the slide ``info``.

        Raises FeatureFileError if the file does not say it, or speaks of levels that the slide has
        not.
        """
        if "patch_size_level0" in self._values:
            return self._require_positive("patch_size_level0")
        if self.ours:
            return self._require_positive("span_px")
        level = int(self._require_number("patch_level"))
        if not 0 <= level < len(info.downsamples):
            raise self._of_another_slide(
                f"patch_level is {level}, but {info.slide_id} has {len(info.downsamples)} levels"
            )
        downsample = info.downsamples[level]
        if "downsample" in self._values:
            stated = self._require_positive("downsample")
            if abs(stated - downsample) > MAX_LEVEL_MISMATCH * downsample:
                raise self._of_another_slide(
                    f"level {level} is downsampled by {stated:g}, in {info.slide_id} by "
                    f"{downsample:g}"
                )
        return self._require_positive("patch_size") * downsample

    def _stated_sizes(self) -> list[tuple[int, tuple[float, float]]]:
        """(level, (w, h)) of what is said of the slide's levels."""
        sizes = []
        tridents = self._positive("level0_width"), self._positive("level0_height")
        if tridents[0] is not None and tridents[1] is not None:
            sizes.append((0, (tridents[0], tridents[1])))
        clams = np.asarray(self._values.get("level_dim", ()))
        if clams.shape == (2,) and clams.dtype.kind in "iuf" and "patch_level" in self._values:
            sizes.append((int(self._require_number("patch_level")), (clams[0], clams[1])))
        return sizes

    def _of_another_slide(self, why: str) -> FeatureFileError:
        return FeatureFileError(f"{self._path}: {why}; the coordinates belong to another slide")

    def _positive(self, name: str) -> float | None:
        """Attribute ``name`` (the mean where it is x and y) if it is a number above 0."""
        value = np.asarray(self._values.get(name, 0))
        if value.dtype.kind not in "iuf" or value.size == 0:
            return None
        number = float(value.mean())
        return number if SENSIBLE[0] < number < SENSIBLE[1] else None

    def _text(self, name: str) -> str | None:
        value = self._values.get(name)
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        return str(value) if isinstance(value, str) and value else None

    def _require_number(self, name: str) -> float:
        """Attribute ``name``; the mean of x and y where it is a pair."""
        if name not in self._values:
            raise FeatureFileError(
                f"{self._path}: 'coords' has no attribute {name!r}, so its scale is unknown; "
                "give CLAM's or TRIDENT's coordinates file"
            )
        try:
            value = float(np.mean(np.asarray(self._values[name], dtype=np.float64)))
        except (TypeError, ValueError) as error:
            raise FeatureFileError(f"{self._path}: attribute {name!r} is no number") from error
        if not math.isfinite(value):
            raise FeatureFileError(
                f"{self._path}: attribute {name!r} is {value}, not a finite number"
            )
        return value

    def _require_positive(self, name: str) -> float:
        value = self._require_number(name)
        if value <= 0:
            raise FeatureFileError(f"{self._path}: attribute {name!r} is {value:g}, not above 0")
        return value
