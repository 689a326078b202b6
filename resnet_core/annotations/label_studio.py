"""Label Studio: tasks with predictions, and its exports JSON, JSON_MIN, CSV and TSV.

The forms are those of labelstud.io/guide/predictions, /guide/export and /tags/choices. Only choices are read, and only
annotations that were not cancelled: never a prediction.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote
from xml.sax.saxutils import quoteattr

from resnet_core.annotations.people import Answer, one_class
from resnet_core.credentials import public
from resnet_core.errors import UserError
from resnet_core.policy import parse_json
from resnet_core.sources.listing import find_path_column

TOOL = "Label Studio"
CONTROL, IMAGE = "label", "image"  # names of the two tags of `config`
_OWN = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement")
_LIKELY = ("label", "labels", "choice", "choices", "class")
_UPLOADED = re.compile(r"/data/upload/\d+/(?:[0-9a-f]{8}-)?")
_STORED = re.compile(r"/data/local-files/\?d=")
_MANY = '{"choices":'  # a cell with several classes begins so


def config(classes: Sequence[str]) -> str:
    """Return the labelling configuration for these classes."""
    choices = "\n".join(f"    <Choice value={_quoted(name)}/>" for name in classes)
    return (
        f'<View>\n  <Image name="{IMAGE}" value="${IMAGE}"/>\n'
        f'  <Choices name="{CONTROL}" toName="{IMAGE}" choice="single" showInLine="true">\n{choices}\n'
        "  </Choices>\n</View>\n"
    )


def _quoted(text: str) -> str:
    return quoteattr(text, {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})


def task(data: Mapping[str, Any], label: str, score: float, model: str) -> dict[str, Any]:
    """Return a task with its prediction. data: the columns, `image` among them."""
    result = {"type": "choices", "from_name": CONTROL, "to_name": IMAGE, "value": {"choices": [label]}}
    return {"data": dict(data), "predictions": [{"model_version": model, "score": score, "result": [result]}]}


def stored(path: str) -> str:
    """Return where Label Studio serves a file below its document root."""
    return f"/data/local-files/?d={quote(path)}"


def is_export(row: Any) -> bool:
    """Return whether a row is a task of the JSON export, or of JSON_MIN and CSV."""
    return isinstance(row, dict) and ("annotation_id" in row or ("data" in row and _given(row) is not None))


def _given(row: Mapping[str, Any]) -> Any:
    """Return the annotations of a task; None for something else. Tasks that only wait have predictions alone."""
    return row.get("annotations", row.get("completions", [] if "predictions" in row else None))


def read(rows: Sequence[Mapping[str, Any]], place: str, wanted: str | None) -> Iterator[Answer]:
    """Yield the answers of an export. wanted: the control or column of the classes. Raises UserError."""
    if rows and "data" in rows[0]:
        yield from _read_tasks(rows, place, wanted)
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    path, controls = _path_column(names, place), [name for name in names if name not in _OWN]
    control = _control([name for name in controls if name != path], wanted, place)
    for row in rows:
        at = _file_of(row[path], place)
        others = {name: row[name] for name in controls if name not in (path, control) and name in row}
        given = _classes(row.get(control or ""))
        yield Answer(at, one_class(given, place, at), str(row.get("annotator") or ""), others=_others(others, row))


def _read_tasks(tasks: Sequence[Mapping[str, Any]], place: str, wanted: str | None) -> Iterator[Answer]:
    every = [[each for each in _given(task) or () if not each.get("was_cancelled")] for task in tasks]
    results = (result for given in every for each in given for result in each["result"] if _is_choice(result))
    control = _control(list(dict.fromkeys(result["from_name"] for result in results)), wanted, place)
    path = _path_column(list(dict.fromkeys(name for task in tasks for name in task["data"])), place)
    for task, given in zip(tasks, every, strict=True):
        at, others = _file_of(task["data"][path], place), {k: v for k, v in task["data"].items() if k != path}
        if not given:
            yield Answer(at, None, others=_others(others, {}))
        for each in given:
            chosen = [r["value"]["choices"] for r in each["result"] if _is_choice(r) and r["from_name"] == control]
            label = one_class([name for names in chosen for name in names], place, at)
            truth = bool(each.get("ground_truth"))
            yield Answer(at, label, _person(each.get("completed_by")), truth, _others(others, each))


def _is_choice(result: Mapping[str, Any]) -> bool:
    return result.get("type") == "choices"


def _path_column(names: Sequence[str], place: str) -> str:
    path = find_path_column(names, place)
    if path is None:
        raise UserError(f"{place}: none of its data names a file: {', '.join(names)}. Name one of them `path`.")
    return path


def _control(names: Sequence[str], wanted: str | None, place: str) -> str | None:
    """Return the control or column of the classes; None if nothing was chosen. Raises UserError for several."""
    if wanted is not None and (wanted in names or not names):
        return wanted
    likely = [name for name in names if name.lower() in _LIKELY] or list(names)
    if wanted is not None or len(likely) > 1:
        raise UserError(
            f"{place}: {', '.join(likely)} may be the class. Name it in the data set file, like `label_column: "
            f"{likely[0]}`, or name that control `{CONTROL}`."
        )
    return likely[0] if likely else None


def _file_of(value: Any, place: str) -> str:
    """Return the file that a task's URL stands for."""
    if not isinstance(value, str) or not value:
        raise UserError(f"{place}: a task names no file ({value!r}). Export it again.")
    if mark := _UPLOADED.match(value) or _STORED.match(value):
        return unquote(value[mark.end() :])
    return public(value) if "://" in value else value


def _classes(value: Any) -> list[str]:
    """Return the classes of a cell: a text, a list, or the object with `choices` that several make."""
    if isinstance(value, str) and value.startswith(_MANY):
        value = parse_json(value)
    if isinstance(value, dict):
        value = value["choices"]
    values: Iterable[Any] = value if isinstance(value, list) else [value]
    return [str(each) for each in values if each not in (None, "")]


def _person(who: Any) -> str:
    return str(who.get("email") or who.get("id") or "") if isinstance(who, dict) else str(who or "")


def _others(data: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns beside path and label: of the task, and of the answer."""
    texts = {str(name): str(value) for name, value in data.items() if isinstance(value, str | int | float)}
    texts.setdefault("source", TOOL)
    when = said.get("updated_at") or said.get("created_at")
    who = said.get("annotator") or _person(said.get("completed_by"))
    more = {"corrected_at": when, "annotator": who}
    return texts | {name: str(value) for name, value in more.items() if value}
