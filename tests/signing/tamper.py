"""Flips bits of everything that is to be trusted: ``python -m tests.signing.tamper 10000``.

A signed bundle as a zip and as a folder, their signatures, and an audit trail with its older files,
head and signature. Each flip is in the next file, at a byte of a class of positions: first and last
ones, every part of a zip, each field of a signature, anywhere. Nothing changed may be accepted.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pathgene_rt.audit.chain import head_path
from pathgene_rt.audit.signed_head import sign_trail, signed_line
from pathgene_rt.audit.trail import AuditTrail
from pathgene_rt.audit.verify import verify_trail
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.errors import BundleError, VerificationError
from pathgene_rt.signing.keyring import Keyring
from pathgene_rt.signing.keys import KeyKind, SigningKey, make_key
from pathgene_rt.signing.verify import sign, signature_path
from pathgene_rt.site_trust import signer_of_bundle
from tests.support import tiny_models as tiny


@dataclass(frozen=True)
class Target:
    """A file, and what raises BundleError or VerificationError if it is not as it was."""

    what: str
    file: Path
    check: Callable[[], object]


def targets(folder: Path, kind: KeyKind) -> list[Target]:
    """Everything, whole and signed by a new key."""
    make_key(folder / "key", kind)
    key, keyring = SigningKey.from_file(folder / "key"), Keyring.read(folder / "key.pub")
    found = []
    for name, as_folder in (("zip.pgrt", False), ("folder.pgrt", True)):
        path = tiny.write_files(folder / name, tiny.tiny_bundle_files(), folder=as_folder)
        sign(path, key)

        def opened(path: Path = path) -> object:
            with Bundle.open(path) as bundle:
                return signer_of_bundle(bundle, [keyring])

        files = sorted(one for one in path.rglob("*") if one.is_file()) if as_folder else [path]
        found += [Target(f"bundle as a {name[:-5]}", one, opened) for one in files]
        found.append(Target("signature", signature_path(path), opened))
    trail = AuditTrail(folder / "audit.jsonl", rotate_bytes=2000)
    for number in range(20):
        trail.append("prediction", {"slide": {"id": f"s{number}"}})
    sign_trail(trail.path, key)

    def verified() -> object:
        _, _, digest = signed_line(trail.path, keyring)
        return verify_trail(trail.path, anchor=digest)

    for one in verify_trail(trail.path).files:
        found.append(Target("audit trail", one, verified))
    found.append(Target("audit head", head_path(trail.path), verified))
    found.append(Target("audit signature", signature_path(trail.path), verified))
    for target in found:
        target.check()
    return found


_MARKS = (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b'"', b"\n")
"""What the parts of a zip and the fields of JSON begin with."""


def place_of(data: bytes, chance: random.Random) -> int:
    """A position of one of the classes."""
    size, edge = len(data), chance.randrange(min(16, len(data)))
    found = (data.find(mark, chance.randrange(size)) for mark in _MARKS)
    near = [min(size - 1, at + chance.randrange(30)) for at in found if at >= 0]
    anywhere = [chance.randrange(size) for _ in range(2)]
    return chance.choice([edge, size - 1 - edge, *anywhere, *near])


def run(
    flips: int, seed: int, folder: Path, kind: KeyKind = "p256"
) -> tuple[Counter[str], list[str]]:
    """(flips by what they hit, those that were accepted)."""
    chance, counted, accepted = random.Random(seed), Counter[str](), []
    found = targets(folder, kind)
    for number in range(flips):
        target = found[number % len(found)]
        whole = target.file.read_bytes()
        place, bit = place_of(whole, chance), chance.randrange(8)
        changed = bytearray(whole)
        changed[place] ^= 1 << bit
        target.file.write_bytes(changed)
        try:
            target.check()
        except (BundleError, VerificationError):
            counted[target.what] += 1
        else:
            accepted.append(f"{target.what}: {target.file.name} byte {place} bit {bit}")
        target.file.write_bytes(whole)
    return counted, accepted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("flips", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counted, accepted = run(options.flips, options.seed, Path(folder))
    print(dict(counted), f"{len(accepted)} accepted", *accepted, sep="\n")  # noqa: T201
    if accepted:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
