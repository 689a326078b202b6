"""Names: spellings that people take for the same are one, others stay apart."""

import unicodedata

import pytest

from resnet_core.storage.names import fold_label, fold_path


@pytest.mark.parametrize(
    ("written", "folded"),
    [
        ("cat/1.png", "cat/1.png"),
        ("cat\\a b\\1.png", "cat/a b/1.png"),
        ("./cat//1.png", "cat/1.png"),
        ("././cat/./././1.png", "cat/1.png"),
        ("../cat/a.b/.c./1.png", "../cat/a.b/.c./1.png"),
        (".\\cat\\.\\1.png", "cat/1.png"),
        ("/data//x.png", "/data/x.png"),
        ("C:\\data\\x.png", "C:/data/x.png"),
        ("s3://b/a//x.png", "s3://b/a/x.png"),
        ("caf\\udce9\\1.png", "caf\\udce9/1.png"),
        (unicodedata.normalize("NFD", "défaut/é.png"), "d\u00e9faut/\u00e9.png"),
        (" a /1.png ", " a /1.png "),
    ],
)
def test_spellings_of_a_path_fold_to_one(written: str, folded: str) -> None:
    assert fold_path(written) == folded
    assert fold_path(folded) == folded


@pytest.mark.parametrize(
    ("written", "folded"),
    [
        ("cat", "cat"),
        (" cat\t\n", "cat"),
        ("\ufeffcat\u00a0", "cat"),
        ("\u3000猫\u200b ", "猫"),
        (unicodedata.normalize("NFD", " défaut "), "d\u00e9faut"),
        ("two words\\x", "two words\\x"),
        ("\u00a0 ", ""),
    ],
)
def test_spellings_of_a_label_fold_to_one(written: str, folded: str) -> None:
    assert fold_label(written) == folded
    assert fold_label(folded) == folded
