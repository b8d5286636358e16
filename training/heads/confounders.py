"""The confounder dictionary of IBMIL: cluster centres of bag vectors, to which bags attend."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from pathgene_rt.errors import UsageError
from pathgene_rt.geometry import Float32Array

Merge = Literal["cat", "add", "sub"]


class Confounders(nn.Module):
    """Bag vectors float32 [..., width] -> those adjusted by what they attend to in the dictionary:
    [..., 2 * width] if ``merge`` is cat, else [..., width].

    The dictionary [entries, width] is a buffer of the state dict, or a parameter if ``learnable``.
    With ``classes`` it is [entries, classes, width], and bag vector c of as many looks at the
    entries [:, c] only. It starts as noise, for training to fill and for checkpoints to load.
    """

    def __init__(
        self,
        entries: int,
        width: int,
        *,
        hidden: int,
        merge: Merge = "cat",
        classes: int | None = None,
        learnable: bool = False,
    ) -> None:
        super().__init__()
        self.width = width
        self.merge = merge
        shape = (entries, width) if classes is None else (entries, classes, width)
        self.dictionary: Tensor
        if learnable:
            self.dictionary = nn.Parameter(torch.randn(shape))
        else:
            self.register_buffer("dictionary", torch.randn(shape))
        self.query = nn.Linear(width, hidden)
        self.key = nn.Linear(width, hidden)

    @property
    def merged_width(self) -> int:
        return 2 * self.width if self.merge == "cat" else self.width

    @override
    def forward(self, bags: Tensor) -> Tensor:
        vectors = bags.reshape(-1, self.width)
        context = (self.attention(vectors)[..., None] * self._entries()).sum(dim=0)
        if self.merge == "cat":
            merged = torch.cat([vectors, context], dim=1)
        else:
            merged = vectors + context if self.merge == "add" else vectors - context
        return merged.reshape(*bags.shape[:-1], self.merged_width)

    def attention(self, vectors: Tensor) -> Tensor:
        """Bag vectors [b, width] -> [entries, b], each column of which sums to one."""
        keys = self.key(self._entries())
        scores = (keys * self.query(vectors)).sum(dim=-1) / keys.shape[-1] ** 0.5
        weights: Tensor = scores.softmax(dim=0)
        return weights

    def fill(self, bags: Tensor) -> None:
        """Make the dictionary of the bag vectors float32 [bags, b, width] of a trained base: the
        centres of their clusters, of each class apart where the dictionary is.

        Raises :class:`UsageError` if there are fewer different vectors than entries.
        """
        per_class = self.dictionary.ndim == 3
        groups = bags.unbind(1) if per_class else [bags.flatten(0, 1)]
        entries = len(self.dictionary)
        centres = [torch.from_numpy(cluster_centres(group.numpy(), entries)) for group in groups]
        with torch.no_grad():
            self.dictionary.copy_(torch.stack(centres, dim=1) if per_class else centres[0])

    def _entries(self) -> Tensor:
        """[entries, classes, width], of one class where the dictionary is for all."""
        return self.dictionary if self.dictionary.ndim == 3 else self.dictionary[:, None]


def cluster_centres(vectors: Float32Array, count: int) -> Float32Array:
    """``vectors`` float32 [m, width] -> ``count`` centres, float32 [count, width].

    As IBMIL: k-means of the vectors' directions, and the mean of the vectors in each cluster. The
    start is drawn from torch's global generator. Raises :class:`UsageError` if fewer than ``count``
    vectors are different.
    """
    from sklearn.cluster import KMeans

    directions = vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-10)
    different = len(np.unique(directions, axis=0))
    if different < count:
        raise UsageError(
            f"{different} different bag vectors make no {count} confounders; "
            "train on more slides or lower the option confounders"
        )
    seed = int(torch.randint(2**31, ()))
    cluster = KMeans(count, n_init=10, random_state=seed).fit(directions).labels_
    return np.stack([vectors[cluster == number].mean(axis=0) for number in range(count)])
