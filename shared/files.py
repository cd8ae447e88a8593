"""Files that people write and a command imports: YAML, read strictly; whatever is wrong is told with its line, all of it at once."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from shared.contracts.event import Refusal
from shared.fieldnames import shown

PROBLEMS_MAX: Final = 20
"""So many problems are named; mend these and try again."""

M = TypeVar("M", bound=BaseModel)

Wrong = tuple[Sequence[int | str], str]
"""Where in the file (keys and indexes from the top), and what is wrong there."""


def _nothing(_said: object) -> Iterable[Wrong]:
    return ()


def read_file(text: str, model: type[M], code: str, check: Callable[[M], Iterable[Wrong]] = _nothing) -> M | Refusal:
    """What a file says, as `model`: no unknown or doubled key, nothing converted. Else a refusal with `code`.

    `check` finds what no field can say alone, once every field is right: a code that is used twice.

    Its detail has `line`, the first wrong one (from 1), and `problems`, "line 3: daily_cap_minutes: Input should be ..." for each. Of the
    file's own text it repeats nothing. The size of `text` is the caller's to limit.
    """
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        doubled = list(islice(_doubled(root), PROBLEMS_MAX))
        if doubled:
            return _refusal(code, doubled)
        said = loader.construct_document(root) if root is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return _refusal(code, [(mark.line + 1 if mark else 1, _said_of(error.problem))])
    except (yaml.YAMLError, ValueError, RecursionError):  # A control character, a date such as 2017-02-31, a nest of brackets.
        return _refusal(code, [(1, "this is not YAML that can be read")])
    try:
        file = model.model_validate(said, strict=True, extra="forbid")
    except (ValidationError, RecursionError) as error:
        problems = error.errors(include_url=False, include_input=False) if isinstance(error, ValidationError) else []
        told = [(_line(root, each["loc"]), f"{_place(each['loc'], each['type'])}: {each['msg']}") for each in problems]
        return _refusal(code, told or [(1, "this is nested too deeply")])
    wrong = [(_line(root, path), words) for path, words in check(file)]
    return _refusal(code, wrong) if wrong else file


def _refusal(code: str, problems: Sequence[tuple[int, str]]) -> Refusal:
    first = sorted(problems)[:PROBLEMS_MAX]
    words = "; ".join(f"line {line}: {problem}" for line, problem in first)
    return Refusal(code, {"line": first[0][0], "problems": "".join(each if each.isprintable() else "?" for each in words)})


def _place(path: Sequence[int | str], kind: str) -> str:
    """Keys and indexes as they are told. A key that no field could have is the file's own text, and is not repeated."""
    steps = path[:-1] if kind == "invalid_key" else path  # A number in the place of a key, which looks like an index.
    return ".".join(shown(each) if isinstance(each, str) else str(each) for each in steps) or "file"


def _said_of(problem: str | None) -> str:
    """What YAML's reader says, up to where it would name what the file calls something: an alias, a tag."""
    return _NAMING.sub(r"\1", problem) if problem else "this is not YAML"


_NAMING: Final = re.compile(r"\b(alias|anchor|tag|handle)\b.*", re.DOTALL)


def _doubled(node: Any) -> Iterator[tuple[int, str]]:
    """Keys that stand twice in one mapping, of which YAML's reader would silently keep the last, and what is referred to."""
    waiting, seen = [node], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:  # References to references would grow without end, in few lines.
            yield each.start_mark.line + 1, "is referred to (*name): write it out in each place"
            continue
        seen.add(id(each))
        if isinstance(each, yaml.MappingNode):
            keys = set[str]()
            for key, value in each.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in keys:
                        yield key.start_mark.line + 1, f"{shown(key.value)}: stands twice"
                    keys.add(key.value)
                waiting.append(value)
        elif isinstance(each, yaml.SequenceNode):
            waiting.extend(each.value)


def _line(node: Any, path: Sequence[int | str]) -> int:
    """The line of what `path` leads to, or of the last part of it that is there."""
    line = 1 if node is None else node.start_mark.line + 1
    for step in path:
        if isinstance(node, yaml.MappingNode):
            key, value = next((pair for pair in node.value if pair[0].value == step), (None, None))
            if key is None:
                break
            node, line = value, key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            break
    return int(line)
