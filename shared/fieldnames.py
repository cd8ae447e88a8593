"""Names of fields as an error may repeat them: what a program calls things, and nothing that a person could be known by."""

import re
from typing import Final

_FIELD: Final = re.compile(r"[a-z]+(_[a-z]+)*")
_CHARACTERS_MAX: Final = 40

UNNAMED: Final = "?"


def shown(name: str) -> str:
    """The name as it stands where it is made like those of our fields (small letters and `_`), else `?`.

    Whoever mistypes a field is told which. A name, a number or a sentence in its place, as when columns of a list slip, is not said again.
    """
    return name if len(name) <= _CHARACTERS_MAX and _FIELD.fullmatch(name) else UNNAMED
