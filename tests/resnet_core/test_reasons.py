"""Reasons: the codes of the documents are those of the code, and files without codes get them."""

import re
from pathlib import Path

import pyarrow as pa

from resnet_core.reasons import Reason, ReasonCode, with_reason_codes

PAGE = Path(__file__).parents[2] / "docs" / "reasons.md"


def test_the_table_of_the_documents_has_every_code_once() -> None:
    documented = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert documented == list(ReasonCode)


def test_the_text_of_an_older_file_gives_the_code() -> None:
    texts = {
        "unreadable: broken PNG file (chunk b'IDAT')": "damaged",
        "truncated: image file is truncated": "truncated",
        "too large: 9 bytes, over the limit of 8": "too_large",
        "crashed the decoder: signal SIGSEGV": "decoder_crashed",
        "over time: no result after 30 s": "over_time",
        "label conflict: the same bytes are 'a' in b.png": "label_conflict",
        "changed since it was corrected: its bytes are others than those that the label is of": "label_outdated",
        "file missing: the labels name it, the source has it not": "file_missing",
        "same bytes as unreadable.png": "duplicate",
        "near-duplicate of a.png, which is in test": "near_duplicate",
        "a text that no release wrote": "damaged",
    }
    rows = pa.table({"image_id": ["0"] * len(texts), "reason": list(texts)})
    assert with_reason_codes(rows)["reason_code"].to_pylist() == list(texts.values())


def test_what_had_no_bytes_was_out_of_reach() -> None:
    texts = ["unreadable: Permission denied", "over time: no result after 30 s", "too large: 9 bytes", None]
    batch = pa.record_batch({"image_id": pa.nulls(4, pa.string()), "reason": texts})
    found = with_reason_codes(batch)
    assert found["reason_code"].to_pylist() == ["unreachable", "unreachable", "too_large", None]
    assert with_reason_codes(found) is found


def test_a_reason_reads_as_a_sentence_begins() -> None:
    assert Reason.of(ReasonCode.TOO_LARGE, "9 bytes").text == "too large: 9 bytes"
