"""What a folder's own tokenizer and model say, computed by transformers in a process of its own.

``python -m`` this module with ``FOLDER ANSWER LOGITS`` writes a `Reference` as JSON, and the
logits along its windows as float32 rows in numpy's format.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytest_quantgate.artifact.conversion import lifeline
from pytest_quantgate.artifact.conversion.sample_texts import PASSAGES, PLAIN, TEXTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_POSITIONS = 256
"""Most tokens that logits are compared at."""

MAX_LOGITS_BYTES = 64 << 20
"""Most bytes that the logits of the reference may take."""

_LEAST_POSITIONS = 32
_SPECIALS = 8

Place = Literal["none", "end", "middle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReading:
    """How the source reads one text, without tokens that begin and end texts.

    ``ids`` is transformers' reading; ``file_ids`` what the library of the tokenizer file itself says
    (tokenizers, sentencepiece), None where that cannot tell. ``outside`` is set where the text has
    characters the vocabulary has no token for. ``special`` says where a special token stands in it.
    ``spaced_ids`` is the reading of the text behind one more space, where it begins with a space.
    """

    text: str
    ids: tuple[int, ...]
    file_ids: tuple[int, ...] | None
    spaced_ids: tuple[int, ...] | None = None
    outside: bool = False
    special: Place = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What the source says: ``before`` and ``after`` are what it puts around every text.

    ``windows`` are the tokens that logits were computed along, each beginning anew.
    """

    readings: tuple[SourceReading, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    windows: tuple[tuple[int, ...], ...]
    vocabulary: int
    versions: dict[str, str]


def from_plain(plain: dict[str, Any]) -> Reference:
    """Return the record that `main` wrote."""
    return Reference(
        readings=tuple(
            SourceReading(
                text=str(each["text"]),
                ids=tuple(each["ids"]),
                file_ids=_optional(each["file_ids"]),
                spaced_ids=_optional(each["spaced_ids"]),
                outside=bool(each["outside"]),
                special=each["special"],
            )
            for each in plain["readings"]
        ),
        before=tuple(plain["before"]),
        after=tuple(plain["after"]),
        windows=tuple(tuple(window) for window in plain["windows"]),
        vocabulary=int(plain["vocabulary"]),
        versions=dict(plain["versions"]),
    )


def _optional(ids: list[int] | None) -> tuple[int, ...] | None:
    return None if ids is None else tuple(ids)


def cut_windows(passages: Sequence[Sequence[int]], *, room: int, context: int) -> list[list[int]]:
    """Return the beginnings of passages, ``room`` tokens in all, none longer than ``context``."""
    windows = []
    for passage in passages:
        window = list(passage[: min(room, context)])
        room -= len(window)
        # The first token's prediction says nothing of the attention.
        if len(window) > 1:
            windows.append(window)
    return windows


def main(arguments: list[str] | None = None) -> int:
    """Sample a folder."""
    parser = argparse.ArgumentParser(prog="pytest_quantgate.artifact.conversion.reference_sample")
    parser.add_argument("folder", type=Path)
    parser.add_argument("answer", type=Path)
    parser.add_argument("logits", type=Path, nargs="?")
    parsed = parser.parse_args(arguments)

    import transformers  # noqa: PLC0415 - an extra, and seconds to import

    versions = {"transformers": transformers.__version__}
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        parsed.folder, trust_remote_code=False, local_files_only=True
    )
    before, after = _around(tokenizer)
    readings = tuple(_readings(tokenizer, parsed.folder))
    model: Any = None
    windows: list[list[int]] = []
    vocabulary = len(tokenizer)
    if parsed.logits is not None:
        import torch  # noqa: PLC0415 - an extra, and seconds to import

        versions["torch"] = torch.__version__
        model = transformers.AutoModelForCausalLM.from_pretrained(
            parsed.folder,
            dtype=torch.float32,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
        )
        vocabulary = int(model.get_output_embeddings().weight.shape[0])
        known = {each.text: each for each in readings}
        passages = [known[text] for text in (*PASSAGES, *TEXTS) if text in known]
        ids = [[*before, *each.ids, *after] for each in passages if each.ids and not each.outside]
        rows = MAX_LOGITS_BYTES // (4 * vocabulary)
        windows = cut_windows(
            ids,
            room=max(_LEAST_POSITIONS, min(MAX_POSITIONS, rows)),
            context=getattr(model.config.get_text_config(), "max_position_embeddings", 1 << 30),
        )
        _write_logits(model, windows, parsed.logits)
    reference = Reference(
        readings=readings,
        before=before,
        after=after,
        windows=tuple(map(tuple, windows)),
        vocabulary=vocabulary,
        versions=versions,
    )
    parsed.answer.write_text(json.dumps(dataclasses.asdict(reference)), encoding="utf-8")
    return 0


def _around(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:  # noqa: ANN401 - transformers'
    """Return the tokens put before and behind every text."""
    inner = tokenizer(PLAIN, add_special_tokens=False)["input_ids"]
    whole = tokenizer(PLAIN)["input_ids"]
    for start in range(len(whole) - len(inner) + 1):
        if whole[start : start + len(inner)] == inner:
            return tuple(whole[:start]), tuple(whole[start + len(inner) :])
    message = f"the tokenizer reads {PLAIN!r} as {inner}, and as {whole} with special tokens"
    raise ValueError(message)


def _readings(tokenizer: Any, folder: Path) -> Iterator[SourceReading]:  # noqa: ANN401 - transformers'
    of_file = _file_reader(folder)
    unknown = tokenizer.unk_token_id

    def read(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    for text in dict.fromkeys((*TEXTS, *PASSAGES)):
        ids = read(text)
        file_ids = of_file(text, special=False)
        yield SourceReading(
            text=text,
            ids=ids,
            file_ids=file_ids,
            spaced_ids=read(f" {text}") if text.startswith(" ") else None,
            # Some versions of transformers drop what they have no token for.
            outside=unknown is not None and unknown in (*ids, *(file_ids or ())),
        )
    for special in _specials(tokenizer):
        places: dict[Place, str] = {
            "end": f"{PLAIN}{special}",
            "middle": f"{special}{PLAIN} {special}ok",
        }
        for place, text in places.items():
            yield SourceReading(
                text=text, ids=read(text), file_ids=of_file(text, special=True), special=place
            )


def _specials(tokenizer: Any) -> list[str]:  # noqa: ANN401 - transformers'
    """Return some special tokens: the named ones first, then others from first to last."""
    named = [str(token) for token in tokenizer.all_special_tokens]
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    found = list(dict.fromkeys((*named, *added)))
    step = max(1, len(found) // _SPECIALS)
    return list(dict.fromkeys((*found[: _SPECIALS // 2], *found[::step])))[:_SPECIALS]


def _file_reader(folder: Path) -> Callable[..., tuple[int, ...] | None]:
    """Return how the tokenizer's file reads a text when its own library does it."""
    if (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer  # noqa: PLC0415 - comes with transformers

        whole = Tokenizer.from_file(str(folder / "tokenizer.json"))
        whole.no_truncation()
        whole.no_padding()

        def read(text: str, *, special: bool) -> tuple[int, ...] | None:
            del special
            return tuple(whole.encode(text, add_special_tokens=False).ids)
    elif (folder / "tokenizer.model").is_file():
        from sentencepiece import SentencePieceProcessor  # noqa: PLC0415 - comes with the extra

        pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))

        def read(text: str, *, special: bool) -> tuple[int, ...] | None:
            # It does not look for special tokens in a text.
            return None if special else tuple(pieces.encode(text))
    else:

        def read(text: str, *, special: bool) -> tuple[int, ...] | None:
            del text, special
            return None

    return read


def _write_logits(model: Any, windows: Sequence[Sequence[int]], path: Path) -> None:  # noqa: ANN401 - torch's
    import numpy as np  # noqa: PLC0415 - comes with torch here
    import torch  # noqa: PLC0415 - an extra, and seconds to import

    rows = []
    model.eval()
    with torch.inference_mode():
        for window in windows:
            answer = model(input_ids=torch.tensor([list(window)]), use_cache=False)
            rows.append(answer.logits[0].float().numpy())
    np.save(path, np.concatenate(rows), allow_pickle=False)


if __name__ == "__main__":
    lifeline.hold()
    sys.exit(main())
