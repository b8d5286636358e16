"""``pathgene-rt engines``: the engines that are kept on this machine."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from pathgene_rt.cli.console import Console, JsonOption, QuietOption
from pathgene_rt.errors import OutputError, UsageError

if TYPE_CHECKING:
    from pathgene_rt.engines.cache.keys import EngineKey
    from pathgene_rt.engines.cache.store import EngineCache
    from pathgene_rt.engines.kept_engines import KeptEngine

engines = typer.Typer(name="engines", no_args_is_help=True)

_HOURS = {"h": 1, "d": 24, "w": 24 * 7}


@engines.callback()
def _group() -> None:
    """The engines that are kept on this machine: what they are, and removing them."""


@engines.command("list")
def list_engines(json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Show what is kept and whether it can be used here."""
    from pathgene_rt.engines.kept_engines import kept_engines

    console = Console(json=json, quiet=quiet)
    cache = _cache()
    kept = kept_engines(cache)
    size = sum(found.entry.size_bytes for found in kept)
    if kept:
        columns = ["model", "engine", "size", "last used", "here"]
        console.table("", columns, [_row(found) for found in kept])
    count = f"{len(kept)} kept in {cache.root}"
    console.say(f"{count}, {_size(size)} of at most {_size(cache.limit_bytes)}")
    console.emit(
        {
            "folder": str(cache.root),
            "size_bytes": size,
            "limit_bytes": cache.limit_bytes,
            "engines": [found.to_dict() for found in kept],
            "warnings": list(cache.warnings),
        }
    )
    for warning in cache.warnings:
        console.warn(warning)


@engines.command()
def prune(
    everything: Annotated[
        bool, typer.Option("--all", help="Remove all, INT8 calibrations too.")
    ] = False,
    not_usable: Annotated[
        bool, typer.Option("--not-usable", help="Remove what cannot be used here, or is damaged.")
    ] = False,
    older_than: Annotated[
        str | None,
        typer.Option(help="Remove what was not used for e.g. 30d, 12h or 4w.", show_default=False),
    ] = None,
    to_size: Annotated[
        str | None,
        typer.Option(
            help="Then remove what was used longest ago until the rest is no larger, e.g. 2GB.",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Remove engines, but none that is in use. They are built again when they are needed.

    What `build` found out is kept. An INT8 calibration is not made again by itself: it needs
    slides (build --calibrate); --to-size removes it last.
    """
    from pathgene_rt.engines.kept_engines import kept_engines
    from pathgene_rt.options import parse_bytes

    if not (everything or not_usable or older_than or to_size):
        raise UsageError("name what to remove: --all, --not-usable, --older-than or --to-size")
    limit = None if to_size is None else parse_bytes(to_size)
    oldest = None if older_than is None else datetime.now(UTC) - _age(older_than)
    console = Console(json=json, quiet=quiet)
    cache = _cache()
    kept = kept_engines(cache)
    asked = [
        found
        for found in kept
        if everything
        or (not_usable and found.unusable)
        or (oldest is not None and found.entry.used < oldest)
    ]
    removed = {found.entry.name for found in asked if cache.remove(found.entry)}
    in_use = len(asked) - len(removed)
    if limit is not None:
        removed |= {entry.name for entry in cache.prune(limit)}
    gone = [found for found in kept if found.entry.name in removed]
    freed = sum(found.entry.size_bytes for found in gone)
    left = sum(found.entry.size_bytes for found in kept) - freed
    for found in gone:
        record, size = found.entry.record, _size(found.entry.size_bytes)
        engine = found.unusable if record is None else _engine(record.key)
        console.say(f"removed {_model(found)}: {engine}, {size}")
    console.say(f"{len(gone)} removed, {_size(freed)} freed, {_size(left)} kept")
    if in_use:
        console.say(f"{in_use} in use and not removed")
    console.emit(
        {
            "removed": [found.to_dict() for found in gone],
            "freed_bytes": freed,
            "kept_bytes": left,
            "in_use": in_use,
        }
    )
    if cache.warnings:
        raise OutputError(cache.warnings[0])


def _cache() -> EngineCache:
    from pathgene_rt.engines.cache.store import EngineCache
    from pathgene_rt.options import NO_CACHE_FOLDER, default_cache_dir

    folder = default_cache_dir()
    if folder is None:
        raise UsageError(NO_CACHE_FOLDER)
    return EngineCache(folder)


def _age(text: str) -> timedelta:
    found = re.fullmatch(r"\s*(\d{1,5})\s*([hdw])\s*", text)
    if found is None:
        raise UsageError(f"--older-than {text!r} is not understood; give e.g. 30d, 12h or 4w")
    return timedelta(hours=int(found[1]) * _HOURS[found[2]])


def _size(size_bytes: int) -> str:
    from rich.filesize import decimal

    return decimal(size_bytes)


def _row(found: KeptEngine) -> list[str]:
    record, used = found.entry.record, found.entry.used.astimezone()
    engine = []
    if record is not None:
        key = record.key
        card = [key.compute_capability, key.driver and f"driver {key.driver}"]
        chip = f" ({', '.join(filter(None, card))})" if any(card) else ""
        engine = [_engine(record.key), f"{key.device}{chip}", *key.profiles]
    return [
        _model(found),
        "\n".join(engine),
        _size(found.entry.size_bytes),
        f"{used:%Y-%m-%d %H:%M}",
        found.unusable or "usable",
    ]


def _engine(key: EngineKey) -> str:
    """For example "tensorrt 11.4.0 float16" or "timing cache of tensorrt 11.4.0"."""
    prefix = "" if key.content == "engine" else f"{key.content} of "
    return f"{prefix}{key.backend} {key.version} {key.precision}".rstrip()


def _model(found: KeptEngine) -> str:
    """Bundle and graph as far as they are known, and which ONNX file: "lung 1.0 abmil 1a2b3c4d"."""
    record = found.entry.record
    if record is None:
        return found.entry.name[:12]
    if not record.key.onnx_sha256:
        return "every model"
    return " ".join(filter(None, (record.bundle, record.graph, record.key.onnx_sha256[:8])))
