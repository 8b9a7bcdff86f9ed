"""`quantgate checksum`, `verify` and `sign`: who vouches for a file, and is it still that file."""

from __future__ import annotations

import json
import os
from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pytest_quantgate.cli.options import Json, progress_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_quantgate.records import Progress

    OnProgress = Callable[[Progress], None] | None

_LISTS = (".sha256", ".sha256sum", ".sha256sums", ".sums")

Ignore = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore", metavar="NAME", help="File or folder inside FOLDER to leave out (repeatable)"
    ),
]


def checksum(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Model files, or with --manifest folders"),
    ],
    *,
    sums: Annotated[
        bool, typer.Option("--sums", help="Write one SHA256SUMS in the folder of the files")
    ] = False,
    manifest: Annotated[
        bool,
        typer.Option("--manifest", help="Write SHA256SUMS over everything in each FOLDER"),
    ] = False,
    ignore: Ignore = None,
    as_json: Json = False,
) -> None:
    """Write checksums in the form `sha256sum -c` reads: FILE.sha256 beside each model, or a list."""
    from pytest_quantgate.artifact import integrity  # noqa: PLC0415 - quick start
    from pytest_quantgate.artifact.integrity import manifest as lists  # noqa: PLC0415 - quick start

    if sums and manifest:
        message = "name one of --sums and --manifest"
        raise typer.BadParameter(message)
    with progress_line() as on_progress:
        if sums:
            written = [lists.write_sums(files, on_progress=on_progress)]
        elif manifest:
            written = [
                lists.write_manifest(folder, ignore=ignore or (), on_progress=on_progress)
                for folder in files
            ]
        else:
            written = [integrity.write_sidecar(file, on_progress=on_progress) for file in files]
    if as_json:
        typer.echo(json.dumps({"written": [str(path) for path in written]}, indent=2))
        return
    for path in written:
        typer.echo(f"wrote {path}")


def verify(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE|FOLDER...",
            help="Model files, lists such as SHA256SUMS, or folders with one",
        ),
    ],
    *,
    signature: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Signature; by default MODEL.sig or FOLDER/model.sig"),
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(metavar="PEM", help="Verify signatures made with this key's other half"),
    ] = None,
    ignore: Ignore = None,
    as_json: Json = False,
) -> None:
    """Hold models and folders against their checksums, or their signatures; exit 1 unless all match."""
    if signature is not None and (public_key is None or len(paths) > 1):
        message = "--signature goes with one model and --public-key"
        raise typer.BadParameter(message)
    results = []
    with progress_line() as on_progress:
        for path in paths:
            if public_key is not None:
                result = _signature(path, signature, public_key)
            elif path.is_dir() or path.name.startswith("SHA256SUMS") or path.suffix in _LISTS:
                result = _list(path, ignore or [], on_progress)
            else:
                result = _model(path, on_progress)
            results.append(result)
            if not as_json:
                typer.echo(result["text"])
    good = all(result["ok"] for result in results)
    if as_json:
        documents = [
            {key: value for key, value in each.items() if key != "text"} for each in results
        ]
        typer.echo(json.dumps({"ok": good, "results": documents}, indent=2))
    if not good:
        raise typer.Exit(code=1)


def sign(
    model: Annotated[Path, typer.Argument(metavar="MODEL|FOLDER", help="What to sign")],
    *,
    key: Annotated[Path, typer.Option(metavar="PEM", help="Private key (P-256, P-384 or P-521)")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="By default MODEL.sig or FOLDER/model.sig"
        ),
    ] = None,
    password_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Environment variable with the password of the key"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign a model, or everything in a folder, as the OpenSSF's model-signing does."""
    from pytest_quantgate.artifact.integrity import signing  # noqa: PLC0415 - quick start

    password = None
    if password_env is not None:
        password = os.environ.get(password_env)
        if password is None:
            message = f"the environment has no variable {password_env}"
            raise typer.BadParameter(message)
    written = signing.sign(model, private_key=key, signature=output, password=password)
    typer.echo(json.dumps({"written": [str(written)]}, indent=2) if as_json else f"wrote {written}")


def _signature(path: Path, signature: Path | None, public_key: Path) -> dict[str, Any]:
    from pytest_quantgate.artifact.integrity import signing  # noqa: PLC0415 - quick start
    from pytest_quantgate.errors import SecurityError  # noqa: PLC0415 - quick start

    try:
        signed = signing.verify_signature(path, public_key=public_key, signature=signature)
    except SecurityError as error:
        return {"path": str(path), "ok": False, "reason": str(error), "text": f"REFUSED: {error}"}
    count = len(signed.digests)
    what = "" if path.is_file() else f", {count} files"
    return {
        "path": str(path),
        "ok": True,
        "signature": str(signed.signature),
        "digests": dict(signed.digests),
        "text": f"{path}: ok{what}, signed ({signed.signature}) with the key of {public_key}",
    }


def _list(path: Path, ignore: list[str], on_progress: OnProgress) -> dict[str, Any]:
    from pytest_quantgate.artifact.integrity import manifest  # noqa: PLC0415 - quick start

    if not path.is_dir():
        found = manifest.verify_list(path, on_progress=on_progress)
    elif not os.path.lexists(path / manifest.LIST_NAME):
        reason = f"no {manifest.LIST_NAME}; make one with: quantgate checksum {path} --manifest"
        return {"path": str(path), "ok": False, "reason": reason, "text": f"{path}: {reason}"}
    else:
        found = manifest.verify_manifest(path, ignore=ignore, on_progress=on_progress)
    folder = found.listing.parent
    lines = [
        f"{folder / each.name}: MISMATCH, sha256 {each.actual}, but {found.listing.name} says"
        f" {each.expected}"
        for each in found.changed
    ]
    lines += [f"{folder / name}: MISSING" for name in found.missing]
    lines += [f"{folder / name}: NOT LISTED in {found.listing.name}" for name in found.unlisted]
    total = len(found.matched) + len(found.changed) + len(found.missing)
    counts = f"{len(found.matched)} of {total} files"
    if found.ok:
        lines.append(f"{path}: ok, {counts} match ({found.listing.name})")
    else:
        too_many = f", {len(found.unlisted)} not listed" if found.unlisted else ""
        lines.append(f"{path}: FAILED, {counts} match{too_many}")
    return {
        "path": str(path),
        "ok": found.ok,
        "listing": str(found.listing),
        "matched": list(found.matched),
        "changed": [
            {"name": each.name, "expected": each.expected, "actual": each.actual}
            for each in found.changed
        ],
        "missing": list(found.missing),
        "unlisted": list(found.unlisted),
        "text": "\n".join(lines),
    }


def _model(path: Path, on_progress: OnProgress) -> dict[str, Any]:
    from pytest_quantgate.artifact import integrity  # noqa: PLC0415 - quick start

    found = integrity.verify(path, on_progress=on_progress)
    if found.outcome == "match":
        text = f"{path}: ok, sha256 {found.actual} ({found.source})"
    elif found.outcome == "mismatch":
        text = f"{path}: MISMATCH, sha256 {found.actual}, but {found.source} says {found.expected}"
    else:
        text = f"{path}: no checksum; make one with: {found.command}"
    return {
        "path": str(path),
        "ok": found.outcome == "match",
        "outcome": found.outcome,
        "sha256": found.actual,
        "expected": found.expected,
        "source": found.source,
        "parts": [str(part) for part in found.parts],
        "text": text,
    }


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (checksum, verify, sign):
        app.command(command.__name__)(command)
