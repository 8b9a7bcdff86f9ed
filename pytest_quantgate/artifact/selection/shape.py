"""The shape of a model: all that its memory follows from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.gguf import Omitted
from pytest_quantgate.artifact.roles import Role, role_of
from pytest_quantgate.artifact.selection.mixes import GROUPED_HEADS
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_quantgate.artifact.gguf import GgufHeader, TensorInfo

_KEPT: frozenset[Role] = frozenset({"norm", "bias", "scale", "router"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Tensors of one role: ``elements`` of them together, in rows of ``row``.

    ``type`` is the tensor type they have where they lie in a file; None where they lie in none.
    ``columns`` is how many rows one tensor has. ``kept`` says that no quantization touches them.
    """

    role: Role
    row: int
    columns: int
    elements: int
    type: str | None = None
    kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A model as its memory sees it.

    ``kv_widths`` has for each layer the number of elements that one token leaves in the cache, keys
    and values together; ``feed_forward`` is the width of the widest layer's feed-forward;
    ``grouped`` tells that four or more query heads share a key head; ``tied`` that the output is the
    embedding. ``level`` is the type a file already has, ``metadata_bytes`` what it has beside tensors.
    ``source`` says where the shape is from.
    """

    name: str
    weights: tuple[Weights, ...]
    kv_widths: tuple[int, ...]
    embedding: int
    feed_forward: int
    vocabulary: int
    grouped: bool
    tied: bool
    source: str
    level: str | None = None
    quantized: bool = False
    metadata_bytes: int = 0
    context_train: int | None = None

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(each.elements for each in self.weights)

    @property
    def kv_width(self) -> int:
        """Elements one token leaves in the caches of all layers."""
        return sum(self.kv_widths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """The numbers of a decoder with gated feed-forward, from which its tensors follow.

    With ``experts``, each layer has that many feed-forwards of ``feed_forward`` each.
    """

    layers: int
    embedding: int
    heads: int
    kv_heads: int
    head_size: int
    feed_forward: int
    vocabulary: int
    tied: bool = False
    experts: int = 0
    context_train: int | None = None

    def shape(self, name: str, source: str) -> ModelShape:
        """Return the shape these numbers make."""
        width, inner = self.embedding, self.heads * self.head_size
        keys, count = self.kv_heads * self.head_size, max(1, self.experts)
        linear: tuple[tuple[Role, int, int, int], ...] = (
            ("attention_q", width, inner, 1),
            ("attention_k", width, keys, 1),
            ("attention_v", width, keys, 1),
            ("attention_output", inner, width, 1),
            ("expert_gate" if self.experts else "ffn_gate", width, self.feed_forward, count),
            ("expert_up" if self.experts else "ffn_up", width, self.feed_forward, count),
            ("expert_down" if self.experts else "ffn_down", self.feed_forward, width, count),
        )
        weights = [
            Weights(role=role, row=row, columns=rows, elements=self.layers * row * rows * times)
            for role, row, rows, times in linear
        ]
        table = self.vocabulary * width
        weights.append(
            Weights(role="embedding", row=width, columns=self.vocabulary, elements=table)
        )
        if not self.tied:
            weights.append(
                Weights(role="output", row=width, columns=self.vocabulary, elements=table)
            )
        if self.experts:
            router = self.layers * width * self.experts
            weights.append(
                Weights(
                    role="router",
                    row=width,
                    columns=self.experts,
                    elements=router,
                    type="F32",
                    kept=True,
                )
            )
        norms = (2 * self.layers + 1) * width
        weights.append(
            Weights(role="norm", row=width, columns=1, elements=norms, type="F32", kept=True)
        )
        return ModelShape(
            name=name,
            weights=tuple(weights),
            kv_widths=(2 * keys,) * self.layers,
            embedding=width,
            feed_forward=self.feed_forward,
            vocabulary=self.vocabulary,
            grouped=self.heads >= GROUPED_HEADS * self.kv_heads,
            tied=self.tied,
            source=source,
            context_train=self.context_train,
        )


def _published() -> tuple[tuple[str, Dimensions], ...]:
    rows = (
        # layers, embedding, heads, key heads, head size, feed-forward, vocabulary, tied
        ("SmolLM2-135M", 30, 576, 9, 3, 64, 1536, 49152, True),
        ("Qwen2.5-0.5B", 24, 896, 14, 2, 64, 4864, 151936, True),
        ("Llama-3.2-1B", 16, 2048, 32, 8, 64, 8192, 128256, True),
        ("Llama-3.2-3B", 28, 3072, 24, 8, 128, 8192, 128256, True),
        ("Mistral-7B", 32, 4096, 32, 8, 128, 14336, 32000, False),
        ("Qwen2.5-14B", 48, 5120, 40, 8, 128, 13824, 152064, False),
        ("Yi-34B", 60, 7168, 56, 8, 128, 20480, 64000, False),
        ("Llama-2-70B", 80, 8192, 64, 8, 128, 28672, 32000, False),
        ("Llama-3.1-405B", 126, 16384, 128, 8, 128, 53248, 128256, False),
    )
    return tuple(
        (
            name,
            Dimensions(
                layers=layers,
                embedding=embedding,
                heads=heads,
                kv_heads=kv_heads,
                head_size=head_size,
                feed_forward=feed_forward,
                vocabulary=vocabulary,
                tied=tied,
            ),
        )
        for (
            name,
            layers,
            embedding,
            heads,
            kv_heads,
            head_size,
            feed_forward,
            vocabulary,
            tied,
        ) in rows
    )


PUBLISHED: tuple[tuple[str, Dimensions], ...] = _published()
"""Shapes of published models with grouped query heads, by rising size, from their config.json."""


def shape_of_parameters(count: float) -> ModelShape:
    """Return the shape of a model of which only the number of weights is known.

    It is that of the published model nearest in size, its weights scaled to ``count``; layers, cache
    and vocabulary stay as they are. Models without grouped query heads need a larger cache.

    Raises:
        ArtifactError: for a count that is no model's.
    """
    if not 1e6 <= count <= 1e13:  # noqa: PLR2004 - a million to ten million million
        message = f"{count:g} parameters is no size of a model; 1e6 to 1e13 are accepted"
        raise ArtifactError(message)
    known = [(name, each.shape(name, "")) for name, each in PUBLISHED]
    name, near = min(known, key=lambda each: abs(math.log(each[1].parameters / count)))
    factor = count / near.parameters
    weights = tuple(replace(each, elements=round(each.elements * factor)) for each in near.weights)
    return replace(
        near,
        name=f"a {count / 1e9:g}B model",
        weights=weights,
        source=f"the number of parameters, with layers and cache of {name}",
    )


def shape_of_headers(headers: Sequence[GgufHeader]) -> ModelShape:
    """Return the shape of a GGUF model from the headers of all its parts, one for a whole file.

    Raises:
        ArtifactError: when the header does not tell what is needed.
    """
    header = replace(headers[0], tensors=tuple(each for part in headers for each in part.tensors))
    layers = _number(header, "block_count")
    embedding = _number(header, "embedding_length")
    vocabulary = _vocabulary(header)
    weights = tuple(_weights(tensor) for tensor in header.tensors)
    heads = _largest(header, "attention.head_count")
    kv_heads = _largest(header, "attention.head_count_kv", default=heads)
    ffn = max(
        (_width(each) for each in header.tensors if role_of(each.name).role == "ffn_up"),
        default=_largest(header, "feed_forward_length", default=4 * embedding),
    )
    context = header.metadata.get(f"{header.architecture}.context_length")
    return ModelShape(
        name=header.path.name,
        weights=weights,
        kv_widths=_kv_widths(header, layers),
        embedding=embedding,
        feed_forward=ffn,
        vocabulary=vocabulary,
        grouped=heads >= GROUPED_HEADS * max(1, kv_heads),
        tied=not any(each.role == "output" for each in weights),
        source="the file's header",
        level=header.file_type,
        quantized=header.quantized,
        metadata_bytes=sum(part.data_offset for part in headers),
        context_train=context if isinstance(context, int) else None,
    )


def _weights(tensor: TensorInfo) -> Weights:
    role = role_of(tensor.name).role
    kept = len(tensor.shape) < 2 or role in _KEPT  # noqa: PLR2004 - vectors are never quantized
    return Weights(
        role=role,
        row=tensor.shape[0] if tensor.shape else 1,
        columns=tensor.shape[1] if len(tensor.shape) > 1 else 1,
        elements=tensor.elements,
        type=tensor.type_name,
        kept=kept,
    )


def _width(tensor: TensorInfo) -> int:
    return tensor.shape[1] if len(tensor.shape) > 1 else tensor.shape[0]


def _kv_widths(header: GgufHeader, layers: int) -> tuple[int, ...]:
    """Return the cache's width in each layer: what its key and value projections give."""
    widths = [0] * layers
    for tensor in header.tensors:
        place = role_of(tensor.name)
        own = place.layer is not None and place.layer < layers and len(tensor.shape) > 1
        if own and place.role in ("attention_k", "attention_v"):
            widths[place.layer or 0] += _width(tensor)
    if any(widths):
        return tuple(widths)
    heads = _largest(header, "attention.head_count")
    kv_heads = _largest(header, "attention.head_count_kv", default=heads)
    size = _number(header, "embedding_length") // max(1, heads)
    key = _largest(header, "attention.key_length", default=size)
    value = _largest(header, "attention.value_length", default=size)
    return (kv_heads * (key + value),) * layers


def _vocabulary(header: GgufHeader) -> int:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, Omitted):
        return tokens.count
    if isinstance(tokens, tuple):
        return len(tokens)
    for tensor in header.tensors:
        if tensor.name == "token_embd.weight":
            return _width(tensor)
    message = f"{header.path}: has neither a vocabulary nor token embeddings; name a language model"
    raise ArtifactError(message)


def _number(header: GgufHeader, key: str) -> int:
    value = header.metadata.get(f"{header.architecture}.{key}")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        message = (
            f"{header.path}: {header.architecture or 'its'}.{key} is {value!r}, so its memory cannot"
            " be estimated; name a language model with complete metadata"
        )
        raise ArtifactError(message)
    return value


def _largest(header: GgufHeader, key: str, *, default: int | None = None) -> int:
    """Return a number, or the largest of a list that has one for each layer."""
    value = header.metadata.get(f"{header.architecture}.{key}")
    if isinstance(value, tuple):
        value = max((each for each in value if isinstance(each, int)), default=None)
    if (value is None or isinstance(value, Omitted)) and default is not None:
        return default
    if not isinstance(value, int) or value < 1:
        return _number(header, key)
    return value
