"""Validation: a YAML file as a mapping, and everything wrong with it in the user's own words.

pydantic's words never reach the user: this room is the only reader of a ValidationError.
"""

import ast
import dataclasses
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ValidationError

from resnet_core.credentials import public
from resnet_core.errors import UserError, nearest
from resnet_core.images.preprocessing import NO_KEY
from resnet_core.policy import policy

_Model = TypeVar("_Model", bound=BaseModel)
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
_ONE_OF = "one of "
_LONGEST = 60  # characters of a value in a message
_MOST_NODES = 100_000
_TAG = "tag:yaml.org,2002:"
_READ_AS = {"bool": "true or false", "int": "a number", "float": "a number", "null": "nothing", "timestamp": "a date"}
_REMEDIES = {
    r"'\t'": "Indent with spaces, not with tabs.",
    "cannot start any token": "Put the value in quotes.",
    "mapping values are not allowed": "Put a value with a colon in it in quotes, or correct the indentation.",
    "another document": "Keep one document: remove `---`.",
    "undefined alias": "Put the value in quotes.",
    "constructor for the tag": "Put the value in quotes.",
}
_LIMITS = {
    "greater_than_equal": ("ge", "{:g} or more"),
    "greater_than": ("gt", "above {:g}"),
    "less_than_equal": ("le", "{:g} or less"),
    "less_than": ("lt", "below {:g}"),
    "multiple_of": ("multiple_of", "a multiple of {:g}"),
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "list": "a list, such as [a, b]",
    "tuple": "a list, such as [a, b]",
    "dict": "keys with values",
    "model": "keys with values",
    "dataclass": "keys with values",
    "too_": "a list of another length",
}

# The keys that are `auto` unless the file has a value: `tasks.defaults` chooses it before the first use.
AUTO = (
    "image.size", "model.width", "train.epochs", "train.batch_size", "train.warmup", "train.ema_decay",
    "train.sampling", "train.logit_adjustment", "train.augment.flips", "train.augment.shift",
)  # fmt: skip


def public_texts(content: Any) -> Any:
    """Return settings with public URLs wherever a text stands; what opens them is remembered."""
    if isinstance(content, dict):
        return {key: public_texts(value) for key, value in content.items()}
    if isinstance(content, list):
        return [public_texts(value) for value in content]
    return public(content) if isinstance(content, str) else content


def value_at(content: Any, key: str) -> Any:
    """Return the value of a key such as `train.augment.flips` in a mapping or in settings; None if it has none."""
    for name in key.split("."):
        content = content.get(name) if isinstance(content, dict) else getattr(content, name, None)
    return content


def with_value(part: Any, key: str, value: Any) -> Any:
    """Return settings with another value of a key such as `augment.flips`."""
    name, _, rest = key.partition(".")
    return dataclasses.replace(part, **{name: with_value(getattr(part, name), rest, value) if rest else value})


def without_auto(content: dict[str, Any], place: str = "") -> dict[str, Any]:
    """Return the content of a file without the word `auto`, where it may stand."""
    return {
        name: without_auto(value, f"{place}{name}.") if isinstance(value, dict) else value
        for name, value in content.items()
        if not (value == "auto" and f"{place}{name}" in AUTO)
    }


def _weight(node: yaml.Node, known: dict[int, int]) -> int:
    """Return the number of nodes, where an alias counts as all that it stands for; one within itself is endless."""
    if id(node) not in known:
        known[id(node)] = _MOST_NODES
        inner = [] if isinstance(node, yaml.ScalarNode) else node.value
        parts = chain.from_iterable(inner) if isinstance(node, yaml.MappingNode) else inner
        known[id(node)] = min(1 + sum(_weight(part, known) for part in parts), _MOST_NODES + 1)
    return known[id(node)]


class _Loader(yaml.SafeLoader):
    """Refuse what YAML lets pass: a key given twice, and a key that is read as something other than text."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > policy().depth:
            raise RecursionError
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _weight(node, {}) > _MOST_NODES:
            raise UserError(f"says more than {_MOST_NODES:,} things by aliases (`*name`). Write them out.")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line, kind = key.start_mark.line + 1, key.tag.removeprefix(_TAG)
            if kind == "merge":
                continue
            if kind != "str":
                if not isinstance(key, yaml.ScalarNode):
                    raise UserError(f"line {line}: a key begins with a bracket. Put it in quotes.")
                read_as = f"{_READ_AS.get(kind, 'something other')}, not as a name"
                raise UserError(
                    f'line {line}: the key {key.value} is read as {read_as}. Put it in quotes: "{key.value}".'
                )
            if key.value in lines:
                raise UserError(
                    f"line {line}: the key {key.value!r} is there twice, first in line {lines[key.value]}. Keep one."
                )
            lines[key.value] = line
        return node


def read_yaml(text: str) -> Any:
    """Return the content of YAML text. Raises UserError with line, column and remedy."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506  a SafeLoader
    except yaml.MarkedYAMLError as error:
        problem, mark = str(error.problem), error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        default = "Close brackets and quotes, and correct the indentation."
        remedy = next((remedy for words, remedy in _REMEDIES.items() if words in problem), default)
        raise UserError(f"{where}cannot be read as YAML: {problem}. {remedy}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"line {line}: holds a control character. Remove it.") from None
    except RecursionError:
        raise UserError("is nested too deeply. Remove brackets.") from None
    except ValueError as error:  # such as the date 2024-13-01
        raise UserError(f"a date or a number cannot be read ({error}). Put it in quotes.") from None


def validate(content: Any, root: type[_Model]) -> _Model:
    """Return the content of a file as a pydantic model. Raises UserError with a line per problem."""
    content = public_texts(content)
    wrong = dict(_booleans(content, root))
    try:
        found = root.model_validate(content)
    except ValidationError as error:
        wrong = _problems(error, content, root) | wrong
    if wrong:
        raise UserError(*wrong.values())
    return found


def _problems(error: ValidationError, content: Any, root: type) -> dict[str, str]:
    """Return a line per problem by its key: what is wrong with it, and the remedy. Misspelt keys come first.

    A key that is missing because it is misspelt is left out.
    """
    lines: dict[str, str] = {}
    wanted: dict[str, list[str]] = {}
    for problem in sorted(error.errors(), key=lambda problem: problem["type"] not in _UNKNOWN_KEY):
        place, kind = _place(problem["loc"], content), problem["type"]
        where = ".".join(place)
        if kind in _UNKNOWN_KEY:
            lines[where] = _unknown_key(place, root)
        elif kind == "missing" and (len(place) < len(problem["loc"]) - 1 or isinstance(problem["loc"][-1], int)):
            lines.setdefault(where, f"{where}: is incomplete. Write all of its parts.")  # of one way to write it
        elif kind == "missing":
            where = ".".join((*place, str(problem["loc"][-1])))
            if not any(f"Did you mean {where!r}?" in line for line in lines.values()):
                lines[where] = f"{where}: is missing. Add `{where}: ...`."
        elif kind == "value_error":
            text = str(problem["ctx"]["error"])
            lines[text] = f"{text.removesuffix('.')}."
        else:
            ways = wanted.setdefault(where, [])
            ways.append(_wanted(kind, problem.get("ctx", {})))
            lines[where] = f"{where}: {_wrong(problem['input'], ' or '.join(dict.fromkeys(ways)))}"
    return lines


def invalid(error: ValidationError) -> str:
    """Return what is wrong with a single value, without its key."""
    first = error.errors()[0]
    if first["type"] == "value_error":
        return f"{str(first['ctx']['error']).removesuffix('.')}."
    return _wrong(first["input"], _wanted(first["type"], first.get("ctx", {})))


def _place(loc: tuple[int | str, ...], content: Any) -> tuple[str, ...]:
    """Return the keys of a problem, without what pydantic adds, such as the members of a union."""
    place: list[str] = []
    for part in loc:
        known = content if isinstance(content, Mapping) else range(len(content)) if isinstance(content, list) else ()
        if part not in known:
            break
        content = content[part]
        place.append(str(part))
    return tuple(place)


def _unknown_key(place: tuple[str, ...], root: type) -> str:
    key, known, homes = place[-1], _keys_of(_type_at(root, place[:-1])), _homes_of(place[-1], root)
    hint = f" It belongs to {', '.join(homes)}." if homes else nearest(key, known)
    return f"{'.'.join(place)}: unknown key.{hint or ' Known: ' + ', '.join(known) + '.'}"


def _homes_of(key: str, root: type, place: tuple[str, ...] = ()) -> list[str]:
    """Return the parts of a file that know the key, such as `train.augment`; top-level keys have none."""
    found: list[str] = []
    for name in _keys_of(_type_at(root, place)):
        inner = (*place, name)
        found += [".".join(inner)] if key in _keys_of(_type_at(root, inner)) else []
        found += _homes_of(key, root, inner)
    return found


def _type_at(root: type, place: tuple[str, ...]) -> Any:
    """Return the type of a key; None for one that is unknown."""
    part: Any = root
    for name in place:
        part = get_args(part)[-1] if get_origin(part) in (dict, list) else _types_of(part).get(name)
        if get_origin(part) is Annotated:
            part = get_args(part)[0]
    return part


def _keys_of(part: Any) -> list[str]:
    """Return the keys of a part of the settings; none for a value."""
    return list(_types_of(part))


def _types_of(part: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(part):
        hints = get_type_hints(part)
        return {field.name: hints[field.name] for field in dataclasses.fields(part) if field.metadata != NO_KEY}
    fields = getattr(part, "model_fields", {})
    return {name: field.annotation for name, field in fields.items()}


def _booleans(content: Any, root: type, place: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield the keys of numbers that are true or false, each with its line: pydantic takes `yes` for 1."""
    for key, value in content.items() if isinstance(content, Mapping) else ():
        inner = (*place, str(key))
        if isinstance(value, Mapping):
            yield from _booleans(value, root, inner)
        elif isinstance(value, bool):
            kind = _type_at(root, inner)
            kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
            if {int, float} & {*kinds} and bool not in kinds:
                yield ".".join(inner), f"{'.'.join(inner)}: {_wrong(value, 'a number')}"


def _wrong(value: Any, wanted: str) -> str:
    """Say what is wanted instead of a value, and how to write it."""
    if value is None:
        return f"is empty, and must be {wanted}. Give it a value, or remove it."
    if wanted == "text" and not isinstance(value, list | Mapping):
        if isinstance(value, bool):
            return f"must be text; YAML reads its word as {_shown(value)}. Put that in quotes."
        return f'must be text, not {_shown(value)}. Put it in quotes: "{_shown(value)}".'
    hint = ""
    if isinstance(value, str) and re.fullmatch(r"-?\d+,\d+", value) and "number" in wanted:
        hint = f" Write {value.replace(',', '.')}."
    elif isinstance(value, str) and wanted.startswith(_ONE_OF):
        hint = nearest(value, wanted.removeprefix(_ONE_OF).split(", "))
    return f"must be {wanted}, not {_shown(value)}.{hint}"


def _shown(value: Any) -> str:
    """Return a value of a YAML file as its author knows it."""
    match value:
        case bool():
            return str(value).lower()
        case Mapping():
            return "keys with values"
        case list():
            return "a list"
        case str():
            return repr(value if len(value) <= _LONGEST else value[:_LONGEST] + "...")
        case _:
            return str(value)[:_LONGEST]


def _wanted(kind: str, limits: Mapping[str, Any]) -> str:
    """Return what a setting must be, such as `8 or more`."""
    if kind in _LIMITS:
        name, text = _LIMITS[kind]
        return text.format(limits[name])
    if kind == "literal_error":
        names = ast.literal_eval(f"[{limits['expected'].replace(' or ', ', ')}]")
        return _ONE_OF + ", ".join(map(str, names)) if len(names) > 1 else str(names[0])
    return next((text for beginning, text in _KINDS.items() if kind.startswith(beginning)), "of another kind")
