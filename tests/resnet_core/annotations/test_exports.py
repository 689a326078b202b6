"""Labels from Label Studio, CVAT, Hugging Face and WebDataset, in the forms that these tools document."""

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from resnet_core.annotations import cvat, label_studio
from resnet_core.annotations.exports import labels_of, queue_file, read_label_texts, read_labels
from resnet_core.annotations.people import Annotators
from resnet_core.errors import UserError
from tests.hostile_names import NAMES


def chosen(label: str | Sequence[str], name: str = "choice") -> dict[str, Any]:
    """A result as labelstud.io/guide/task_format has it."""
    choices = [label] if isinstance(label, str) else list(label)
    value = {"choices": choices}
    return {
        "id": "Dx_aB91ISN",
        "from_name": name,
        "to_name": "image",
        "type": "choices",
        "origin": "manual",
        "value": value,
    }


def annotated(*results: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": 1001, "result": list(results), "was_cancelled": False, "ground_truth": False, "lead_time": 4.288,
        "created_at": "2021-03-09T22:16:08.728353Z", "updated_at": "2021-03-09T22:16:08.728378Z", "result_count": 0,
        "task": 1, "completed_by": 10, **more,
    }  # fmt: skip


def task(image: str, *annotations: Mapping[str, Any], **data: Any) -> dict[str, Any]:
    predicted = {"created_ago": "3 hours", "model_version": "model 1", "result": [chosen("predicted")]}
    return {
        "id": 1, "created_at": "2021-03-09T21:52:49.513742Z", "updated_at": "2021-03-09T22:16:08.746926Z",
        "project": 83, "data": {"image": image, **data}, "annotations": list(annotations), "predictions": [predicted],
    }  # fmt: skip


def written(path: Path, content: Any) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def zipped(path: Path, members: Mapping[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def labels(path: Path, column: str | None = None, annotators: Annotators = "agree") -> dict[str, str | None]:
    rows = read_labels(UPath(path), column, annotators).rows
    return dict(zip(rows["path"].to_pylist(), rows["label"].to_pylist(), strict=True))


def attributes(path: Path) -> list[dict[str, str]]:
    rows = read_labels(UPath(path)).rows
    return [json.loads(text) if text else {} for text in rows["attributes"].to_pylist()]


def test_label_studios_json_has_peoples_choices_and_never_a_prediction(tmp_path: Path) -> None:
    tasks = [
        task("/data/upload/83/1a2b3c4d-one.png", annotated(chosen("cat"))),
        task(
            "/data/local-files/?d=parts/a%20b.png", annotated(chosen("dog"), completed_by={"id": 7, "email": "a@b.c"})
        ),
        task("s3://bucket/skipped.png", annotated(chosen("cat"), was_cancelled=True)),
        task("waits.png"),
        task("nothing.png", annotated()),
    ]
    path = written(tmp_path / "project-1.json", tasks)
    assert labels(path) == {
        "one.png": "cat", "parts/a b.png": "dog", "s3://bucket/skipped.png": None, "waits.png": None,
        "nothing.png": None,
    }  # fmt: skip
    first, second, *_ = attributes(path)
    assert first == {"source": "Label Studio", "corrected_at": "2021-03-09T22:16:08.728378Z", "annotator": "10"}
    assert second["annotator"] == "a@b.c"


def test_label_studios_json_min_and_csv_say_the_same(tmp_path: Path) -> None:
    record = {
        "image": "/data/upload/1/1a2b3c4d-1.png", "id": 1, "choice": "a, \"b\"\nc", "annotator": 1, "annotation_id": 5,
        "created_at": "2026-01-01T00:00:00.000000Z", "updated_at": "2026-01-02T00:00:00.000000Z", "lead_time": 1.5,
    }  # fmt: skip
    skipped = {k: v for k, v in record.items() if k != "choice"} | {"image": "2.png"}
    path = written(tmp_path / "min.json", [record, skipped])
    assert labels(path) == {"1.png": 'a, "b"\nc', "2.png": None}
    header = "annotation_id,annotator,choice,created_at,id,image,lead_time,updated_at\n"
    rows = '5,1,"a, ""b""\nc",2026-01-01,1,/data/upload/1/1a2b3c4d-1.png,1.5,2026-01-02\n'
    rows += "6,1,,2026-01-01,2,2.png,1.5,2026-01-02\n"
    assert labels(written(tmp_path / "project.csv", header + rows)) == labels(path)
    tabs = header.replace(",", "\t") + "5\t1\tcat\t\t1\t1.png\t1.5\t2026-01-02\n"
    assert labels(written(tmp_path / "project.tsv", tabs)) == {"1.png": "cat"}
    assert attributes(path)[0] == {"source": "Label Studio", "corrected_at": record["updated_at"], "annotator": "1"}


def test_what_opens_a_url_stays_out_of_rows_and_messages(tmp_path: Path) -> None:
    url = "https://user:pass@host.example/b/1.png?X-Amz-Signature=abcdef0123456789&X-Amz-Credential=key"
    path = written(tmp_path / "x.json", [task(url, annotated(chosen("a")), again=url)])
    text = str(read_labels(UPath(path)).rows.to_pylist())
    assert "host.example/b/1.png" in text
    two = written(tmp_path / "two.json", [task(url, annotated(chosen("a")), annotated(chosen("b")))])
    with pytest.raises(UserError, match=r"host\.example") as caught:
        labels(two)
    for secret in ("pass", "abcdef0123456789"):
        assert secret not in text
        assert secret not in str(caught.value)


def test_an_export_without_tasks_has_no_rows(tmp_path: Path) -> None:
    assert labels(written(tmp_path / "x.json", [])) == {}


def test_answers_that_differ_are_refused_unless_a_majority_is_asked_for(tmp_path: Path) -> None:
    def three(*names: str) -> Path:
        given = [annotated(chosen(name), completed_by=k) for k, name in enumerate(names, 1)]
        return written(tmp_path / "x.json", [task("1.png", *given), task("2.png", annotated(chosen("a")))])

    assert labels(three("a", "a", "a")) == {"1.png": "a", "2.png": "a"}
    with pytest.raises(
        UserError, match=r"1 image has answers that differ, such as '1.png': 'a' by 1, 'b' by 2, 'a' by 3"
    ):
        labels(three("a", "b", "a"))
    assert labels(three("a", "b", "a"), annotators="majority")["1.png"] == "a"
    assert labels(three("a", "b"), annotators="majority")["1.png"] is None
    truth = [annotated(chosen("a")), annotated(chosen("b"), ground_truth=True)]
    assert labels(written(tmp_path / "t.json", [task("1.png", *truth)])) == {"1.png": "b"}


def test_a_choice_that_may_not_be_the_class_is_refused_with_the_remedy(tmp_path: Path) -> None:
    two = [task("1.png", annotated(chosen("good", "quality"), chosen("cat", "animal")))]
    path = written(tmp_path / "two.json", two)
    with pytest.raises(UserError, match=r"quality, animal may be the class.*`label_column: quality`"):
        labels(path)
    assert labels(path, "animal") == {"1.png": "cat"}
    with pytest.raises(UserError, match=r"'1.png' is 'a' and 'b', and an image has one class"):
        labels(written(tmp_path / "many.json", [task("1.png", annotated(chosen(["a", "b"])))]))
    many = [{"image": "1.png", "choice": {"choices": ["a", "b"]}, "annotation_id": 1, "annotator": 1, "lead_time": 1}]
    with pytest.raises(UserError, match="an image has one class"):
        labels(written(tmp_path / "min.json", many))


XML = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><id>4</id><name>segmentation</name><mode>annotation</mode>
<labels><label><name>good</name><attributes></attributes></label></labels></task>
<dumped>2018-09-25 11:38:28.799808+03:00</dumped></meta>
<image id="0" name="a/1.png" width="16" height="12"><box label="plate" xtl="1" ytl="2" xbr="3" ybr="4" occluded="0">
</box><tag label="good" source="manual"></tag></image>
<image id="1" name="2.png" width="16" height="12"><tag label="bad" source="auto"></tag></image>
<image id="2" name="3.png" width="16" height="12"></image></annotations>"""


def test_cvats_xml_has_peoples_tags(tmp_path: Path) -> None:
    path = written(tmp_path / "annotations.xml", XML)
    assert labels(path) == {"a/1.png": "good", "2.png": None, "3.png": None}
    assert attributes(path)[0] == {"source": "CVAT", "corrected_at": "2018-09-25T08:38:28.000Z"}
    task_zip = zipped(tmp_path / "task.zip", {"annotations.xml": XML, "images/a/1.png": b"x"})
    assert labels(task_zip) == labels(path)
    for text, words in (
        (XML.replace("</tag></image>", "</tag><tag label='b'/></image>", 1), r"'a/1.png' is 'good' and 'b'"),
        (XML[:300], "not whole XML"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><annotations/>", "has a document type"),
        ("<annotations><track label='a'/></annotations>", "Export it as `CVAT for images 1.1`"),
        ("<annotations><image name='1'><box label='a'/></image></annotations>", "holds shapes and no tags"),
        ("<other/>", "not an export of Label Studio or CVAT"),
    ):
        with pytest.raises(UserError, match=words):
            labels(written(tmp_path / "bad.xml", text))


def test_cvats_datumaro_and_imagenet_exports(tmp_path: Path) -> None:
    def item(name: str, *label_ids: int, **more: Any) -> dict[str, Any]:
        given = [{"id": 0, "type": "label", "attributes": {}, "group": 0, "label_id": k} for k in label_ids]
        return {"id": name, "annotations": given, "attr": {"frame": 0}, **more}

    names = [{"name": "label_0", "parent": "", "attributes": []}, {"name": "label_1", "parent": "", "attributes": []}]
    content = {
        "info": {}, "categories": {"label": {"labels": names, "attributes": []}},
        "items": [item("img1", 1, image={"path": "img1.jpg", "size": [4, 4]}), item("img2", 0), item("img3")],
    }  # fmt: skip
    expected = {"img1.jpg": "label_1", "img2": "label_0", "img3": None}
    assert labels(written(tmp_path / "default.json", content)) == expected
    assert labels(zipped(tmp_path / "d.zip", {"annotations/default.json": json.dumps(content)})) == expected
    with pytest.raises(UserError, match="an image has one class"):
        labels(written(tmp_path / "two.json", content | {"items": [item("img1", 0, 1)]}))
    lists = {"default.txt": 'img1 1\n"a b" 0\nimg3\n', "synsets.txt": "label_0\nlabel_1\n"}
    assert labels(zipped(tmp_path / "i.zip", lists)) == {"img1": "label_1", "a b": "label_0", "img3": None}
    with pytest.raises(UserError, match=r"default.txt: line 1 is not a name and the place of a class"):
        labels(zipped(tmp_path / "j.zip", lists | {"default.txt": "img1 2\n"}))
    folders = {"cat/cat_1.png": b"", "dog/dog_2.png": b"", "no_label/no_label_3.png": b""}
    assert labels(zipped(tmp_path / "f.zip", folders)) == {"1.png": "cat", "2.png": "dog", "3.png": None}
    assert labels(zipped(tmp_path / "g.zip", {"cat/cat_1.png": b"", "dog/x.png": b""})) == {
        "cat_1.png": "cat",
        "x.png": "dog",
    }


def test_hugging_faces_metadata(tmp_path: Path) -> None:
    lines = [{"file_name": "1.png", "label": "cat", "camera": 3}, {"file_name": "2.png", "label": None}]
    path = written(tmp_path / "metadata.jsonl", "\n".join(map(json.dumps, lines)))
    assert labels(path) == {"1.png": "cat", "2.png": None}
    assert attributes(path)[0] == {"camera": "3"}
    table = written(tmp_path / "metadata.csv", "file_name,label\n1.png,cat\n2.png,\n")
    assert labels(table) == labels(path)
    assert not read_labels(UPath(path)).named  # its paths are relative to itself, as those of any table
    assert not read_labels(UPath(table)).named


def test_webdatasets_classes_lie_beside_the_images(tmp_path: Path) -> None:
    def tar(name: str, members: Mapping[str, bytes]) -> Path:
        with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as archive:
            for member, data in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return tmp_path / name

    members = {
        "a/0001.jpg": b"x",
        "a/0001.cls": b"7\n",
        "a/0001.json": b"{}",
        "b.0.png": b"y",
        "b.cls": b"cat",
        "c.png": b"z",
    }
    for name in ("train-000000.tar", "train-000001.tar.gz"):
        path = tar(name, members)
        assert labels(path) == {"a/0001.jpg": "7", "b.0.png": "cat"}
        assert read_labels(UPath(path)).uris[0] == f"tar://a/0001.jpg::file://{path}"
    with pytest.raises(UserError, match=r"'a.cls' may be the class of 'a.left.png' and 'a.right.png'"):
        labels(tar("two.tar", {"a.left.png": b"", "a.right.png": b"", "a.cls": b"1"}))
    assert labels_of(UPath(tar("none.tar", {"a.png": b""}))) is None


@pytest.mark.parametrize(
    "content", ['{"a": 1}', "[1, 2]", '[{"data": 1, "annotations": []}]', "[{", '[{"annotation_id": 1}]', "{}" * 3]
)
def test_other_json_is_one_clear_line(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match=r"x.json: ") as caught:
        labels(written(tmp_path / "x.json", content))
    assert len(str(caught.value).splitlines()) == 1


def test_names_of_classes_and_files_pass_through_both_tools_as_text(tmp_path: Path) -> None:
    """What a tool is given it gives back: as its configuration, its tasks, and the exports made of them."""
    from xml.etree import ElementTree

    names = [name for name in NAMES if not cvat.unwritable([name])]
    assert cvat.unwritable(NAMES) == ["\x1b[2J\u202egpj.exe"]
    assert len(names) == len(NAMES) - 1
    tree = ElementTree.fromstring(label_studio.config(names))
    assert [choice.get("value") for choice in tree.iter("Choice")] == names
    assert [label["name"] for label in json.loads(cvat.labels(NAMES))] == list(NAMES)
    sent = [label_studio.task({"image": "x", "path": f"/d/{name}.png"}, name, 0.5, "m") for name in NAMES]
    back = json.loads(json.dumps(sent, ensure_ascii=False))
    for each in back:
        each["annotations"] = [annotated(*each["predictions"][0]["result"])]
        del each["data"]["image"]
    assert labels(written(tmp_path / "ls.json", back)) == {f"/d/{name}.png": name for name in NAMES}
    assert labels(written(tmp_path / "waits.json", sent)) == dict.fromkeys([f"/d/{name}.png" for name in NAMES])
    xml = cvat.annotations([(f"{name}.png", 8, 8, name) for name in names], names)
    assert set(labels(written(tmp_path / "sent.xml", xml)).values()) == {None}
    given = xml.replace('source="auto"', 'source="manual"')
    assert labels(written(tmp_path / "given.xml", given)) == {f"{name}.png": name for name in names}


def test_a_queues_file_says_of_which_bytes_it_is(tmp_path: Path) -> None:
    name = queue_file("0001", "ab" * 32, ".png")
    path = written(tmp_path / "annotations.xml", XML.replace("a/1.png", name))
    assert attributes(path)[0]["image_id"] == "ab" * 32
    table, named = read_label_texts(UPath(path))
    assert named
    assert table["label"].to_pylist() == ["good", None, None]
