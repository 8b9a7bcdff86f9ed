"""Baselines that a team commits: what a model predicted on a sample of a text, in two small files.

``<name>.json`` is for people and reviews: what was measured on what, by what, and the figures that came
of it. ``<name>.npz`` beside it has the arrays (`committed.arrays`), whose digest the first file holds.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pytest_quantgate import paired
from pytest_quantgate.artifact import files
from pytest_quantgate.committed import arrays as stored_arrays
from pytest_quantgate.committed.arrays import MOST_BYTES, Shape
from pytest_quantgate.committed.header import (
    EnginePart,
    Header,
    MachinePart,
    MetricsPart,
    ModelPart,
    NoisePart,
    SamplePart,
    TextPart,
)
from pytest_quantgate.errors import ArtifactError, MeasurementError
from pytest_quantgate.gates.perplexity import perplexity
from pytest_quantgate.records import Likelihood, NoiseFloor, Packed, TextFacts

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pytest_quantgate.committed.arrays import Arrays

TOP = 128
"""Most likely tokens that are kept for a position.

Measured with bench/top_tokens.py on SmolLM2-135M (a vocabulary of 49,152, F16 against Q4_K_M, two
texts): 32 windows with 16, 64, 128 or 256 of them take 0.4, 1.6, 3.2 or 6.0 MB and keep 66 to 74, 80 to
86, 85 to 90 or 89 to 93% of the mean divergence. This is the most that stays below 5 MB.
"""

TOP_CHUNKS = 32
"""Windows whose most likely tokens are kept; a whole number of blocks."""

RESTORE = "restore both files, or measure anew with --quantgate-update-baselines"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CommittedBaseline:
    """A committed baseline that was read and found sound; ``shown`` is how messages call it.

    Arrays are those of the module's documentation, without the most likely tokens, which only a probe
    reads; they lie in ``arrays_path``.
    """

    header: Header
    shown: str
    arrays_path: Path
    nll: NDArray[Any]
    chunk_nll: NDArray[Any]
    chunk_nll2: NDArray[Any]
    places: Mapping[int, int]

    @classmethod
    def of(cls, header: Header, arrays: Arrays, *, shown: str, path: Path) -> CommittedBaseline:
        """Put the parts together, which belong together."""
        return cls(
            header=header,
            shown=shown,
            arrays_path=path,
            nll=arrays["nll"],
            chunk_nll=arrays["chunk_nll"],
            chunk_nll2=arrays["chunk_nll2"],
            places={chunk: row for row, chunk in enumerate(arrays["chunks"].tolist())},
        )

    def facts(self) -> TextFacts:
        """Return how the baseline reads the text."""
        text = self.header.text
        return TextFacts(
            chunks=text.available_chunks,
            tokens=text.tokens,
            tokens_sha256=text.tokens_sha256,
            vocabulary=text.vocabulary,
        )

    def holds(self, chunks: Collection[int]) -> bool:
        """Tell whether it has all of these windows."""
        return all(chunk in self.places for chunk in chunks)

    def likelihood(self, chunks: Sequence[int]) -> Likelihood:
        """Return the likelihood of windows it holds, in the order asked for."""
        rows = [self.places[chunk] for chunk in chunks]
        text = self.header.text
        return Likelihood(
            chunks=tuple(chunks),
            chunk_nll=tuple(self.chunk_nll[rows].tolist()),
            chunk_nll2=tuple(self.chunk_nll2[rows].tolist()),
            token_nll=Packed.of(self.nll[rows], "<f4"),
            chunk_tokens=self.header.sample.scored_tokens,
            available_chunks=text.available_chunks,
            corpus_tokens=text.tokens,
            tokens_sha256=text.tokens_sha256,
            vocabulary=text.vocabulary,
            seconds=0.0,
        )

    def noise_floor(self) -> NoiseFloor | None:
        """Return the noise floor that was known when it was written."""
        noise = self.header.noise_floor
        if noise is None:
            return None
        return NoiseFloor(
            log_ratio=noise.log_ratio,
            kld=noise.kld,
            chunks=noise.chunks,
            settings=tuple(noise.settings),
        )

    def require(self, expected: Mapping[str, object]) -> None:
        """Refuse a baseline of something else.

        Args:
            expected: What holds now, by the place of the field in the header: ``text.sha256``.

        Raises:
            ArtifactError: naming every field that differs, with both values.
        """
        differing = [
            f"{field} is {there!r} there and {here!r} here"
            for field, here in expected.items()
            if (there := _field(self.header, field)) != here
        ]
        if differing:
            message = (
                f"{self.shown} was measured on something else: {', '.join(differing)}; restore what it"
                " was measured on, or measure anew with --quantgate-update-baselines"
            )
            raise ArtifactError(message)


def file_stem(*, model: str, text: str, context: int, chunks: int | None, seed: int) -> str:
    """Return the name of a baseline's files without their endings."""
    plain = text.removeprefix("builtin:").removesuffix(".txt")
    plain = re.sub(r"[^A-Za-z0-9._+]+", "-", plain).strip("-.")
    cut = "" if chunks is None else f"-first{chunks}"
    return f"{model}--{plain}-{context}{cut}-seed{seed}"


def read(path: Path, *, shown: str) -> CommittedBaseline | None:
    """Return the committed baseline whose header is at ``path``, None where there is no such file.

    Raises:
        ArtifactError: it cannot be read, is malformed, or its parts do not belong together.
    """
    if not path.exists():
        return None
    try:
        header = Header.model_validate_json(_bytes(path, shown=shown))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        message = f"{shown} is no committed baseline: {place}: {first['msg']}; {RESTORE}"
        raise ArtifactError(message) from error
    arrays_path = path.with_suffix(".npz")
    shown_arrays = shown.removesuffix(".json") + ".npz"
    data = _bytes(arrays_path, shown=shown_arrays)
    actual = hashlib.sha256(data).hexdigest()
    if actual != header.arrays_sha256:
        message = (
            f"{shown_arrays} does not belong to {shown}: its sha256 is {actual[:16]}..., the header says"
            f" {header.arrays_sha256[:16]}...; {RESTORE}"
        )
        raise ArtifactError(message)
    try:
        arrays = stored_arrays.unpack(data, _shape(header))
    except ValueError as error:
        message = f"{shown_arrays} is no baseline of {shown}: {error}; {RESTORE}"
        raise ArtifactError(message) from error
    found = CommittedBaseline.of(header, arrays, shown=shown, path=arrays_path)
    figures = _metrics(found.likelihood(sorted(found.places)))
    written = header.metrics
    if not all(
        # The last digits may be another machine's.
        math.isclose(here, there, rel_tol=1e-9)
        for here, there in (
            (figures.perplexity, written.perplexity),
            (figures.perplexity_error, written.perplexity_error),
        )
    ):
        message = (
            f"{shown} was changed after it was written: metrics.perplexity is {written.perplexity} ±"
            f" {written.perplexity_error} there and {figures.perplexity} ± {figures.perplexity_error}"
            f" by its arrays; {RESTORE}"
        )
        raise ArtifactError(message)
    return found


def write(
    path: Path,
    *,
    model: ModelPart,
    text: TextPart,
    seed: int,
    blocks: Sequence[Likelihood],
    noise_floor: NoiseFloor | None,
    engine: EnginePart,
    machine: MachinePart,
    made: str,
) -> bool:
    """Write a baseline of the windows of blocks, which follow the seed's order; tell whether it changed.

    Files that hold the same already are left as they are, so that a review sees no difference.

    Raises:
        MeasurementError: the blocks are not the start of the seed's order, or no likelihoods.
        ArtifactError: the files cannot be written.
    """
    arrays = stored_arrays.fold(blocks, vocabulary=text.vocabulary)
    data = stored_arrays.pack(arrays)
    top_chunks, scored, top = arrays["top_ids"].shape
    header = Header(
        model=model,
        text=text,
        sample=SamplePart(
            seed=seed,
            population=text.windows,
            chunks=len(arrays["chunks"]),
            scored_tokens=scored,
            top=top,
            top_chunks=top_chunks,
        ),
        metrics=_metrics(paired.merged(blocks)),
        noise_floor=None if noise_floor is None else _noise(noise_floor),
        engine=engine,
        machine=machine,
        arrays_sha256=hashlib.sha256(data).hexdigest(),
        made=made,
    )
    try:
        stored_arrays.require_sound(arrays, _shape(header))
    except ValueError as error:
        message = f"what was measured of {model.name} makes no baseline: {error}"
        raise MeasurementError(message) from error
    if _same(path, header):
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{path.parent}: cannot be made: {files.reason(error)}"
        raise ArtifactError(message) from error
    # The header last: it is what is looked for, and vouches for the other.
    files.write_atomically(path.with_suffix(".npz"), data)
    plain = json.dumps(header.model_dump(), indent=2, ensure_ascii=False, allow_nan=False)
    files.write_atomically(path, f"{plain}\n".encode())
    return True


def _field(header: Header, name: str) -> object:
    value: object = header
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _bytes(path: Path, *, shown: str) -> bytes:
    with files.open_regular(path) as stream:
        try:
            data = stream.read(MOST_BYTES + 1) or b""
        except OSError as error:
            message = f"{shown}: cannot be read: {error.strerror}"
            raise ArtifactError(message) from error
    if len(data) > MOST_BYTES:
        message = f"{shown} is longer than {MOST_BYTES} bytes, which no baseline is; {RESTORE}"
        raise ArtifactError(message)
    return data


def _same(path: Path, header: Header) -> bool:
    try:
        found = read(path, shown=str(path))
    except ArtifactError:
        return False
    return found is not None and found.header.model_copy(update={"made": header.made}) == header


def _noise(floor: NoiseFloor) -> NoisePart:
    return NoisePart(
        log_ratio=floor.log_ratio,
        kld=floor.kld,
        chunks=floor.chunks,
        settings=list(floor.settings),
    )


def _metrics(likelihood: Likelihood) -> MetricsPart:
    figures = perplexity(likelihood)
    return MetricsPart(perplexity=figures.value, perplexity_error=figures.error)


def _shape(header: Header) -> Shape:
    sample = header.sample
    return Shape(
        seed=sample.seed,
        population=sample.population,
        chunks=sample.chunks,
        tokens=sample.scored_tokens,
        top_chunks=sample.top_chunks,
        top=sample.top,
        vocabulary=header.text.vocabulary,
    )
