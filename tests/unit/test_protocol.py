"""The protocol between parent and probe: frames and the plain form of records."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantgate.probe import protocol
from pytest_quantgate.records import (
    EngineSettings,
    Generation,
    GenerationRequest,
    Likelihood,
    LikelihoodRequest,
    Message,
    Output,
    Packed,
    Prompt,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Half of a surrogate pair is no text and has no UTF-8 form.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)
MESSAGES = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON, max_size=4)


@settings(deadline=None)
@given(st.lists(MESSAGES, max_size=4), st.data())
def test_messages_survive_any_split(messages: list[dict[str, object]], data: st.DataObject) -> None:
    """What is encoded is decoded, in order, however the bytes are cut on the way."""
    stream = b"".join(protocol.encode(message) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder = protocol.Decoder()
    found: list[dict[str, object]] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found.extend(decoder.feed(stream[start:end]))

    assert messages == found


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes_are_messages_or_an_error(data: bytes) -> None:
    """No bytes make the decoder fail in another way than its own error."""
    try:
        found = list(protocol.Decoder().feed(data))
    except protocol.ProtocolError:
        return

    assert all(isinstance(message, dict) for message in found)


@pytest.mark.parametrize(("extra", "fits"), [(-1, True), (0, True), (1, False)])
def test_frame_limit(extra: int, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001 - parametrized
    """Both sides take a frame of exactly the limit and none that is longer."""
    monkeypatch.setattr(protocol, "FRAME_LIMIT_BYTES", 100)
    message = {"text": "x" * (100 + extra - len('{"text":""}'))}
    payload = json.dumps(message, separators=(",", ":")).encode()
    frame = struct.pack(">I", len(payload)) + payload
    if fits:
        assert frame == protocol.encode(message)
        assert [message] == list(protocol.Decoder().feed(frame))
        return

    with pytest.raises(
        protocol.ProtocolError, match="a message is 101 bytes long; the limit is 100"
    ):
        protocol.encode(message)
    with pytest.raises(
        protocol.ProtocolError, match="a frame announces 101 bytes; the limit is 100"
    ):
        list(protocol.Decoder().feed(frame))


@pytest.mark.parametrize(
    "message",
    [{"nll": float("nan")}, {"nll": [float("inf")]}, {"path": object()}, {"text": "\ud800"}],
)
def test_what_json_cannot_say_is_not_sent(message: dict[str, object]) -> None:
    """NaN, infinity, foreign objects and half characters stop at the sender."""
    with pytest.raises(protocol.ProtocolError, match="a message has no plain JSON form"):
        protocol.encode(message)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b'{"nll":NaN}', "a frame holds NaN, which is no JSON number"),
        (b'{"nll":-Infinity}', "a frame holds -Infinity"),
        (b"[]", "a frame holds a JSON list, not an object"),
        (b"\xff", "a frame holds no JSON"),
        (b"[" * 100_000, "a frame holds no JSON"),
        (b"", "a frame holds no JSON"),
    ],
)
def test_what_is_no_message_is_not_taken(payload: bytes, said: str) -> None:
    """A frame that holds anything but a JSON object is an error."""
    with pytest.raises(protocol.ProtocolError, match=said):
        list(protocol.Decoder().feed(struct.pack(">I", len(payload)) + payload))


LIKELIHOOD = Likelihood(
    chunks=(4, 0),
    chunk_nll=(1.5, 2.0),
    chunk_nll2=(3.0, 4.0),
    token_nll=Packed(dtype="<f4", shape=(2, 1), data="AADAPwAAAEA="),
    chunk_tokens=1,
    available_chunks=7,
    corpus_tokens=3600,
    tokens_sha256="ab",
    vocabulary=256,
    seconds=0.25,
)


@pytest.mark.parametrize(
    "record",
    [
        LIKELIHOOD,
        EngineSettings(threads=2, flash_attention="off"),
        LikelihoodRequest(corpus_path="c", corpus_sha256="d", chunks=None),
        GenerationRequest(
            prompts=(
                Prompt(id="a", prompt="x", stop=("\n",)),
                Prompt(id="b", messages=(Message(role="user", content="hé"),), until="y"),
            )
        ),
        Generation(
            outputs=(Output(id="a", text="", tokens=0, finish="eog", prompt_tokens=1),), seconds=1.0
        ),
    ],
    ids=lambda record: type(record).__name__,
)
def test_records_survive_the_journey(record: object) -> None:
    """A record is the same after it was made plain, sent, and rebuilt."""
    (plain,) = protocol.Decoder().feed(protocol.encode(protocol.to_plain(record)))

    assert record == protocol.from_plain(type(record), plain)


def test_whole_numbers_are_floats_where_floats_belong() -> None:
    """JSON does not tell 2 from 2.0; the record's annotation does."""
    plain = {**protocol.to_plain(LIKELIHOOD), "seconds": 2}

    rebuilt = protocol.from_plain(Likelihood, plain)

    assert isinstance(rebuilt.seconds, float)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"chunk_tokens": "255"},
            "Likelihood.chunk_tokens should be a value of type int, is '255'",
        ),
        ({"chunk_tokens": True}, "Likelihood.chunk_tokens should be a value of type int, is True"),
        ({"chunk_tokens": 1.0}, "Likelihood.chunk_tokens should be a value of type int, is 1.0"),
        ({"seconds": None}, "Likelihood.seconds should be a value of type float, is None"),
        ({"seconds": False}, "Likelihood.seconds should be a value of type float, is False"),
        ({"seconds": float("nan")}, "Likelihood.seconds should be a finite number, is nan"),
        ({"chunk_nll": 1.0}, "Likelihood.chunk_nll should be a list, is 1.0"),
        ({"chunk_nll": [1.0, "x"]}, r"Likelihood.chunk_nll\[1\] should be a value of type float"),
        ({"tokens_sha256": 3}, "Likelihood.tokens_sha256 should be a value of type str, is 3"),
        ({"tokens_sha256": list("x" * 99)}, r"\.\.\.$"),
        ({"extra": 1}, r"Likelihood has unknown fields \['extra'\] and lacks \[\]"),
    ],
)
def test_wrong_fields_are_named(change: dict[str, object], said: str) -> None:
    """A field of another type is an error that names its place and shows its value."""
    with pytest.raises(protocol.ProtocolError, match=said):
        protocol.from_plain(Likelihood, {**protocol.to_plain(LIKELIHOOD), **change})


def test_missing_fields_are_named() -> None:
    """A field without a default must be there; one with a default need not."""
    assert EngineSettings(threads=3) == protocol.from_plain(EngineSettings, {"threads": 3})
    with pytest.raises(protocol.ProtocolError, match=r"lacks \['threads'\]"):
        protocol.from_plain(EngineSettings, {})


def test_closed_sets_and_nested_records_are_checked() -> None:
    """A word outside of its closed set is an error, and so is a list where a record belongs."""
    with pytest.raises(protocol.ProtocolError, match="flash_attention should be one of"):
        protocol.from_plain(EngineSettings, {"threads": 1, "flash_attention": "maybe"})
    with pytest.raises(protocol.ProtocolError, match=r"prompts\[0\] should be an object, is \[\]"):
        protocol.from_plain(GenerationRequest, {"prompts": [[]]})


def test_only_records_have_a_plain_form() -> None:
    """Neither a class nor a plain value is a record."""
    for value in (EngineSettings, {"a": 1}):
        with pytest.raises(TypeError, match="is no record"):
            protocol.to_plain(value)


def test_every_error_a_probe_may_raise_travels_by_its_name() -> None:
    """The table of errors maps each name to the class of that name."""
    assert all(name == kind.__name__ for name, kind in protocol.MESSAGE_ERRORS.items())
