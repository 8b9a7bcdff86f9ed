"""Every problem of a specification: its place, its sentence, and no second one in its wake."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from pytest_quantgate.errors import SpecError
from pytest_quantgate.spec import MAX_PROBLEMS, load_spec


def _write(folder: Path, text: str) -> Path:
    path = folder / "gates.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _heads(folder: Path, text: str) -> list[str]:
    """Return the first line of every problem of a specification, without its path."""
    with pytest.raises(SpecError) as caught:
        load_spec(_write(folder, text))
    heads = [f"{problem.location}: {problem.message}" for problem in caught.value.problems]
    assert all(head.startswith("gates.yaml:") for head in heads)
    return [head.removeprefix("gates.yaml:") for head in heads]


def _model(body: str) -> str:
    """Return a specification with one model of that body."""
    return "quantgate: 1\nmodels:\n  m:\n" + textwrap.indent(textwrap.dedent(body), "    ")


SOUND = "variants: {v: {source: v.gguf}}\ngates: {checksum: {}}\n"


@pytest.mark.parametrize(
    ("text", "heads"),
    [
        ("- a", ["1:1: the specification must be a mapping, not a list"]),
        ("a", ["1:1: the specification must be a mapping, not the text 'a'"]),
        (
            "models: {}",
            [
                "1:1: missing key 'quantgate' in the specification; write `quantgate: 1` first",
                "1:9: 'models' is empty; give at least one",
            ],
        ),
        ("quantgate: 1", ["1:1: missing key 'models' in the specification"]),
        (
            "quantgate: 2\nmodels: {m: {variants: {v: {source: v}}, gates: {checksum: {}}}}",
            ["1:12: this version reads format 1 only; write `quantgate: 1`"],
        ),
        (
            "quantgate: true\nmodels: {m: {variants: {v: {source: v}}, gates: {checksum: {}}}}",
            ["1:12: this version reads format 1 only; write `quantgate: 1`"],
        ),
        (
            "quantgate: 1.0\nmodels: {m: {variants: {v: {source: v}}, gates: {checksum: {}}}}",
            ["1:12: this version reads format 1 only; write `quantgate: 1`"],
        ),
        (
            "quantgate: 1\ndefault: {}\n" + _model(SOUND).removeprefix("quantgate: 1\n"),
            [
                ("2:1: unknown key 'default' in the specification; did you mean 'defaults'?"
                " Valid keys: quantgate, defaults, models")
            ],
        ),
        (
            "quantgate: 1\ndefaults: {context: 7, threads: 0, timeout: 0}\n"
            + _model(SOUND).removeprefix("quantgate: 1\n"),
            [
                "2:21: 'context' must be at least 8, not 7",
                "2:33: 'threads' must be at least 1, not 0",
                "2:45: 'timeout' must be greater than 0, not 0",
            ],
        ),
        (
            "quantgate: 1\ndefaults: {context: 8.0, threads: 'a', corpus: 3}\n"
            + _model(SOUND).removeprefix("quantgate: 1\n"),
            [
                "2:21: 'context' must be a whole number, not 8.0",
                "2:35: 'threads' must be a whole number, not the text 'a'",
                "2:48: 'corpus' must be a text, not 3",
            ],
        ),
        (
            "quantgate: 1\ndefaults:\n" + _model(SOUND).removeprefix("quantgate: 1\n"),
            ["2:1: 'defaults' has no value; write one, or remove the key"],
        ),
        ("quantgate: 1\nmodels:\n", ["2:1: 'models' has no value; write one, or remove the key"]),
        (
            "quantgate: 1\nmodels: {'a b': {variants: {'x/y': {source: v}}, gates: {checksum: {}}}}",
            [
                "2:10: the name 'a b' may hold letters, digits and . _ + - only",
                "2:29: the name 'x/y' may hold letters, digits and . _ + - only",
            ],
        ),
        ("quantgate: 1\nmodels: {'': {variants: {v: {source: v}}, gates: {checksum: {}}}}",
         ["2:10: the name '' may hold letters, digits and . _ + - only"]),
    ],
)  # fmt: skip
def test_problems_of_the_whole(tmp_path: Path, text: str, heads: list[str]) -> None:
    """What is wrong outside a model is told in one line that starts with its place."""
    assert _heads(tmp_path, text) == heads


@pytest.mark.parametrize(
    ("body", "heads"),
    [
        ("gates: {checksum: {}}", ["3:3: missing key 'variants' in model 'm'"]),
        ("variants: {v: {source: v}}", ["3:3: missing key 'gates' in model 'm'"]),
        (
            "variants: {}\ngates: {checksum: {}}",
            ["4:15: 'variants' is empty; give at least one"],
        ),
        (
            "variants: {v: {source: v}}\ngates: {}",
            [
                (
                    "5:12: 'gates' is empty; give at least one of accuracy, checksum, kld, latency,"
                    " lm_eval, memory, multiple_choice, nll_per_byte, perplexity, structured, symptoms"
                )
            ],
        ),
        (
            "variants: {v: {}}\ngates: {checksum: {}}",
            [
                (
                    "4:19: variant 'v' needs `source` (a model file) or `quantize` (how to make it from"
                    " the baseline)"
                )
            ],
        ),
        (
            "variants: {v: {sorce: x}}\ngates: {checksum: {}}",
            [
                (
                    "4:20: unknown key 'sorce' in variant 'v'; did you mean 'source'? Valid keys:"
                    " source, quantize, gates"
                )
            ],
        ),
        (
            "variants: {v: {source: ''}}\ngates: {checksum: {}}",
            ["4:28: 'source' is empty; give at least one character"],
        ),
        (
            "variants: {v: {source: }}\ngates: {checksum: {}}",
            ["4:20: 'source' of variant 'v' has no value; write one, or remove the key"],
        ),
        (
            "variants: {v: {quantize: Q8_0}}\ngates: {checksum: {}}",
            [
                (
                    "4:30: variant 'v' is made from the baseline, and model 'm' has no baseline with a"
                    " `source`; add one, or give the variant its own `source`"
                )
            ],
        ),
        (
            "variants: {v: {source: v, quantize: Q4_KM}}\ngates: {checksum: {}}",
            [
                "4:41: unknown quantization type 'Q4_KM'; did you mean 'Q4_K_M' or 'Q5_K_M'?",
            ],
        ),
        (
            "variants: {v: {source: v, quantize: {type: q8_0}}}\ngates: {checksum: {}}",
            ["4:48: unknown quantization type 'q8_0'; did you mean 'Q8_0' or 'Q5_0'?"],
        ),
        (
            "variants: {v: {source: v, quantize: IQ2_XXS}}\ngates: {checksum: {}}",
            [
                (
                    "4:41: quantization type 'IQ2_XXS' needs an importance matrix; add `imatrix` with"
                    " a file or a text to compute it from, such as `imatrix: builtin:python-docs`"
                )
            ],
        ),
        (
            "variants: {v: {source: v, quantize: {pure: true}}}\ngates: {checksum: {}}",
            ["4:41: 'quantize' of 'v' needs a `type`, such as Q4_K_M, or a `strategy`"],
        ),
        (
            "variants: {v: {source: v, quantize: {type: F16, pure: true, embedding: Q8_0}}}\n"
            "gates: {checksum: {}}",
            [
                "4:59: 'pure' has no effect on type F16, which is not quantized; remove it",
                "4:76: 'embedding' has no effect on type F16, which is not quantized; remove it",
            ],
        ),
        (
            "variants: {v: {source: v, quantize: {type: Q8_0, leave_output: true,"
            " output_tensor: Q6_K}}}\ngates: {checksum: {}}",
            [("4:68: 'leave_output' and 'output_tensor' say different things; keep one of them")],
        ),
        (
            "variants: {v: {source: v, quantize: {type: Q8_0, imatrix: {chunks: 3}}}}\n"
            "gates: {checksum: {}}",
            ["4:63: 'imatrix' needs either a `file`, or a `text` to compute it from"],
        ),
        (
            "variants: {v: {source: v, quantize: {type: Q8_0, imatrix: {file: i.gguf,"
            " chunks: 3}}}}\ngates: {checksum: {}}",
            ["4:86: 'chunks' is about a `text`, and the importance matrix is a `file`"],
        ),
        (
            "variants: {v: {source: v, quantize: {type: Q8_0, overrides: {'attn_(': Q6_K,"
            " ffn: Q6}}}}\ngates: {checksum: {}}",
            [
                (
                    "4:66: 'attn_(' is not a regular expression: missing ), unterminated subpattern"
                    " at position 5"
                ),
                "4:87: unknown tensor type 'Q6'; did you mean 'Q6_K'?",
            ],
        ),
        (
            "variants: {v: {source: v, quantize: {strategy: mixed}}}\ngates: {checksum: {}}",
            ["4:52: unknown strategy 'mixed'; known are mixed-precision"],
        ),
        (
            "variants: {v: {source: v, quantize: 8}}\ngates: {checksum: {}}",
            ["4:41: 'quantize' must be a mapping, not 8"],
        ),
        (
            "baseline: {}\nvariants: {v: {source: v}}\ngates: {checksum: {}}",
            [
                (
                    "4:15: the baseline needs `source` (a model file) or `metrics` (its figures as"
                    " numbers)"
                )
            ],
        ),
        (
            "baseline: {metrics: {}}\nvariants: {v: {source: v}}\ngates: {checksum: {}}",
            ["4:25: 'metrics' is empty; give at least one figure, or remove it"],
        ),
        (
            (
                "baseline: {metrics: {perplexity: 1, accuracy: 1.1, memory_mb: 0, latency: 3}}\n"
                "variants: {v: {source: v}}\ngates: {checksum: {}}"
            ),
            [
                "4:38: 'perplexity' must be greater than 1, not 1",
                "4:51: 'accuracy' must be at most 1, not 1.1",
                "4:67: 'memory_mb' must be greater than 0, not 0",
                (
                    "4:70: unknown key 'latency' in 'metrics' of 'baseline' of model 'm';"
                    " did you mean 'latency_ms'? Valid keys: perplexity, accuracy, latency_ms,"
                    " memory_mb"
                ),
            ],
        ),
        (
            (
                "baseline: {metrics: {perplexity: 9}, quantize: F16}\n"
                "variants: {v: {source: v}}\ngates: {checksum: {}}"
            ),
            ["4:52: `quantize` of the baseline needs a `source` to be made from"],
        ),
        (
            "variants: {v: {source: v}}\ngates: {perplexty: {max: 3}, zzz: {}}",
            [
                (
                    "5:13: unknown gate 'perplexty' in 'gates' of model 'm'; did you mean 'perplexity'?"
                    " Valid gates: accuracy, checksum, kld, latency, lm_eval, memory, multiple_choice,"
                    " nll_per_byte, perplexity, structured, symptoms"
                ),
                (
                    "5:34: unknown gate 'zzz' in 'gates' of model 'm'; valid gates: accuracy, checksum,"
                    " kld, latency, lm_eval, memory, multiple_choice, nll_per_byte, perplexity,"
                    " structured, symptoms"
                ),
            ],
        ),
        (
            "variants: {v: {source: v}}\ngates: {perplexity: {}, memory: {context: 64}}",
            [
                (
                    "5:25: gate 'perplexity' has no limit; give one of max, max_ratio, max_increase,"
                    " policy"
                ),
                "5:37: gate 'memory' has no limit; give one of max_mb, max_ratio",
            ],
        ),
        (
            "variants: {v: {source: v}}\ngates:\n  checksum:\n  memory:",
            [
                "6:7: gate 'checksum' has no settings; write `checksum: {}`",
                "7:7: gate 'memory' has no settings; give one of max_mb, max_ratio",
            ],
        ),
        (
            "variants: {v: {source: v}}\ngates: {memory: {max_mb: }, perplexity: [max]}",
            [
                "5:22: 'max_mb' of gate 'memory' has no value; write one, or remove the key",
                "5:45: 'perplexity' must be a mapping, not a list",
            ],
        ),
        (
            "variants: {v: {source: v}}\ngates: {accuracy: {min: -0.1}}",
            [
                "5:13: missing key 'cases' in gate 'accuracy'",
                "5:29: 'min' must be at least 0, not -0.1",
            ],
        ),
        (
            (
                "baseline: {source: b}\nvariants: {v: {source: v}}\n"
                "gates: {perplexity: {max_increase: 3}, accuracy: {cases: c, max_drop: 2%}}"
            ),
            [
                "6:40: 'max_increase' is 3; write it with its unit, such as \"3%\"",
                "6:75: 'max_drop' is the text '2%'; write it with its unit, such as \"2pp\"",
            ],
        ),
        (
            "variants: {v: {source: v}}\ngates: {checksum: {sha256: abc}}",
            ["5:32: 'sha256' must have the form ^[0-9a-fA-F]{64}$, not the text 'abc'"],
        ),
        (
            "variants: {v: {source: v}}\ngates: {perplexity: {max: true}, memory: {max_mb: 1e3}}",
            [
                "5:31: 'max' must be a number, not true",
                (
                    "5:55: 1e3 is a text in one version of YAML and a number in the other;"
                    " write 1.0e+3 or 1000"
                ),
            ],
        ),
        (
            "variants: {v: {source: v, gates: {memory: {}}}}\ngates: {checksum: {}}",
            ["4:47: gate 'memory' has no limit; give one of max_mb, max_ratio"],
        ),
    ],
)
def test_problems_of_a_model(tmp_path: Path, body: str, heads: list[str]) -> None:
    """Each mistake in a model is one line at its place, and brings no second one along."""
    assert _heads(tmp_path, _model(body)) == heads


@pytest.mark.parametrize(
    ("gate", "heads"),
    [
        (
            "perplexity: {max: 9, max_ratio: 1.1}",
            [
                (
                    "5:45: 'max_ratio' of gate 'perplexity' compares with a baseline, and model 'm' has"
                    " none for it; give the model a `baseline` with a `source` or with"
                    " `metrics: {perplexity: ...}`, or use a limit that stands alone (max)"
                )
            ],
        ),
        (
            "accuracy: {cases: c, max_drop: 2pp}",
            [
                (
                    "5:44: 'max_drop' of gate 'accuracy' compares with a baseline, and model 'm' has"
                    " none for it; give the model a `baseline` with a `source` or with"
                    " `metrics: {accuracy: ...}`, or use a limit that stands alone (min, slices)"
                )
            ],
        ),
    ],
)
def test_a_relative_limit_needs_a_baseline(tmp_path: Path, gate: str, heads: list[str]) -> None:
    """Without anything to compare with, the limit is refused where it is written."""
    body = f"variants: {{v: {{source: v}}}}\ngates: {{{gate}}}"
    assert _heads(tmp_path, _model(body)) == heads


@pytest.mark.parametrize("baseline", ["{source: b.gguf}", "{metrics: {perplexity: 12.5}}"])
def test_a_relative_limit_is_content_with_a_file_or_a_figure(tmp_path: Path, baseline: str) -> None:
    """A baseline to measure will do, and so will its figure of that metric."""
    body = f"""\
        baseline: {baseline}
        variants: {{v: {{source: v}}}}
        gates: {{perplexity: {{max_ratio: 1.1}}}}
        """
    assert load_spec(_write(tmp_path, _model(body))).spec.models["m"].gates.given()


def test_a_figure_of_another_metric_does_not_do(tmp_path: Path) -> None:
    """A perplexity says nothing about memory."""
    body = """\
        baseline: {metrics: {perplexity: 9}}
        variants: {v: {source: v}}
        gates: {memory: {max_ratio: 1.1}}
        """
    (head,) = _heads(tmp_path, _model(body))
    assert head.startswith("6:33: 'max_ratio' of gate 'memory' compares with a baseline")


@pytest.mark.parametrize(
    "mistake",
    ["basline: {source: b}", "baseline: {sorce: b}", "baseline:", "baseline: {source: yes}"],
)
def test_a_misspelled_baseline_is_told_once(tmp_path: Path, mistake: str) -> None:
    """What fails only because something else is misspelled is not told as well."""
    body = f"{mistake}\nvariants: {{v: {{quantize: Q8_0}}}}\ngates: {{memory: {{max_ratio: 1.1}}}}"
    assert len(_heads(tmp_path, _model(body))) == 1


@pytest.mark.parametrize("repeats", [58, 59, 60])
def test_a_percentile_needs_enough_requests(tmp_path: Path, repeats: int) -> None:
    """A 95th percentile can be bounded from 59 requests on, and the message says why."""
    body = f"""\
        variants: {{v: {{source: v}}}}
        gates: {{latency: {{max_p95_ms: 10, repeats: {repeats}}}}}
        """
    if repeats >= 59:
        load_spec(_write(tmp_path, _model(body)))
        return
    (head,) = _heads(tmp_path, _model(body))
    assert head.startswith("5:22: gate 'latency': max_p95_ms needs repeats of at least 59, not 58")
    assert "0.95^58" in head


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "hf:org/repo/file.gguf@main",
            (
                "'source' is 'hf:org/repo/file.gguf@main', and hf: names are not supported in this"
                " version; use a path or package:<import name>/<file>"
            ),
        ),
        (
            "https://example.org/x.gguf",
            (
                "'source' is 'https://example.org/x.gguf', and https: names are not supported in this"
                " version; use a path or package:<import name>/<file>"
            ),
        ),
        (
            "builtin:python-docs",
            "'source' names a file, and 'builtin:python-docs' is a built-in text",
        ),
        ("package:x", "'source' is 'package:x'; write package:<import name>/<file>"),
        ("package:1x/f", "'source' is 'package:1x/f'; write package:<import name>/<file>"),
        (
            "package:x/../f",
            "'source' points outside the package: 'package:x/../f'; name a file below its folder",
        ),
        (
            "~/x.gguf",
            "'source' is '~/x.gguf', and `~` is not expanded; write a path relative to this file",
        ),
    ],
)
def test_names_of_files_that_cannot_be_used(tmp_path: Path, name: str, message: str) -> None:
    """Every other way to name a model is refused in its own words."""
    text = _model(f"variants: {{v: {{source: '{name}'}}}}\ngates: {{checksum: {{}}}}")
    assert _heads(tmp_path, text) == [f"4:28: {message}"]


def test_only_one_text_is_built_in(tmp_path: Path) -> None:
    """A corpus may be the built-in one, and a misspelled one is told."""
    text = _model("variants: {v: {source: v}}\ngates: {perplexity: {max: 9, corpus: builtin:docs}}")
    assert _heads(tmp_path, text) == [
        "5:42: no built-in text 'builtin:docs'; the built-in text is 'builtin:python-docs'"
    ]


@pytest.mark.parametrize("name", ["a/../x", "./a:b", "sub/dir/x", "package:a.b/c/d.gguf", ".."])
def test_names_inside_the_project_are_taken(tmp_path: Path, name: str) -> None:
    """The root may be above the specification, and names may go up to it."""
    folder = tmp_path / "conf"
    folder.mkdir()
    path = _write(
        folder, _model(f"variants: {{v: {{source: '{name}'}}}}\ngates: {{checksum: {{}}}}")
    )
    parsed = load_spec(path, root=tmp_path)
    assert parsed.shown == os.path.join("conf", "gates.yaml")  # noqa: PTH118 - a text is compared
    assert parsed.spec.models["m"].variants["v"].source == name


@pytest.mark.parametrize("key", ["source", "sums", "cases", "corpus"])
def test_names_outside_the_project_are_refused(tmp_path: Path, key: str) -> None:
    """Neither `..` nor an absolute path leads out, whichever key it stands in."""
    folder = tmp_path / "conf"
    folder.mkdir()
    for name, target in (("../x", tmp_path / "x"), ("/etc/passwd", Path("/etc/passwd"))):
        values = {"source": "v", "sums": "s", "cases": "c", "corpus": "t"} | {key: name}
        text = _model(
            f"variants: {{v: {{source: {values['source']}}}}}\n"
            f"gates: {{checksum: {{sums: {values['sums']}}},"
            f" accuracy: {{cases: {values['cases']}, min: 0.5}},"
            f" perplexity: {{max: 9, corpus: {values['corpus']}}}}}"
        )
        (head,) = _heads(folder, text)
        assert head.split(": ", 1)[1] == (
            f"'{key}' points outside the project: '{name}' is {target}; use a file below {folder},"
            " or package:<import name>/<file>"
        )
        load_spec(folder / "gates.yaml", allow_outside=True)


def test_a_specification_outside_the_root_may_name_its_neighbours(tmp_path: Path) -> None:
    """The folder of the specification is always inside; its own path is shown as it was given."""
    folder, root = tmp_path / "elsewhere", tmp_path / "project"
    folder.mkdir()
    root.mkdir()
    path = _write(folder, _model("variants: {v: {source: v}}\ngates: {checksum: {}}"))
    assert load_spec(path, root=root).shown == str(path)
    path = _write(folder, _model("variants: {v: {source: ../v}}\ngates: {checksum: {}}"))
    with pytest.raises(SpecError, match="points outside the project"):
        load_spec(path, root=root)


def test_an_absolute_name_inside_the_project_is_taken(tmp_path: Path) -> None:
    """What counts is where a name leads."""
    text = _model(f"variants: {{v: {{source: {tmp_path}/v.gguf}}}}\ngates: {{checksum: {{}}}}")
    load_spec(_write(tmp_path, text))


def test_a_problem_behind_aliases_is_told_once(tmp_path: Path) -> None:
    """Shared settings are wrong in one place, however many models share them."""
    text = """\
        quantgate: 1
        models:
          a:
            variants: {v: {source: v}}
            gates: &shared {perplexity: {max: 0.5}}
          b:
            variants: {v: {source: v}}
            gates: *shared
        """
    assert _heads(tmp_path, textwrap.dedent(text)) == [
        "5:39: 'max' must be greater than 1, not 0.5"
    ]


def test_no_more_problems_are_told_than_anybody_reads(tmp_path: Path) -> None:
    """Beyond the greatest number there is one line that counts the rest."""
    for count in (MAX_PROBLEMS, MAX_PROBLEMS + 1):
        keys = "".join(f"k{number}: 1\n" for number in range(count))
        heads = _heads(tmp_path, _model(SOUND) + keys)
        assert len(heads) == count
    assert heads[-1] == " and 1 more problems"


def test_a_problem_is_shown_with_its_lines(tmp_path: Path) -> None:
    """The whole text of an error: place, sentence, excerpt, caret."""
    text = _model("variants: {v: {source: v}}\ngates:\n  perplexity: {max_ration: 1.1}")
    with pytest.raises(SpecError) as caught:
        load_spec(_write(tmp_path, text))
    assert str(caught.value) == (
        "gates.yaml:6:20: unknown key 'max_ration' in gate 'perplexity'; did you mean 'max_ratio'"
        " or 'max_time'? Valid keys: max, max_ratio, max_increase, policy, corpus, context, chunks,"
        " seed, max_chunks, max_time, on_inconclusive, pass_confidence, fail_confidence\n"
        "     5 |     gates:\n"
        "     6 |       perplexity: {max_ration: 1.1}\n"
        "       |                    ^"
    )
