"""What the engine cache keeps, and whether this machine and installation can use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from pathgene_rt.engines.backend import Availability
from pathgene_rt.engines.cache.entry import CacheEntry
from pathgene_rt.engines.cache.keys import (
    ITS_GENERATION,
    LATER_CARDS,
    LATER_VERSIONS,
    EngineKey,
    gpu_words,
    system_name,
)
from pathgene_rt.engines.cache.store import EngineCache
from pathgene_rt.engines.cuda.driver import cuda_devices
from pathgene_rt.engines.known_backends import BACKENDS
from pathgene_rt.engines.registry import load_backend

_AMPERE = (8, 0)


@dataclass(frozen=True)
class KeptEngine:
    """An entry of the cache. ``unusable`` says why it cannot be used here, or is empty."""

    entry: CacheEntry
    unusable: str

    def to_dict(self) -> dict[str, Any]:
        entry, record = self.entry, self.entry.record
        described = {} if record is None else asdict(record.key)
        return {
            "name": entry.name,
            **described,
            "bundle": None if record is None else record.bundle,
            "graph": None if record is None else record.graph,
            "made": None if record is None else record.made.isoformat(timespec="seconds"),
            "used": entry.used.isoformat(timespec="seconds"),
            "size_bytes": entry.size_bytes,
            "unusable": self.unusable or None,
        }


def kept_engines(cache: EngineCache) -> tuple[KeptEngine, ...]:
    """What ``cache`` keeps, the last used first. Probes the backends that it was made for."""
    entries = cache.entries()
    named = {entry.record.key.backend for entry in entries if entry.record is not None}
    found = {name: load_backend(name).probe() for name, _ in BACKENDS if name in named}
    return tuple(KeptEngine(entry, _why_unusable(entry, found)) for entry in entries)


def _why_unusable(entry: CacheEntry, backends: Mapping[str, Availability]) -> str:
    if entry.record is None or entry.damage:
        return entry.damage
    key = entry.record.key
    found = backends.get(key.backend)
    if found is None:
        return f"no engine of this version is called {key.backend}"
    for differs, why in (
        (key.system != system_name(), f"made on {key.system}"),
        (key.product not in ("", version("pathgene-rt")), f"made by pathgene-rt {key.product}"),
        (not found.available, f"{key.backend} cannot run here, see pathgene-rt doctor"),
        (
            key.version not in (LATER_VERSIONS, found.version),
            f"made with {key.backend} {key.version}, here is {found.version}",
        ),
    ):
        if differs:
            return why
    return _wrong_device(key, found)


def _wrong_device(key: EngineKey, found: Availability) -> str:
    gpus = cuda_devices()
    if key.device == LATER_CARDS and any(gpu.compute_capability >= _AMPERE for gpu in gpus):
        return ""
    if key.device == ITS_GENERATION:
        generations = {gpu_words(gpu)["compute_capability"] for gpu in gpus}
        known = key.compute_capability in generations
        return "" if known else f"made for cards of {key.compute_capability}"
    if not key.compute_capability:
        return "" if key.device in found.devices else f"made for {key.device}"
    for card in map(gpu_words, gpus):
        chip = (card["device"], card["compute_capability"], card["sm_count"])
        if chip == (key.device, key.compute_capability, key.sm_count):
            here = card["driver"]
            return "" if here == key.driver else f"made with driver {key.driver}, here is {here}"
    return f"made for {key.device}"
