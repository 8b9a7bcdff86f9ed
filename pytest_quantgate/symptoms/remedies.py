"""What each sign of over-quantization comes from most often, and what helps against it."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from pytest_quantgate.artifact.catalog import QUANTIZATION_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

SignName = Literal["repetition", "gibberish", "facts", "format"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """One of the four signs: what is seen, why, and from which ``level`` on it is usually gone."""

    seen: str
    cause: str
    remedy: str
    level: str

    def advice(self, type_name: str) -> str:
        """Return likely cause and remedy for a variant of this type.

        A variant that has the level already is told to look elsewhere: more bits are no cure then.
        """
        start = f"{self.seen}; the likely cause: {self.cause}"
        kind = QUANTIZATION_TYPES.get(type_name)
        if kind is not None and kind.bits_8b < QUANTIZATION_TYPES[self.level].bits_8b:
            return f"{start}. {self.remedy}"
        return (
            f"{start}. But {type_name} has as many bits as help as a rule ({self.level}), so look for"
            " another cause as well: chat template, tokenizer, conversion, importance matrix"
        )


SIGNS: Mapping[SignName, Sign] = MappingProxyType(
    {
        "repetition": Sign(
            seen="repetition: texts run in circles",
            cause="the weights of the attention lost too many bits",
            remedy=(
                "Choose a higher level, Q5_K_M where it was one of 4 bits, or give more bits to the"
                " attention alone (`overrides: {attn: Q6_K}`)"
            ),
            level="Q5_K_M",
        ),
        "gibberish": Sign(
            seen="gibberish: texts make no sense",
            cause="the error of quantization is severe all over",
            remedy=(
                "Take Q4_K_M at the least and leave levels of 2 and 3 bits alone; where memory allows no"
                " more, an importance matrix makes the most of the bits there are"
            ),
            level="Q4_K_M",
        ),
        "facts": Sign(
            seen="wrong facts: what the baseline knows is mixed up or gone",
            cause="knowledge did not survive so few bits",
            remedy="Choose a higher level for tasks that rest on knowledge, Q6_K or Q8_0",
            level="Q6_K",
        ),
        "format": Sign(
            seen="format drift: answers no longer have the form that was asked for",
            cause="the ability to follow instructions suffered",
            remedy=(
                "Take Q5_K_M or higher where other programs read the output, and see what decoding under"
                " a grammar restores (gate `structured`)"
            ),
            level="Q5_K_M",
        ),
    }
)
"""The four signs, in the order in which they are looked for."""
