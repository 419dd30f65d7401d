"""Rows come from every accepted file, nothing malformed slips through, and columns mean one thing."""

import datetime
import gzip
import json

import datasets
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from cascade.data.datasets import Conversation, RawText, conversation_of, fingerprint, load_numbered, load_rows
from cascade.errors import DataError

ROWS = [{"text": "eins"}, {"text": "zwei\u2028drei"}, {"text": "é"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "yo"}


def test_every_accepted_file_gives_the_same_rows(tmp_path):
    (tmp_path / "a.jsonl").write_text(LINES + "\n")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.jsonl.gz", "a.json", "a.parquet"):
        assert load_rows(str(tmp_path / name)) == ROWS
    assert load_rows(str(tmp_path)) == ROWS * 4


def test_folder_is_read_by_split(tmp_path):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test", "validation"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name}))
    assert [row["text"][:11] for row in load_rows(str(tmp_path), split="train")] == ["train-00000", "train-00001"]
    assert load_rows(str(tmp_path), split="test") == [{"text": "test"}]
    with pytest.raises(DataError, match="several splits"):
        load_rows(str(tmp_path))
    with pytest.raises(DataError, match="no data files of split 'holdout'"):
        load_rows(str(tmp_path), split="holdout")


def test_malformed_lines_are_listed_by_number(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"a": 1}\n{"a": \n[1]\n\n{"a": NaN}\n\xff\n{"a": 2}\n' + b"[" * 100_000)
    with pytest.raises(DataError, match="not JSON objects: 2, 3, 5, 6, 8"):
        load_rows(str(file))
    file.write_text("x\n" * 30)
    with pytest.raises(DataError, match="19, 20 and 10 more"):
        load_rows(str(file))


def test_unreadable_sources_are_refused(tmp_path):
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(LINES.encode())[:-12])
    (tmp_path / "no.jsonl.gz").write_bytes(b"not gzip")
    (tmp_path / "no.parquet").write_bytes(b"not parquet")
    (tmp_path / "no.json").write_text("{")
    for name in ("cut.jsonl.gz", "no.jsonl.gz", "no.parquet", "no.json"):
        with pytest.raises(DataError, match="cannot be read"):
            load_rows(str(tmp_path / name))
    (tmp_path / "object.json").write_text("{}")
    with pytest.raises(DataError, match="not a JSON array"):
        load_rows(str(tmp_path / "object.json"))
    with pytest.raises(DataError, match="no file or folder"):
        load_rows("missing/rows.jsonl")
    with pytest.raises(DataError, match="one file and has no split"):
        load_rows(str(tmp_path / "object.json"), split="train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no data files"):
        load_rows(str(tmp_path / "empty"))


def test_hub_id_is_loaded_by_datasets(monkeypatch):
    def load_dataset(source, split):
        if source != "org/name":
            raise FileNotFoundError(source)
        return datasets.Dataset.from_list([{"text": split}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_rows("org/name") == [{"text": "train"}]
    assert load_rows("org/name", split="test") == [{"text": "test"}]
    with pytest.raises(DataError, match="'org/other' with split 'train'"):
        load_rows("org/other")


def test_a_hub_id_names_its_configuration_and_a_split_of_its_own(monkeypatch):
    def load_dataset(source, *configuration, split):
        return datasets.Dataset.from_list([{"asked": [source, *configuration, split]}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    asked = {
        "org/name:main": ["org/name", "main", "test"],
        "org/name@train": ["org/name", "train"],
        "org/name:main@train": ["org/name", "main", "train"],
    }
    for source, wanted in asked.items():
        assert load_numbered(source, split="test") == [("1", {"asked": wanted})]


def test_columns_decide_what_is_trained():
    tool = {"type": "function", "function": {"name": "f"}}
    assert conversation_of({"messages": [USER, ASSISTANT]}) == Conversation([USER, ASSISTANT], None, 0)
    assert conversation_of({"prompt": "hi", "completion": "yo"}) == Conversation([USER, ASSISTANT], None, 1)
    chat = {"prompt": [USER, ASSISTANT, USER], "completion": [ASSISTANT]}
    assert conversation_of(chat) == Conversation([USER, ASSISTANT, USER, ASSISTANT], None, 3)
    assert conversation_of({"text": "abc", "messages": None}) == RawText("abc")
    for tools in ([tool], json.dumps([tool])):
        assert conversation_of({"messages": [USER, ASSISTANT], "tools": tools}) == Conversation(
            [USER, ASSISTANT], [tool], 0
        )


def test_keys_without_a_value_are_left_out_of_messages():
    calls = [{"function": {"name": "f", "arguments": {}}}]
    row = {"messages": [{**USER, "tool_calls": None}, {"role": "assistant", "content": None, "tool_calls": calls}]}
    assert conversation_of(row) == Conversation([USER, {"role": "assistant", "tool_calls": calls}], None, 0)


def test_rows_without_meaning_are_refused():
    refused = {
        r"columns \['answer', 'prompt'\]": {"prompt": "x", "answer": "y"},
        "no assistant turn": {"messages": [USER]},
        "not a chat message": {"messages": [USER, {"from": "gpt", "value": "x"}]},
        "is not a chat message": {"messages": 3},
        "tools of the row are not JSON": {"messages": [USER, ASSISTANT], "tools": "{"},
        "tools of the row are not a list": {"messages": [USER, ASSISTANT], "tools": "{}"},
    }
    for message, row in refused.items():
        with pytest.raises(DataError, match=message):
            conversation_of(row)


JSON = st.dictionaries(st.text(), st.one_of(st.integers(), st.floats(allow_nan=False), st.text(), st.booleans()))


@given(st.lists(JSON, max_size=5))
def test_fingerprint_sees_order_of_rows_and_not_of_keys(rows):
    reordered = [dict(reversed(row.items())) for row in rows]
    assert fingerprint(rows) == fingerprint(iter(reordered))
    if rows != rows[::-1]:
        assert fingerprint(rows) != fingerprint(rows[::-1])
    assert fingerprint(rows) != fingerprint([*rows, {}])


def test_fingerprint_is_stable_over_releases_and_refuses_what_has_no_json_form():
    rows = [{"b": 1, "a": ["é", None]}, {"at": datetime.date(2026, 1, 2), "raw": b"\x01"}]
    assert fingerprint(rows) == fingerprint([{"a": ["é", None], "b": 1}, {"at": "2026-01-02", "raw": "01"}])
    assert fingerprint([{"a": 1}]) == "e346432021b04179518d9614f3560ccd71354a4ee101ddcb893d6959a9d6301c"
    with pytest.raises(DataError, match="Row 0 cannot be fingerprinted"):
        fingerprint([{"a": object()}])
