"""JSON Schemas as grammars of llama.cpp: which tokens can lead to JSON of a schema.

The engine ends the process when a grammar is fed a token that it does not allow. So a token is asked
about before it is accepted, always.
"""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from llama_cpp import llama_cpp as native

from pytest_quantgate.errors import ProbeRefused

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_quantgate.probe.native_log import NativeLog

# The layout of the engine's `llama_token_data`.
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class LlamaGrammar:
    """What has been accepted of one text, and what may follow."""

    def __init__(
        self,
        vocab: Any,  # noqa: ANN401 - a pointer
        json_schema: str,
        *,
        withheld: NDArray[np.bool_],
        log: NativeLog,
    ) -> None:
        """Start at the beginning of a text.

        Args:
            vocab: Pointer to the engine's vocabulary.
            json_schema: The schema, as text.
            withheld: Flags tokens that are never allowed: control tokens, which are no text.
            log: The engine's log.

        Raises:
            ProbeRefused: there is no grammar for this schema; the text gives the reason.
        """
        grammar = schema_grammar(json_schema)
        log.forget()
        self._withheld = withheld
        self._sampler: Any = native.llama_sampler_init_grammar(vocab, grammar.encode(), b"root")
        if not self._sampler:
            message = f"llama.cpp refuses the grammar of the JSON Schema: {log.reason()}"
            raise ProbeRefused(message)

    def allowed(self, tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Tell which of these tokens may come next."""
        candidates = np.zeros(len(tokens), dtype=_CANDIDATE)
        candidates["id"] = tokens
        array = native.llama_token_data_array(
            data=ctypes.cast(candidates.ctypes.data, native.llama_token_data_p),
            size=len(candidates),
            selected=-1,
            sorted=False,
        )
        native.llama_sampler_apply(self._sampler, ctypes.byref(array))
        # The engine leaves what fits as it is and gives the rest -infinity.
        fit: NDArray[np.bool_] = (candidates["logit"] == 0) & ~self._withheld[tokens]
        return fit

    def accept(self, token: int) -> None:
        """Go on with a token.

        Raises:
            ProbeRefused: it is not allowed.
        """
        if not self.allowed(np.array([token], dtype=np.int32))[0]:
            message = f"token {token} does not fit the grammar of the JSON Schema"
            raise ProbeRefused(message)
        native.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        """Free the memory; the grammar is of no use afterwards."""
        if self._sampler:
            native.llama_sampler_free(self._sampler)
            self._sampler = None


@functools.lru_cache(maxsize=256)
def schema_grammar(json_schema: str) -> str:
    """Return the grammar of a JSON Schema, in the engine's own notation (GBNF).

    Raises:
        ProbeRefused: the engine's converter cannot make one.
    """
    # Imported late, for those alone who need it.
    from llama_cpp.llama_grammar import json_schema_to_gbnf  # noqa: PLC0415 - see above

    try:
        return str(json_schema_to_gbnf(json_schema))
    # The converter meets what it does not know with errors of many kinds.
    except Exception as error:
        message = (
            "llama.cpp has no grammar for the JSON Schema"
            f" ({type(error).__name__}: {str(error)[:200] or 'no reason given'}); simplify it, or"
            " generate without it"
        )
        raise ProbeRefused(message) from error
