"""Build llama.cpp's own tools from the source that the installed llama-cpp-python was built from.

    python bench/build_tools.py

The source distribution of llama-cpp-python carries llama.cpp; building the tools from it gives the
reference and the product one engine, compiled for the same processor. The result stays in
``bench/.build/<version>/bin``. Needs cmake, a C++ compiler and pip; takes some minutes once.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

TOOLS = ("llama-perplexity", "llama-quantize", "llama-bench", "llama-imatrix")
BUILD = Path(__file__).parent / ".build"


def tools_folder() -> Path:
    """Return the folder that holds the tools of the installed version, built or not."""
    return BUILD / importlib.metadata.version("llama_cpp_python") / "bin"


def tool(name: str) -> Path:
    """Return a built tool.

    Raises:
        SystemExit: it has not been built.
    """
    path = tools_folder() / name
    if not path.exists():
        message = f"{name} is not built; run: python bench/build_tools.py"
        raise SystemExit(message)
    return path


def build() -> None:
    """Fetch the source distribution, unpack it, and build the tools."""
    version = importlib.metadata.version("llama_cpp_python")
    folder = BUILD / version
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / f"llama_cpp_python-{version}" / "vendor" / "llama.cpp"
    if not source.exists():
        subprocess.run(
            [
                sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary",
                "llama-cpp-python", "--dest", str(folder), f"llama-cpp-python=={version}",
            ],
            check=True,
        )  # fmt: skip
        with tarfile.open(folder / f"llama_cpp_python-{version}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    subprocess.run(
        [
            "cmake", *generator, "-S", str(source), "-B", str(folder),
            "-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF",
            "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF",
        ],
        check=True,
    )  # fmt: skip
    subprocess.run(["cmake", "--build", str(folder), "--parallel", "--target", *TOOLS], check=True)
    for name in TOOLS:
        print(tool(name))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    build()
