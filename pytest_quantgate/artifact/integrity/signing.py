"""Signatures over models, made and checked by the OpenSSF's `model-signing` with a pair of keys.

A checksum says that bytes are the listed ones; a signature says who listed them. The format is theirs:
a Sigstore bundle with an in-toto statement over the SHA-256 of every file, so their tool checks our
signatures and we check theirs. Keys are of elliptic curves (P-256, P-384, P-521) in PEM files; nothing
is looked up in a network. Needs the extra ``signing``.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import re
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_quantgate.artifact.files import open_regular, reason
from pytest_quantgate.artifact.integrity import model_parts
from pytest_quantgate.artifact.integrity.manifest import SIGNATURE_NAME, folder_files
from pytest_quantgate.errors import ArtifactError, SecurityError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MAX_SIGNATURE_BYTES = 64 << 20
_MAX_KEY_BYTES = 1 << 20
_EXTRA = "pip install 'pytest-quantgate[signing]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedModel:
    """What a signature that holds vouches for.

    ``digests`` has the SHA-256 of each file by its name relative to the model, "." for a model that is
    one file; it is empty for a signature of another tool that used another digest.
    """

    path: Path
    signature: Path
    digests: Mapping[str, str]


def default_signature(model: Path) -> Path:
    """Return where a model's signature lies: ``model.gguf.sig``, or ``model.sig`` in a folder."""
    return model / SIGNATURE_NAME if model.is_dir() else model.with_name(model.name + ".sig")


def sign(
    model: Path, *, private_key: Path, signature: Path | None = None, password: str | None = None
) -> Path:
    """Sign a model, a file or everything in a folder, and return the path of the signature.

    Args:
        model: a GGUF file, or a folder. The parts of a split model are signed as their folder.
        private_key: PEM file.
        signature: where to write it; `default_signature` by default. One that is there is replaced.
        password: of the key, if it is encrypted.

    Raises:
        ArtifactError: the extra is missing, or the model or the key cannot be read, or the
            signature cannot be written.
    """
    target = signature or default_signature(model)
    library = _library()
    real, links = _checked(model, ignore=(target,))
    _contents(private_key, _MAX_KEY_BYTES, "key")
    # The library writes in place; a signature is there whole or not at all.
    partial = target.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        hashing = _hashing(library, {}, links=links, ignored=_inside((target, partial), real))
        key = None if password is None else password.encode()
        config = library.signing.Config().use_elliptic_key_signer(
            private_key=private_key, password=key
        )
        config.set_hashing_config(hashing).sign(real, partial)
        partial.replace(target)
    except OSError as error:
        message = f"{target}: cannot be written: {reason(error)}"
        raise ArtifactError(message) from error
    except Exception as error:  # the library documents no errors
        message = f"{model} cannot be signed with {private_key}: {_first_line(error)}"
        raise ArtifactError(message) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def verify_signature(
    model: Path, *, public_key: Path, signature: Path | None = None
) -> SignedModel:
    """Hold a model against its signature.

    Raises:
        SecurityError: the signature is missing, malformed, changed or made with another key, or the
            model is not what was signed: changed, missing or added files.
        ArtifactError: the extra is missing, or the model or the key cannot be read.
    """
    place = signature or default_signature(model)
    library = _library()
    if not os.path.lexists(place):
        message = (
            f"{model}: has no signature ({place}); do not use it, or ask its publisher for one"
        )
        raise SecurityError(message)
    data = _contents(place, _MAX_SIGNATURE_BYTES, "signature")
    real, _ = _checked(model, ignore=(place,))
    statement = _statement(data)
    config = library.verifying.Config()
    try:
        config.use_elliptic_key_verifier(public_key=_readable_key(public_key))
    except Exception as error:  # the library documents no errors
        message = f"{public_key}: is no public key for signatures of models: {_first_line(error)}"
        raise ArtifactError(message) from error
    # What is checked and what is read from it below must be the same bytes.
    with _private_copy(data) as copy, contextlib.redirect_stdout(io.StringIO()):
        try:
            # The library's own guess at how was hashed forgets links, and files of git.
            hashing = _hashing(
                library, _serialization(statement), links=None, ignored=_inside((place,), real)
            )
            config.set_hashing_config(hashing).verify(real, copy)
        except Exception as error:  # the library documents no errors
            message = f"{model} must not be used: {_refusal(error, place, public_key)}"
            raise SecurityError(message) from error
    return SignedModel(path=model, signature=place, digests=_digests(statement))


def _library() -> Any:  # noqa: ANN401 - it ships no type information
    try:
        import model_signing  # noqa: PLC0415 - an extra, and takes a second
    except ImportError as error:
        message = f"signatures need the extra `signing` ({error}); install it with: {_EXTRA}"
        raise ArtifactError(message) from error
    return model_signing


def _checked(model: Path, *, ignore: tuple[Path, ...]) -> tuple[Path, bool]:
    """Return the model's real path and whether it has links, having checked what it consists of."""
    try:
        real = model.resolve(strict=True)
    except OSError as error:
        message = f"{model}: cannot be opened: {error.strerror}"
        raise ArtifactError(message) from error
    if not real.is_dir():
        open_regular(real).close()
        if len(parts := model_parts(model)) > 1:
            message = (
                f"{model}: is one of {len(parts)} parts; sign and verify the folder they are in"
            )
            raise ArtifactError(message)
        return real, False
    names = folder_files(real, ignore=_inside(ignore, real))
    return real, any((real / name).is_symlink() for name in names)


def _inside(places: tuple[Path, ...], folder: Path) -> list[str]:
    """Return the names, relative to a folder, of those places that are below it."""
    if not folder.is_dir():
        return []
    absolute = [place.parent.resolve() / place.name for place in places]
    return [str(place.relative_to(folder)) for place in absolute if place.is_relative_to(folder)]


def _readable_key(path: Path) -> Path:
    _contents(path, _MAX_KEY_BYTES, "key")
    return path


def _contents(path: Path, limit: int, what: str) -> bytes:
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        message = f"{path}: is larger than {limit:,} bytes, which no {what} is"
        raise ArtifactError(message)
    return data


@contextlib.contextmanager
def _private_copy(data: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="quantgate-") as folder:
        path = Path(folder, "model.sig")
        path.write_bytes(data)
        yield path


def _hashing(
    library: Any,  # noqa: ANN401 - it ships no type information
    serialization: Mapping[str, Any],
    *,
    links: bool | None,
    ignored: list[str],
) -> Any:  # noqa: ANN401 - as above
    """Say how files are hashed: as the statement says, by default whole files with SHA-256."""
    config = library.hashing.Config()
    algorithm = serialization.get("hash_type", "sha256")
    if serialization.get("method", "files") == "shards":
        config.use_shard_serialization(
            hashing_algorithm=algorithm, shard_size=serialization["shard_size"]
        )
    else:
        config.use_file_serialization(hashing_algorithm=algorithm)
    if links is None:
        links = serialization.get("allow_symlinks") is True
    config.set_allow_symlinks(links)
    # What was left out stands in the statement; nothing else is.
    return config.set_ignored_paths(paths=ignored, ignore_git_paths=False)


def _statement(data: bytes) -> dict[str, Any]:
    """Return the statement in a bundle, or an empty one; nothing of it is known to be true yet."""
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        found = json.loads(base64.b64decode(json.loads(data)["dsseEnvelope"]["payload"]))
        if isinstance(found, dict):
            return found
    return {}


def _serialization(statement: Mapping[str, Any]) -> Mapping[str, Any]:
    predicate = statement.get("predicate")
    found = predicate.get("serialization") if isinstance(predicate, dict) else None
    return found if isinstance(found, dict) else {}


def _digests(statement: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of a statement whose signature was found to hold."""
    if _serialization(statement).get("method") != "files":
        return {}
    return {
        entry["name"]: entry["digest"]
        for entry in statement["predicate"]["resources"]
        if entry["algorithm"] == "sha256"
    }


def _refusal(error: Exception, signature: Path, public_key: Path) -> str:
    """Say why a signature does not hold."""
    if type(error).__name__ == "InvalidSignature":
        return (
            f"the signature in {signature} does not hold for {public_key}: the signature or what it "
            "vouches for was changed"
        )
    text = _first_line(error)
    if text.startswith("Key mismatch"):
        return f"{signature} was made with another key than {public_key}"
    if text.startswith("Cannot use"):
        return f"it is not what was signed: {text}"
    listed = re.fullmatch(r"Signature mismatch: (\[.*\])", str(error), re.DOTALL)
    if listed is not None:
        return f"it is not what was signed: {_differences(listed[1])}"
    return f"{signature} is no signature that can be checked: {text}"


def _differences(text: str) -> str:
    """Shorten the library's list of what differs to the names of files."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    said = []
    for each in found:
        changed = re.match(r"Hash mismatch for '(.*)': Expected", each, re.DOTALL)
        extra = re.match(r"(Extra|Missing) files .*?: (.*)", each, re.DOTALL)
        if changed is not None:
            said.append(f"{changed[1]} changed" if changed[1] != "." else "its content changed")
        elif extra is not None:
            said.append(f"{extra[1].lower()}: {extra[2]}")
        else:
            said.append(each)
    return "; ".join(said)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
