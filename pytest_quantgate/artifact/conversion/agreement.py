"""Whether a converted model is the model it was made from: same tokens, same predictions."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_quantgate.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_quantgate.artifact.conversion.reference_sample import Reference, SourceReading


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitBounds:
    """How far from the source a conversion to some type may be.

    ``relative_error`` is the energy of the difference of centred logits by that of the source's,
    ``mean_kld`` is in nats, ``same_top`` the least share of positions with the same most likely token.
    """

    relative_error: float
    mean_kld: float
    same_top: float


BOUNDS: Mapping[str, LogitBounds] = {
    "F32": LogitBounds(relative_error=1e-5, mean_kld=5e-5, same_top=0.97),
    "F16": LogitBounds(relative_error=1e-4, mean_kld=5e-4, same_top=0.95),
    "BF16": LogitBounds(relative_error=5e-3, mean_kld=5e-3, same_top=0.90),
    "Q8_0": LogitBounds(relative_error=4e-2, mean_kld=6e-2, same_top=0.80),
}
"""By type of the result: some ten times what right conversions have, and far less than what wrong ones
have; docs/guide-convert.md has both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitAgreement:
    """How far a converted model's logits are from its source's, at ``positions`` tokens.

    The figures are those that `LogitBounds` bounds; ``max_kld`` is the largest KLD, in nats.
    """

    positions: int
    same_top: float
    mean_kld: float
    max_kld: float
    relative_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenAgreement:
    """On how many texts the tokens were compared, and found equal.

    ``outside`` more texts have characters that the source has no tokens for; ``notes`` are sentences
    about what is odd and yet no difference of the conversion.
    """

    texts: int
    special_texts: int
    outside: int
    notes: tuple[str, ...]


def texts_of(reference: Reference) -> list[str]:
    """Return the texts whose tokens count, in order."""
    return [reading.text for reading in reference.readings if not reading.outside]


def check_tokens(
    reference: Reference, tokens: Sequence[Sequence[Sequence[int]]], *, kind: str
) -> TokenAgreement:
    """Hold the engine's tokens of `texts_of` against the source's.

    The engine is right where it agrees with transformers or with the library of the tokenizer's own
    file, which do not always agree with one another.

    Args:
        reference: What the source says.
        tokens: For each text its tokens without and with those that the model puts around a text.
        kind: The engine's family of the tokenizer. With those of sentencepiece it has two habits that
            no file can change: a space behind every special token, and one in front of every text.

    Raises:
        ConversionError: for the first text that is read otherwise, with the tokens that differ.
    """
    readings = [reading for reading in reference.readings if not reading.outside]
    counts: Counter[str] = Counter()
    for reading, (plain, whole) in zip(readings, tokens, strict=True):
        accepted = [ids for ids in (reading.ids, reading.file_ids) if ids is not None]
        counts["unlike one another"] += len(set(accepted)) > 1
        if tuple(plain) not in accepted:
            habit = _habit(reading, plain) if kind == "sentencepiece" else ""
            if not habit:
                raise ConversionError(_difference(reading, accepted, plain))
            counts[habit] += 1
            continue
        counts[reading.special] += 1
        wanted = [*reference.before, *plain, *reference.after]
        if reading.special == "none" and list(whole) != wanted:
            message = (
                f"around {_shown(reading.text)} the source puts the tokens {list(reference.before)} and "
                f"{list(reference.after)}, the converted model makes {_ids(whole)} of it; set "
                "add_bos_token and add_eos_token in tokenizer_config.json as the model was trained"
            )
            raise ConversionError(message)
    return TokenAgreement(
        texts=counts["none"],
        special_texts=counts["end"] + counts["middle"],
        outside=sum(reading.outside for reading in reference.readings),
        notes=tuple(text.format(counts[key]) for key, text in _NOTES.items() if counts[key]),
    )


_NOTES: Mapping[str, str] = {
    "unlike one another": (
        "transformers and the library of the tokenizer's own file read {} sample texts differently; "
        "the converted model agrees with one of them"
    ),
    "space behind special": (
        "the engine reads a space behind special tokens inside a text, unlike the source ({} sample "
        "texts); it does so with every tokenizer of this family"
    ),
    "space in front": (
        "the engine puts a space in front of texts that begin with one, unlike the source ({} sample "
        "texts); it does so with every tokenizer of this family"
    ),
}


def _habit(reading: SourceReading, plain: Sequence[int]) -> str:
    """Return which habit of the engine explains a difference, as a key of the notes; empty for none."""
    if reading.special == "middle":
        return "space behind special"
    return "space in front" if tuple(plain) == reading.spaced_ids else ""


def check_logits(found: LogitAgreement, *, type_name: str) -> None:
    """Refuse predictions that are further from the source's than the type of the file explains.

    Raises:
        ConversionError: with the figures and their bounds.
    """
    bounds = BOUNDS[type_name]
    if (
        found.relative_error <= bounds.relative_error
        and found.mean_kld <= bounds.mean_kld
        and found.same_top >= bounds.same_top
    ):
        return
    message = (
        f"its predictions are not the source's at {found.positions} positions: relative error "
        f"{found.relative_error:.2e} (at most {bounds.relative_error:.0e} for {type_name}), mean KLD "
        f"{found.mean_kld:.2e} (at most {bounds.mean_kld:.0e}), same top token {found.same_top:.1%} (at "
        f"least {bounds.same_top:.0%})"
    )
    raise ConversionError(message)


def _difference(
    reading: SourceReading, accepted: Sequence[Sequence[int]], plain: Sequence[int]
) -> str:
    wanted = accepted[-1]
    place = next(
        (at for at, (a, b) in enumerate(zip(wanted, plain, strict=False)) if a != b),
        min(len(wanted), len(plain)),
    )
    return (
        f"it reads {_shown(reading.text)} as {len(plain)} tokens, the source as {len(wanted)}; from "
        f"token {place} on they are {_ids(plain[place:])} instead of {_ids(wanted[place:])}"
    )


def _shown(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted if len(quoted) <= 60 else f'{quoted[:56]}..."'  # noqa: PLR2004 - a short line


def _ids(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:6]))
    return f"[{shown}, ...]" if ids[6:] else f"[{shown}]"
