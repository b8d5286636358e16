"""What the site's policy asks for, put to work: the audit trail, and whose models are used."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from pathgene_rt.audit.trail import AuditTrail
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.store import MANIFEST
from pathgene_rt.errors import BundleError, UsageError
from pathgene_rt.files import reason
from pathgene_rt.policy import SitePolicy, policy_path, site_policy
from pathgene_rt.signing.keyring import Keyring
from pathgene_rt.signing.statement import WHOLE
from pathgene_rt.signing.verify import signer_of


def audit_of_site(chosen: AuditTrail | None, policy: SitePolicy | None = None) -> AuditTrail | None:
    """The trail that predictions get their lines in: that of the site's ``policy`` (None: this
    machine's), else the one that was ``chosen``. It can be written, and knows of the policy.

    Raises UsageError if both are there and differ; as :meth:`AuditTrail.append`.
    """
    policy = site_policy() if policy is None else policy
    trail = chosen
    if policy.audit is not None:
        trail = AuditTrail(policy.audit)
        if chosen is not None and chosen.path != trail.path:
            raise UsageError(
                f"the site's policy {policy_path()} says that the audit trail is {trail.path}; "
                f"leave out {chosen.path}"
            )
    if trail is not None:
        trail.require_writable()
        if policy.sha256:
            trail.site_changed("policy", policy.sha256)
    return trail


def keyrings_of_site(chosen: Path | None, policy: SitePolicy | None = None) -> list[Keyring]:
    """The keyrings by each of which a model must be signed: that of the site's ``policy`` (None:
    this machine's) and the one that was ``chosen``. Raises UsageError."""
    policy = site_policy() if policy is None else policy
    asked = dict.fromkeys(path for path in (policy.require_signature, chosen) if path is not None)
    return [Keyring.read(path) for path in asked]


def signer_of_bundle(bundle: Bundle, keyrings: list[Keyring]) -> str | None:
    """The name and key of whoever signed ``bundle``, by the first of ``keyrings``; None if nobody
    asks. What was signed is what was opened: its manifest is the one that was read, and every other
    file is checked against that whenever it is read.

    Raises BundleError if it is not signed as each asks; FileAccessError.
    """
    signers = [_signer(bundle, keyring) for keyring in keyrings]
    return signers[0] if signers else None


def require_signed_profile(path: Path, sha256: str, keyrings: list[Keyring]) -> None:
    """Raise BundleError unless the site profile ``path``, which was read as ``sha256``, is signed
    as each of ``keyrings`` asks."""
    for keyring in keyrings:
        _, signed = signer_of(path, keyring)
        if signed != {WHOLE: sha256}:
            raise BundleError(f"{path}: changed while it was read; try again")


def _signer(bundle: Bundle, keyring: Keyring) -> str:
    path = bundle.path
    listed = {MANIFEST, *bundle.manifest.files} if path.is_dir() else ()
    key, signed = signer_of(path, keyring, only=listed)
    manifest = signed.get(MANIFEST) if path.is_dir() else _manifest_in(path, signed[WHOLE])
    if manifest != bundle.sha256:
        raise BundleError(f"{path}: changed while it was opened; try again")
    return f"{key.name} {key.public.key_id}"


def _manifest_in(path: Path, digest: str) -> str:
    """The hash of the manifest in the zip ``path`` if the zip has the hash ``digest``: both of one
    open file, which nobody can put another in the place of."""
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return ""
            with zipfile.ZipFile(file) as archive:
                return hashlib.sha256(archive.read(MANIFEST)).hexdigest()
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise BundleError(f"cannot read {path}: {why}") from error
