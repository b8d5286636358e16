"""HIPT's slide level (R. Chen et al., "Scaling Vision Transformers to Gigapixel Images via
Hierarchical Self-Supervised Learning", CVPR 2022): tiles -> regions of 16 x 16 tiles -> slide.

The authors cut a slide into whole 4096 px regions first. Here regions come from the tile grid, so
that some are partly filled: places without a tile are masked, in the attention of the region's
transformer and in its pooling. A full region gives what theirs gives. The paper begins with a
region transformer that was trained without labels and keeps it fixed; here it is trained with the
rest by the loss of the logits, and starts from theirs where a checkpoint is loaded.

PathGene: ``form="none", regions="slide"`` (all tiles are one region; needs no ``regions``).
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import pad
from typing_extensions import override

from pathgene_rt.bundle.spec import STRICT
from pathgene_rt.geometry import REGION
from pathgene_rt.training.heads import vit4k
from pathgene_rt.training.heads.attention import AttentionScores, pool
from pathgene_rt.training.heads.base import Head, HeadOutput
from pathgene_rt.training.heads.dropout import BagDropout
from pathgene_rt.training.heads.vit4k import RegionTransformer, SelfAttention

CELLS = REGION * REGION

_LAYERS = 2
_HEADS = 3
_ABSENT = -6e4
"""Score of a place without a tile. FP16 can hold it."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HiptOptions:
    """``form``: "lgp" has a transformer over the tiles of a region and one over the regions, "gp"
    the latter alone, on features that are regions' already, "none" gated attention in place of
    both (``width`` wide; the transformers are 192 wide). ``regions`` are squares of the "grid", or
    one of the whole "slide", which a transformer cannot take."""

    form: Literal["lgp", "gp", "none"] = "lgp"
    regions: Literal["grid", "slide"] = "grid"
    width: int = Field(default=256, ge=1, le=4096)
    dropout: float = Field(default=0.25, ge=0, lt=1)

    @model_validator(mode="after")
    def _one_region_is_pooled(self) -> Self:
        if self.regions == "slide" and self.form != "none":
            raise ValueError(f'regions = "slide" needs form = "none", not "{self.form}"')
        return self


class Hipt(Head):
    """Tiles pooled to regions, regions pooled to the slide.

    Attention is that of a tile in its region times that of the region; where a transformer makes
    the region's vector, its tiles share the region's attention alike.
    """

    architecture = "hipt"
    Options = HiptOptions

    def __init__(self, in_dim: int, n_classes: int, options: HiptOptions) -> None:
        super().__init__(in_dim, n_classes, options)
        self.on_grid = options.form != "gp" and options.regions == "grid"
        self.inputs = ("features", "regions") if self.on_grid else ("features",)
        self.local: RegionTransformer | TilePooling | None = None
        if options.form == "lgp":
            self.local = RegionTransformer(in_dim, REGION, REGION)
        elif options.form == "none":
            self.local = TilePooling(in_dim, options.width, options.dropout)
        region_dim = {"lgp": vit4k.WIDTH, "gp": in_dim, "none": options.width}[options.form]
        width = options.width if options.form == "none" else vit4k.WIDTH
        self.phi = nn.Linear(region_dim, width)
        self.layers = nn.ModuleList(
            RegionLayer(width, options.dropout)
            for _ in range(0 if options.form == "none" else _LAYERS)
        )
        self.dropout = BagDropout(options.dropout)
        self.attention = AttentionScores(width, width, gated=True, dropout=options.dropout)
        self.rho = nn.Linear(width, width)
        self.classifier = nn.Linear(width, n_classes)

    @override
    def score(
        self,
        features: Tensor,
        coords: Tensor | None,
        neighbours: Tensor | None,
        regions: Tensor | None,
    ) -> HeadOutput:
        """:meth:`Head.forward` of a checked bag. Raises ValueError without ``regions``, or if they
        are no table of the bag's tiles. A tile that is in no region counts nothing."""
        if self.local is None or not self.on_grid:
            return self.forward_regions(features if self.local is None else features.unsqueeze(0))
        if regions is None:
            raise ValueError(
                "hipt needs regions int64 [r, 256], the tiles of each; "
                "build them from coords with pathgene_rt.geometry.grid_regions"
            )
        n = features.shape[0]
        if not torch.compiler.is_compiling():
            _check_regions(regions, n)
        embeddings = pad(self.local.embed(features), (0, 0, 0, 1))
        by_region = embeddings.index_select(0, regions.reshape(-1)).reshape(
            -1, CELLS, embeddings.shape[1]
        )
        vectors, shares = self.local.pool(by_region, regions < n)
        logits, attention = self._slide(vectors)
        by_place = pad((shares * attention).reshape(-1), (0, 1))
        return HeadOutput(logits, by_place.index_select(0, _places(regions, n))[:, None])

    def forward_regions(self, regions: Tensor) -> HeadOutput:
        """The same from regions float32 [regions, tiles, in_dim], all full, or, for the form "gp",
        from their vectors [regions, in_dim]. Attention is [regions * tiles, 1] or [regions, 1]."""
        if self.local is None:
            return HeadOutput(*self._slide(regions))
        vectors, shares = self.local.pool(self.local.embed(regions), None)
        logits, attention = self._slide(vectors)
        return HeadOutput(logits, (shares * attention).reshape(-1, 1))

    def _slide(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Region vectors [regions, region_dim] -> logits, attention [regions, 1]."""
        regions = self.dropout(self.phi(vectors).relu())
        for layer in self.layers:
            regions = layer(regions)
        attention, slide = pool(self.attention(regions), regions)
        logits: Tensor = self.classifier(self.dropout(self.rho(slide).relu()))[0]
        return logits, attention


def _places(regions: Tensor, n: int) -> Tensor:
    """Where in ``regions``, flattened, each of n tiles is, int64 [n]; behind all if it is not."""
    cells = regions.reshape(-1)
    numbers = torch.arange(cells.shape[0], device=cells.device)
    # What is no tile writes into one place more, in whichever order, and is cut off.
    places = torch.full((n + 1,), cells.shape[0], device=cells.device)
    return places.scatter(0, cells, numbers)[:n]


def _check_regions(regions: Tensor, n: int) -> None:
    if regions.ndim != 2 or regions.shape[1] != CELLS or regions.dtype != torch.int64:
        raise ValueError(
            f"regions are {regions.dtype} {list(regions.shape)}, hipt takes int64 [r, {CELLS}]"
        )
    if int(regions.min()) < 0 or int(regions.max()) > n:
        raise ValueError(
            f"regions name tiles {int(regions.min())} to {int(regions.max())}, the bag has {n} "
            f"(from 0; {n} stands for none)"
        )


class TilePooling(nn.Module):
    """Gated attention over the tiles of each region, in place of its transformer."""

    def __init__(self, in_dim: int, width: int, dropout: float) -> None:
        super().__init__()
        self.phi = nn.Linear(in_dim, width)
        self.dropout = BagDropout(dropout)
        self.attention = AttentionScores(width, width, gated=True, dropout=dropout)

    def embed(self, tiles: Tensor) -> Tensor:
        """Tiles [..., in_dim] -> embeddings [..., width]."""
        embeddings: Tensor = self.dropout(self.phi(tiles).relu())
        return embeddings

    def pool(self, embeddings: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
        """Embeddings [regions, tiles, width] -> (vectors [regions, width], attention [regions,
        tiles], which sums to one over a region). ``present`` bool [regions, tiles], None for all.
        """
        scores = self.attention(embeddings).squeeze(-1)
        if present is not None:
            scores = torch.where(present, scores, _ABSENT)
        attention = scores.softmax(dim=1)
        return (attention.unsqueeze(1) @ embeddings).squeeze(1), attention


class RegionLayer(nn.Module):
    """Attention among regions float32 [regions, width] and two layers, each followed by a LayerNorm
    (A. Vaswani et al., "Attention Is All You Need", NeurIPS 2017). Regions have no positions."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(width, _HEADS, any_length=True)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = BagDropout(dropout)

    @override
    def forward(self, regions: Tensor) -> Tensor:
        mixed = self.attention(regions.unsqueeze(0)).squeeze(0)
        regions = self.norm1(regions + self.dropout(mixed))
        hidden = self.dropout(self.linear1(regions).relu())
        out: Tensor = self.norm2(regions + self.dropout(self.linear2(hidden)))
        return out
