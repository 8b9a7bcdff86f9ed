"""The accuracy gate: what is asked, how answers become right or wrong, what a verdict carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from bench_stub import StubBench, as_bench
from pydantic import ValidationError

from pytest_quantgate.errors import MeasurementError, SpecError
from pytest_quantgate.gates.accuracy import GATE, AccuracySettings
from pytest_quantgate.records import (
    Decoding,
    Generation,
    GenerationRequest,
    NextToken,
    NextTokens,
    Outcome,
    Output,
    Prompt,
    TokenChance,
)
from pytest_quantgate.spec import load_spec

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_quantgate.gates import Judgement, Role


def settings(**values: object) -> AccuracySettings:
    """Return settings as a specification would give them."""
    return AccuracySettings.model_validate({"cases": "cases.jsonl", "cases_are": "all", **values})


def cases_file(folder: Path, expected: tuple[str, ...], more: str = "") -> None:
    """Write a case file with these expectations."""
    lines = [
        f'{{"id": "c{n}", "prompt": "q{n}", "expected": "{text}"{more}}}'
        for n, text in enumerate(expected)
    ]
    (folder / "cases.jsonl").write_text("\n".join(lines), encoding="utf-8")


def judged(bench: StubBench, limits: AccuracySettings) -> Judgement:
    """Measure and judge."""
    return GATE.judge(limits, GATE.measure(limits, as_bench(bench)), as_bench(bench))


# --- what is asked ---------------------------------------------------------------------------------


def test_both_models_answer_the_same_cases(tmp_path: Path) -> None:
    """Baseline and candidate get one request; answers are matched by each case's matcher."""
    cases_file(tmp_path, ("Paris", "Rome"), ', "tags": ["capitals"], "weight": 2.0')
    bench = StubBench(
        folder=tmp_path,
        texts={"baseline": ("it is paris", "rome"), "candidate": ("PARIS", "Milan")},
    )

    found = GATE.measure(settings(max_drop="2pp", max_tokens=9, parallel=3), as_bench(bench))

    request = GenerationRequest(
        prompts=(
            Prompt(id="c0", prompt="q0", max_tokens=9, until="Paris"),
            Prompt(id="c1", prompt="q1", max_tokens=9, until="Rome"),
        ),
        parallel=3,
    )
    assert bench.asked == [("baseline", request), ("candidate", request)]
    assert [case.candidate.right for case in found.cases] == [1, 0]
    assert [case.baseline.right for case in found.cases if case.baseline] == [1, 1]
    assert found.cases[1].candidate.output == "Milan"
    assert found.cases[1].candidate.reason
    assert (found.cases[0].question, found.cases[0].expected) == ("q0", "Paris")
    assert (found.cases[0].tags, found.cases[0].weight) == (("capitals",), 2.0)


def test_a_baseline_is_asked_only_where_it_counts(tmp_path: Path) -> None:
    """Neither an absolute limit nor a literal baseline runs the baseline's probe."""
    cases_file(tmp_path, ("Paris",))
    bench = StubBench(folder=tmp_path, texts={"candidate": ("Paris",)}, literals={"accuracy": 0.75})

    assert GATE.measure(settings(min=0.5), as_bench(bench)).literal is None
    assert GATE.measure(settings(max_drop="1pp"), as_bench(bench)).literal == 0.75
    assert [asked[0] for asked in bench.asked] == ["candidate", "candidate"]


def test_only_chosen_cases_are_asked(tmp_path: Path) -> None:
    """The request holds nothing else, and the verdict judges nothing else."""
    cases_file(tmp_path, ("Paris", "Rome", "Oslo"))
    bench = StubBench(
        folder=tmp_path, texts={"candidate": ("Turin",)}, chosen_cases=frozenset({"c1"})
    )

    found = judged(bench, settings(min=0.1))

    ((_, request),) = bench.asked
    assert isinstance(request, GenerationRequest)
    assert [prompt.id for prompt in request.prompts] == ["c1"]
    assert [(check.statistic, check.outcome) for check in found.checks] == [
        ("case c1", Outcome.FAIL)
    ]


def test_flipped_cases_are_asked_where_they_part(tmp_path: Path) -> None:
    """A lost case carries the first token that differs, with the chances of both."""
    cases_file(tmp_path, ("Paris",))

    @dataclass(slots=True, kw_only=True)
    class Speaking(StubBench):
        """A bench whose outputs have tokens."""

        def generation(self, role: Role, request: GenerationRequest) -> Generation:
            """Return one output of two tokens, of which the second differs."""
            text, last = ("Paris", 3) if role == "baseline" else ("Lyon", 4)
            output = Output(
                id=request.prompts[0].id,
                text=text,
                tokens=2,
                finish="length",
                prompt_tokens=1,
                token_ids=(2, last),
            )
            return Generation(outputs=(output,), seconds=0.1)

    def chance(token: int, probability: float, rank: int) -> TokenChance:
        return TokenChance(token=token, text=f"t{token}", probability=probability, rank=rank)

    own = NextToken(top=(), also=(chance(3, 0.3, 2), chance(4, 0.5, 1), chance(2, 0.1, 3)))
    base = NextToken(top=(), also=(chance(3, 0.7, 1), chance(4, 0.1, 2), chance(2, 0.1, 3)))
    bench = Speaking(
        folder=tmp_path,
        chances={
            "candidate": NextTokens(beginnings=(own,), seconds=0.1),
            "baseline": NextTokens(beginnings=(base,), seconds=0.1),
        },
    )

    found = judged(bench, settings(max_flips="0%"))

    (case,) = found.cases
    assert case.flip == "lost"
    assert case.parting is not None
    assert case.parting.position == 1
    assert any(text.startswith("lost: c0") for text in found.findings)


def test_repeats_are_drawn_by_chance_and_averaged(tmp_path: Path) -> None:
    """Three repeats of two cases come case by case; a case is right by the share of its repeats."""
    cases_file(tmp_path, ("Paris", "Rome"))

    @dataclass(slots=True, kw_only=True)
    class Repeating(StubBench):
        """A bench that answers each prompt as often as asked."""

        missing: int = 0

        def generation(self, role: Role, request: GenerationRequest) -> Generation:
            """Return prepared texts, prompt by prompt."""
            self.asked.append((role, request))
            repeats = request.decoding.repeats
            ids = [prompt.id for prompt in request.prompts for _ in range(repeats)]
            outputs = tuple(
                Output(id=name, text=text, tokens=1, finish="eog", prompt_tokens=1)
                for name, text in zip(ids, self.texts[role], strict=True)
            )
            return Generation(outputs=outputs[self.missing :], seconds=0.1)

    texts: dict[Any, Any] = {
        "candidate": ("Lyon", "Paris", "Paris", "Rome", "Rome", "Rome"),
        "baseline": ("Paris",) * 3 + ("Rome",) * 3,
    }
    limits = settings(max_drop="20pp", temperature=0.7, top_k=40, top_p=0.9, repeats=3, seed=5)

    found = GATE.measure(limits, as_bench(Repeating(folder=tmp_path, texts=texts)))

    assert [case.candidate.right for case in found.cases] == [pytest.approx(2 / 3), 1]
    assert found.cases[0].candidate.output == "Lyon"
    assert limits.decoding() == Decoding(temperature=0.7, top_k=40, top_p=0.9, seed=5, repeats=3)
    with pytest.raises(
        MeasurementError, match=r"^5 outputs came back for 2 cases, each answered 3"
    ):
        GATE.measure(limits, as_bench(Repeating(folder=tmp_path, texts=texts, missing=1)))


def test_cases_that_nobody_answers_are_an_error(tmp_path: Path) -> None:
    """Where both models get nothing right, a drop of 0 would mean nothing and must not pass."""
    cases_file(tmp_path, ("Paris", "Rome"))
    bench = StubBench(folder=tmp_path, texts={"baseline": ("Lyon", "Turin"), "candidate": ("", "")})

    with pytest.raises(MeasurementError, match=r"^neither Q4_K_M nor the F16 baseline answers one"):
        GATE.measure(settings(max_drop="2pp"), as_bench(bench))


def test_a_broken_case_file_is_an_error(tmp_path: Path) -> None:
    """The case file's problems are told by the name the specification uses."""
    (tmp_path / "cases.jsonl").write_text("{}", encoding="utf-8")

    with pytest.raises(SpecError, match=r"^cases\.jsonl:1:1: "):
        GATE.measure(settings(min=0.5), as_bench(StubBench(folder=tmp_path)))


# --- what a verdict carries ------------------------------------------------------------------------


def test_a_verdict_carries_every_answer_and_lists_what_went_wrong(tmp_path: Path) -> None:
    """The cases travel with the verdict; findings show lost ones, notes of the bench come last."""
    cases_file(tmp_path, ("Paris", "Rome", "Oslo"))
    bench = StubBench(
        folder=tmp_path,
        texts={"baseline": ("Paris", "Rome", "x"), "candidate": ("Paris", "Milan", "x")},
        notes=("the baseline is a written one",),
    )

    found = judged(bench, settings(min=0.3, max_drop="10pp"))

    assert [case.id for case in found.cases] == ["c0", "c1", "c2"]
    assert [(check.limit_name, check.outcome) for check in found.checks] == [
        ("min", Outcome.PASS),
        ("max_drop", Outcome.FAIL),
    ]
    assert found.headline == (
        "accuracy 33.3% (1 of 3 cases), drop 33.3 pp > max_drop 10 pp; the F16 baseline 66.7%"
    )
    assert sum(text.startswith("lost: c1") for text in found.findings) == 1
    assert found.findings[-1] == "the baseline is a written one"
    assert found.record["accuracy"] == pytest.approx(1 / 3)
    assert found.record["baseline_accuracy"] == pytest.approx(2 / 3)
    assert (found.record["lost"], found.record["gained"], found.record["flips"]) == (1, 0, 1)


def test_an_undecided_gate_can_warn(tmp_path: Path) -> None:
    """Three right answers are no proof of 90%, which `on_inconclusive: warn` lets through."""
    cases_file(tmp_path, ("a", "b", "c"))
    bench = StubBench(folder=tmp_path, texts={"candidate": ("a", "b", "c")})

    found = judged(bench, settings(min=0.9, cases_are="sample", on_inconclusive="warn"))

    assert [check.outcome for check in found.checks] == [Outcome.INCONCLUSIVE]
    assert found.warn


# --- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ({"max_tokens": 0}, False),
        ({"max_tokens": 1}, True),
        ({"parallel": 0}, False),
        ({"parallel": 256}, True),
        ({"parallel": 257}, False),
        ({"cases": ""}, False),
        ({"temperature": -0.1}, False),
        ({"temperature": 10.0}, True),
        ({"temperature": 10.1}, False),
        ({"repeats": 2}, False),
        ({"top_k": 5}, False),
        ({"top_p": 0.9}, False),
        ({"temperature": 0.5, "repeats": 64, "top_k": 5, "top_p": 0.9}, True),
        ({"temperature": 0.5, "repeats": 65}, False),
        ({"temperature": 0.5, "top_p": 0.0}, False),
    ],
)
def test_what_settings_accept(values: dict[str, object], *, right: bool) -> None:
    """Each setting has its bounds; what is about chance needs a temperature."""
    if right:
        settings(**values)
    else:
        with pytest.raises(ValidationError):
            settings(**values)


def test_cases_are_required_and_limits_are_four() -> None:
    """A gate without cases is none; drops and flips compare with the baseline."""
    with pytest.raises(ValidationError):
        AccuracySettings.model_validate({"min": 0.9})
    chosen = settings(min=0.9, max_drop="2pp", slices={"de": {"min": 0.5}})
    assert chosen.limits_given() == ("min", "max_drop", "slices")
    assert not GATE.needs_baseline(settings(min=0.9))
    assert GATE.needs_baseline(settings(max_flips="2%"))


SPEC = """
quantgate: 1
models:
  m:
    baseline: {{source: f16.gguf}}
    variants: {{Q8_0: {{quantize: Q8_0}}}}
    gates:
      accuracy: {{cases: cases.jsonl, {}}}
"""


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("repeats: 3, min: 0.5", "gate 'accuracy': `repeats` is about outputs that are drawn by"),
        ("slices: {de: {}}", "'de' of 'slices' of gate 'accuracy': it has no limit; give one of"),
        ("max_drop: 2", 'write it with its unit, such as "2pp"'),
        ("slices: {de: {max_flips: 2pp}}", 'write it with its unit, such as "3%"'),
        ("seed: 1", "has no limit; give one of min, max_drop, max_flips, slices"),
        ("slices: {de: {mim: 0.5}}", "unknown key 'mim'"),
    ],
)
def test_a_specification_is_told_what_is_wrong(tmp_path: Path, written: str, message: str) -> None:
    """Problems have their place and say what to write."""
    path = tmp_path / "gates.yaml"
    path.write_text(SPEC.format(written), encoding="utf-8")

    with pytest.raises(SpecError) as caught:
        load_spec(path)

    assert message in str(caught.value)
