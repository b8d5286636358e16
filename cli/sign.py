"""``pathgene-rt keygen`` and ``sign``: who made a model, so that a site can ask for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pathgene_rt.cli.console import Console, JsonOption, QuietOption

KEY_VARIABLE = "PATHGENE_RT_SIGNING_KEY"

SignatureOption = Annotated[
    Path | None,
    typer.Option(
        "--require-signature",
        metavar="KEYRING",
        help="Use the bundle only if a key of this file (NAME.pub, or TOML) signed it.",
        show_default=False,
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="KEY",
        help=f"The private key: a file, or pkcs11:... in hardware; else ${KEY_VARIABLE} names it.",
        show_default=False,
    ),
]


def keygen(
    key: Annotated[Path, typer.Argument(help="Where the private key goes.", show_default=False)],
    kind: Annotated[
        Literal["p256", "ed25519"],
        typer.Option("--type", help="p256 is what `model_signing` takes, too."),
    ] = "p256",
    of: Annotated[
        str | None,
        typer.Option(
            metavar="pkcs11:...",
            help="Make no key: write KEY.pub alone, of this key in hardware (extra pkcs11).",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a key pair: KEY, which only its owner can read, and KEY.pub for whoever verifies."""
    from pathgene_rt.signing.keys import make_key, write_public
    from pathgene_rt.signing.token_key import token_key

    console = Console(json=json, quiet=quiet)
    if of is not None:
        public = token_key(of).public
        written = write_public(public, key)
        console.emit({"public": str(written), "key_sha256": public.key_id})
        console.say(f"{written} is {public.key_id}")
        return
    public = make_key(key, kind)
    console.emit({"key": str(key), "public": f"{key}.pub", "key_sha256": public.key_id})
    console.say(f"{key}.pub is {public.key_id}; keep {key} where nobody else can read it")


def sign(
    path: Annotated[
        Path, typer.Argument(help="A bundle NAME.pgrt, or a site profile.", show_default=False)
    ],
    key: KeyOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write PATH.sig beside it: the OpenSSF's model signature (DSSE, in-toto, Sigstore bundle).

    `predict --require-signature KEY.pub` asks for it, and so can the site's policy. A bundle is
    opened and checked first.
    """
    from pathgene_rt.bundle.bundle import SUFFIX, Bundle
    from pathgene_rt.bundle.site_profile import read_profile
    from pathgene_rt.signing.choose_key import choose_key
    from pathgene_rt.signing.verify import sign as write_signature

    console = Console(json=json, quiet=quiet)
    signing = choose_key(key)
    if path.suffix == SUFFIX or path.is_dir():
        with Bundle.open(path):
            pass
    else:
        read_profile(path)
    written = write_signature(path, signing)
    console.emit({"signature": str(written), "key_sha256": signing.public.key_id})
    console.say(f"{written}: by {signing.public.key_id}")
