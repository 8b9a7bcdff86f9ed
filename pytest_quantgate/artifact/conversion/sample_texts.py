"""Texts that a converted model has to read exactly as its source does.

They are chosen for where tokenizers go wrong: spaces and line ends at either side and in rows, digits,
apostrophes, scripts without spaces, marks that combine, symbols of several code points, code.
"""

# ruff: noqa: RUF001 - characters that look like others are what some of these texts are about

from __future__ import annotations

PLAIN = "The ferry leaves at seven, and nobody has brought an umbrella."
"""A sentence every tokenizer of a Latin alphabet has tokens for."""

TEXTS: tuple[str, ...] = (
    PLAIN,
    "",
    " ",
    "a",
    "\n",
    "Only the last lamp was lit",
    "He's sure you've heard that we're late; I'll wait, but they'd rather not. DON'T!",
    "  two spaces in front, a tab\tinside, two behind  ",
    "one line\nanother line\n\na paragraph\n\n\n    an indented line\r\na line of Windows\n",
    "0 1 12 123 1234 12345 123456 3.14159 1,000,000 -7 0x1F 2031-02-28 17:45 50% 1e-9",
    "Am Flussufer wächst grüner Löwenzahn; wer pflückt ihn für Großmutter?",
    "Où l'été s'achève, l'hiver commence déjà : « à bientôt ! »",
    "¿Quién cerró la ventana del niño? ¡Nadie lo sabe!",
    "Łódka płynie źle, gdy wiatr wieje z północy.",
    "Утром река была тихой, а мост — пустым.",
    "Το πλοίο φεύγει στις επτά.",
    "القطار يصل في الساعة الثامنة مساءً.",
    "הרכבת מגיעה בשמונה בערב.",
    "दीपक ने अपनी बहन को पत्र लिखा।",
    "เรือออกเวลาเจ็ดโมงเช้า",
    "図書館は月曜日に休みです。カギは机の上。",
    "火车晚点了，我们在站台上等了两个小时。",
    "오늘은 비가 오고 바람이 붑니다.",
    "Tàu rời bến lúc bảy giờ sáng.",
    "A hedgehog 🦔, a flag 🇳🇿, a wave 👋🏽, an astronaut 👩‍🚀 and a heart ❤️.",
    "“Curly” ‘quotes’ – and — dashes … ½ × 2² = 2 ≠ ∞, 20 °C, €5, №7",
    "e\u0301 is not é, ﬁ is not fi, and a\u00a0space may\u200bbe odd",
    "def area(w: int, h: int = 3) -> int:\n    # square centimetres\n    return w * h\n",
    'for (int i = 0; i < n; ++i) {\n\tsum += a[i] >> 2; // "sum"\n}\n',
    '<p class="x">a &amp; b</p> {"key": [1, 2.5, null]} https://example.org/a_b?c=d#e',
    "aaaaaaaaaaaaaaaa ================ ........ ------ !!!??? ((()))",
    "CamelCaseName snake_case_name SCREAMING_CASE x86_64 v1.2.3-rc4 user@example.org",
)
"""Tokens of these are compared one by one, with and without the tokens that begin and end a text."""

PASSAGES: tuple[str, ...] = (
    (
        "The ferry leaves at seven, and nobody has brought an umbrella. When the rain began, the"
        " children ran under the roof of the old station and counted the trains. One of them had a"
        " map of the whole coast. It showed every light and every rock, and on its back somebody had"
        " written the names of ships that never came home. They read the names aloud, one after the"
        " other, until the rain was over and the sun came out. Then they went down to the water and"
        " looked for shells."
    ),
    (
        "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n"
        "    return total / len(values)\n\n\nprint(mean([1, 2, 3, 4]))\n"
    ),
    (
        "Das Boot legt um sieben ab. Le bateau part à sept heures. El barco sale a las siete. "
        "Лодка уходит в семь часов. 船は七時に出ます。"
    ),
)
"""Probabilities of the next token are compared along these."""
