"""The signs of over-quantization: measures on texts, and what each sign comes from.

Pure: texts in, numbers out. The gate `symptoms` holds them against limits.
"""

from __future__ import annotations

from pathlib import Path

OPEN_PROMPTS = Path(__file__).parent / "open_prompts.jsonl"
"""64 prompts that call for long answers, as a case file; any text is as good as another there."""
