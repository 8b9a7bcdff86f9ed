"""How much of a text a verdict takes: windows read and wall time against reading all of it.

    python bench/verdict.py --text wiki.test.raw [--type Q8_0 --type Q4_K_M] [--full]

For each type three limits on the perplexity ratio are judged by ``pytest --quantgate``, once with the
baseline's measurements in the store and once with an empty store; whole processes are timed. The time
of the whole text is that of one probe reading every window: measured with ``--full``, else computed
from ``--sample`` windows. The demo model of the extra ``demo`` is used unless --model names another.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from perplexity import DEMO, quantized

from pytest_quantgate.artifact import hardware, source
from pytest_quantgate.measure import Probe
from pytest_quantgate.records import EngineSettings, LikelihoodRequest, TextRequest

LIMITS = {"Q8_0": (1.01, 1.02, 1.10), "Q4_K_M": (1.02, 1.10, 1.20), "Q2_K": (1.10, 1.30, 2.00)}

SPEC = """\
quantgate: 1
defaults: {{corpus: text.txt, context: {context}}}
models:
  model:
    baseline: {{source: F16.gguf}}
    variants:
      {type_name}: {{source: {type_name}.gguf}}
    gates:
      perplexity: {{max_ratio: {limit}}}
"""


def reading_seconds(
    model: Path, text: Path, *, context: int, sample: int | None, threads: int
) -> tuple[int, float]:
    """Return the number of windows, and the wall time of a probe that reads them all."""
    digest = hashlib.sha256(text.read_bytes()).hexdigest()
    started = time.perf_counter()
    with Probe.start() as probe:
        probe.load(model, EngineSettings(threads=threads), timeout=600)
        whole = TextRequest(corpus_path=str(text), corpus_sha256=digest, context=context)
        windows = probe.text(whole, timeout=600).chunks
        ready = time.perf_counter()
        chunks = None if sample is None else tuple(range(min(sample, windows)))
        request = LikelihoodRequest(
            corpus_path=str(text), corpus_sha256=digest, context=context, chunks=chunks
        )
        probe.likelihood(request, timeout=36000)
    ended = time.perf_counter()
    if chunks is None:
        return windows, ended - started
    return windows, (ready - started) + (ended - ready) * windows / len(chunks)


def judged(folder: Path, *, store: Path, threads: int) -> tuple[dict[str, Any], float]:
    """Return the one verdict of a run, and the run's wall time."""
    report = folder / "junit.xml"
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder),
        "--quantgate", str(folder / "gates.yaml"), "--quantgate-store", str(store),
        "--quantgate-threads", str(threads), "--junitxml", str(report), "-o", "junit_family=xunit1",
    ]  # fmt: skip
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    seconds = time.perf_counter() - started
    for found in ET.parse(report).iter("property"):  # noqa: S314 - pytest wrote it just now
        if found.get("name") == "quantgate.record":
            return json.loads(found.get("value") or ""), seconds
    message = f"no verdict:\n{done.stdout[-3000:]}"
    raise SystemExit(message)


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEMO)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--type", action="append", dest="types", choices=sorted(LIMITS))
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--sample", type=int, default=32)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--threads", type=int, default=hardware.usable_cores())
    arguments = parser.parse_args()
    sample = None if arguments.full else arguments.sample
    print(hardware.this_machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "text.txt"
        shutil.copy(arguments.text, text)
        origin = source.locate(arguments.model, base=Path.cwd(), roots=(Path("/"),))
        full = folder / "F16.gguf"
        quantized(origin, full, "F16")
        windows, base_s = reading_seconds(
            full, text, context=arguments.context, sample=sample, threads=arguments.threads
        )
        print(f"F16: all {windows} windows in {base_s:.0f} s")
        print(
            "| type | limit | ratio | verdict | windows | stored: s, share | empty store: s, share |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for type_name in arguments.types or list(LIMITS):
            model = folder / f"{type_name}.gguf"
            quantized(full, model, type_name)
            _, own_s = reading_seconds(
                model, text, context=arguments.context, sample=sample, threads=arguments.threads
            )
            for limit in LIMITS[type_name]:
                (folder / "gates.yaml").write_text(
                    SPEC.format(context=arguments.context, type_name=type_name, limit=limit)
                )
                fresh = folder / f"store-{type_name}-{limit}"
                verdict, empty_s = judged(folder, store=fresh, threads=arguments.threads)
                # The same again without what was measured of the variant: the baseline is stored.
                for path in (fresh / "measurements").glob("likelihood-*.json"):
                    digest = hashlib.sha256(model.read_bytes()).hexdigest()
                    if json.loads(path.read_text())["key"]["model"] == digest:
                        path.unlink()
                _, stored_s = judged(folder, store=fresh, threads=arguments.threads)
                check = verdict["checks"][0]
                distance = math.log(check["value"]) / math.log(limit)
                print(
                    f"| {type_name} | {limit:g} ({distance:.2f}x in log) | {check['value']:.4f} |"
                    f" {verdict['outcome']} | {verdict['record']['chunks']} of {windows} |"
                    f" {stored_s:.1f}, 1/{own_s / stored_s:.1f} |"
                    f" {empty_s:.1f}, 1/{(base_s + own_s) / empty_s:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
