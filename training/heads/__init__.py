"""MIL heads by architecture. A new head is a file here and one line in ``_HEADS``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from pathgene_rt.errors import UsageError
from pathgene_rt.training.toml_config import suggestion

if TYPE_CHECKING:
    from pathgene_rt.training.heads.base import Head

_HEADS = {
    "abmil": ("abmil", "ABMIL"),
    "clam_sb": ("clam_sb", "ClamSB"),
    "clam_mb": ("clam_mb", "ClamMB"),
    "clam_mil": ("clam_mil", "ClamMIL"),
    "dsmil": ("dsmil", "DSMIL"),
    "dtfd": ("dtfd", "DTFD"),
    "hipt": ("hipt", "Hipt"),
    "ibmil": ("ibmil", "IBMIL"),
    "hmil": ("hmil", "HMIL"),
    "patchgcn": ("patchgcn", "PatchGCN"),
    "pathlupi": ("pathlupi", "PathLUPI"),
    "rrt": ("rrt", "RRT"),
    "transmil": ("transmil", "TransMIL"),
    "mhim": ("mhim", "MHIM"),
}

ARCHITECTURES = tuple(_HEADS)


def create(architecture: str, *, in_dim: int, n_classes: int, **options: Any) -> Head:
    """A new head with random weights (of torch's global generator) for features [n, in_dim].

    ``options`` are the fields of the head's ``Options``; those left out have its defaults. Raises
    :class:`UsageError` if the architecture or an option is unknown or a value does not fit.
    """
    if architecture not in _HEADS:
        raise UsageError(
            f"architecture {architecture!r} is unknown; {suggestion(architecture, ARCHITECTURES)}"
        )
    if in_dim < 1 or n_classes < 1:
        raise UsageError(
            f"a head needs in_dim >= 1 and n_classes >= 1, not {in_dim} and {n_classes}"
        )
    file, name = _HEADS[architecture]
    head_class: type[Head] = getattr(import_module(f"{__name__}.{file}"), name)
    try:
        chosen = TypeAdapter(head_class.Options).validate_python(options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = ".".join(str(part) for part in first["loc"])
        if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            known = list(head_class.Options.__dataclass_fields__)
            raise UsageError(
                f"{architecture} has no option {option}; {suggestion(option, known)}"
            ) from error
        raise UsageError(
            f"{architecture}: option {option} = {first['input']!r} does not fit: {first['msg']}"
        ) from error
    return head_class(in_dim, n_classes, chosen)
