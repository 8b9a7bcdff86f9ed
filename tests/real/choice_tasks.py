"""Multiple-choice tasks of one's own, in each of the formats that `llama-perplexity` reads."""

from __future__ import annotations

import json
import struct

PEOPLE = ("Ada", "Ben", "Clara", "Dev", "Edith", "Farid", "Grete", "Hugo")
THINGS = ("the lamp", "a red boat", "the old door", "some bread", "two keys", "the map")
ENDINGS = (
    "and put it on the table.",
    "because the river was cold and deep.",
    "and it sang until morning, which nobody had asked for.",
    "but forgot why.",
    "and the dog ran home.",
)
PLACES = ("in the garden", "behind the school", "near the harbour", "on the hill")


def hellaswag() -> str:
    """Return 24 tasks of six lines."""
    lines = []
    for number in range(24):
        person, thing = PEOPLE[number % 8], THINGS[number % 6]
        endings = [ENDINGS[(number + 2 * step) % 5] for step in range(4)]
        lines += [
            f"Daily life: {person} found {thing} {PLACES[number % 4]}",
            str(number % 4),
            *endings,
        ]
    return "\n".join(lines) + "\n"


def winogrande() -> str:
    """Return 24 lines of CSV, some with tails of three tokens or fewer, some with quoted commas."""
    rows = []
    for number in range(24):
        one, other = PEOPLE[number % 8], PEOPLE[(number + 3) % 8]
        tail = ("was tired.", "slept.", "went home before the rain began.")[number % 3]
        sentence = f"{one} thanked {other} {PLACES[number % 4]}, since _ {tail}"
        rows.append(f'{number},"{sentence}",{one},{other},{number % 2 + 1}')
    return "\n".join(rows) + "\n"


def questions() -> list[dict[str, object]]:
    """Return 24 questions with three, four or five answers."""
    return [
        {
            "id": f"q{number}",
            "question": f"What did {PEOPLE[number % 8]} do {PLACES[number % 4]}?",
            "choices": [ENDINGS[(number + step) % 5] for step in range(3 + number % 2)],
            "answer": number % 3,
        }
        for number in range(24)
    ]


def json_lines() -> str:
    """Return the questions as JSON Lines."""
    return "".join(f"{json.dumps(each)}\n" for each in questions())


def tool_file(prompt: str) -> bytes:
    """Return the questions as `llama-perplexity --multiple-choice` reads them, little-endian.

    Number of tasks, the offset of each, and then each task: its question, the answers of which one
    is right with a 1 beside that one, and the answers of which several may be, here none.
    """
    tasks = []
    for each in questions():
        choices, right = each["choices"], each["answer"]
        assert isinstance(choices, list)
        marks = [int(place == right) for place in range(len(choices))]
        tasks.append(
            _text(prompt.replace("{question}", str(each["question"])))
            + struct.pack("<I", len(choices))
            + b"".join(map(_text, choices))
            + struct.pack(f"<{len(marks)}i", *marks)
            + struct.pack("<I", 0)
        )
    offset = 4 + 4 * len(tasks)
    offsets = []
    for task in tasks:
        offsets.append(offset)
        offset += len(task)
    return struct.pack(f"<I{len(tasks)}I", len(tasks), *offsets) + b"".join(tasks)


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<I", len(data)) + data
