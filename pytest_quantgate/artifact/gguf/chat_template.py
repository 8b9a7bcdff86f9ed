"""The chat templates of a model, looked through for what a template has no business with.

A chat template is a program in the language of Jinja that comes with the weights and that many
loaders compile and run: with `llama-cpp-python` before 0.2.72 that was enough to run any command
(CVE-2024-34359). Loaders have sandboxes since. Here a template is parsed and never run: what is looked
at is its syntax tree, and what reaches beyond texts, numbers, lists and mappings is a finding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.gguf.format import Omitted
from pytest_quantgate.errors import SecurityError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jinja2 import nodes

    from pytest_quantgate.artifact.gguf import GgufHeader

MAX_TEMPLATE_BYTES = 1 << 20
"""Longer ones are refused; those of published models have a tenth of this at most."""

_KEY = re.compile(r"tokenizer\.chat_template(\..*)?", re.DOTALL)
_SHOWN_FINDINGS = 3
_SHOWN_CHARACTERS = 60

_FUNCTIONS = frozenset({"range", "namespace", "dict", "raise_exception", "strftime_now"})
"""Functions that the loaders of chat templates offer."""

_METHODS = frozenset(
    {
        *("capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha"),
        *("isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "ljust"),
        *("lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind"),
        *("rindex", "rjust", "rpartition", "rsplit", "rstrip", "split", "splitlines"),
        *("startswith", "strip", "swapcase", "title", "upper", "zfill"),
        *("append", "copy", "extend", "get", "insert", "items", "keys", "pop", "update", "values"),
        *("cycle", "changed"),  # of `loop`
    }
)
"""Methods of texts, lists, mappings and loops that lead to more of these."""

_BY_ATTRIBUTE: Mapping[str, int] = {
    **dict.fromkeys(("groupby", "rejectattr", "selectattr", "sum"), 0),
    **dict.fromkeys(("join", "max", "min", "unique"), 1),
    "sort": 2,
}
"""Filters that look attributes up by a name that is a value, and where in their arguments it stands."""

_INTERNALS = re.compile(
    r"_.*|mro|(?:func|im|gi|cr|ag|tb|f|co)_(?:globals|code|closure|defaults|frame|self|func|builtins"
    r"|locals|back|consts|names|next|lasti|await|yieldfrom)",
    re.DOTALL,
)
"""Attributes of Python objects that lead out of a template; an underscore marks what is private."""

_HIDDEN = re.compile(
    r"(?<![A-Za-z0-9])__(?:class|bases?|mro|subclasses|globals|builtins|import|init|dict|getattribute|getattr|code"
    r"|closure|func|self|module|loader|spec|reduce|reduce_ex|call|new|del|wrapped|traceback)(?:__)?"
)
"""Such names inside a text, from where they reach an attribute by some detour."""

_SPELLING = frozenset({"format", "join", "replace", "reverse"})
"""Filters and methods that make a name out of pieces in which nobody would find it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateScan:
    """What the chat templates of a model are called, and what is suspicious about them.

    Each of ``findings`` is a sentence that begins with the template's key and line.
    """

    names: tuple[str, ...]
    findings: tuple[str, ...]

    @property
    def present(self) -> bool:
        """Whether the model has any chat template."""
        return bool(self.names)

    @property
    def suspicious(self) -> bool:
        """Whether there is any finding."""
        return bool(self.findings)


def scan(header: GgufHeader) -> TemplateScan:
    """Look through every chat template in a header (``tokenizer.chat_template`` and its variants)."""
    names = [key for key in header.metadata if _KEY.fullmatch(key)]
    findings: list[str] = []
    for name in names:
        value = header.metadata[name]
        if isinstance(value, str):
            findings += (f"{name}{finding}" for finding in scan_text(value))
        elif isinstance(value, Omitted) and value.type_name == "string":
            findings.append(
                f"{name} is {value.count:,} bytes long, too long to be looked through; "
                f"{MAX_TEMPLATE_BYTES:,} are accepted"
            )
        else:
            findings.append(f"{name} is no text")
    return TemplateScan(names=tuple(names), findings=tuple(findings))


def require_harmless(header: GgufHeader) -> None:
    """Refuse a model with a suspicious chat template.

    Raises:
        SecurityError: with the first findings.
    """
    found = scan(header).findings
    if not found:
        return
    shown = "; ".join(found[:_SHOWN_FINDINGS])
    more = f"; and {len(found) - _SHOWN_FINDINGS} more" if found[_SHOWN_FINDINGS:] else ""
    message = (
        f"{header.path}: its chat template is suspicious: {shown}{more}. A program that runs it "
        "might run more than a template; use the file of a publisher you trust"
    )
    raise SecurityError(message)


def scan_text(template: str) -> tuple[str, ...]:
    """Return what is suspicious about one template; each finding begins with its line.

    What cannot be parsed is a finding, too: nobody can say what another parser makes of it.
    """
    if len(template.encode(errors="replace")) > MAX_TEMPLATE_BYTES:
        return (f": is longer than {MAX_TEMPLATE_BYTES:,} bytes",)
    # Half of the time of a scan; models without a template do without.
    import jinja2  # noqa: PLC0415 - see above

    from pytest_quantgate.artifact.gguf.chat_syntax import environment  # noqa: PLC0415 - see above

    try:
        tree = environment().parse(template)
        return tuple(dict.fromkeys(_Look(tree).findings()))
    except jinja2.TemplateSyntaxError as error:
        return (f", line {error.lineno}: cannot be parsed: {error.message}",)
    except RecursionError:
        return (": is nested too deeply to be looked through",)
    except (ValueError, OverflowError) as error:
        return (f": cannot be parsed: {error}",)


class _Look:
    """One walk over a syntax tree."""

    def __init__(self, tree: nodes.Template) -> None:
        from jinja2 import nodes  # noqa: PLC0415 - only for models with a template

        self._nodes = nodes
        self._tree = tree
        self._macros = {macro.name for macro in tree.find_all(nodes.Macro)} | {"caller", "loop"}
        self._rules: dict[type[nodes.Node], Callable[..., Iterator[str]]] = {
            nodes.Getattr: self._getattr,
            nodes.Getitem: self._getitem,
            nodes.Filter: self._filter,
            nodes.Call: self._call,
            nodes.Mod: self._modulo,
            nodes.NSRef: self._getattr,
            nodes.Const: self._const,
            nodes.Name: self._name,
            nodes.Include: self._other_template,
            nodes.Import: self._other_template,
            nodes.FromImport: self._other_template,
            nodes.Extends: self._other_template,
        }

    def findings(self) -> Iterator[str]:
        """Yield what is found, in the order of the template."""
        # Not recursively: a deep tree is nothing to fall over.
        waiting: list[nodes.Node] = [self._tree]
        while waiting:
            node = waiting.pop()
            rule = self._rules.get(type(node))
            if rule is not None:
                yield from (f", line {node.lineno}: {what}" for what in rule(node))
            waiting.extend(reversed(list(node.iter_child_nodes())))

    def _getattr(self, node: nodes.Getattr | nodes.NSRef) -> Iterator[str]:
        if _INTERNALS.fullmatch(node.attr):
            yield f"reaches for the attribute {_shown(node.attr)}"

    def _getitem(self, node: nodes.Getitem) -> Iterator[str]:
        # What is no item is an attribute: x["y"] can be x.y.
        yield from self._looked_up(node.arg, "the item")

    def _looked_up(self, key: nodes.Expr, what: str) -> Iterator[str]:
        """Judge a name under which something is looked up: known, or put together."""
        texts = [
            each.value
            for each in (key, *key.find_all(self._nodes.Const))
            if isinstance(each, self._nodes.Const) and isinstance(each.value, str)
        ]
        if isinstance(key, self._nodes.Const):
            if texts and any(_INTERNALS.fullmatch(part) for part in texts[0].split(".")):
                yield f"reaches for {what} {_shown(texts[0])}"
        elif any(text.startswith("_") or text.endswith("__") for text in texts) or (
            texts and self._spells(key)
        ):
            yield f"puts the name of {what} together from {_shown(''.join(texts))}"

    def _spells(self, key: nodes.Expr) -> bool:
        n = self._nodes
        return any(
            isinstance(node, n.Mod)
            or (isinstance(node, n.Filter) and node.name in _SPELLING)
            or (isinstance(node, n.Getattr) and node.attr in _SPELLING)
            for node in (key, *key.find_all((n.Mod, n.Filter, n.Getattr)))
        )

    def _filter(self, node: nodes.Filter) -> Iterator[str]:
        if node.name == "attr":
            yield "uses the filter attr, which looks attributes up by a text"
        elif node.name == "format" and self._by_number(node.node):
            yield "makes letters out of numbers"
        elif node.name == "map" and node.args:
            yield from self._mapped(node.args[0])
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            yield f"hides what it gives to the filter {node.name}"
        # The tree has keywords there, whatever its annotations say.
        attribute = next((each.value for each in node.kwargs if str(each.key) == "attribute"), None)
        place = _BY_ATTRIBUTE.get(node.name, len(node.args))
        if attribute is None and place < len(node.args):
            attribute = node.args[place]
        if isinstance(attribute, self._nodes.Const):
            yield from self._looked_up(attribute, "the attribute")
        elif attribute is not None:
            yield f"looks an attribute up with the filter {node.name}, by a name it works out"

    def _modulo(self, node: nodes.Mod) -> Iterator[str]:
        if self._by_number(node.left):
            yield "makes letters out of numbers"

    def _by_number(self, text: nodes.Expr | None) -> bool:
        """Tell whether "%c" is what a text is filled in with."""
        return (
            isinstance(text, self._nodes.Const)
            and isinstance(text.value, str)
            and re.search(r"%(\(.*?\))?[-#0 +\d.*]*c", text.value) is not None
        )

    def _mapped(self, name: nodes.Expr) -> Iterator[str]:
        if not isinstance(name, self._nodes.Const):
            yield "uses a filter by a name it works out"
        elif name.value in {"attr", "format", "map"}:
            yield f"uses the filter {name.value} through map"

    def _call(self, node: nodes.Call) -> Iterator[str]:
        target = node.node
        if isinstance(target, self._nodes.Name):
            if target.name not in _FUNCTIONS | self._macros:
                yield f"calls the unknown function {_shown(target.name)}"
        elif isinstance(target, self._nodes.Getattr):
            yield from self._method(target)
        else:
            yield "calls something that has no name"

    def _method(self, target: nodes.Getattr) -> Iterator[str]:
        if target.attr in {"format", "format_map"}:
            text = target.node.value if isinstance(target.node, self._nodes.Const) else None
            # "{0.x}" reads attributes.
            if not isinstance(text, str) or re.search(r"\{[^{}]*[.\[]", text):
                yield f"fills a text with the method {target.attr}, which can read attributes"
        elif target.attr not in _METHODS:
            yield f"calls the unknown method {_shown(target.attr)}"

    def _const(self, node: nodes.Const) -> Iterator[str]:
        # Backwards, too: a filter turns it round.
        if isinstance(node.value, str) and any(map(_HIDDEN.search, (node.value, node.value[::-1]))):
            yield f"has the text {_shown(node.value)}, a name of Python's internals"

    def _name(self, node: nodes.Name) -> Iterator[str]:
        if node.name.startswith("__") or node.name in {"self", "lipsum", "cycler", "joiner"}:
            yield f"uses {_shown(node.name)}, an object with ways out of the template"

    def _other_template(self, node: nodes.Node) -> Iterator[str]:
        yield f"loads another template ({type(node).__name__.lower()})"


def _shown(text: str) -> str:
    cut = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
    return repr(cut)
