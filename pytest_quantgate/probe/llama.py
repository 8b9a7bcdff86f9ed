"""llama.cpp through the low-level API of llama-cpp-python.

The high-level `Llama` class is avoided: it copies every row of logits, knows one sequence, switches
flash attention off and runs the model's chat template on loading.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as native

from pytest_quantgate.artifact.engine import set_parameters
from pytest_quantgate.errors import ProbeOutOfMemory, ProbeRefused
from pytest_quantgate.probe.grammar import LlamaGrammar
from pytest_quantgate.probe.native_log import NativeLog
from pytest_quantgate.records import ModelFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pytest_quantgate.probe.backend import Batch, ContextShape
    from pytest_quantgate.records import EngineSettings, Message

_NO_MEMORY = re.compile(
    r"failed to allocate|unable to allocate|cannot allocate|out of memory|bad_alloc", re.IGNORECASE
)
_FLASH_ATTENTION = {
    "auto": native.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": native.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": native.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}


@functools.cache
def native_log() -> NativeLog:
    """Return the log of this process, taking it over on the first call."""
    return NativeLog(native)


def _failure(what: str, log: NativeLog) -> ProbeRefused | ProbeOutOfMemory:
    reason = log.reason()
    kind = ProbeOutOfMemory if _NO_MEMORY.search(" ".join(log.lines())) else ProbeRefused
    return kind(f"{what}: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    model: Any
    vocab: Any
    settings: EngineSettings
    facts: ModelFacts
    path: Path


class LlamaBackend:
    """One GGUF model under llama.cpp."""

    engine = "llama.cpp"

    def __init__(self) -> None:
        """Take over the engine's log; nothing is loaded yet."""
        self._log = native_log()
        native.llama_backend_init()
        self.engine_version = (
            f"{native.llama_version().decode()} (llama-cpp-python {llama_cpp.__version__})"
        )
        self._now: _Loaded | None = None

    def load(self, path: Path, settings: EngineSettings) -> ModelFacts:
        """Load a GGUF file."""
        _check_file(path)
        self._log.forget()
        parameters = native.llama_model_default_params()
        set_parameters(
            parameters,
            n_gpu_layers=settings.gpu_layers,
            use_extra_bufts=settings.repack,
        )
        model = native.llama_model_load_from_file(os.fsencode(path), parameters)
        if not model:
            what = f"{path.name} cannot be loaded"
            raise _failure(what, self._log)
        vocab = native.llama_model_get_vocab(model)
        size = native.llama_vocab_n_tokens(vocab) if vocab else 0
        lacks = (
            (native.llama_vocab_type(vocab) == native.LLAMA_VOCAB_TYPE_NONE, "has no vocabulary")
            if vocab and size > 0
            else (True, "has no vocabulary"),
            (
                not native.llama_model_has_decoder(model),
                "has no decoder and cannot continue a text",
            ),
            (bool(native.llama_model_has_encoder(model)), "is an encoder-decoder model"),
            (bool(native.llama_model_is_diffusion(model)), "is a diffusion model"),
        )
        for lacking, what in lacks:
            if lacking:
                message = f"{path.name} {what}; only decoder-only language models can be measured"
                raise ProbeRefused(message)
        return self.adopt(model, path, settings)

    def adopt(self, model: Any, path: Path, settings: EngineSettings) -> ModelFacts:  # noqa: ANN401
        """Work with a model that this process has loaded, by whatever means, and keeps alive.

        Args:
            model: pointer to the engine's model, such as `llama_cpp.Llama.model`.
            path: its file, for messages.
            settings: how contexts on it compute.
        """
        vocab = native.llama_model_get_vocab(model)
        facts = _facts(model, vocab, self)
        self._now = _Loaded(model=model, vocab=vocab, settings=settings, facts=facts, path=path)
        return facts

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> NDArray[np.int32]:
        """Return the ids of a text."""
        data = text.encode("utf-8")
        # Room for BOS and EOS beside at most one token for each byte.
        room = len(data) + 2
        while True:
            tokens = np.empty(room, dtype=np.int32)
            count: int = native.llama_tokenize(
                self._loaded.vocab,
                data,
                len(data),
                tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
                room,
                add_special,
                parse_special,
            )
            if count >= 0:
                return tokens[:count]
            if -count <= room or -count > np.iinfo(np.int32).max:
                message = (
                    f"the tokenizer failed on a text of {len(data)} bytes (it returned {count})"
                )
                raise ProbeRefused(message)
            room = -count

    def piece(self, token: int) -> bytes:
        """Return the bytes a token stands for; empty for control tokens."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count: int = native.llama_token_to_piece(
                self._loaded.vocab,
                token,
                buffer,
                room,
                0,
                False,  # noqa: FBT003 - positional in C
            )
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def is_end(self, token: int) -> bool:
        """Tell whether a token ends a generation."""
        return bool(native.llama_vocab_is_eog(self._loaded.vocab, token))

    def is_control(self, token: int) -> bool:
        """Tell whether a token is a control token rather than text."""
        return bool(native.llama_vocab_is_control(self._loaded.vocab, token))

    @property
    def bos(self) -> int | None:
        """Id of the beginning-of-text token, or None."""
        token: int = native.llama_vocab_bos(self._loaded.vocab)
        return token if token >= 0 else None

    @property
    def add_eos(self) -> bool:
        """Whether the vocabulary ends texts with an end-of-text token."""
        return bool(native.llama_vocab_get_add_eos(self._loaded.vocab))

    def chat(self, messages: Sequence[Message]) -> str:
        """Return a conversation in the model's own template, ready for its answer."""
        loaded = self._loaded
        try:
            return self._formatter(
                [{"role": turn.role, "content": turn.content} for turn in messages]
            )
        except ProbeRefused:
            raise
        # A template is a program that came with the model: it can fail in every way there is.
        except Exception as error:
            message = (
                f"the chat template of {loaded.path.name} rejects the messages:"
                f" {type(error).__name__}: {error}"
            )
            raise ProbeRefused(message) from error

    @functools.cached_property
    def _formatter(self) -> Callable[[list[dict[str, str]]], str]:
        loaded = self._loaded
        template = native.llama_model_chat_template(loaded.model, None)
        if not template:
            message = (
                f"{loaded.path.name} brings no chat template; write the case with 'prompt' instead of"
                " 'messages', or convert the model again with its template"
            )
            raise ProbeRefused(message)
        # Its Jinja environment is sandboxed and immutable. Imported late: it costs a second.
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter  # noqa: PLC0415 - see above

        def text_of(token: int) -> str:
            text = native.llama_vocab_get_text(loaded.vocab, token) if token >= 0 else b""
            return bytes(text or b"").decode("utf-8", errors="replace")

        formatter = Jinja2ChatFormatter(
            template=template.decode("utf-8", errors="replace"),
            bos_token=text_of(native.llama_vocab_bos(loaded.vocab)),
            eos_token=text_of(native.llama_vocab_eos(loaded.vocab)),
        )
        render: Any = formatter
        return lambda messages: str(render(messages=messages).prompt)

    def grammar(self, json_schema: str) -> LlamaGrammar:
        """Return the grammar of a JSON Schema, for one text."""
        return LlamaGrammar(self._loaded.vocab, json_schema, withheld=self._controls, log=self._log)

    @functools.cached_property
    def _controls(self) -> NDArray[np.bool_]:
        """Flags of the control tokens, but for those that end a generation."""
        tokens = range(self._loaded.facts.vocabulary)
        return np.array([self.is_control(token) and not self.is_end(token) for token in tokens])

    def open(self, shape: ContextShape) -> LlamaSession:
        """Open a context for this many sequences of this length."""
        return LlamaSession(self._loaded, shape, self._log)

    @property
    def _loaded(self) -> _Loaded:
        if self._now is None:
            message = "no model is loaded; send 'load' first"
            raise ProbeRefused(message)
        return self._now


class LlamaSession:
    """One llama.cpp context and the batch that feeds it."""

    def __init__(self, loaded: _Loaded, shape: ContextShape, log: NativeLog) -> None:
        """Create the context."""
        most = native.llama_max_parallel_sequences()
        if not 1 <= shape.sequences <= most:
            message = f"llama.cpp decodes 1 to {most} sequences together, not {shape.sequences}"
            raise ProbeRefused(message)
        settings = loaded.settings
        cells = shape.sequences * shape.tokens
        # The engine aborts on a batch that is smaller than the number of sequences.
        self._limit = max(shape.sequences, min(settings.batch, cells))
        parameters = native.llama_context_default_params()
        set_parameters(
            parameters,
            n_ctx=cells,
            n_batch=self._limit,
            n_ubatch=min(settings.ubatch, self._limit),
            n_seq_max=shape.sequences,
            n_threads=settings.threads,
            n_threads_batch=settings.threads,
            flash_attn_type=_FLASH_ATTENTION[settings.flash_attention],
            kv_unified=shape.shared,
            # As llama.cpp's own tools have it; whole sequences are forgotten, never parts.
            swa_full=False,
        )
        self._log = log
        log.forget()
        self._context: Any = native.llama_init_from_model(loaded.model, parameters)
        if not self._context:
            what = f"no context of {shape.sequences} x {shape.tokens} tokens can be made"
            raise _failure(what, log)
        self._vocabulary = loaded.facts.vocabulary
        self._memory = native.llama_get_memory(self._context)
        self._batch = _NativeBatch(self._limit, shape.sequences)

    @property
    def batch_limit(self) -> int:
        """Most tokens one batch may have."""
        return self._limit

    def decode(self, batch: Batch) -> NDArray[np.float32]:
        """Process a batch and return a view of the logits of its flagged tokens."""
        count = len(batch.tokens)
        if not 0 < count <= self._limit:
            # The engine would abort the process.
            message = f"a batch of {count} tokens; the context takes 1 to {self._limit}"
            raise ProbeRefused(message)
        self._log.forget()
        code = native.llama_decode(self._context, self._batch.fill(batch))
        if code != 0:
            what = f"llama_decode of {count} tokens returned {code}"
            raise _failure(what, self._log)
        # llama_get_logits waits for the computation to end.
        rows = int(np.count_nonzero(batch.outputs))
        pointer = native.llama_get_logits(self._context)
        if rows == 0:
            return np.empty((0, self._vocabulary), dtype=np.float32)
        view: NDArray[np.float32] = np.ctypeslib.as_array(pointer, (rows, self._vocabulary))
        return view

    def forget(self, sequence: int) -> None:
        """Empty one sequence."""
        if self._memory and not native.llama_memory_seq_rm(self._memory, sequence, -1, -1):
            message = f"the engine cannot empty sequence {sequence}"
            raise ProbeRefused(message)

    def copy(self, source: int, target: int) -> None:
        """Let an empty sequence go on from where another one stands."""
        if self._memory:
            native.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def clear(self) -> None:
        """Empty all sequences."""
        if self._memory:
            native.llama_memory_clear(self._memory, True)  # noqa: FBT003 - positional in C

    def close(self) -> None:
        """Free the context."""
        if self._context:
            native.llama_free(self._context)
            self._context = None


class _NativeBatch:
    """A `llama_batch` over numpy arrays, so that filling it is a few copies and no loop."""

    def __init__(self, limit: int, sequences: int) -> None:
        self._tokens = np.zeros(limit, dtype=np.int32)
        self._positions = np.zeros(limit, dtype=np.int32)
        self._outputs = np.zeros(limit, dtype=np.int8)
        self._counts = np.ones(limit, dtype=np.int32)
        # Each token has a list of sequences that follow one another: a stretch of this one list.
        self._numbers = np.arange(sequences, dtype=np.int32)
        self._lists = np.full(limit, self._numbers.ctypes.data, dtype=np.uintp)
        self._struct = native.llama_batch()
        for name, array in (
            ("token", self._tokens),
            ("pos", self._positions),
            ("n_seq_id", self._counts),
            ("seq_id", self._lists),
            ("logits", self._outputs),
        ):
            kind = dict(_fields(native.llama_batch))[name]
            setattr(self._struct, name, ctypes.cast(array.ctypes.data, kind))

    def fill(self, batch: Batch) -> Any:  # noqa: ANN401 - a ctypes structure
        count = len(batch.tokens)
        counts = 1 if batch.spans is None else batch.spans
        last = int((batch.sequences + counts).max())
        if int(batch.sequences.min()) < 0 or last > len(self._numbers) or np.min(counts) < 1:
            # The engine would read past the list.
            message = (
                f"a batch for sequences up to {last - 1}; the context has {len(self._numbers)}"
            )
            raise ProbeRefused(message)
        self._tokens[:count] = batch.tokens
        self._positions[:count] = batch.positions
        self._outputs[:count] = batch.outputs
        self._counts[:count] = counts
        self._lists[:count] = self._numbers.ctypes.data + 4 * batch.sequences.astype(np.uintp)
        self._struct.n_tokens = count
        return self._struct


def _fields(structure: type[ctypes.Structure]) -> Iterator[tuple[str, Any]]:
    return ((field[0], field[1]) for field in structure._fields_)


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            message = f"{path} is a folder; name the GGUF file itself"
            raise ProbeRefused(message)
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise ProbeRefused(message) from error
    if head != b"GGUF":
        message = f"{path} is no GGUF file: it starts with {head!r} instead of b'GGUF'"
        raise ProbeRefused(message)


def _facts(model: Any, vocab: Any, backend: LlamaBackend) -> ModelFacts:  # noqa: ANN401 - C pointers
    description = ctypes.create_string_buffer(256)
    native.llama_model_desc(model, description, len(description))
    return ModelFacts(
        description=description.value.decode("utf-8", errors="replace"),
        parameters=native.llama_model_n_params(model),
        model_size_bytes=native.llama_model_size(model),
        vocabulary=native.llama_vocab_n_tokens(vocab),
        context_train=native.llama_model_n_ctx_train(model),
        add_bos=bool(native.llama_vocab_get_add_bos(vocab)),
        engine=backend.engine,
        engine_version=backend.engine_version,
        system_info=native.llama_print_system_info().decode("utf-8", errors="replace").strip(" |"),
    )
