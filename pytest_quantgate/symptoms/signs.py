"""The signs that are seen in open texts: the figures of each, held against limits and put in words."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from pytest_quantgate.records import Answer, AnsweredCase, Output
from pytest_quantgate.symptoms.gibberish import shown
from pytest_quantgate.symptoms.repetition import compression_ratio, repeated_share
from pytest_quantgate.symptoms.reply import Texts, broken, run_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_quantgate.symptoms.figures import Bounds, Figure
    from pytest_quantgate.symptoms.limits import GibberishLimits, RepetitionLimits

_SHOWN_WORDS = 8
_SHOWN_TEXTS = 3


def repetition(limits: RepetitionLimits, texts: Texts, bounds: Bounds) -> Iterator[Figure]:
    """Yield the limits on repetition that are set, held against the texts.

    Raises:
        MeasurementError: too few texts, or a baseline that runs in circles nearly always.
    """
    if limits.max_increase is not None:
        yield bounds.ill_share(
            _sound(texts, lambda output: not run_of(output).is_loop),
            name="repetition.max_increase",
            limit=limits.max_increase,
            statistic="increase of texts caught in a loop",
        )
    if limits.max_repeated_increase is not None:
        yield bounds.mean(
            texts.of_both(_repeated),
            name="repetition.max_repeated_increase",
            limit=limits.max_repeated_increase,
            statistic="increase of repeated sequences",
            unit="pp",
        )
    if limits.max_compression_increase is not None:
        yield bounds.mean(
            texts.of_both(_compression),
            name="repetition.max_compression_increase",
            limit=limits.max_compression_increase,
            statistic="increase of the compression ratio",
        )


def gibberish(limits: GibberishLimits, texts: Texts, bounds: Bounds) -> Iterator[Figure]:
    """Yield the limits on gibberish that are set, held against the texts.

    Raises:
        MeasurementError: too few texts, or a baseline whose texts are broken nearly always.
    """
    if limits.max_surprise_increase is not None:
        yield bounds.mean(
            list(texts.surprise.values()),
            name="gibberish.max_surprise_increase",
            limit=limits.max_surprise_increase,
            statistic="increase of the baseline's surprise",
            unit="nats/token",
        )
    if limits.max_broken_increase is not None:
        yield bounds.ill_share(
            _sound(texts, lambda output: not broken(output)),
            name="gibberish.max_broken_increase",
            limit=limits.max_broken_increase,
            statistic="increase of broken or empty texts",
        )
    if limits.max_unknown_increase is not None:
        yield bounds.mean(
            texts.unknown_shares(),
            name="gibberish.max_unknown_increase",
            limit=limits.max_unknown_increase,
            statistic="increase of unknown words",
            unit="pp",
        )


def text_record(texts: Texts) -> dict[str, float | int | str | bool | None]:
    """Return every figure of the texts, the baseline's under names that begin with ``baseline_``."""
    if not texts.pairs:
        return {}
    found = {
        "looping": texts.means(_loops),
        "repeated": texts.means(_repeated),
        "longest_run": texts.means(_run_length),
        "compression": texts.means(_compression),
        "broken": texts.means(_is_broken),
    }
    if texts.surprise:
        found["surprise"] = _means(list(texts.surprise.values()))
    if texts.words is not None:
        found["unknown_words"] = _means(texts.unknown_shares())
    record: dict[str, float | int | str | bool | None] = {"texts": len(texts.pairs)}
    for name, (own, base) in found.items():
        record |= {name: own, f"baseline_{name}": base}
    return record


def spoken(texts: Texts, baseline_name: str) -> Iterator[str]:
    """Yield what was seen in the texts, one sentence for each sign."""
    record = text_record(texts)
    if not record:
        return

    def both(name: str, form: str) -> str:
        return f"{record[name]:{form}} ({baseline_name} {record[f'baseline_{name}']:{form}})"

    yield (
        f"repetition in {record['texts']} texts: {both('looping', '.1%')} end up in a loop,"
        f" {both('repeated', '.1%')} of sequences of four words repeat an earlier one, longest run of"
        f" a text {both('longest_run', '.1f')} words, compression ratio {both('compression', '.2f')}"
    )
    if "surprise" in record:
        yield (
            f"gibberish: the baseline's surprise {both('surprise', '.3f')} nats a token before any loop,"
            f" {both('broken', '.1%')} of texts broken or empty, {both('unknown_words', '.1%')} unknown"
            f" words{_examples(texts)}"
        )


def _examples(texts: Texts) -> str:
    """Return the texts that surprise most beyond the baseline's own, and words that only they have."""
    worst = sorted(
        texts.surprise, key=lambda name: texts.surprise[name][1] - texts.surprise[name][0]
    )
    named = ", ".join(
        f"{name} ({texts.surprise[name][0]:.2f} against {texts.surprise[name][1]:.2f})"
        for name in worst[:_SHOWN_TEXTS]
    )
    words = texts.words
    unknown = (
        ()
        if words is None
        else shown(
            (words.unknown(index, pair.candidate.text) for index, pair in enumerate(texts.pairs)),
            most=_SHOWN_WORDS,
        )
    )
    said = f", such as {', '.join(map(repr, unknown))}" if unknown else ""
    return f"{said}; most surprising: {named}"


def _sound(texts: Texts, is_sound: Callable[[Output], bool]) -> list[AnsweredCase]:
    """Return the texts as answers that are right where they are sound."""
    return [
        AnsweredCase(
            id=pair.prompt.id,
            question="",
            expected="",
            candidate=Answer(right=float(is_sound(pair.candidate)), output=""),
            baseline=Answer(right=float(is_sound(pair.baseline)), output=""),
        )
        for pair in texts.pairs
    ]


def _means(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return fmean(own for own, _ in pairs), fmean(base for _, base in pairs)


def _loops(output: Output) -> float:
    return float(run_of(output).is_loop)


def _run_length(output: Output) -> float:
    return run_of(output).repeated


def _is_broken(output: Output) -> float:
    return float(broken(output) > 0)


def _repeated(output: Output) -> float:
    return repeated_share(output.text)


def _compression(output: Output) -> float:
    return compression_ratio(output.text)
