"""The licence of an installed distribution as an SPDX expression, from what its metadata says.

In this order: License-Expression, a short License field, classifiers, the text of its licence file. What says
only "BSD" is told apart by the text.
"""

from __future__ import annotations

import re
from importlib.metadata import Distribution
from typing import Any

CLASSIFIED = {
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "Zope Public License": "ZPL-2.1",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "GNU Affero General Public License v3": "AGPL-3.0-only",
}
WORDS = {
    "mit license": "MIT",
    "the mit license": "MIT",
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache software license 2.0": "Apache-2.0",
    "new bsd": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd-3": "BSD-3-Clause",
    "3-clause bsd": "BSD-3-Clause",
    "bsd 2-clause": "BSD-2-Clause",
    "isc license": "ISC",
    "mpl 2.0": "MPL-2.0",
    "psf": "PSF-2.0",
    "python software foundation license": "PSF-2.0",
}
TEXTS = (  # words of a text that is otherwise known; the first that is met
    ("Apache-2.0", r"Apache License\s+Version 2\.0"),
    ("MPL-2.0", r"Mozilla Public License,? [Vv](?:ersion|\.) ?2\.0"),
    (
        "BSD-3-Clause",
        r"Redistribution and use in source and binary forms.*(?:Neither the name|may not be used to endorse)",
    ),
    ("BSD-2-Clause", r"Redistribution and use in source and binary forms"),
    ("ISC", r"Permission to use, copy, modify, and(?:/or)? distribute this software"),
    ("MIT", r"Permission is hereby granted, free of charge, to any person obtaining a copy"),
)
FILE = re.compile(r"(?i)(?:^|/)(?:licen[cs]e|copying)[^/]*$")
SHORT = 80  # characters: longer is the text itself


def licence_of(distribution: Distribution) -> str | None:
    """None where nothing says which."""
    metadata: Any = distribution.metadata
    told = str(metadata.get("License-Expression") or "").strip() or None
    field = str(metadata.get("License") or "").strip()
    return (
        (told and spdx(told))
        or (spdx(field) if len(field) <= SHORT else None)
        or classified(metadata.get_all("Classifier") or [])
        or by_text(field)
        or by_files(distribution)
    )


def spdx(text: str) -> str | None:
    """The expression in its canonical form; None for words that are none."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    text = WORDS.get(text.lower(), text)
    try:
        return str(canonicalize_license_expression(text)) if text else None
    except InvalidLicenseExpression:
        return None


def classified(classifiers: list[str]) -> str | None:
    """Several classifiers hold together."""
    names = [c.rpartition("::")[2].strip() for c in classifiers if c.startswith("License ::")]
    known = sorted({CLASSIFIED[name] for name in names if name in CLASSIFIED})
    return " AND ".join(known) or None


def by_text(text: str) -> str | None:
    return next((name for name, words in TEXTS if re.search(words, text, re.DOTALL)), None)


def by_files(distribution: Distribution) -> str | None:
    """The first licence file that is known."""
    for file in distribution.files or ():
        if FILE.search(str(file)) and (name := by_text(_text(distribution, str(file)))):
            return name
    return None


def _text(distribution: Distribution, name: str) -> str:
    try:
        with open(str(distribution.locate_file(name)), "rb") as file:
            return file.read(1 << 16).decode("utf-8", "replace")
    except OSError:
        return ""
