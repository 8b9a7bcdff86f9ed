"""Signatures of models: theirs hold here and ours hold there, and each kind of tampering is refused."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_quantgate.artifact.integrity import sha256_file, signing
from pytest_quantgate.artifact.integrity.manifest import write_manifest
from pytest_quantgate.errors import ArtifactError, SecurityError

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT = b"GGUF and so on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """A pair of keys in PEM files."""

    private: Path
    public: Path


def make_keys(folder: Path, name: str, *, curve: str = "SECP256R1", password: str = "") -> Keys:
    """Make a pair of keys, as `openssl ecparam` and `openssl ec` do."""
    reason = "signatures need the extra `signing`, which is not installed here"
    pytest.importorskip("model_signing", reason=reason)
    from cryptography.hazmat.primitives import serialization as form  # noqa: PLC0415 - an extra's
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - an extra's

    key = ec.generate_private_key(getattr(ec, curve)())
    locked: form.KeySerializationEncryption = form.NoEncryption()
    if password:
        locked = form.BestAvailableEncryption(password.encode())
    keys = Keys(private=folder / f"{name}.pem", public=folder / f"{name}.pub.pem")
    keys.private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, locked))
    keys.public.write_bytes(
        key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    )
    return keys


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """The publisher's keys."""
    return make_keys(tmp_path, "publisher")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file in a folder of its own."""
    path = tmp_path / "dist" / "model.gguf"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as trainers export it, with a link and files of git."""
    root = tmp_path / "exported"
    (root / "sub").mkdir(parents=True)
    (root / "config.json").write_text("{}")
    (root / "sub" / "weights").write_bytes(CONTENT)
    (root / "link").symlink_to("config.json")
    (root / ".gitattributes").touch()
    return root


def refusal(model: Path, keys: Keys, signature: Path | None = None) -> str:
    """Return why a model is refused."""
    with pytest.raises(SecurityError) as caught:
        signing.verify_signature(model, public_key=keys.public, signature=signature)
    return str(caught.value)


@pytest.mark.parametrize("curve", ["SECP256R1", "SECP384R1", "SECP521R1"])
def test_what_is_signed_verifies(tmp_path: Path, model: Path, curve: str) -> None:
    """The signature lies beside the model and vouches for its digest, with each kind of key."""
    keys = make_keys(tmp_path, "key", curve=curve)

    written = signing.sign(model, private_key=keys.private)
    signed = signing.verify_signature(model, public_key=keys.public)

    assert written == signed.signature == model.with_name("model.gguf.sig")
    assert signed.digests == {".": sha256_file(model)}
    assert sorted(path.name for path in model.parent.iterdir()) == ["model.gguf", "model.gguf.sig"]


def test_a_tampered_file_is_refused(model: Path, keys: Keys) -> None:
    """One byte is enough."""
    signing.sign(model, private_key=keys.private)
    model.write_bytes(CONTENT[:-1] + b"!")

    assert refusal(model, keys) == (
        f"{model} must not be used: it is not what was signed: its content changed"
    )


def test_another_key_is_refused(tmp_path: Path, model: Path, keys: Keys) -> None:
    """Somebody else's signature is not the publisher's."""
    other = make_keys(tmp_path, "somebody")
    signature = signing.sign(model, private_key=other.private)

    assert refusal(model, keys) == (
        f"{model} must not be used: {signature} was made with another key than {keys.public}"
    )
    # Nor does it help to hide whose it is.
    bundle = json.loads(signature.read_text())
    del bundle["verificationMaterial"]["publicKey"]["hint"]
    signature.write_text(json.dumps(bundle))
    assert "does not hold for" in refusal(model, keys)


def test_a_missing_signature_is_refused(tmp_path: Path, model: Path, keys: Keys) -> None:
    """No signature is no reason to trust."""
    assert refusal(model, keys) == (
        f"{model}: has no signature ({model}.sig); do not use it, or ask its publisher for one"
    )
    assert "has no signature" in refusal(model, keys, tmp_path / "absent.sig")


def _other_name(bundle: dict[str, Any]) -> None:
    envelope = bundle["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"]).replace(b"model.gguf", b"other.gguf")
    envelope["payload"] = base64.b64encode(payload).decode()


def _other_digest(bundle: dict[str, Any]) -> None:
    envelope = bundle["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    statement["predicate"]["resources"][0]["digest"] = "0" * 64
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()


def _other_signature(bundle: dict[str, Any]) -> None:
    signed = bundle["dsseEnvelope"]["signatures"][0]
    data = bytearray(base64.b64decode(signed["sig"]))
    data[-1] ^= 1
    signed["sig"] = base64.b64encode(data).decode()


@pytest.mark.parametrize("tamper", [_other_name, _other_digest, _other_signature])
def test_a_tampered_signature_is_refused(
    model: Path, keys: Keys, tamper: Callable[[dict[str, Any]], None]
) -> None:
    """Neither the statement nor the signature over it can be changed."""
    path = signing.sign(model, private_key=keys.private)
    bundle = json.loads(path.read_text())
    tamper(bundle)
    path.write_text(json.dumps(bundle))

    assert refusal(model, keys) == (
        f"{model} must not be used: the signature in {path} does not hold for {keys.public}: the "
        "signature or what it vouches for was changed"
    )


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_cut_signature_is_refused(model: Path, keys: Keys, keep: int) -> None:
    """What cannot be read is no signature."""
    path = signing.sign(model, private_key=keys.private)
    path.write_bytes(path.read_bytes()[:keep])

    assert "is no signature that can be checked" in refusal(model, keys)


@pytest.mark.parametrize(
    "text", ["{}", "[]", "null", '{"verificationMaterial": {}}', "[" * 100_000]
)
def test_what_is_no_bundle_is_refused(model: Path, keys: Keys, text: str) -> None:
    """Other documents are refused with a sentence, not with a traceback."""
    model.with_name("model.gguf.sig").write_text(text)

    assert refusal(model, keys).startswith(f"{model} must not be used: ")


def test_a_signed_folder(folder: Path, keys: Keys) -> None:
    """Everything in it is signed but the signature itself: links, hidden files, its list."""
    write_manifest(folder)
    written = signing.sign(folder, private_key=keys.private)

    signed = signing.verify_signature(folder, public_key=keys.public)

    assert written == folder / "model.sig"
    names = {".gitattributes", "config.json", "link", "sub/weights", "SHA256SUMS"}
    assert set(signed.digests) == names


def test_a_changed_folder_is_refused(folder: Path, keys: Keys) -> None:
    """Changed, missing and added files are named."""
    signing.sign(folder, private_key=keys.private)
    (folder / "config.json").write_text("{ }")
    (folder / "sub" / "weights").unlink()
    (folder / "sub" / "new").touch()

    assert refusal(folder, keys) == (
        f"{folder} must not be used: it is not what was signed: extra: sub/new; "
        "missing: sub/weights; config.json changed; link changed"
    )


def test_a_signature_may_lie_elsewhere(tmp_path: Path, folder: Path, keys: Keys) -> None:
    """Beside the folder, or under another name in it."""
    outside = signing.sign(folder, private_key=keys.private, signature=tmp_path / "a.sig")
    assert signing.verify_signature(folder, public_key=keys.public, signature=outside).digests

    inside = folder / "b.sig"
    inside.write_bytes(outside.read_bytes())
    assert signing.verify_signature(folder, public_key=keys.public, signature=inside).digests


def test_their_tool_and_ours_agree(folder: Path, model: Path, keys: Keys) -> None:
    """`model_signing` verifies what we sign, and we verify what it signs."""
    for subject in (folder, model):
        path = signing.sign(subject, private_key=keys.private)
        # It does not follow links unless told to.
        links = ["--allow_symlinks"] if subject == folder else []
        options = ["--signature", str(path), *links]
        verify = ["verify", "key", str(subject), *options, "--public_key", str(keys.public)]
        theirs = [sys.executable, "-m", "model_signing"]
        if subject == model:
            subprocess.run([*theirs, *verify], check=True, capture_output=True)
        path.unlink()
        sign = ["sign", "key", str(subject), *options, "--private_key", str(keys.private)]
        subprocess.run([*theirs, *sign], check=True, capture_output=True)
        assert signing.verify_signature(subject, public_key=keys.public).digests


def test_a_locked_key_needs_its_password(tmp_path: Path, model: Path) -> None:
    """The right password opens it, another and none do not, and nothing is written then."""
    keys = make_keys(tmp_path, "locked", password="right")  # noqa: S106 - of a key made just now

    for password in (None, "wrong"):
        with pytest.raises(ArtifactError, match="cannot be signed with"):
            signing.sign(model, private_key=keys.private, password=password)
    assert [path.name for path in model.parent.iterdir()] == ["model.gguf"]

    signing.sign(model, private_key=keys.private, password="right")  # noqa: S106 - as above
    assert signing.verify_signature(model, public_key=keys.public).digests


def test_keys_must_be_keys(model: Path, keys: Keys) -> None:
    """The halves are not mixed up, and a missing file is named."""
    with pytest.raises(ArtifactError, match="cannot be signed with"):
        signing.sign(model, private_key=keys.public)
    with pytest.raises(ArtifactError, match="no such file"):
        signing.sign(model, private_key=model.with_name("absent.pem"))
    signing.sign(model, private_key=keys.private)
    with pytest.raises(ArtifactError, match="is no public key for signatures of models"):
        signing.verify_signature(model, public_key=keys.private)


def test_parts_are_signed_as_their_folder(tmp_path: Path, keys: Keys) -> None:
    """A signature of one part would say nothing of the others."""
    parts = [tmp_path / f"m-0000{index}-of-00002.gguf" for index in (1, 2)]
    for part in parts:
        part.touch()

    with pytest.raises(ArtifactError) as caught:
        signing.sign(parts[0], private_key=keys.private)
    assert str(caught.value) == (
        f"{parts[0]}: is one of 2 parts; sign and verify the folder they are in"
    )


def test_the_missing_extra_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library, the message says what to install."""
    monkeypatch.setitem(sys.modules, "model_signing", None)

    for call in (
        lambda: signing.sign(model, private_key=Path("key.pem")),
        lambda: signing.verify_signature(model, public_key=Path("key.pem")),
    ):
        with pytest.raises(ArtifactError) as caught:
            call()
        assert str(caught.value).startswith("signatures need the extra `signing` (")
        assert str(caught.value).endswith("pip install 'pytest-quantgate[signing]'")
