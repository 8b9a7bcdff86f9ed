"""The header of a committed baseline: what was measured on what, by what, with which figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from typing_extensions import Self

MOST_CHUNKS = 100_000_000
"""Most windows a text may have; a header that says more would keep this process at counting them."""


class _Part(BaseModel):
    """Base of every part of a header: frozen, strict, no unknown keys, no infinite numbers."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class ModelPart(_Part):
    """The baseline: what the specification calls it, and the file it was."""

    name: str
    source: str | None
    quantize: str | None
    sha256: str
    file_type: str


class TextPart(_Part):
    """The text, how it was cut, and how the model's tokenizer reads it; ``chunks`` cut it short."""

    name: str
    sha256: str
    context: int = Field(ge=4)
    chunks: int | None = Field(ge=1)
    available_chunks: int = Field(ge=1, le=MOST_CHUNKS)
    tokens: int = Field(ge=1)
    tokens_sha256: str
    vocabulary: int = Field(ge=2)

    @property
    def windows(self) -> int:
        """How many windows count: those of the text, or its first ``chunks``."""
        return min(self.available_chunks, self.chunks or self.available_chunks)


class SamplePart(_Part):
    """The windows that were measured: the first ``chunks`` of the seed's order."""

    seed: int = Field(ge=0)
    population: int = Field(ge=1)
    chunks: int = Field(ge=1)
    scored_tokens: int = Field(ge=1)
    top: int = Field(ge=0)
    top_chunks: int = Field(ge=0)


class EnginePart(_Part):
    """What computed it, as far as a difference is refused."""

    version: str
    batch: int
    ubatch: int
    flash_attention: str
    gpu_layers: int
    repack: bool


class MachinePart(_Part):
    """Where it was computed, which is said where it differs and refuses nothing."""

    description: str
    arithmetic: str
    build: str
    threads: int


class MetricsPart(_Part):
    """The figures of the sample, for people; checked against the arrays."""

    perplexity: float
    perplexity_error: float


class NoisePart(_Part):
    """How far the baseline is from itself, as `NoiseFloor` has it."""

    log_ratio: float
    kld: float
    chunks: int
    settings: list[str]


class Header(_Part):
    """The first file of a committed baseline."""

    quantgate_baseline: Literal[1] = 1
    model: ModelPart
    text: TextPart
    sample: SamplePart
    metrics: MetricsPart
    noise_floor: NoisePart | None
    engine: EnginePart
    machine: MachinePart
    arrays_sha256: str
    made: str

    @model_validator(mode="after")
    def _population_of_the_text(self) -> Self:
        population = self.text.windows
        if self.sample.population != population:
            message = (
                f"sample.population is {self.sample.population}, and the text has {population} windows"
                " that count"
            )
            raise ValueError(message)
        return self
