"""The published implementations, imported from clones that the user has beside each other.

Nothing of them is in this repository. ``DIR/CLAM``, ``DIR/TransMIL``, ... are clones of
mahmoodlab/CLAM, szc19990412/TransMIL, binli123/dsmil-wsi, DearCaat/RRT-MIL and mahmoodlab/HIPT;
TransMIL and RRT-MIL need the packages nystrom-attention and einops. The others have no module to
import as it stands: DTFD-MIL evaluates in its script, Patch-GCN needs torch_geometric, HMIL's
constructor fails, IBMIL reads its dictionary from a file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[[dict[str, Tensor]], Any]


def original(variant: str, folder: Path, in_dim: int, classes: int) -> Run | None:
    """The original of a head in the benchmarks' tables, None if there is none to import."""
    make = _MAKERS.get(variant)
    if make is None:
        return None
    module, stacked = make(folder, in_dim, classes)
    module.eval()
    return lambda inputs: module(inputs["features"][None] if stacked else inputs["features"])


def _clam(branches: str) -> Callable[[Path, int, int], tuple[nn.Module, bool]]:
    def make(folder: Path, in_dim: int, classes: int) -> tuple[nn.Module, bool]:
        published = _import(folder / "CLAM", "models.model_clam")
        module = getattr(published, branches)(embed_dim=in_dim, n_classes=classes, dropout=0.25)
        return module, False

    return make


def _dsmil(folder: Path, in_dim: int, classes: int) -> tuple[nn.Module, bool]:
    published = _import(folder / "dsmil-wsi", "dsmil")
    instances = published.FCLayer(in_dim, classes)
    return published.MILNet(instances, published.BClassifier(in_dim, classes)), False


def _transmil(folder: Path, in_dim: int, classes: int) -> tuple[nn.Module, bool]:
    published = _import(folder / "TransMIL", "models.TransMIL", package_init=False)
    module = published.TransMIL(n_classes=classes)
    module._fc1[0] = nn.Linear(in_dim, 512)  # 1,024 is hard-coded
    # So is the move of the class token to a GPU; the arithmetic is the original's.
    torch.Tensor.cuda = lambda self, *_: self  # type: ignore[method-assign,assignment]
    return _Named(module, "data"), True


class _Named(nn.Module):
    """Passes the bag by keyword."""

    def __init__(self, module: nn.Module, keyword: str) -> None:
        super().__init__()
        self.module = module
        self.keyword = keyword

    def forward(self, bag: Tensor) -> Any:
        return self.module(**{self.keyword: bag})


def _rrt(folder: Path, in_dim: int, classes: int) -> tuple[nn.Module, bool]:
    # timm gives the original drop path and initialisation, which play no part here.
    layers = ModuleType("timm.models.layers")
    layers.DropPath, layers.trunc_normal_ = nn.Identity, nn.init.trunc_normal_  # type: ignore[attr-defined]
    for name in ("timm", "timm.models"):
        sys.modules.setdefault(name, ModuleType(name))
    sys.modules.setdefault("timm.models.layers", layers)
    published = _import(folder / "RRT-MIL", "modules.rrt", package_init=False)
    return published.RRTMIL(input_dim=in_dim, n_classes=classes), True


def _hipt(folder: Path, in_dim: int, classes: int) -> tuple[nn.Module, bool]:
    sys.path.insert(0, str(folder / "HIPT" / "HIPT_4K"))
    weak = folder / "HIPT" / "2-Weakly-Supervised-Subtyping"
    published = _import(weak, "models.model_hierarchical_mil")
    return published.HIPT_None_FC(path_input_dim=in_dim, n_classes=classes), True


def _import(root: Path, name: str, *, package_init: bool = True) -> ModuleType:
    sys.path.insert(0, str(root))
    if not package_init:
        # The package's own __init__ imports every method and what each of them needs.
        package = ModuleType(name.partition(".")[0])
        package.__path__ = [str(root / package.__name__)]
        sys.modules[package.__name__] = package
    return import_module(name)


_MAKERS: dict[str, Callable[[Path, int, int], tuple[nn.Module, bool]]] = {
    "clam_sb": _clam("CLAM_SB"),
    "clam_mb": _clam("CLAM_MB"),
    "dsmil": _dsmil,
    "transmil": _transmil,
    "rrt": _rrt,
    "hipt": _hipt,
}
