"""Domains of texts, told by their words."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from pytest_quantgate.artifact.corpus import corpus_text
from pytest_quantgate.artifact.imatrix import domain
from pytest_quantgate.artifact.imatrix.domain import (
    FEWEST_WORDS,
    THRESHOLD,
    domain_difference,
    domain_warning,
)
from pytest_quantgate.errors import ArtifactError

DOCS = corpus_text("builtin:python-docs")
HALF = len(DOCS) // 2


def code() -> str:
    """Return Python source: the package's own."""
    folder = Path(domain.__file__).parents[1]
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*/*.py")))


def test_halves_of_a_text_are_of_one_domain() -> None:
    """The two halves of a text differ no more than its parts do."""
    found = domain_difference(DOCS[:HALF], DOCS[HALF:])

    assert 0.9 < found.ratio < THRESHOLD
    assert not found.differs
    assert domain_warning(DOCS[:HALF], DOCS[HALF:], text_name="a", corpus_name="b") is None


def test_prose_and_code_are_of_different_domains() -> None:
    """Documentation of a language and programs in it differ; the words of each are named."""
    found = domain_difference(DOCS, code())

    assert found.differs
    assert found.ratio > THRESHOLD
    assert "self" in found.more_in_second
    warning = domain_warning(DOCS, code(), text_name="docs.txt", corpus_name="code.txt")
    assert warning is not None
    assert warning.startswith(
        f"docs.txt is of another domain than code.txt: their words are {found.ratio:.2f} times as far "
        "apart as those within each of them (1.3 or more is another domain); docs.txt has more of '"
    )
    assert warning.endswith("calibrate with text like the one that is judged")


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1 << 30), words=st.integers(2, 60))
def test_distances_are_those_of_scipy(seed: int, words: int) -> None:
    """The divergence is the square of scipy's distance, for every pair of parts."""
    generator = np.random.default_rng(seed)
    texts = [[f"w{word}" for word in generator.integers(0, words, FEWEST_WORDS)] for _ in range(2)]

    found = domain_difference(*(" ".join(text) for text in texts))

    size = FEWEST_WORDS // 4
    shares = [
        [
            [text[start : start + size].count(f"w{word}") for word in range(words)]
            for start in range(0, FEWEST_WORDS, size)
        ]
        for text in texts
    ]
    between = [
        jensenshannon(one, other, base=2) ** 2
        for one, other in itertools.product(shares[0], shares[1])
    ]
    within = [
        jensenshannon(one, other, base=2) ** 2
        for side in shares
        for one, other in itertools.combinations(side, 2)
    ]
    assert found.between == pytest.approx(float(np.mean(between)), abs=1e-9)
    assert found.within == pytest.approx(float(np.mean(within)), abs=1e-9)
    assert found.words == FEWEST_WORDS


DATA = os.environ.get("QUANTGATE_TEST_DATA")


@pytest.mark.skipif(DATA is None, reason="QUANTGATE_TEST_DATA names no folder with texts")
def test_texts_of_the_world_are_told_apart() -> None:
    """Encyclopedia, stories and code differ from each other; the stories of two sources do not."""
    folder = Path(DATA or "")
    texts = {
        name: (folder / path).read_text(encoding="utf-8")
        for name, path in {
            "encyclopedia": "text/wiki.test.raw",
            "stories": "text/tinystories-sample.ascii.txt",
            "other stories": "calib/exl2-tiny.utf8",
            "code": "calib/exl2-code.utf8",
        }.items()
    }

    differ = {
        frozenset(pair): domain_difference(texts[pair[0]], texts[pair[1]]).differs
        for pair in itertools.combinations(texts, 2)
    }

    assert [{"stories", "other stories"}] == [pair for pair, found in differ.items() if not found]
    for text in texts.values():
        assert not domain_difference(text[: len(text) // 2], text[len(text) // 2 :]).differs


def test_the_fewest_words() -> None:
    """2,000 words can be compared, one less cannot."""
    enough, short = "a b " * (FEWEST_WORDS // 2), "a b " * (FEWEST_WORDS // 2 - 1) + "a"

    assert domain_difference(enough, DOCS).words == FEWEST_WORDS
    with pytest.raises(
        ArtifactError, match=r"1,999 and .* words cannot be compared: each needs 2,000"
    ):
        domain_difference(short, DOCS)


def test_texts_without_variety() -> None:
    """Equal texts of one word are of one domain; different ones are infinitely far apart."""
    one, other = ("word " * FEWEST_WORDS, "other " * FEWEST_WORDS)

    assert (domain_difference(one, one).ratio, domain_difference(one, other).ratio) == (1, math.inf)
    assert domain_difference(one, other).differs


def test_the_limit_belongs_to_the_other_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ratio of exactly the threshold is another domain, one below is not."""
    found = domain_difference(DOCS, code())

    monkeypatch.setattr(domain, "THRESHOLD", found.ratio)
    assert found.differs
    monkeypatch.setattr(domain, "THRESHOLD", math.nextafter(found.ratio, math.inf))
    assert not found.differs
