"""Task files of lm-evaluation-harness in a folder: what they say, and what they would have run.

A task file is YAML that may name Python functions, data sets of a hub and modules to fetch. What a gate
runs comes from the folder and nothing else, and code only where somebody said that it may. Parent and
probe read the files with this module: the parent to refuse, the probe to run what the parent read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from pytest_quantgate.artifact.catalog import did_you_mean
from pytest_quantgate.artifact.files import open_regular
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

DATA_FORMATS = ("json", "csv", "text", "parquet")
"""Builders of `datasets` that read local files and run nothing; ``pandas`` would unpickle."""

MOST_FILES = 10_000
MOST_BYTES = 2 * 1024**3
"""A folder with more than this is no folder of tasks, and would take long to hash at every run."""

_IGNORED = "__pycache__"
_SHOWN = 20
_GROUP_KEYS = frozenset(
    {"group", "group_alias", "task", "tag", "aggregate_metric_list", "metadata", "version"}
)
_DATA_KEYS = frozenset(
    {"column_names", "data_files", "delimiter", "encoding", "field", "keep_linebreaks", "quotechar"}
    | {"sample_by", "sep", "trust_remote_code"}
)
"""Keys of ``dataset_kwargs`` that say how to read a file; the harness drops the last one itself."""

_REFUSED = {
    "class": "is a task written in Python, of which nothing is known before it runs",
    "use_prompt": "fetches a prompt from elsewhere; write it into `doc_to_text`",
    "doc_to_image": "needs a model that sees; this one reads text",
    "doc_to_audio": "needs a model that hears; this one reads text",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A function that a task file names: ``module.function``, the module beside the file."""

    reference: str
    folder: Path

    def __str__(self) -> str:
        """Return it as the file has it."""
        return f"!function {self.reference}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFile:
    """One task: its name, its file, and all that the file and those it includes say."""

    name: str
    path: Path
    config: Mapping[str, Any]

    def code(self) -> tuple[str, ...]:
        """Return each function that the task names, with the way to it."""
        return tuple(f"`{where}: {code}`" for where, code in _code(self.config, ""))

    def metrics(self) -> tuple[str, ...] | None:
        """Return the metrics that the file lists; None where it leaves them to defaults or code."""
        listed = self.config.get("metric_list")
        if not isinstance(listed, list) or "process_results" in self.config:
            return None
        names = [each.get("metric") for each in listed if isinstance(each, dict)]
        return tuple(name for name in names if isinstance(name, str))


class TaskFolder:
    """The task files below a folder, each read once."""

    def __init__(self, root: Path) -> None:
        """Read them all and work out the digest of everything in the folder.

        Raises:
            ArtifactError: the folder is none, leads outside itself, or is too large to be one of tasks.
        """
        self.root = root.resolve()
        files = _files(self.root)
        self.sha256 = _digest(self.root, files)
        self._tasks: dict[str, list[TaskFile]] = {}
        self._groups: dict[str, list[TaskFile]] = {}
        self._tags: dict[str, list[str]] = {}
        self._broken: list[str] = []
        for path in files:
            if path.suffix == ".yaml":
                self._read(path)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tasks, groups and tags, in alphabetical order."""
        return tuple(sorted({*self._tasks, *self._groups, *self._tags}))

    def name_in(self, path: Path) -> str:
        """Return the name of the task or group that a file defines.

        Raises:
            ArtifactError: it defines none, or is no such file.
        """
        config = _load(path.resolve(), self.root)
        name = config.get("group") or config.get("task")
        if not isinstance(name, str):
            message = f"{path}: names no task; write `task: a-name` into it, or name another file"
            raise ArtifactError(message)
        return name

    def tasks(self, name: str) -> tuple[TaskFile, ...]:
        """Return the one task of a name, or the tasks of a group or tag, in their order.

        Raises:
            ArtifactError: there is none, or more than one; with near names and unreadable files.
        """
        return tuple(self._expanded(name, ()))

    def prepared(self, task: TaskFile) -> dict[str, Any]:
        """Return what a task says, with the data files as absolute paths.

        Raises:
            ArtifactError: every reason why the task cannot be run from this folder's files.
        """
        problems = [
            f"`{key}` {reason}"
            for key, reason in _REFUSED.items()
            if task.config.get(key) is not None
        ]
        if task.config.get("unsafe_code"):
            problems.append("`unsafe_code` runs what a model wrote, which no gate does")
        problems += _metric_problems(task.config.get("metric_list"))
        config = {key: value for key, value in task.config.items() if key not in ("tag", "group")}
        if "custom_dataset" not in config:
            config["dataset_kwargs"] = self._data(task, problems)
        if problems:
            raise ArtifactError("\n".join(f"{task.path}: {problem}" for problem in problems))
        return config

    def _data(self, task: TaskFile, problems: list[str]) -> dict[str, Any]:
        """Return the arguments that read a task's data, adding to the problems what is wrong."""
        given = task.config.get("dataset_kwargs")
        kwargs = dict(given) if isinstance(given, dict) else {}
        kwargs.pop("trust_remote_code", None)
        form = task.config.get("dataset_path")
        files = kwargs.get("data_files")
        if form not in DATA_FORMATS:
            problems.append(
                f"`dataset_path: {form}` would be fetched from a hub; write one of"
                f" {', '.join(DATA_FORMATS)} and the files as `dataset_kwargs: {{data_files: ...}}`"
            )
        elif not files:
            problems.append("names no data; write the files as `dataset_kwargs: {data_files: ...}`")
        problems += [
            f"`dataset_kwargs` has {key!r}; known are {', '.join(sorted(_DATA_KEYS))}"
            for key in kwargs
            if key not in _DATA_KEYS
        ]
        if isinstance(files, dict):
            kwargs["data_files"] = {
                split: self._located(each, problems) for split, each in files.items()
            }
        elif files:
            kwargs["data_files"] = self._located(files, problems)
        return kwargs

    def _located(self, files: object, problems: list[str]) -> list[str]:
        """Return absolute paths of data files, which lie in the folder."""
        names = files if isinstance(files, list) else [files]
        found = []
        for name in names:
            path = (self.root / str(name)).resolve()
            if not _belongs(path, self.root):
                problems.append(
                    f"data file {name} lies outside {self.root}, or hidden; move it in there"
                )
            elif not path.is_file():
                problems.append(
                    f"data file {name} is not there: {path}; names count from {self.root}"
                )
            found.append(str(path))
        return found

    def _expanded(self, name: str, above: tuple[str, ...]) -> Iterator[TaskFile]:
        if name in above:
            message = f"{self.root}: group {name!r} contains itself: {' > '.join((*above, name))}"
            raise ArtifactError(message)
        found = [*self._tasks.get(name, ()), *self._groups.get(name, ())]
        if len(found) > 1:
            places = " and ".join(str(each.path) for each in found)
            message = f"{places} both define {name!r}; rename one of them"
            raise ArtifactError(message)
        if name in self._tasks:
            yield from found
        elif name in self._groups:
            for member in _members(found[0]):
                yield from self._expanded(member, (*above, name))
        elif name in self._tags:
            for member in sorted(self._tags[name]):
                yield from self._expanded(member, (*above, name))
        else:
            raise ArtifactError(self._unknown(name))

    def _unknown(self, name: str) -> str:
        names = self.names
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        known = f"; there are {shown}" if names else "; there is no task file (*.yaml) at all"
        broken = "".join(f"\n{each}" for each in self._broken)
        return f"{self.root} has no task {name!r}{did_you_mean(name, names)}{known}{broken}"

    def _read(self, path: Path) -> None:
        try:
            config = _load(path, self.root)
        except ArtifactError as error:
            # Told to those who look for a task that is not found; others do not need the file.
            self._broken.append(str(error))
            return
        kind = self._groups if "group" in config else self._tasks
        name = config.get("group", config.get("task"))
        if not isinstance(name, str):
            return
        kind.setdefault(name, []).append(TaskFile(name=name, path=path, config=config))
        tags = config.get("tag") or []
        for tag in tags if isinstance(tags, list) else [tags]:
            if kind is self._tasks and tag != name:
                self._tags.setdefault(str(tag), []).append(name)


def _files(root: Path) -> list[Path]:
    """Return the files below a folder in the order of their names, hidden and compiled ones left out."""
    if not root.is_dir():
        message = f"{root}: is no folder; name the one that has the task files"
        raise ArtifactError(message)
    found = []
    for path in root.rglob("*"):
        if not _belongs(path, root) or not path.is_file():
            continue
        if not path.resolve().is_relative_to(root):
            message = f"{path}: leads out of {root}; tasks and their data lie in one folder"
            raise ArtifactError(message)
        found.append(path)
        if len(found) > MOST_FILES:
            message = (
                f"{root}: has more than {MOST_FILES} files; give the tasks a folder of their own"
            )
            raise ArtifactError(message)
    size = sum(path.stat().st_size for path in found)
    if size > MOST_BYTES:
        message = (
            f"{root}: has {size} bytes in its files, more than {MOST_BYTES}; give the tasks a folder of"
            " their own"
        )
        raise ArtifactError(message)
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _belongs(path: Path, root: Path) -> bool:
    """Tell whether a path is below a folder and neither hidden nor compiled: what the digest covers."""
    if not path.is_relative_to(root):
        return False
    parts = path.relative_to(root).parts
    return _IGNORED not in parts and not any(part.startswith(".") for part in parts)


def _digest(root: Path, files: Sequence[Path]) -> str:
    """Return the SHA-256 over the names of files and the digests of their bytes."""
    whole = hashlib.sha256()
    for path in files:
        each = hashlib.sha256()
        with open_regular(path) as file:
            while block := file.read(1 << 20):
                each.update(block)
        whole.update(f"{path.relative_to(root).as_posix()}\0{each.hexdigest()}\n".encode())
    return whole.hexdigest()


def _load(path: Path, root: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return what a file says over what the files say that it includes."""
    if path in above:
        message = f"{path}: includes itself: {' > '.join(str(each) for each in (*above, path))}"
        raise ArtifactError(message)

    class Loader(yaml.SafeLoader):
        """Reads plain data; functions stay names."""

    def function(loader: yaml.SafeLoader, node: yaml.Node) -> Code:
        if not isinstance(node, yaml.ScalarNode):
            problem = "a function is written as !function module.name"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return Code(reference=str(loader.construct_scalar(node)), folder=path.parent)

    Loader.add_constructor("!function", function)
    try:
        with open_regular(path) as file:
            config = yaml.load(file.read(), Loader=Loader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        message = f"{path}: is no YAML: {' '.join(str(error).split()) or 'nested too deep'}"
        raise ArtifactError(message) from error
    if not isinstance(config, dict):
        message = f"{path}: holds {type(config).__name__}, not the keys of a task"
        raise ArtifactError(message)
    includes = config.pop("include", [])
    merged: dict[str, Any] = {}
    for name in includes if isinstance(includes, list) else [includes]:
        included = (path.parent / str(name)).resolve()
        if not _belongs(included, root):
            message = (
                f"{path}: includes {name}, which lies outside {root}, or hidden; copy it there"
            )
            raise ArtifactError(message)
        merged |= _load(included, root, (*above, path))
    return merged | config


def _members(group: TaskFile) -> list[str]:
    """Return the names of what a group is made of."""
    members = group.config.get("task")
    plain = isinstance(members, list) and all(isinstance(each, str) for each in members)
    strange = sorted(str(key) for key in group.config if key not in _GROUP_KEYS)
    if not plain or not members or strange:
        what = (
            f"it sets {', '.join(strange)} for its tasks"
            if strange
            else "its `task` is no list of names"
        )
        message = f"{group.path}: {what}; write such things into task files and list their names"
        raise ArtifactError(message)
    return list(members or ())


def _metric_problems(listed: object) -> Iterator[str]:
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, dict) and each.get("hf_evaluate"):
            yield (
                f"the metric {each.get('metric')} would be fetched from a hub (`hf_evaluate`); use a"
                " metric of the harness itself"
            )


def _code(value: object, where: str) -> Iterator[tuple[str, Code]]:
    if isinstance(value, Code):
        yield where, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _code(each, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from _code(each, f"{where}[{place}]")
