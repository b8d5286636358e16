"""The words of ``export --head``, ``--task`` and ``--classes``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import get_args

from pathgene_rt.bundle.spec import TaskKind
from pathgene_rt.errors import UsageError
from pathgene_rt.export.request import WSINFER_MIL, HeadRequest

_KINDS: tuple[TaskKind, ...] = get_args(TaskKind)


def head_request(text: str) -> HeadRequest:
    """``PATH``, ``NAME=PATH`` or ``NAME=ARCHITECTURE:PATH``.

    A file whose own name holds "=" or ":" is taken as a path. Raises :class:`UsageError`.
    """
    from pathgene_rt.export.upstream import HEADS

    if Path(text).is_file():
        return HeadRequest(path=Path(text))
    name, separator, rest = text.partition("=")
    if not separator:
        name, rest = "", text
    elif not name or not rest:
        raise UsageError(f"--head {text} names no {'head' if rest else 'file'}; give NAME=PATH")
    architecture, separator, path = rest.partition(":")
    known = (*HEADS, WSINFER_MIL)
    if separator and architecture in known:
        if not path:
            raise UsageError(f"--head {text} names no file; give NAME={architecture}:PATH")
        return HeadRequest(path=Path(path), name=name or None, architecture=architecture)
    # A drive letter is no architecture.
    if separator and len(architecture) > 1 and not Path(rest).exists():
        near = get_close_matches(architecture, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(known)}"
        raise UsageError(f"--head {text}: {architecture} is no published architecture; {hint}")
    return HeadRequest(path=Path(rest), name=name or None)


def described_heads(
    heads: Sequence[HeadRequest], tasks: Sequence[str], classes: Sequence[str]
) -> tuple[HeadRequest, ...]:
    """``heads`` with what ``--task NAME=KIND[:GENE]`` and ``--classes NAME=A,B`` say of them."""
    described = {head.head_name: head for head in heads}
    if len(described) != len(heads):
        return tuple(heads)  # two of one name: the export says so
    for text in tasks:
        name, value = _of_a_head(text, "--task", described)
        kind, _, gene = value.partition(":")
        if kind not in _KINDS:
            raise UsageError(f"--task {text}: {kind!r} is none of {', '.join(_KINDS)}")
        described[name] = replace(described[name], kind=kind, gene=gene or None)
    for text in classes:
        name, value = _of_a_head(text, "--classes", described)
        named = tuple(part.strip() for part in value.split(","))
        if not all(named) or len(set(named)) != len(named):
            raise UsageError(f"--classes {text}: give different names, divided by commas")
        described[name] = replace(described[name], classes=named)
    return tuple(described.values())


def _of_a_head(text: str, option: str, heads: dict[str, HeadRequest]) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or name not in heads:
        known = ", ".join(heads) or "none"
        raise UsageError(f"{option} {text} names no head of this export ({known}); give NAME=...")
    return name, value
