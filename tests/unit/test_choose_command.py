"""`quantgate select` and `estimate` on numbers and folders, which need no engine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from pytest_quantgate import cli
from pytest_quantgate.cli.choose import parse_count, parse_memory, parse_share
from pytest_quantgate.errors import ArtifactError

GUIDE = Path(__file__).parents[2] / "docs" / "guide-select.md"
CONFIG = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
}


def run(*arguments: str) -> Result:
    """Run a command on a terminal of 80 columns."""
    return CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "80"})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16GB", 16 << 30),
        ("16 GiB", 16 << 30),
        ("16g", 16 << 30),
        ("1.5GB", 3 << 29),
        ("512MB", 512 << 20),
        ("1TB", 1 << 40),
    ],
)
def test_memory_has_a_unit(text: str, size: int) -> None:
    """Units are those on a machine's label, in powers of 1024."""
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["16", "GB", "-1GB", "1e3GB", "16KB", "nanGB", "1234567GB", ""])
def test_memory_that_is_none(text: str) -> None:
    """A bare number is ambiguous, and the rest is no amount."""
    with pytest.raises(typer.BadParameter, match="is no amount of memory; write it with its unit"):
        parse_memory(text)


@pytest.mark.parametrize(
    ("text", "count"), [("7B", 7e9), ("1.5b", 1.5e9), ("135M", 135e6), ("1T", 1e12)]
)
def test_numbers_of_parameters(text: str, count: float) -> None:
    """A number of parameters is written as models are named."""
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["7", "7G", "B", "-7B", "infB"])
def test_numbers_of_parameters_that_are_none(text: str) -> None:
    """The rest is refused with examples."""
    with pytest.raises(typer.BadParameter, match=r"write it as 7B, 1\.5B or 135M"):
        parse_count(text)


def test_shares() -> None:
    """A share has its sign."""
    assert parse_share("3%") == pytest.approx(0.03)
    with pytest.raises(typer.BadParameter, match="is no share; write it with its sign, such as 3%"):
        parse_share("0.03")


@given(st.text(max_size=12))
def test_any_text_is_a_quantity_or_refused(text: str) -> None:
    """Nothing else happens to what a user types."""
    for parse in (parse_memory, parse_count, parse_share):
        try:
            assert parse(text) >= 0
        except typer.BadParameter:
            continue


SHOWN = """\
Q5_K_M
  model    a 7B model: 7e9 weights, from the number of parameters, with layers
           and cache of Mistral-7B
  machine  the declared machine: 8.00 GiB RAM, 2.00 GiB left to the system
  runs     on the processor, llama.cpp, 4,096 tokens of context, f16 cache
  needs    5.29 GiB of 6.00 GiB; 724 MiB to spare
           weights 4.62 GiB, cache 512 MiB, compute 120 MiB, runtime 58 MiB
  smaller  Q4_K_M

level       needs not chosen, because
IQ2_XXS  2.47 GiB below Q3, which models under 13B parameters do not survive
Q2_K     3.12 GiB below Q3, which models under 13B parameters do not survive
Q3_K_M   3.84 GiB loses more than Q5_K_M, which fits
IQ4_XS   4.22 GiB loses more than Q5_K_M, which fits
Q4_K_M   4.61 GiB loses more than Q5_K_M, which fits
Q6_K     6.02 GiB needs 6.02 GiB, 6.00 GiB can be used
Q8_0     7.60 GiB needs 7.60 GiB, 6.00 GiB can be used
F16     13.71 GiB needs 13.71 GiB, 6.00 GiB can be used
"""


def test_a_choice_is_shown() -> None:
    """Level, memory, headroom, the next step down and all other levels, within 80 columns."""
    result = run("select", "--params", "7B", "--ram", "8GB")

    assert result.output == SHOWN
    assert max(map(len, SHOWN.splitlines())) <= 80


def test_the_guide_shows_what_is_shown() -> None:
    """docs/guide-select.md has the answer as it is printed, and its Python runs."""
    page = GUIDE.read_text(encoding="utf-8")
    block = re.search(r"```python choosing\.py\n(.*?)```", page, re.DOTALL)

    assert f"```text\n{SHOWN}```" in page
    assert block is not None
    exec(compile(block[1], "choosing.py", "exec"), {})  # noqa: S102 - the page's own example


def test_a_choice_as_json() -> None:
    """One document holds the choice, its parts, the model and the machine."""
    result = run("select", "--params", "70B", "--ram", "64GB", "--vram", "24GB", "--json")
    document = json.loads(result.output)

    assert (document["level"], document["placement"], document["gpu_layers"]) == (
        "Q4_K_M",
        "split",
        43,
    )
    assert document["next_down"] == "IQ4_XS"
    assert document["headroom_bytes"] == (
        document["capacity_bytes"] - document["estimate"]["required_bytes"]
    )
    assert (document["model"]["layers"], document["target"]["vram_bytes"]) == (80, 24 << 30)
    assert len(document["rejected"]) == 8


def test_the_options_reach_the_choice() -> None:
    """Context, cache, priority, use case, runtime, loss and reserve each change it."""
    base = ("select", "--params", "7B", "--ram", "8GB")
    seven = ("select", "--params", "7B", "--ram", "64GB")

    assert run(*base, "--context", "16384").output.startswith("Q3_K_M\n")
    assert run(*base, "--context", "16384", "--cache-type", "q4_0").output.startswith("Q5_K_M\n")
    assert run(*base, "--reserve", "512MB").output.startswith("Q6_K\n")
    assert run(*seven, "--priority", "quality").output.startswith("F16\n")
    assert run(*seven, "--use-case", "chat").output.startswith("Q5_K_M\n")
    assert run(*seven, "--runtime", "transformers").output.startswith("INT8\n")
    assert run(*seven, "--priority", "speed", "--q4-loss", "3%").output.startswith("Q5_K_M\n")
    assert run("select", "--params", "7B", "--ram", "16GB", "--unified").output.startswith("Q8_0\n")
    shared = run("select", "--params", "70B", "--ram", "64GB", "--vram", "24GB").output
    assert "43 of 80 layers on the GPU" in shared
    assert "64.00 GiB RAM, 6.00 GiB left to the system; 24.00 GiB VRAM" in " ".join(shared.split())


def test_this_machine_is_the_default() -> None:
    """Without a declared machine, it is the one the command runs on."""
    result = run("select", "--params", "135M", "--json")

    assert json.loads(result.output)["target"]["name"] != "the declared machine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a model, or its number of parameters with --params"),
        (("model.gguf", "--params", "7B"), "one of the two"),
        (("--params", "7B", "--unified"), "name its memory with --ram"),
        (("--params", "7", "--ram", "8GB"), "is no number of parameters"),
        (("--params", "7B", "--ram", "8"), "is no amount of memory"),
    ],
)
def test_what_does_not_go_together(arguments: tuple[str, ...], message: str) -> None:
    """Wrong combinations exit 2 with what to do."""
    result = run("select", *arguments)

    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_known_errors_are_raised() -> None:
    """What `main` shows as one message: nothing fits, unknown names."""
    result = run("select", "--params", "70B", "--ram", "8GB")
    wrong = run("select", "--params", "7B", "--ram", "8GB", "--priority", "fast")

    assert isinstance(result.exception, ArtifactError)
    assert str(result.exception).startswith("No quantization fits in 8GB RAM: a 70B model needs")
    assert "'fast' is not a priority" in str(wrong.exception)


def test_a_folder_is_estimated(tmp_path: Path) -> None:
    """A Hugging Face folder has no type yet: all levels are shown, or those asked for."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")

    table = run("estimate", str(tmp_path)).output
    document = json.loads(
        run(
            *(
                "estimate",
                str(tmp_path),
                "--type",
                "q4_k_m",
                "--context",
                "512",
                "--context",
                "2048",
            ),
            "--json",
        ).output
    )

    assert table.splitlines()[0].endswith(
        "134,515,008 weights, from its config.json; memory in MiB"
    )
    assert [line.split()[0] for line in table.splitlines()[2:]] == [
        *("IQ2_XXS", "Q2_K", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16")
    ]
    assert [(each["level"], each["context"]) for each in document["estimates"]] == [
        ("Q4_K_M", 512),
        ("Q4_K_M", 2048),
    ]
    assert document["model"]["parameters"] == 134_515_008
    assert run("select", str(tmp_path), "--ram", "8GB").output.startswith("Q8_0\n")
