"""Keys in hardware: which one a PKCS#11 URI names, and signatures by SoftHSM's."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.cli.main import app
from pathgene_rt.errors import MissingExtraError, UsageError
from pathgene_rt.signing.choose_key import choose_key
from pathgene_rt.signing.keyring import Keyring
from pathgene_rt.signing.keys import KEY_VARIABLE
from pathgene_rt.signing.token_key import (
    MODULE_VARIABLE,
    PIN_VARIABLE,
    TokenKeyUri,
    token_key,
)
from pathgene_rt.site_trust import signer_of_bundle
from tests.support import tiny_models as tiny
from tests.support.tools import require_package, require_program

MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")
PIN = "4711-secret"


def test_a_uri_says_which_key_of_which_token(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = TokenKeyUri.parse(
        "pkcs11:token=My%20keys;serial=12;object=a%3bb;id=%01%ff;type=private"
        "?module-path=/usr/lib/libhsm.so&pin-source=file:///etc/hsm%20pin"
    )
    assert uri.token == {"token": "My keys", "serial": "12"}
    assert (uri.label, uri.key_id) == ("a;b", b"\x01\xff")
    assert (uri.module, uri.pin_file) == (Path("/usr/lib/libhsm.so"), Path("/etc/hsm pin"))
    monkeypatch.setenv(MODULE_VARIABLE, "/opt/hsm.so")
    monkeypatch.setenv(PIN_VARIABLE, "/run/pin")
    uri = TokenKeyUri.parse("pkcs11:object=a")
    assert (uri.module, uri.pin_file, uri.key_id) == (Path("/opt/hsm.so"), Path("/run/pin"), None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("object=a", "names no module"),
        ("token=a?module-path=/m.so", "names no key"),
        ("object=a;type=public?module-path=/m.so", "type is not private"),
        ("object=a;object=b?module-path=/m.so", "'object' twice"),
        ("object=a;lable=b?module-path=/m.so", "'lable'"),
        ("object=a;token?module-path=/m.so", "'token' twice, without a value"),
        ("object=a?module-path=/m.so&pin-value=4711", "can be read by others"),
        ("object=a?module-name=hsm", "'module-name'"),
    ],
)
def test_what_is_wrong_with_a_uri_is_named_and_no_pin_is(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as raised:
        TokenKeyUri.parse(f"pkcs11:{text}")
    assert "4711" not in str(raised.value)


def test_the_pin_is_the_files_first_line_end_or_not(tmp_path: Path) -> None:
    file = tmp_path / "pin"
    uri = TokenKeyUri.parse(f"pkcs11:object=a?module-path=/m.so&pin-source={file}")
    with pytest.raises(UsageError, match="cannot read the PIN's file"):
        uri.pin()
    for raw in (b"4711", b"4711\n", b"4711\r\n"):
        file.write_bytes(raw)
        assert uri.pin() == "4711"
    file.write_bytes(b"\xff4711")
    with pytest.raises(UsageError, match="holds no PIN") as raised:
        uri.pin()
    assert raised.value.__cause__ is None and "4711" not in str(raised.value)


def test_the_extra_and_the_key_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(UsageError, match=r"give --key FILE \(or pkcs11:"):
        choose_key(None)
    monkeypatch.setattr("pathgene_rt.signing.requirements.importlib.util.find_spec", _no_pkcs11)
    with pytest.raises(MissingExtraError, match=r"pathgene-rt\[pkcs11\]"):
        choose_key("pkcs11:object=a?module-path=/m.so")


def _no_pkcs11(name: str) -> object | None:
    return None if name == "pkcs11" else object()


@dataclass(frozen=True)
class Hsm:
    """A token of SoftHSM with the keys p256 and ed25519; ``pin`` is the PIN's file."""

    module: str
    pin: Path

    def uri(self, key: str, token: str = "Release%20keys", pin: Path | None = None) -> str:
        named = f"pkcs11:token={token};object={key}"
        return f"{named}?module-path={self.module}&pin-source={pin or self.pin}"


@pytest.fixture(scope="module")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hsm]:
    require_package("pkcs11")
    program = require_program("softhsm2-util", "softhsm2")
    folder = tmp_path_factory.mktemp("hsm")
    (folder / "tokens").mkdir()
    config = folder / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
    pin = folder / "pin"
    pin.write_text(f"{PIN}\n")
    module = next(one for one in MODULES if Path(one).exists())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(config))
        for label in ("Release keys", "Other"):
            named = ["--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "0000"]
            subprocess.run([program, *named], check=True, capture_output=True)
        _make_keys(module)
        yield Hsm(module, pin)


def _make_keys(module: str) -> None:
    import pkcs11
    from pkcs11 import Attribute, KeyType, Mechanism
    from pkcs11.util.ec import encode_named_curve_parameters

    library = pkcs11.lib(module)
    library.reinitialize()
    curves = (
        ("p256", KeyType.EC, encode_named_curve_parameters("secp256r1"), None),
        ("p384", KeyType.EC, encode_named_curve_parameters("secp384r1"), None),
        ("ed25519", KeyType.EC_EDWARDS, bytes.fromhex("06032b6570"), "EC_EDWARDS_KEY_PAIR_GEN"),
    )
    with library.get_token(token_label="Release keys").open(rw=True, user_pin=PIN) as session:
        for number, (label, kind, curve, how) in enumerate(curves):
            made = session.create_domain_parameters(kind, {Attribute.EC_PARAMS: curve}, local=True)
            more = {} if how is None else {"mechanism": Mechanism[how]}
            made.generate_keypair(store=True, label=label, id=bytes([number]), **more)


@pytest.mark.world
@pytest.mark.parametrize("kind", ["p256", "ed25519"])
def test_a_bundle_signed_in_hardware_counts(
    hsm: Hsm, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny.tiny_bundle(tmp_path / "lung.pgrt")
    uri = hsm.uri(kind)
    public = CliRunner().invoke(app, ["keygen", str(tmp_path / "vendor"), "--of", uri])
    assert public.exit_code == 0 and not (tmp_path / "vendor").exists()
    done = CliRunner().invoke(app, ["sign", str(bundle), "--key", uri])
    assert done.exit_code == 0 and PIN not in done.output + public.output
    keyring = Keyring.read(tmp_path / "vendor.pub")
    with Bundle.open(bundle) as opened:
        assert str(signer_of_bundle(opened, [keyring])).startswith("vendor.pub ")
    if kind == "p256":
        model_signing = pytest.importorskip("model_signing")
        verifying = model_signing.verifying.Config()
        verifying.use_elliptic_key_verifier(public_key=tmp_path / "vendor.pub").verify(
            bundle, tmp_path / "lung.pgrt.sig"
        )
    monkeypatch.setenv(KEY_VARIABLE, uri)
    by_id = choose_key(None).sign(b"again")
    assert choose_key(hsm.uri(kind)).public.check(by_id, b"again")


@pytest.mark.world
def test_what_a_token_does_not_do_is_one_line_without_its_pin(hsm: Hsm, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("4712-wrong")
    for uri, said in (
        (hsm.uri("p256", token="Nowhere"), "0 tokens of"),
        (hsm.uri("none"), "the PKCS#11 key none in .* cannot be used: No key matching"),
        (hsm.uri("p384"), "neither a P-256 nor an Ed25519"),
        (hsm.uri("p256", pin=wrong), f"does not take the PIN in {wrong}"),
        (hsm.uri("p256").replace(hsm.module, "/etc/passwd"), "cannot be used: OS exception"),
        (hsm.uri("p256").partition("&")[0], "it may want a PIN"),
        (hsm.uri("p256").replace("token=Release%20keys;", ""), "2 tokens of .* must be one"),
    ):
        with pytest.raises(UsageError, match=said) as raised:
            token_key(uri)
        assert PIN not in str(raised.value) and "4712" not in str(raised.value)
        assert "\n" not in str(raised.value)
