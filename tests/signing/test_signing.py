"""Signed bundles: whose count, which do not, and what the OpenSSF's own program says of them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pathgene_rt.audit.signed_head import sign_trail, signed_line
from pathgene_rt.audit.trail import AuditTrail
from pathgene_rt.audit.verify import verify_trail
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.cli.main import app
from pathgene_rt.errors import (
    BundleError,
    MissingExtraError,
    OutputError,
    UsageError,
    VerificationError,
)
from pathgene_rt.options import EngineOptions
from pathgene_rt.policy import SitePolicy
from pathgene_rt.predictor import Predictor
from pathgene_rt.signing.keyring import Keyring
from pathgene_rt.signing.keys import KEY_VARIABLE, SigningKey, make_key
from pathgene_rt.signing.verify import sign, signature_path, signer_of
from pathgene_rt.site_trust import keyrings_of_site, require_signed_profile, signer_of_bundle
from tests.signing.tamper import run as tamper
from tests.support import tiny_models as tiny

ENGINE = EngineOptions(backend="onnxruntime", cache_dir=None)


@pytest.fixture(params=["p256", "ed25519"])
def key(request: pytest.FixtureRequest, tmp_path: Path) -> SigningKey:
    make_key(tmp_path / "key", request.param)
    return SigningKey.from_file(tmp_path / "key")


@pytest.fixture(params=[False, True], ids=["zip", "folder"])
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tiny.write_files(tmp_path / "lung.pgrt", tiny.tiny_bundle_files(), folder=request.param)


def signer(bundle: Path, keyring: Path) -> str | None:
    with Bundle.open(bundle) as opened:
        return signer_of_bundle(opened, [Keyring.read(keyring)])


def test_who_signed_a_bundle_is_known(tmp_path: Path, bundle: Path, key: SigningKey) -> None:
    sign(bundle, key)
    assert signer(bundle, tmp_path / "key.pub") == f"key.pub {key.public.key_id}"
    renamed = bundle.rename(tmp_path / "other.pgrt")
    signature_path(bundle).rename(signature_path(renamed))
    assert signer(renamed, tmp_path / "key.pub")


def test_what_lies_in_a_folder_beside_the_bundles_files_is_never_read(
    tmp_path: Path, bundle: Path, key: SigningKey
) -> None:
    sign(bundle, key)
    if bundle.is_dir():
        (bundle / "Thumbs.db").write_bytes(b"x")
        assert signer(bundle, tmp_path / "key.pub")


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ("not_after = 2020-01-01", "expired on 2020-01-01"),
        ("not_before = 2999-01-01", "counts from 2999-01-01"),
        ('revoked = "stolen in May"', "revoked: stolen in May"),
        ("not_before = 2020-01-01\nnot_after = 2999-01-01", ""),
    ],
)
def test_a_key_counts_within_its_limits(
    tmp_path: Path, bundle: Path, key: SigningKey, limits: str, said: str
) -> None:
    sign(bundle, key)
    ring = tmp_path / "ring.toml"
    ring.write_text(f'[[key]]\nname = "the vendor"\npublic = "key.pub"\n{limits}\n')
    if said:
        with pytest.raises(BundleError, match=said):
            signer(bundle, ring)
    else:
        assert signer(bundle, ring) == f"the vendor {key.public.key_id}"


def test_unsigned_unknown_and_changed_ones_are_refused(
    tmp_path: Path, bundle: Path, key: SigningKey
) -> None:
    with pytest.raises(BundleError, match="is not signed"):
        signer(bundle, tmp_path / "key.pub")
    sign(bundle, key)
    make_key(tmp_path / "other", "p256")
    with pytest.raises(BundleError, match="does not have"):
        signer(bundle, tmp_path / "other.pub")
    # Another bundle under the signature of this one, and another's key id under this signature.
    another = tiny.write_files(
        tmp_path / "another.pgrt",
        tiny.edit_manifest(tiny.tiny_bundle_files(), {"name": "another"}),
        folder=bundle.is_dir(),
    )
    signature_path(another).write_bytes(signature_path(bundle).read_bytes())
    with pytest.raises(BundleError, match=r"not as key\.pub signed it"):
        signer(another, tmp_path / "key.pub")
    document = json.loads(signature_path(bundle).read_bytes())
    other = Keyring.read(tmp_path / "other.pub")
    document["verificationMaterial"]["publicKey"]["hint"] = other.keys[0].public.key_id
    signature_path(bundle).write_text(json.dumps(document, separators=(",", ":")))
    with pytest.raises(BundleError, match=r"not by other\.pub"):
        signer(bundle, tmp_path / "other.pub")


def test_nothing_that_was_changed_is_accepted(tmp_path: Path) -> None:
    counted, accepted = tamper(200, 0, tmp_path)
    assert accepted == [] and sum(counted.values()) == 200
    assert {"signature", "audit trail", "audit head", "bundle as a zip"} <= counted.keys()


def test_a_signed_trail_cannot_be_made_anew(tmp_path: Path, key: SigningKey) -> None:
    trail = AuditTrail(tmp_path / "audit.jsonl")
    with pytest.raises(UsageError, match="no audit trail"):
        sign_trail(trail.path, key)
    trail.append("prediction", {})
    sign_trail(trail.path, key)
    trail.append("prediction", {})
    ring = Keyring.read(tmp_path / "key.pub")
    found, line, digest = signed_line(trail.path, ring)
    assert (found.name, line) == ("key.pub", 1)
    assert verify_trail(trail.path, anchor=digest).lines == 2
    for path in (trail.path, tmp_path / "audit.jsonl.head"):
        path.unlink()
    trail.append("prediction", {})
    verify = ["audit", "verify", str(trail.path)]
    assert CliRunner().invoke(app, verify).exit_code == 0
    shown = CliRunner().invoke(app, [*verify, "--keyring", str(ring.path)])
    assert isinstance(shown.exception, VerificationError) and shown.exception.exit_code == 6
    bundle = tiny.tiny_bundle(tmp_path / "a.pgrt")
    sign(bundle, key)
    signature_path(trail.path).write_bytes(signature_path(bundle).read_bytes())
    with pytest.raises(VerificationError, match="not of this audit trail"):
        signed_line(trail.path, ring)


def test_the_commands_and_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, trail = tiny.tiny_bundle(tmp_path / "lung.pgrt"), AuditTrail(tmp_path / "a.jsonl")
    key = tmp_path / "site.key"
    assert CliRunner().invoke(app, ["keygen", str(key)]).exit_code == 0
    if os.name != "nt":
        assert key.stat().st_mode & 0o077 == 0
    again = CliRunner().invoke(app, ["keygen", str(key)])
    assert isinstance(again.exception, OutputError)
    ring = tmp_path / "site.key.pub"
    arguments = ["predict", "none.svs", "--bundle", str(bundle), "--require-signature", str(ring)]
    refused = CliRunner().invoke(app, [*arguments, "--audit", str(trail.path), "--quiet"])
    assert isinstance(refused.exception, BundleError) and refused.exception.exit_code == 4
    (line,) = map(json.loads, trail.path.read_text().splitlines())
    assert line["event"] == "bundle-refused" and "not signed" in line["reason"]
    monkeypatch.setenv(KEY_VARIABLE, str(key))
    assert CliRunner().invoke(app, ["sign", str(bundle)]).exit_code == 0
    with Predictor.open(bundle, ENGINE, audit=trail, keyring=ring) as predictor:
        assert predictor.signer is not None and predictor.signer.startswith("site.key.pub ")
    policy = tmp_path / "policy.toml"
    policy.write_text('require_signature = "other.pub"\n')
    policy.chmod(0o644)
    found = SitePolicy.read(policy, os.getuid() if hasattr(os, "getuid") else 0)
    make_key(tmp_path / "other", "p256")
    with Bundle.open(bundle) as opened, pytest.raises(BundleError, match="does not have"):
        signer_of_bundle(opened, keyrings_of_site(ring, found))


def test_a_site_profile_is_signed_likewise(tmp_path: Path, key: SigningKey) -> None:
    profile = tmp_path / "site.json"
    profile.write_bytes(b"{}")
    rings = [Keyring.read(tmp_path / "key.pub")]
    with pytest.raises(BundleError, match="is not signed"):
        require_signed_profile(profile, "", rings)
    sign(profile, key)
    _, signed = signer_of(profile, rings[0])
    require_signed_profile(profile, signed["."], rings)
    with pytest.raises(BundleError, match="changed while"):
        require_signed_profile(profile, "0" * 64, rings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no \\[\\[key\\]\\]"),
        ("= 1", "neither PEM nor TOML"),
        ('[[key]]\nname = "x"\n', "public"),
        ('[[key]]\nname = "x"\npublic = "none.pub"\n', "cannot read"),
        ('[[key]]\nname = "x"\npublic = "ring.toml"\n', "no public key"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key"),
    ],
)
def test_keyrings_that_make_no_sense(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "ring.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        Keyring.read(tmp_path / "ring.toml")
    with pytest.raises(UsageError, match="private key"):
        SigningKey.from_file(tmp_path / "ring.toml")


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pathgene-rt\[sign\]"):
        make_key(tmp_path / "key", "p256")


@pytest.mark.world
def test_model_signing_accepts_ours_and_ours_accepts_theirs(tmp_path: Path, bundle: Path) -> None:
    """The OpenSSF's own package, both ways."""
    model_signing = pytest.importorskip("model_signing")
    make_key(tmp_path / "key", "p256")
    key, public = SigningKey.from_file(tmp_path / "key"), tmp_path / "key.pub"
    signature = sign(bundle, key)
    verifying = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public)
    verifying.verify(bundle, signature)
    changed = bundle / "bundle.json" if bundle.is_dir() else bundle
    whole = changed.read_bytes()
    changed.write_bytes(whole + b" ")
    with pytest.raises(ValueError, match="Signature mismatch"):
        model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public).verify(
            bundle, signature
        )
    changed.write_bytes(whole)
    signature.unlink()
    signing = model_signing.signing.Config().use_elliptic_key_signer(private_key=tmp_path / "key")
    signing.sign(bundle, signature)
    assert signer(bundle, public) == f"key.pub {key.public.key_id}"
    assert "cryptography" in sys.modules
