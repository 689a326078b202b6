"""Manifests: text stays text, mistakes are named, and each row finds its file."""

import codecs
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.policy import more_roots
from resnet_core.sources.listing import NO_LABELS, PATH_COLUMNS
from resnet_core.sources.manifest import LISTED, MANIFEST, list_manifest, read_manifest
from resnet_core.sources.source import source_kind


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_columns_are_text_and_have_defaults(tmp_path: Path) -> None:
    path = touch(tmp_path / "m.csv", b"path,label,weight,colour\n./a.png,007,,red\nb.png, NA,0.5\n\nc.png,,1,\n")
    table = read_manifest(UPath(path))
    assert table.schema == MANIFEST
    assert table["path"].to_pylist() == ["a.png", "b.png", "c.png"]
    assert table["label"].to_pylist() == ["007", "NA", None]
    assert table["weight"].to_pylist() == [1, 0.5, 1]
    assert table["split"].to_pylist() == [None] * 3
    assert table["attributes"].to_pylist() == ['{"colour": "red"}', None, None]


def test_other_columns_are_attributes_in_csv_and_parquet(tmp_path: Path) -> None:
    path = touch(tmp_path / "m.csv", 'path,camera,label,"Größe, mm",,x\n1,"a ""1""",c,12,9,\n2,,d\n'.encode())
    assert [text and json.loads(text) for text in read_manifest(UPath(path))["attributes"].to_pylist()] == [
        {"camera": 'a "1"', "Größe, mm": "12"},
        None,
    ]
    columns = {
        "path": ["1", "2"],
        "label": ["c", "d"],
        "camera": pa.array(["007", None]).dictionary_encode(),
        "mm": [1.5, float("nan")],
        "ok": [True, False],
        "when": pa.array([0, None], pa.date32()),
        "embedding": [[1.0], [2.0]],
        "bytes": [b"1", b"2"],
        "__index_level_0__": [0, 1],
    }
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    assert [json.loads(text) for text in read_manifest(UPath(tmp_path / "m.parquet"))["attributes"].to_pylist()] == [
        {"camera": "007", "mm": "1.5", "ok": "true", "when": "1970-01-01"},
        {"ok": "false"},
    ]


def test_no_other_columns_no_attributes(tmp_path: Path) -> None:
    path = touch(tmp_path / "m.csv", b"path,label\n1,a\n2,b\n")
    assert read_manifest(UPath(path))["attributes"].null_count == 2


def test_names_may_hold_anything(tmp_path: Path) -> None:
    path = touch(tmp_path / "m.csv", '\ufefflabel,path\r\nä,"a,""b""\nc.png"\r\n7, d e.png\r\n'.encode())
    assert read_manifest(UPath(path)).select(["path", "label"]).to_pylist() == [
        {"path": 'a,"b"\nc.png', "label": "ä"},
        {"path": "d e.png", "label": "7"},
    ]


def test_parquet_says_the_same_as_csv(tmp_path: Path) -> None:
    columns = {
        "label": pa.array(["a", "b", "a"]).dictionary_encode(),
        "path": ["./1.png", "2.png", "3.png"],
        "group": [7, None, 8],
        "weight": [0.5, None, 2],
        "soft_label": ["a=0.5; b=0.5", None, ""],
        "split": ["train", "", None],
        "image_size": [1, 2, 3],
    }
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    touch(
        tmp_path / "m.csv",
        b"path,label,group,weight,split,soft_label,image_size\n1.png,a,7,0.5,train,a=0.5; b=0.5,1\n"
        b"2.png,b,,,,,2\n3.png,a,8,2,,,3\n",
    )
    tables = [read_manifest(UPath(tmp_path / name)) for name in ("m.parquet", "m.csv")]
    assert tables[0].equals(tables[1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("paths,label\na,b\n", "no column 'path'. Did you mean 'paths'"),
        ("path\na\n", "no column 'label'. Its columns: path."),
        ("", "no column 'path'"),
        ("path,label,split\na,b,trian\n", "split 'trian' is not one of train, validation, test. Did you mean 'train'"),
        ("path,label\na,b\n./a,c\n", "'a' stands in 2 rows"),
        ("path,label,weight\na,b,-1\n", "weight '-1' is not a number"),
        ("path,label,weight\na,b,nan\n", "weight 'nan' is not a number"),
        (
            "path,label,soft_label\na,b,b=0.5\n",
            "soft_label 'b=0.5' of 'a': its shares sum to 0.5, not to 1. Write a share",
        ),
        ("path,label,soft_label\nx,b,\na,b,b\n", "soft_label 'b' of 'a': 'b' is not like `class=0.5`. Write"),
        (
            "path,label,soft_label\nx,good,\na,bad,bad=0.5; godo=0.5\n",
            "of 'a': no row has the label 'godo'. Did you mean 'good'? Write",
        ),
        ("path,label\n,b\n", "line 2: `path` is empty"),
        ("path,label\n\na,b\n,b\n", "line 4: `path` is empty"),
        ("path,label\na,b,c\n", "line 2 has 3 fields, the header 2"),
        ('path,label\n"a,b\nc,d\n', "line 2: a quotation mark is not closed"),
    ],
)
def test_a_wrong_manifest_is_the_users_error(tmp_path: Path, text: str, message: str) -> None:
    path = touch(tmp_path / "m.csv", text.encode())
    with pytest.raises(UserError) as caught:
        read_manifest(UPath(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("name", "content"), [("m.csv", b"path,label\n\x81,b\n"), ("m.parquet", b"no table")])
def test_what_is_no_table_is_the_users_error(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(UserError, match=r"cannot be read as a table|line 2 is neither UTF-8 nor cp1252"):
        read_manifest(UPath(touch(tmp_path / name, content)))
    with pytest.raises(UserError, match="there is no such file"):
        read_manifest(UPath(tmp_path / f"no-{name}"))


def test_paths_are_relative_absolute_or_missing(tmp_path: Path) -> None:
    inside, outside = touch(tmp_path / "m" / "a b" / "in.png", b"123"), touch(tmp_path / "out.png")
    (tmp_path / "m" / "folder.png").mkdir()
    manifest = touch(
        tmp_path / "m" / "m.csv",
        f"path,label,group,soft_label,camera\na b/in.png,a,g,a=0.5;b=0.5,7\n{outside},b,\n".encode()
        + b"none.png,c,\nfolder.png,c,\n",
    )
    with more_roots([str(tmp_path)]):
        table = pa.Table.from_batches(list_manifest(UPath(manifest)), LISTED)
    assert table["uri"].to_pylist() == [str(inside), str(outside), f"{tmp_path}/m/none.png", f"{tmp_path}/m/folder.png"]
    assert table["path"].to_pylist() == ["a b/in.png", str(outside), "none.png", "folder.png"]
    assert table["size"].to_pylist() == [3, 1, None, None]
    assert table["modified"].to_pylist() == [*(str(p.stat().st_mtime_ns) for p in (inside, outside)), None, None]
    assert table["label"].to_pylist() == ["a", "b", "c", "c"]
    assert table["group"].to_pylist() == ["g", None, None, None]
    assert table["soft_label"].to_pylist() == ["a=0.5;b=0.5", None, None, None]
    assert table["attributes"].to_pylist() == ['{"camera": "7"}', None, None, None]
    assert set(table["ignored"].to_pylist()) == {False}


def test_a_manifest_in_another_file_system_names_files_there(tmp_path: Path) -> None:
    folder = UPath("memory://manifest-test")
    (folder / "a").mkdir(parents=True, exist_ok=True)
    (folder / "a" / "1.png").write_bytes(b"one")
    here = touch(tmp_path / "2.png")
    (folder / "m.csv").write_text(f"path,label\na/1.png,a\n{here.as_uri()},b\nmemory://manifest-test/a/1.png,c\n")
    with more_roots([str(tmp_path)]):
        table = pa.Table.from_batches(list_manifest(folder / "m.csv"), LISTED)
    assert table["uri"].to_pylist() == ["memory://manifest-test/a/1.png", str(here), "memory://manifest-test/a/1.png"]
    assert table["size"].to_pylist() == [3, 1, 3]
    folder.fs.rm(folder.path, recursive=True)


def test_a_manifest_of_nothing_that_is_there_is_the_users_error(tmp_path: Path) -> None:
    manifest = touch(tmp_path / "m.csv", b"path,label\nx/a.png,a\nx/b.png,b\n")
    with pytest.raises(UserError, match="none of its 2 paths is a file"):
        list(list_manifest(UPath(manifest)))


TABLE = "path{0}label{0}colour\na.png{0}défaut{0}red\nb.png{0}cat{0}\n"
ROWS = [
    {"path": "a.png", "label": "défaut", "attributes": '{"colour": "red"}'},
    {"path": "b.png", "label": "cat", "attributes": None},
]


def three(path: Path) -> list[dict[str, object]]:
    return read_manifest(UPath(path)).select(["path", "label", "attributes"]).to_pylist()


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_of_spreadsheets_are_read(
    tmp_path: Path, separator: str, encoding: str, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    content = TABLE.format(separator).replace("\n", end).encode(encoding)
    if encoding == "utf-16-be":  # with its mark; without one it is guessed from the zeros
        content = codecs.BOM_UTF16_BE + content
    path = touch(tmp_path / "m.csv", content)
    assert three(path) == ROWS
    line = f"{path}: not UTF-8 (line {1 if end == chr(13) else 2}); read as cp1252. Save it as UTF-8 if its letters"
    assert [text.startswith(line) for text in caplog.messages] == [True] * (encoding == "cp1252")


@pytest.mark.parametrize(
    "text",
    [
        TABLE.format(","),
        "\n\n" + TABLE.format(","),
        "sep=;\r\n" + TABLE.format(";"),
        '"sep=|"\n' + TABLE.format("|"),
        " Path ,LABEL,colour\na.png,défaut,red\n\n,,\nb.png,cat\n,,,,\n",
        "\tpath\tlabel\tcolour\n0\ta.png\tdéfaut\tred\n1\tb.png\tcat\t\n",
        'a;path;label;colour\n;a.png;"défaut";"red"\n;"b.png";cat;\n',
        "path,Class,colour\na.png,défaut,red\nb.png,cat,\n",
        "path,target,colour\na.png,défaut,red\nb.png,cat,\n",
        'path,label,colour,mask\na.png,défaut,red,"' + "1 2\n" * 50_000 + '"\nb.png,cat,,\n',
        "path,label,colour\na.png,défaut,red\nb.png,cat," + "x" * 1001 + "\n",
    ],
)
def test_what_is_around_the_cells_does_not_matter(tmp_path: Path, text: str) -> None:
    assert three(touch(tmp_path / "m.csv", text.encode())) == ROWS


def test_weights_may_have_a_decimal_comma(tmp_path: Path) -> None:
    path = touch(tmp_path / "m.csv", b"path;label;weight\na;x;0,5\nb;x;1,25\nc;x;2\nd;x;0,125\n")
    assert read_manifest(UPath(path))["weight"].to_pylist() == [0.5, 1.25, 2, 0.125]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path,label,label\na,b,c\n", "two columns are named 'label'. Rename or remove one"),
        (b"path,Label,label\na,b,c\n", "two columns are named 'label'"),
        (b"path,target,class\na,b,c\n", "target, class may be the class. Name the column, like `label_column: target`"),
        (b"path;label;weight\na;b;1,000\n", "weight '1,000' may be 1000 or 1.000. Write it so"),
        (b"path,label\na\\b.png,x\na//b.png,y\n", "'a/b.png' stands in 2 rows"),
        (
            b"image,file_name,label\na,b,c\n",
            "image and file_name may be the paths of the files. Name one of them `path`",
        ),
        (b"PK\3\4\x14\0", "is an Excel workbook or a zip, not text. Save it as CSV in UTF-8"),
        (b"path,label\n\0\0\0,x\n", "holds bytes of 0"),
        (b'path,label\na,x\n"b,y\nc,z\nd,z\n', "line 3: a quotation mark is not closed"),
        (b'path,label\na,x\n"b"c,y\n', "line 3: ',' expected after '\"'"),
        (b"a.png\nb.png\n", "has no column 'path'"),
    ],
)
def test_what_may_be_meant_in_two_ways_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_manifest(UPath(touch(tmp_path / "m.csv", content)))
    assert message in str(caught.value)


def test_the_users_column_is_the_class(tmp_path: Path) -> None:
    path = touch(tmp_path / "m.csv", b"path,label,kind\na,x,cat\n")
    assert read_manifest(UPath(path), "kind").select(["label", "attributes"]).to_pylist() == [
        {"label": "cat", "attributes": None}
    ]
    features = {"kind": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    table = pa.table({"Path": ["a", "b", "c"], "kind": [1, 0, -1]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "m.parquet")
    found = read_manifest(UPath(tmp_path / "m.parquet"), "kind")
    assert (found["path"].to_pylist(), found["label"].to_pylist()) == (["a", "b", "c"], ["dog", "cat", None])


def listed_paths(manifest: Path) -> list[tuple[str, int | None]]:
    table = pa.Table.from_batches(list_manifest(UPath(manifest), NO_LABELS), LISTED)
    return list(zip(table["uri"].to_pylist(), table["size"].to_pylist(), strict=True))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "path\na b/1.png\nno.png\n"),
        ("l.csv", "path;x\na b/1.png;\nno.png;1\n"),
        ("l.tsv", "path\tlabels\ttarget\na b/1.png\tx\t\nno.png\t\t\n"),
        ("l.txt", "a b/1.png\r\n\r\nno.png"),
        ("l.txt", "\ufeffa b\\1.png\nno.png\n"),
        ("l.txt", "path\na b/1.png\nno.png\n"),
    ],
)
def test_a_list_of_paths_alone_can_be_listed(tmp_path: Path, name: str, text: str) -> None:
    touch(tmp_path / "a b" / "1.png", b"123")
    path = touch(tmp_path / name, text.encode())
    assert listed_paths(path) == [(f"{tmp_path}/a b/1.png", 3), (f"{tmp_path}/no.png", None)]
    assert source_kind(str(path)) == "manifest"
    pq.write_table(pa.table({"path": ["a b/1.png", "no.png"]}), tmp_path / "l.parquet")
    assert listed_paths(tmp_path / "l.parquet") == listed_paths(path)


def test_a_file_is_found_in_either_unicode_form_and_under_its_own_blanks(tmp_path: Path) -> None:
    names = ["e\u0301.png", "\u00fc.png", " x .png"]
    for name in names:
        touch(tmp_path / name, b"12")
    path = touch(tmp_path / "l.txt", "\u00e9.png\nu\u0308.png\n x .png\n".encode())
    assert listed_paths(path) == [(f"{tmp_path}/{name}", 2) for name in names]


@pytest.mark.parametrize("name", PATH_COLUMNS)
def test_csv_and_parquet_take_the_same_names_for_paths(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "data" / "a.png", b"one")
    written = name.upper() if name != "path" else name
    touch(tmp_path / "m.csv", f"id;{written};label\n7;data/a.png;cat\n".encode())
    pq.write_table(pa.table({"id": ["7"], written: ["data/a.png"], "label": ["cat"]}), tmp_path / "m.parquet")
    for table in ("m.csv", "m.parquet"):
        (batch,) = list_manifest(UPath(tmp_path / table))
        assert batch.select(["uri", "label", "size"]).to_pylist() == [
            {"uri": f"{tmp_path}/data/a.png", "label": "cat", "size": 3}
        ]
        assert read_manifest(UPath(tmp_path / table))["attributes"].to_pylist() == ['{"id": "7"}']


def test_two_files_whose_names_differ_by_their_unicode_form_are_two_rows(tmp_path: Path) -> None:
    composed, apart = "\u00e9.png", "e\u0301.png"
    path = UPath(touch(tmp_path / "m.csv", f"path,label\n{composed},x\n{apart},y\n".encode()))
    touch(tmp_path / composed, b"one")
    with pytest.raises(UserError, match="name the same file"):
        list(list_manifest(path))
    touch(tmp_path / apart, b"other")
    (batch,) = list_manifest(path)
    assert batch.select(["uri", "size"]).to_pylist() == [
        {"uri": f"{tmp_path}/{composed}", "size": 3}, {"uri": f"{tmp_path}/{apart}", "size": 5}
    ]  # fmt: skip


def test_a_file_url_may_be_written_with_percents(tmp_path: Path) -> None:
    touch(tmp_path / "b c.png", b"one")
    touch(tmp_path / "d%20e.png", b"other")
    lines = f"path,label\nfile://{tmp_path}/b%20c.png,x\nfile://{tmp_path}/d%20e.png,y\n"
    (batch,) = list_manifest(UPath(touch(tmp_path / "m.csv", lines.encode())))
    assert batch["size"].to_pylist() == [3, 5]
