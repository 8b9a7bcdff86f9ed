"""The task file on the page of the lm_eval gate is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pages import named

from pytest_quantgate.probe.task_files import TaskFolder

if TYPE_CHECKING:
    from pathlib import Path


def test_the_task_file_can_be_run(tmp_path: Path) -> None:
    """It defines the task that the first example names, and needs nothing but its data."""
    (text,) = named("docs/gate-lm-eval.md", "tasks/capitals.yaml")
    (tmp_path / "capitals.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "capitals.jsonl").write_text("{}\n", encoding="utf-8")
    folder = TaskFolder(tmp_path)

    (task,) = folder.tasks("capitals")

    assert folder.prepared(task)["output_type"] == "multiple_choice"
    assert task.code() == ()
