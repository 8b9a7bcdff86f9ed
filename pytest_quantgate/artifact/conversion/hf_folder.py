"""A Hugging Face model folder: what it must hold to be converted, and a safe copy of it to read.

Nothing of a folder is run: code that lies in it is left out of the copy, and so is every mention of
it, and weights are read from safetensors files only.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_quantgate.artifact import integrity
from pytest_quantgate.artifact.conversion.safetensors import tensor_shapes
from pytest_quantgate.artifact.files import near_names, open_regular
from pytest_quantgate.artifact.integrity.sums import sum_lines
from pytest_quantgate.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pytest_quantgate.records import Progress

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json", "spiece.model")
"""Files that can be a tokenizer; a folder needs one of them."""

_MAX_JSON_BYTES = 64 << 20
_PART = re.compile(r"model-\d+-of-\d+\.safetensors")
# Text and tables; what is left out: Python, pickles, other frameworks' weights, everything unknown.
_STAGED = re.compile(
    r".+\.(json|txt|jinja|model|tiktoken)|README\.md|merges\.txt", re.IGNORECASE | re.DOTALL
)
_PICKLES = re.compile(r".+\.(bin|pt|pth|pkl|ckpt)", re.IGNORECASE | re.DOTALL)
_REMOTE_CODE = "auto_map"


@dataclass(frozen=True, slots=True, kw_only=True)
class HfFolder:
    """A folder that has all it needs: ``parts`` hold the weights, ``files`` the rest that is read.

    ``stamp`` is what the system says of each file (size, time), to notice a change.
    """

    path: Path
    architecture: str
    parts: tuple[Path, ...]
    files: tuple[Path, ...]
    parameters: int
    weight_bytes: int
    brings_code: bool

    @property
    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Device number, size and time of every file that is read."""
        found = (path.stat() for path in (*self.files, *self.parts))
        return tuple((status.st_ino, status.st_size, status.st_mtime_ns) for status in found)


def read_folder(path: Path) -> HfFolder:
    """Return what a model folder holds, having checked that it can be converted.

    Raises:
        ConversionError: something is missing, cut short or of a kind that is not read, and what to
            do about it.
        ArtifactError: a file cannot be read.
    """
    _check_is_folder(path)
    config = _object(path / "config.json")
    names = config.get("architectures")
    if not (isinstance(names, list) and names and isinstance(names[0], str)):
        message = (
            f"{path}: config.json names no architecture; add the model's class as "
            '"architectures", such as ["LlamaForCausalLM"]'
        )
        raise ConversionError(message)
    parts = _parts(path)
    shapes: dict[str, tuple[int, ...]] = {}
    for part in parts:
        shapes.update(tensor_shapes(part))
    _check_index(path, shapes)
    if not any((path / name).is_file() for name in TOKENIZERS):
        message = (
            f"{path}: has no tokenizer (none of {', '.join(TOKENIZERS)}); save it beside the "
            "weights: tokenizer.save_pretrained(folder)"
        )
        raise ConversionError(message)
    entries = sorted(path.iterdir())
    files = tuple(each for each in entries if _STAGED.fullmatch(each.name) and each.is_file())
    return HfFolder(
        path=path,
        architecture=names[0],
        parts=parts,
        files=files,
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        weight_bytes=sum(part.stat().st_size for part in parts),
        brings_code=any(each.suffix == ".py" for each in entries) or _REMOTE_CODE in config,
    )


def digest(folder: HfFolder, *, on_progress: Callable[[Progress], None] | None = None) -> str:
    """Return the SHA-256 of the lines that `sha256sum` prints for the folder's files, by name.

    Raises:
        ArtifactError: a file cannot be read.
    """
    files = sorted((*folder.files, *folder.parts), key=lambda each: each.name)
    sums = [integrity.sha256_file(each, on_progress=on_progress) for each in files]
    return hashlib.sha256(sum_lines(files, sums).encode()).hexdigest()


def stage(folder: HfFolder, place: Path) -> Path:
    """Lay out a folder of the same name in ``place`` that holds what may be read, and return it.

    Weights are links; other files are copies. Configurations lose what would have code fetched and
    run (``auto_map``); the libraries' own class of the model is used, where there is one.

    Raises:
        ConversionError: a configuration is no JSON object.
        ArtifactError: a file cannot be read.
    """
    # The converter takes the model's name from the folder's.
    staged = place / (folder.path.resolve().name or "model")
    staged.mkdir()
    for part in folder.parts:
        (staged / part.name).symlink_to(part.resolve())
    for file in folder.files:
        if file.name.endswith("config.json"):
            config = {key: value for key, value in _object(file).items() if key != _REMOTE_CODE}
            (staged / file.name).write_text(json.dumps(config, indent=2), encoding="utf-8")
        else:
            shutil.copyfile(file, staged / file.name)
    return staged


def _check_is_folder(path: Path) -> None:
    if not path.exists():
        message = f"{path}: no such folder{near_names(path)}"
        raise ConversionError(message)
    if not path.is_dir():
        kind = "a GGUF file already" if path.suffix == ".gguf" else "a file"
        message = f"{path}: is {kind}; name the folder with the model's config.json and weights"
        raise ConversionError(message)
    if (path / "config.json").is_file():
        return
    if (path / "adapter_config.json").is_file():
        message = (
            f"{path}: holds an adapter, not a model; merge it into its base model first (PEFT: "
            "merge_and_unload, Unsloth: save_pretrained_merged) and convert the result"
        )
    else:
        message = f"{path}: has no config.json, so it is not the folder of a Hugging Face model"
    raise ConversionError(message)


def _parts(path: Path) -> tuple[Path, ...]:
    """Return the files with weights, all of which are there."""
    index = path / INDEX
    if index.is_file():
        weight_map = _object(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            message = f"{index}: has no weight_map; fetch it again"
            raise ConversionError(message)
        names = sorted({str(name) for name in weight_map.values()})
        strange = [name for name in names if "/" in name or not name.endswith(".safetensors")]
        if strange:
            message = f"{index}: names {strange[0]!r}, which is no safetensors file of this folder"
            raise ConversionError(message)
        missing = [name for name in names if not (path / name).is_file()]
        if missing:
            more = f" and {len(missing) - 5} more" if missing[5:] else ""
            message = (
                f"{path}: {len(missing)} of {len(names)} files with weights are missing: "
                f"{', '.join(missing[:5])}{more}"
            )
            raise ConversionError(message)
        return tuple(path / name for name in names)
    if (path / WEIGHTS).is_file():
        return (path / WEIGHTS,)
    found = sorted(each.name for each in path.iterdir())
    parts = [name for name in found if _PART.fullmatch(name)]
    pickles = [name for name in found if _PICKLES.fullmatch(name)]
    if parts:
        message = f"{path}: has {len(parts)} files with weights but not {INDEX}, which lists them"
    elif pickles:
        message = (
            f"{path}: its weights are pickled ({pickles[0]}), and opening a pickle can run anything; "
            "save them as safetensors where you trust them: model.save_pretrained(folder)"
        )
    else:
        message = f"{path}: has no weights ({WEIGHTS} or {INDEX})"
    raise ConversionError(message)


def _check_index(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if not (path / INDEX).is_file():
        return
    listed = _object(path / INDEX)["weight_map"]
    missing = sorted(set(listed) - shapes.keys())
    if missing:
        message = (
            f"{path}: {len(missing)} of {len(listed)} tensors that {INDEX} lists are in no file: "
            f"{', '.join(missing[:3])}; fetch the folder again"
        )
        raise ConversionError(message)


def _object(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file of bearable size."""
    with open_regular(path) as file:
        text = file.read(_MAX_JSON_BYTES + 1)
    if len(text) > _MAX_JSON_BYTES:
        message = f"{path}: is larger than {_MAX_JSON_BYTES >> 20} MiB, which no configuration is"
        raise ConversionError(message)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        message = f"{path}: is not JSON ({error}); fetch it again"
        raise ConversionError(message) from error
    if not isinstance(found, dict):
        message = f"{path}: holds a {type(found).__name__}, not a JSON object"
        raise ConversionError(message)
    return found
