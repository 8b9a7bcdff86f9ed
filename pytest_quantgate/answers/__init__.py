"""Answers of models to cases: which cases are asked, and how limits on the answers are decided.

A gate that asks cases takes its limits from `AnswerLimits`, lets `draw_answers` ask as many cases as a
verdict takes, and `judge_answers` hold the answers against the limits.
"""

from __future__ import annotations

from pytest_quantgate.answers.drawing import (
    AnsweredSample,
    Askable,
    draw_answers,
    require_answers,
)
from pytest_quantgate.answers.judging import AnswerJudgement, judge_answers
from pytest_quantgate.answers.settings import (
    ANSWER_LIMITS,
    AnswerLimits,
    CaseVerdictSettings,
    SliceLimits,
)

__all__ = [
    "ANSWER_LIMITS",
    "AnswerJudgement",
    "AnswerLimits",
    "AnsweredSample",
    "Askable",
    "CaseVerdictSettings",
    "SliceLimits",
    "draw_answers",
    "judge_answers",
    "require_answers",
]
