"""The examples in the docs: blocks of code that say what they give."""

import re

BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SAYS = re.compile(r"^(\S.*?)  # -> (.+)$", re.MULTILINE)


def checked(source: str) -> str:
    """Python in which each `expression  # -> value` became an assertion. Lines stay where they were."""
    return _SAYS.sub(lambda line: f"said = {line[1]}; assert repr(said) == {line[2]!r}, repr(said)", source)
