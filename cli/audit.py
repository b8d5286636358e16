"""``pathgene-rt audit``: whether an audit trail is as it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathgene_rt.cli.console import Console, JsonOption, QuietOption
from pathgene_rt.cli.sign import KeyOption

AuditOption = Annotated[
    Path | None,
    typer.Option(
        "--audit",
        metavar="FILE",
        help="NAME.jsonl that gets a line for every report before it counts; see `audit verify`.",
        show_default=False,
    ),
]

audit = typer.Typer(
    name="audit",
    help="The audit trail of predictions: who made which with what, in lines that hold each other.",
    no_args_is_help=True,
)


@audit.command()
def verify(
    trail: Annotated[
        Path, typer.Argument(help="A trail NAME.jsonl, or a folder of them.", show_default=False)
    ],
    anchor: Annotated[
        str,
        typer.Option(
            metavar="HASH",
            help="Of a line, noted elsewhere: it must still be there.",
            show_default=False,
        ),
    ] = "",
    after: Annotated[
        str,
        typer.Option(
            metavar="HASH",
            help="What the first line goes on from, where older files were taken away.",
            show_default=False,
        ),
    ] = "",
    keyring: Annotated[
        Path | None,
        typer.Option(
            help="NAME.pub or keyring of whoever signs the trail (`audit sign`), which must be.",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find whatever was removed, changed or reordered; exit code 6 if anything was.

    It prints the hash of the last line: noted elsewhere, it also shows later whether someone made
    the whole trail anew.
    """
    from pathgene_rt.audit.signed_head import signed_line
    from pathgene_rt.audit.verify import verify_trail, verify_trails
    from pathgene_rt.signing.keyring import Keyring

    console = Console(json=json, quiet=quiet)
    found = verify_trails(trail, anchor=anchor, after=after)
    if keyring is not None:
        keys = Keyring.read(keyring)
        for one in found:
            key, line, digest = signed_line(one.trail, keys)
            verify_trail(one.trail, anchor=digest, after=after)
            console.say(f"{one.trail}: signed by {key.name} up to line {line}")
    console.emit(
        {
            "trails": [
                {
                    "trail": str(one.trail),
                    "files": [str(file) for file in one.files],
                    "first": one.first,
                    "lines": one.lines,
                    "sha256": one.sha256,
                    "note": one.note,
                }
                for one in found
            ]
        }
    )
    for one in found:
        console.say(f"{one.trail}: {one.lines} lines, whole; the last is {one.sha256}")
        if one.note:
            console.warn(f"{one.trail}: {one.note}")


@audit.command()
def sign(
    trail: Annotated[Path, typer.Argument(help="A trail NAME.jsonl.", show_default=False)],
    key: KeyOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Sign the last line, to TRAIL.sig: nobody without the key can make the lines so far anew."""
    from pathgene_rt.audit.signed_head import sign_trail
    from pathgene_rt.signing.choose_key import choose_key

    console = Console(json=json, quiet=quiet)
    signing = choose_key(key)
    written = sign_trail(trail, signing)
    console.emit({"signature": str(written), "key_sha256": signing.public.key_id})
    console.say(f"{written}: by {signing.public.key_id}")
