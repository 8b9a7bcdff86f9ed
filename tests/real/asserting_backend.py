"""llama.cpp asked for what it asserts never to be asked for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from llama_cpp import llama_cpp as native

from pytest_quantgate.probe.llama import LlamaBackend

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_quantgate.records import EngineSettings, ModelFacts


class AssertingBackend(LlamaBackend):
    """Makes the engine abort while it loads."""

    def load(self, path: Path, settings: EngineSettings) -> ModelFacts:
        """Decode more tokens than the context takes in one batch."""
        facts = super().load(path, settings)
        model = native.llama_model_load_from_file(
            os.fsencode(path), native.llama_model_default_params()
        )
        parameters = native.llama_context_default_params()
        parameters.n_batch = 4
        context = native.llama_init_from_model(model, parameters)
        batch = native.llama_batch_init(8, 0, 1)
        batch.n_tokens = 8
        for place in range(8):
            batch.token[place], batch.pos[place] = 5, place
            batch.n_seq_id[place], batch.seq_id[place][0], batch.logits[place] = 1, 0, 0
        native.llama_decode(context, batch)
        return facts
