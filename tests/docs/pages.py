"""The pages of the documentation, cut into what can be checked."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

PAGES = tuple(
    sorted(
        [
            *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
            *(ROOT / "docs").rglob("*.md"),
        ]
    )
)

_FENCE = re.compile(r"^```(\w+)(?: ([^\n]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)|src=\"([^\"]+)\"")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_CODE = re.compile(r"`[^`\n]*`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block: its language, the name behind it, and its text."""

    page: Path
    line: int
    language: str
    name: str
    text: str

    def __str__(self) -> str:
        """Return the place of the block, which names its test."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Return the commands: lines behind ``$`` of a console block, all lines of a script."""
        text = self.text.replace("\\\n", " ")
        if self.language == "console":
            return [line[2:] for line in text.splitlines() if line.startswith("$ ")]
        lines = (line.partition("  #")[0].strip() for line in text.splitlines())
        return [part.strip() for line in lines if line for part in line.split("&&")]


def blocks(*languages: str) -> list[Block]:
    """Return the blocks of these languages, on all pages."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            block = Block(
                page=page,
                line=text.count("\n", 0, match.start()) + 1,
                language=match[1],
                name=match[2] or "",
                text=match[3],
            )
            if block.language in languages:
                found.append(block)
    return found


def named(page: str, name: str) -> list[str]:
    """Return the texts of a page's blocks of that name."""
    found = blocks("yaml", "python", "json", "toml", "text")
    return [each.text for each in found if each.page == ROOT / page and each.name == name]


def links(page: Path) -> list[str]:
    """Return where a page's links and pictures lead, without those to other sites."""
    prose = _CODE.sub("", _FENCE.sub("", page.read_text(encoding="utf-8")))
    targets = [inline or source for inline, source in _LINK.findall(prose)]
    return [target for target in targets if "://" not in target]


def anchors(page: Path) -> set[str]:
    """Return the anchors that headings of a page get on GitHub."""
    headings = _HEADING.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def sentences(package: Path) -> list[str]:
    """Return every text the package may print, with ``...`` for what is filled in."""
    found = []
    for module in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(_shown(part) for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def _shown(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "..."


def quoted_messages(page: Path) -> list[str]:
    """Return the messages in the first column of a page's tables."""
    rows = re.findall(r"^\| (`[^|]*) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
