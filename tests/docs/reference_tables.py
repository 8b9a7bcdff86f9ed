"""The tables of docs/reference.md, made from the code they describe.

``python tests/docs/reference_tables.py`` writes them into the page, between its ``<!-- table: NAME -->``
and ``<!-- end -->`` comments; `test_docs` fails when the page differs from what this would write.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pytest_quantgate import cli, plugin
from pytest_quantgate.artifact.catalog import QUANTIZATION_TYPES
from pytest_quantgate.artifact.quantization.recipe import OVERRIDE_TYPES
from pytest_quantgate.gates import kinds
from pytest_quantgate.spec import json_schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"

SECTION = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

PARTS = ("Defaults", "Model", "Baseline", "Metrics", "Variant")
"""The mappings of a specification, by the names of their classes."""

BOUNDS = (
    ("exclusiveMinimum", "above"),
    ("minimum", "at least"),
    ("exclusiveMaximum", "below"),
    ("maximum", "at most"),
)
TYPES = {
    "boolean": "`true` or `false`",
    "number": "number",
    "integer": "whole number",
    "string": "text",
    "object": "mapping",
}
PATTERNS = {
    "%$": "percentage",
    "min|h": "duration",
    "pp$": "percentage points",
    "{64}": "64 hexadecimal digits",
}


def refreshed(page: str) -> str:
    """Return the page with every marked table as the code has it now."""
    made = tables()
    return SECTION.sub(lambda found: f"{found[1]}{made[found[2]]}{found[4]}", page)


def tables() -> dict[str, str]:
    """Return every table by its name."""
    schema = json_schema()
    definitions = schema["$defs"]
    found = {"spec": _keys(schema), "options": _options(), "fixtures": _fixtures()}
    found |= {"commands": _commands(), "types": _types()}
    found |= {name.lower(): _keys(definitions[name]) for name in PARTS}
    recipe = _mapping_of(definitions["Variant"], "quantize")
    found |= {"quantize": _keys(recipe), "imatrix": _keys(_mapping_of(recipe, "imatrix"))}
    found["slice"] = _keys(definitions["SliceLimits"])
    for name, kind in kinds().items():
        settings = definitions[kind.settings.__name__]
        found[f"gate-{name}"] = _keys(settings, limits=kind.settings.limit_names)
    return found


def _mapping_of(schema: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the mapping that a key may have instead of a name."""
    options: list[dict[str, Any]] = schema["properties"][key]["anyOf"]
    return next(option for option in options if "properties" in option)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *(list(row) for row in rows)]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    """Escape what would end a cell, or be taken for a tag outside of code."""
    text = text.replace("|", "\\|")
    return text if text.startswith("`") else text.replace("<", "\\<")


def _keys(schema: Mapping[str, Any], *, limits: Iterable[str] = ()) -> str:
    required = set(schema.get("required", ()))
    rows = []
    # What must be written and what limits first; the rest as the classes have it.
    first = {*required, *limits}
    properties = sorted(schema["properties"].items(), key=lambda item: item[0] not in first)
    for name, value in properties:
        default = "required" if name in required else _default(value)
        role = " (limit)" if name in limits else ""
        rows.append((f"`{name}`{role}", _value(value), default, value.get("description", "")))
    return _table(("key", "value", "default", "meaning"), rows)


def _default(value: Mapping[str, Any]) -> str:
    default = value.get("default")
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`" if default not in (None, [], {}) else ""


def _value(value: Mapping[str, Any]) -> str:
    named = (
        ("const" in value, f"`{value.get('const')}`"),
        (_alternatives(value) != "", _alternatives(value)),
        ("anyOf" in value, "name or mapping"),
        (value.get("$ref", "").endswith("QuantizationType"), "name of a type"),
        ("$ref" in value or value.get("type") == "object", "mapping"),
        (value.get("enum") == list(OVERRIDE_TYPES), "name of a tensor type"),
        *((end in value.get("pattern", ""), name) for end, name in PATTERNS.items()),
    )
    for fits, name in named:
        if fits:
            return name
    if value.get("type") == "array":
        return f"list of {_value(value['items'])}"
    if "enum" in value:
        return " or ".join(f"`{each}`" for each in value["enum"])
    text = TYPES[value["type"]]
    bounds = [f"{word} {value[key]:g}" for key, word in BOUNDS if key in value]
    return ", ".join([text, *bounds])


def _alternatives(value: Mapping[str, Any]) -> str:
    """Return the values of which one is to be written, where it is one of several plain ones."""
    options: list[Mapping[str, Any]] = value.get("anyOf", [])
    if not options or not all(
        {"const", "enum"} & each.keys() or each.get("type") == "boolean" for each in options
    ):
        return ""
    return " or ".join(_value(each) for each in options)


def _options() -> str:
    rows = [("`--quantgate SPEC`", "`quantgate_specs`", "A specification to gate; repeatable")]
    rows.append(("`--quantgate-case ID`", "", f"{plugin.CASE_HELP}; repeatable"))
    for option in plugin.OPTIONS:
        flag = option.flag if option.kind == "bool" else f"{option.flag} {option.metavar}"
        help_text = option.help
        if option.kind == "bool":
            help_text += f"; `{option.flag.replace('--', '--no-', 1)}` undoes it"
        if option.kind == "paths":
            help_text += "; repeatable"
        rows.append((f"`{flag}`", f"`{option.ini}`", help_text))
    return _table(("option", "ini key", "meaning"), rows)


def _fixtures() -> str:
    tree = ast.parse(inspect.getsource(plugin))
    rows = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and _is_fixture(node):
            lines = (ast.get_docstring(node) or "").partition("\n\n")[0]
            rows.append((f"`{node.name}`", " ".join(lines.split())))
    return _table(("fixture", "what it is"), rows)


def _is_fixture(node: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator) == "pytest.fixture" for decorator in node.decorator_list)


def _commands() -> str:
    group: Any = typer.main.get_command(cli.app)
    rows = []
    for name, command in group.commands.items():
        arguments = "".join(_argument(each) for each in command.params if each.name != "help")
        rows.append((f"`quantgate {name}{arguments}`", " ".join(command.help.split())))
    return _table(("command", "what it does"), rows)


def _argument(parameter: Any) -> str:  # noqa: ANN401 - the command line library's
    """Return a parameter as a synopsis has it."""
    name = parameter.metavar or parameter.name.upper()
    if parameter.param_type_name == "argument":
        return f" {name}"
    shown = parameter.opts[0] if parameter.is_flag else f"{parameter.opts[0]} {name}"
    return f" {shown}" if parameter.required else f" [{shown}]"


def _types() -> str:
    rows = [
        (
            f"`{name}`",
            f"{kind.bits_per_weight:g}",
            f"{kind.bits_8b:.2f}",
            "needed" if kind.needs_imatrix else "",
            kind.summary,
        )
        for name, kind in QUANTIZATION_TYPES.items()
    ]
    head = ("type", "bits of its base", "bits per weight of an 8B model", "importance matrix")
    return _table((*head, "what it is"), rows)


def main() -> None:
    """Write the tables into the page."""
    PAGE.write_text(refreshed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
