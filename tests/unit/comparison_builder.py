"""A comparison of three models that never ran, for the tests of what is shown of one."""

from __future__ import annotations

from typing import Any

from pytest_quantgate.comparison.difference import difference, median, place
from pytest_quantgate.records import MEBIBYTE, MemoryUse, Parting, TokenChance
from pytest_quantgate.report.comparison import (
    ComparedModel,
    ComparedPrompt,
    Comparison,
    Reply,
    Speed,
)

NAMES = ("F16", "Q8_0", "Q2_K")


def chance(text: str, probability: float, *, rank: int = 1) -> TokenChance:
    """Return a token's chance; its number follows from its text."""
    return TokenChance(token=len(text), text=text, probability=probability, rank=rank)


def parting(*, common: str = "The capital is", position: int = 3, tie: bool = False) -> Parting:
    """Return a parting between " Paris" and " Lyon"."""
    return Parting(
        position=position,
        common=common,
        baseline=(chance(" Paris", 0.6), chance(" Paris", 0.3, rank=2)),
        candidate=(chance(" Lyon", 0.1, rank=2), chance(" Lyon", 0.4)),
        near_tie=tie,
    )


def reply(output: str = "The capital is Paris.", **changes: Any) -> Reply:  # noqa: ANN401 - any field
    """Return a reply of the reference's kind."""
    settled: dict[str, Any] = {"tokens": 5, "finish": "eog", "surprise": 0.25, "equal_tokens": 5}
    return Reply(output=output, **{**settled, **changes})


def prompt(name: str, *replies: Reply, expected: str | None = None) -> ComparedPrompt:
    """Return a prompt about France."""
    return ComparedPrompt(
        id=name, question="What is the capital of France?", replies=replies, expected=expected
    )


def model(name: str, *, mebibytes: int = 258, speed: Speed | None = None) -> ComparedModel:
    """Return a model of a file type by its name."""
    return ComparedModel(
        name=name,
        source=f"dist/model-{name}.gguf",
        sha256="0" * 64,
        file_type=name,
        bits_per_weight=mebibytes / 16,
        file_bytes=mebibytes * MEBIBYTE,
        weight_bytes=(mebibytes - 2) * MEBIBYTE,
        memory=MemoryUse(
            peak_rss_bytes=(mebibytes + 150) * MEBIBYTE,
            before_load_bytes=44 * MEBIBYTE,
            file_bytes=mebibytes * MEBIBYTE,
        ),
        speed=speed,
    )


def comparison(*prompts: ComparedPrompt, models: tuple[ComparedModel, ...] = ()) -> Comparison:
    """Return a comparison of these prompts, in the order that it would have them."""
    models = models or (
        model("F16", speed=Speed(tokens_per_second=11.2, requests=16)),
        model(
            "Q8_0",
            mebibytes=138,
            speed=Speed(tokens_per_second=62.14, requests=8, ratio=5.5, low=5.31, high=5.72),
        ),
        model("Q2_K", mebibytes=84, speed=Speed(tokens_per_second=70.0, requests=8, ratio=6.2)),
    )
    expects = prompts[0].expected is not None
    return Comparison(
        models=models,
        prompts=tuple(sorted(prompts, key=place)),
        differences=tuple(
            difference(each.name, prompts, number)
            for number, each in enumerate(models[1:], start=1)
        ),
        prompts_name="prompts.txt",
        surprise=median(each.replies[0].surprise for each in prompts),
        right=sum(bool(each.replies[0].right) for each in prompts) if expects else None,
        chat=False,
        max_tokens=64,
        machine="a processor, 2 cores, 24 GiB, Linux x86_64",
        engine="llama-cpp-python 0.3.36",
    )


def example() -> Comparison:
    """Return a comparison without expected answers: Q8_0 as F16 but for one, Q2_K always different."""
    lyon = "The capital is Lyon."
    return comparison(
        prompt(
            "line-1", reply(), reply(), reply(lyon, surprise=0.5, equal_tokens=3, parting=parting())
        ),
        prompt(
            "line-2",
            reply(),
            reply(lyon, surprise=0.2, equal_tokens=3, parting=parting(tie=True)),
            reply(
                "Paris Paris", surprise=1.5, equal_tokens=0, parting=parting(common="", position=0)
            ),
        ),
    )


def cases() -> Comparison:
    """Return a comparison with expected answers: Q8_0 loses one and gains none, Q2_K gains one."""
    right: dict[str, Any] = {"right": True}
    wrong: dict[str, Any] = {"right": False, "reason": "no 'Paris' in it"}
    return comparison(
        prompt(
            "calm",
            reply(**right),
            reply("Paris!", surprise=0.9, **right),
            reply("It is Paris", surprise=0.1, **right),
            expected="Paris",
        ),
        prompt(
            "gained", reply("?", **wrong), reply("?", **wrong), reply(**right), expected="Paris"
        ),
        prompt("lost", reply(**right), reply("Lyon", **wrong), reply(**right), expected="Paris"),
    )
