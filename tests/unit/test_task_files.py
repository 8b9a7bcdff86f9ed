"""What task files of lm-evaluation-harness say is read as it stands, and nothing of it is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_quantgate.errors import ArtifactError
from pytest_quantgate.probe import task_files
from pytest_quantgate.probe.task_files import TaskFolder

if TYPE_CHECKING:
    from pathlib import Path

ENDS = """\
task: ends
tag: stories
dataset_path: json
dataset_kwargs: {data_files: {test: data/ends.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{start}}"
doc_to_choice: "{{ends}}"
doc_to_target: "{{right}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one task and its data."""
    root = tmp_path / "tasks"
    (root / "data").mkdir(parents=True)
    (root / "data" / "ends.jsonl").write_text('{"start": "a"}\n', encoding="utf-8")
    write(root, ends=ENDS)
    return root


def write(root: Path, **files: str) -> None:
    """Write task files by name."""
    for name, text in files.items():
        (root / f"{name}.yaml").write_text(text, encoding="utf-8")


def refusal(root: Path, name: str) -> str:
    """Return why a task cannot be run."""
    folder = TaskFolder(root)
    try:
        for task in folder.tasks(name):
            folder.prepared(task)
    except ArtifactError as error:
        return str(error)
    return "not refused"


def test_a_task_is_found_by_name(folder: Path) -> None:
    """A task has its name, file and metrics, and its data files as absolute paths."""
    found = TaskFolder(folder)
    (task,) = found.tasks("ends")

    assert (task.name, task.path) == ("ends", folder / "ends.yaml")
    assert task.metrics() == ("acc", "acc_norm")
    assert task.code() == ()
    kwargs = found.prepared(task)["dataset_kwargs"]
    assert kwargs == {"data_files": {"test": [str(folder / "data" / "ends.jsonl")]}}
    assert found.name_in(folder / "ends.yaml") == "ends"


def test_what_a_file_says_goes_over_what_it_includes(folder: Path) -> None:
    """An included file gives what the including one leaves open; tags come with it."""
    write(
        folder, two="task: two\ninclude: ends.yaml\nnum_fewshot: 2\nmetric_list: [{metric: acc}]\n"
    )

    found = TaskFolder(folder)
    (task,) = found.tasks("two")

    assert task.config["doc_to_text"] == "{{start}}"
    assert (task.config["num_fewshot"], task.metrics()) == (2, ("acc",))
    assert [each.name for each in found.tasks("stories")] == ["ends", "two"]


def test_groups_are_their_tasks_in_order(folder: Path) -> None:
    """A group may name tasks, groups and tags."""
    write(
        folder,
        two="task: two\ninclude: ends.yaml\ntag: other\n",
        inner="group: inner\ntask: [two]\n",
        outer="group: outer\ntask: [inner, stories]\n",
    )

    found = TaskFolder(folder)

    assert [each.name for each in found.tasks("outer")] == ["two", "ends"]
    assert found.names == ("ends", "inner", "other", "outer", "stories", "two")


def test_functions_stay_names(folder: Path) -> None:
    """Functions are told with the way to them, and no module is imported."""
    write(
        folder,
        code=(
            "task: code\nprocess_docs: !function steps.clean\n"
            "metric_list: [{metric: !function steps.mine}]\n"
        ),
    )
    (folder / "steps.py").write_text("raise SystemExit\n", encoding="utf-8")

    (task,) = TaskFolder(folder).tasks("code")

    assert task.code() == (
        "`process_docs: !function steps.clean`",
        "`metric_list[0].metric: !function steps.mine`",
    )


@pytest.mark.parametrize("key", ["process_results: !function a.b", "output_type: generate_until"])
def test_metrics_are_unknown_where_a_file_does_not_list_them(folder: Path, key: str) -> None:
    """Defaults and code decide metrics later; a file does not tell them."""
    listed = "metric_list: [{metric: acc}]\n" if "process" in key else ""
    write(folder, open=f"task: open\n{key}\n{listed}")

    (task,) = TaskFolder(folder).tasks("open")

    assert task.metrics() is None


def test_the_digest_is_of_every_file(folder: Path) -> None:
    """Names and bytes of all files count; hidden and compiled files do not."""
    first = TaskFolder(folder).sha256
    (folder / ".hidden").write_text("x", encoding="utf-8")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").write_bytes(b"x")
    assert TaskFolder(folder).sha256 == first

    (folder / "data" / "ends.jsonl").write_text('{"start": "b"}\n', encoding="utf-8")
    second = TaskFolder(folder).sha256
    (folder / "data" / "ends.jsonl").rename(folder / "data" / "other.jsonl")

    assert len({first, second, TaskFolder(folder).sha256}) == 3


def test_an_unknown_name_is_told_with_near_ones(folder: Path) -> None:
    """The message has near names, all names, and files that cannot be read."""
    write(folder, broken="task: [\n")

    message = refusal(folder, "end")

    assert f"{folder} has no task 'end'; did you mean 'ends'?; there are ends, stories" in message
    assert f"{folder / 'broken.yaml'}: is no YAML: " in message


def test_a_folder_without_tasks_is_told(tmp_path: Path) -> None:
    """No task file at all is said so."""
    assert refusal(tmp_path, "x").endswith("has no task 'x'; there is no task file (*.yaml) at all")


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        ({"again": ENDS}, "ends", "both define 'ends'; rename one of them"),
        ({"g": "group: g\ntask: [g]\n"}, "g", "group 'g' contains itself: g > g"),
        ({"g": "group: g\ntask: [{task: ends}]\n"}, "g", "its `task` is no list of names"),
        (
            {"g": "group: g\ntask: [ends]\nnum_fewshot: 2\n"},
            "g",
            "it sets num_fewshot for its tasks; write such things into task files",
        ),
        ({"t": "task: t\ninclude: t.yaml\n"}, "t", "includes itself"),
        ({"t": "task: t\ninclude: ../../t.yaml\n"}, "t", "lies outside"),
        ({"t": "task: t\ninclude: .t.yaml\n"}, "t", "or hidden; copy it there"),
        ({"t": "task: t\ninclude: none.yaml\n"}, "t", "none.yaml: no such file"),
        ({"t": "- 1\n"}, "t", "holds list, not the keys of a task"),
        ({"t": "task: !function [1]\n"}, "t", "a function is written as !function module.name"),
        ({"t": "task: !!python/name:os.system x\n"}, "t", "could not determine a constructor"),
    ],
)
def test_files_that_make_no_task(
    folder: Path, files: dict[str, str], name: str, message: str
) -> None:
    """Each way in which files contradict themselves is told."""
    write(folder, **files)

    assert message in refusal(folder, name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "dataset_path: someone/something",
            "`dataset_path: someone/something` would be fetched from a hub; write one of json, csv,"
            " text, parquet and the files as `dataset_kwargs: {data_files: ...}`",
        ),
        ("dataset_path: pandas", "`dataset_path: pandas` would be fetched from a hub"),
        ("dataset_kwargs: null", "names no data; write the files as `dataset_kwargs:"),
        ("dataset_kwargs: {data_files: gone.json}", "data file gone.json is not there"),
        ("dataset_kwargs: {data_files: /etc/hostname}", "data file /etc/hostname lies outside"),
        ("dataset_kwargs: {data_files: [../up.json]}", "data file ../up.json lies outside"),
        ("dataset_kwargs: {data_files: .hidden.json}", "data file .hidden.json lies outside"),
        ("dataset_kwargs: {data_files: 'https://a/b'}", "data file https://a/b is not there"),
        (
            "dataset_kwargs: {data_files: data/ends.jsonl, data_dir: x}",
            "`dataset_kwargs` has 'data_dir'; known are column_names, data_files,",
        ),
        ("class: !function a.B", "`class` is a task written in Python"),
        ("use_prompt: 'promptsource:x'", "`use_prompt` fetches a prompt from elsewhere"),
        ("doc_to_image: x", "`doc_to_image` needs a model that sees"),
        ("doc_to_audio: x", "`doc_to_audio` needs a model that hears"),
        ("unsafe_code: true", "`unsafe_code` runs what a model wrote"),
        (
            "metric_list: [{metric: bleurt, hf_evaluate: true}]",
            "the metric bleurt would be fetched from a hub",
        ),
    ],
)
def test_what_would_leave_the_folder_is_refused(folder: Path, change: str, message: str) -> None:
    """Hubs, other folders, Python classes and code that a model wrote are refused by their key."""
    key = change.partition(":")[0]
    kept = "".join(line for line in ENDS.splitlines(keepends=True) if not line.startswith(key))
    write(folder, ends=f"{kept}{change}\n")

    assert f"{folder / 'ends.yaml'}: {message}" in refusal(folder, "ends")


def test_all_problems_are_told_at_once(folder: Path) -> None:
    """Two mistakes make two lines."""
    write(folder, ends=f"{ENDS}unsafe_code: true\nuse_prompt: x\n")

    assert len(refusal(folder, "ends").splitlines()) == 2


def test_a_file_that_names_no_task_is_refused(folder: Path) -> None:
    """A file to run must define a task or a group."""
    write(folder, shared="output_type: multiple_choice\n")

    with pytest.raises(ArtifactError, match=r"shared\.yaml: names no task; write `task: a-name`"):
        TaskFolder(folder).name_in(folder / "shared.yaml")


def test_links_that_lead_out_are_refused(folder: Path, tmp_path: Path) -> None:
    """What a link leads to belongs to the digest, and only the folder is hashed."""
    (tmp_path / "secret.jsonl").write_text("{}", encoding="utf-8")
    (folder / "data" / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")

    with pytest.raises(ArtifactError, match="leads out of"):
        TaskFolder(folder)


def test_a_file_is_no_folder(folder: Path) -> None:
    """A file in place of the folder is told."""
    with pytest.raises(ArtifactError, match="is no folder; name the one that has the task files"):
        TaskFolder(folder / "ends.yaml")


@pytest.mark.parametrize(("most", "refused"), [(1, True), (2, False), (3, False)])
def test_a_folder_has_a_size(
    folder: Path, monkeypatch: pytest.MonkeyPatch, most: int, *, refused: bool
) -> None:
    """Two files are refused where one is the most, and accepted where two are."""
    monkeypatch.setattr(task_files, "MOST_FILES", most)

    if refused:
        with pytest.raises(ArtifactError, match="has more than 1 files; give the tasks a folder"):
            TaskFolder(folder)
    else:
        assert TaskFolder(folder).names == ("ends", "stories")


@pytest.mark.parametrize("spare", [-1, 0, 1])
def test_a_folder_has_a_weight(folder: Path, monkeypatch: pytest.MonkeyPatch, spare: int) -> None:
    """A byte more than the most is refused."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    monkeypatch.setattr(task_files, "MOST_BYTES", size + spare)

    if spare < 0:
        with pytest.raises(ArtifactError, match=f"has {size} bytes in its files, more than"):
            TaskFolder(folder)
    else:
        assert TaskFolder(folder).names == ("ends", "stories")
