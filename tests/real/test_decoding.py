"""Decoding with llama.cpp and the tests' own model: schemas, shared beginnings, draws, next tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema
import pytest

from pytest_quantgate import measure
from pytest_quantgate.errors import ProbeRefused
from pytest_quantgate.probe import grammar
from pytest_quantgate.probe.llama import LlamaBackend
from pytest_quantgate.records import (
    Beginning,
    Decoding,
    EngineSettings,
    GenerationRequest,
    NextTokensRequest,
    Prompt,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_quantgate.records import Output

pytestmark = pytest.mark.real

TINY = Path(__file__).parents[1] / "models" / "tiny-f16.gguf"
SECONDS = 120.0
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["word", "number"]}, "size": {"type": "integer"}},
    "required": ["kind", "size"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def probe() -> Iterator[measure.Probe]:
    """A probe with the tiny model, kept for the module."""
    with measure.Probe.start() as started:
        started.load(TINY, EngineSettings(threads=1), timeout=SECONDS)
        yield started


def generate(
    probe: measure.Probe, *prompts: Prompt, parallel: int = 64, decoding: Decoding | None = None
) -> tuple[Output, ...]:
    """Continue prompts."""
    request = GenerationRequest(prompts=prompts, parallel=parallel, decoding=decoding or Decoding())
    return probe.generation(request, timeout=SECONDS).outputs


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_schema_binds_a_model_that_knows_no_json(
    probe: measure.Probe, temperature: float
) -> None:
    """Outputs within a schema are JSON of it, greedy or drawn, beside outputs that are free."""
    free = Prompt(id="free", prompt="The list", max_tokens=20)
    bound = [
        Prompt(id=f"b{place}", prompt=text, max_tokens=60, json_schema=json.dumps(SCHEMA))
        for place, text in enumerate(("The list", "A number is"))
    ]
    outputs = generate(probe, *bound, free, decoding=Decoding(temperature=temperature, seed=3))

    for output in outputs[:2]:
        assert "eog" == output.finish
        jsonschema.validate(json.loads(output.text), SCHEMA)
    with pytest.raises(json.JSONDecodeError):
        json.loads(outputs[2].text)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("{", "no grammar for the JSON Schema .JSONDecodeError"),
        (
            '{"type": "nothing"}',
            "no grammar for the JSON Schema .AssertionError: Unrecognized schema",
        ),
        ('{"$ref": "https://example.org/s.json"}', "no grammar for the JSON Schema"),
    ],
)
def test_schemas_without_a_grammar_are_refused(
    probe: measure.Probe, schema: str, said: str
) -> None:
    """What the engine cannot express is refused with the case's name, and the probe lives on."""
    with pytest.raises(ProbeRefused, match=rf"case 'x': llama\.cpp .*{said}"):
        generate(probe, Prompt(id="x", prompt="a", json_schema=schema))

    assert generate(probe, Prompt(id="y", prompt="a", max_tokens=1))


def test_a_grammar_that_does_not_parse_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's own refusal comes back as one, and a token that does not fit is never fed to it."""
    backend = LlamaBackend()
    backend.load(TINY, EngineSettings(threads=1))
    rules = backend.grammar('{"enum": ["a"]}')
    with pytest.raises(ProbeRefused, match="token 5 does not fit the grammar"):
        rules.accept(5)
    rules.close()
    rules.close()

    monkeypatch.setattr(grammar, "schema_grammar", lambda _schema: "root ::= (")
    with pytest.raises(ProbeRefused, match=r"refuses the grammar of the JSON Schema: .*grammar"):
        backend.grammar("{}")


def test_copied_beginnings_change_no_output(probe: measure.Probe) -> None:
    """Prompts with common examples, in fewer lanes than prompts, answer as each one does alone."""
    examples = "The statement is used to execute a block of code. " * 4
    prompts = [
        Prompt(id=str(number), prompt=f"{examples}{word}", max_tokens=8 + 9 * (number % 3))
        for number, word in enumerate(
            ["The", "class", "If", "A", "function", "You", "This", "expression"]
        )
    ]
    together = generate(probe, *prompts, parallel=3)
    alone = [generate(probe, prompt)[0] for prompt in prompts]

    same = sum(
        output.token_ids == other.token_ids for output, other in zip(together, alone, strict=True)
    )
    # Where two tokens are equally likely to the last bits, the batch's shape may decide.
    assert len(prompts) - 1 <= same
    assert [output.prompt_tokens for output in alone] == [
        output.prompt_tokens for output in together
    ]


def test_draws_can_be_repeated(probe: measure.Probe) -> None:
    """The same seed draws the same texts again, another one others, and repeats differ."""
    prompt = Prompt(id="p", prompt="The value", max_tokens=12)
    first = generate(probe, prompt, decoding=Decoding(temperature=1.0, seed=1, repeats=3))
    again = generate(probe, prompt, decoding=Decoding(temperature=1.0, seed=1, repeats=3))
    other = generate(probe, prompt, decoding=Decoding(temperature=1.0, seed=2, repeats=3))

    assert first == again
    assert 6 == len({output.text for output in first + other})


def test_next_tokens_are_what_generation_chooses(probe: measure.Probe) -> None:
    """The most probable token after each step of a greedy output is the output's next one."""
    prompt = Prompt(id="p", prompt="The statement", max_tokens=6)
    (output,) = generate(probe, prompt)
    request = NextTokensRequest(
        beginnings=tuple(
            Beginning(prompt=prompt, generated=output.token_ids[:step], also=(token,))
            for step, token in enumerate(output.token_ids)
        ),
        top=2,
    )
    found = probe.next_tokens(request, timeout=SECONDS).beginnings

    for token, one in zip(output.token_ids, found, strict=True):
        # A near tie may turn in a batch of another shape.
        assert token in [chance.token for chance in one.top]
        assert one.also[0].token == token
        assert one.top[0].probability >= one.top[1].probability > 0
