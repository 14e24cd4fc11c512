"""Artifacts: a failed write changes nothing, a bad file is refused by name."""

import json
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from em_geometry.errors import UserError
from em_geometry.io.files import (
    atomic_path,
    read_json,
    read_jsonl,
    read_parquet,
    read_tensors,
    read_yaml,
    tensor_file,
    versions,
    write_parquet,
    write_tensors,
    write_text,
)
from em_geometry.io.results import read_results, write_metrics, write_results
from em_geometry.stats.estimate import Estimate


def test_a_write_creates_folders_and_replaces_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "größe.txt"
    write_text(path, "old")
    write_text(path, "neu: größer\n")
    with pytest.raises(RuntimeError, match="disk"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("disk")
    assert path.read_bytes() == "neu: größer\n".encode()
    assert list(path.parent.iterdir()) == [path]  # nothing temporary is left
    (tmp_path / "plain").touch()  # not the 0600 of a temporary file: users share the cache
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (tmp_path / "plain", path)]
    assert modes[0] == modes[1]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), "a.b is nan"),
        (np.float64("inf"), "a.b is inf"),
        (None, "a.b is a NoneType"),
        ([1, 2], "a.b is a list"),
    ],
)
def test_metrics_that_dvc_would_drop_are_refused(tmp_path: Path, value: Any, says: str) -> None:
    path, sound = tmp_path / "m.json", {"a": {"n": 3, "rate": 0.5}, "b": "übrig", "c": True}
    write_metrics(path, sound | {"a": {"n": np.int64(3), "rate": np.float32(0.5)}})
    with pytest.raises(ValueError, match=says):
        write_metrics(path, {"a": {"b": value}})
    assert read_json(path) == sound


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b"1" * 5000, b"", b"\n \n"])
def test_errors_name_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    for read in (read_json, read_jsonl):
        with pytest.raises(UserError, match=re.escape(str(path))):
            read(path)


class Row(BaseModel):
    id: str
    n: int


def test_jsonl_skips_blank_lines_and_reads_long_ones(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    long = "ä\u2028" * 1_000_000
    text = f'{{"id": "a", "n": 1}}\n\n{{"id": "{long}", "n": 2, "more": 0.1}}\r\n'
    for encoding in ("utf-8", "utf-8-sig"):  # with a byte order mark, as some editors write
        path.write_text(text, encoding=encoding, newline="")
        assert read_jsonl(path) == [{"id": "a", "n": 1}, {"id": long, "n": 2, "more": 0.1}]
        assert read_jsonl(path, Row) == [Row(id="a", n=1), Row(id=long, n=2)]


LINES = '{"id": "\u00e4", "n": 1}\n\n{"id": "b", "n": 2}\n'
ARRAY = '[\n{"id": "\u00e4", "n": 1},\n{"id": "b", "n": 2}]\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("text", [LINES, LINES.replace("\n", "\r\n"), ARRAY, "\n " + ARRAY])
def test_rows_in_other_encodings_and_as_one_array(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(text.encode(encoding))
    assert read_jsonl(path, Row) == [Row(id="ä", n=1), Row(id="b", n=2)]


def test_files_joined_with_their_marks_and_elements_at_fault(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(2 * LINES.encode("utf-8-sig"))
    assert len(read_jsonl(path, Row)) == 4
    path.write_text(ARRAY.replace('{"id": "b", "n": 2}', "3"), encoding="utf-8")
    with pytest.raises(UserError, match="not a JSON object") as caught:
        read_jsonl(path, Row)
    assert "element 2" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1e-5", 1e-5), ("1E5", 1e5), (".5", 0.5), ("012", 12), ("0o12", 10), ("0x1F", 31),
        ("on", "on"), ("yes", "yes"), ("Off", "Off"), ("1:30", "1:30"), ("true", True),
        ("~", None), ("1_000", 1000), ("{a: &x {b: 1}, c: {<<: *x, d: 2}}",
                                       {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
    ],
)  # fmt: skip
def test_yaml_is_what_dvc_reads(tmp_path: Path, text: str, found: object) -> None:
    from dvc.utils.serialize import load_yaml

    path = tmp_path / "x.yaml"
    path.write_text(f"\ufeffkey: {text}\n", encoding="utf-8")
    assert read_yaml(path) == {"key": found} == load_yaml(str(path))


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "a:\n\tb: 1\n", "a: 1\n---\nb: 2\n", "a: !x 1"])
def test_yaml_that_dvc_refuses_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="not a YAML file") as caught:
        read_yaml(path)
    assert re.search(rf"{re.escape(str(path))}, line [12]$", str(caught.value), re.M)
    assert len(str(caught.value).splitlines()) == 4


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (b"{", "not a JSON object"),
        (b'{"id": "b" "n": 1}', "expected `,`"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"id": "\xff"}', "not UTF-8"),
        (rb'{"id": "b", "n": 1, "text": "\ud800"}', "hex escape"),
        (b'{"id": "b"}', "key 'n' is missing"),
        (b'{"id": 5, "n": 1}', "key 'id' has a wrong value"),
        (b'{"id": "b", "n": null}', "a valid integer"),
        (b'{"n": ' + b"[" * 100_000, "not a JSON object"),
        (b'{"n": ' + b"9" * 5000 + b"}", "not a JSON object"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_jsonl_errors_name_file_and_line(tmp_path: Path, second: bytes, says: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"id": "a", "n": 1}\n\n' + second + b"\n")
    with pytest.raises(UserError) as caught:
        read_jsonl(path, Row)
    assert f"{path}, line 3" in str(caught.value)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_an_element_of_a_list_is_named_by_its_id(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("- {id: a, n: 1}\n- {id: b, n: x}\n")
    with pytest.raises(UserError) as caught:
        read_yaml(path, list[Row], "a hint")
    assert (caught.value.where, caught.value.hint) == (f"{path}: 1.n (b)", "a hint")
    path.write_text("{id: a}\n")
    with pytest.raises(UserError, match="not a list"):
        read_yaml(path, list[Row])


def test_missing_files_say_how_to_make_them(tmp_path: Path) -> None:
    for read in (read_json, read_jsonl, read_parquet, read_tensors, read_results):
        with pytest.raises(UserError, match="make repro"):
            read(tmp_path / "nothing")
    with pytest.raises(UserError, match="file not found"):
        read_jsonl(tmp_path)


def test_parquet_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    frame = pl.DataFrame({"id": ["ä", "b"], "score": [1.5, None]})
    write_parquet(path, frame, {"units": "percent"})
    assert read_parquet(path).equals(frame)
    about = pq.read_schema(path).metadata
    assert (about[b"units"], about[b"versions"].decode()) == (b"percent", versions())
    assert re.fullmatch(r"em-geometry [\d.]+, torch \S+, transformers \S+", versions())


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.98])
def test_half_written_files_are_refused(tmp_path: Path, keep: float) -> None:
    parquet, tensors = tmp_path / "x.parquet", tmp_path / "x.safetensors"
    write_parquet(parquet, pl.DataFrame({"a": range(100)}), {})
    write_tensors(tensors, {"a": np.ones(100)}, {})
    for path, read in ((parquet, read_parquet), (tensors, read_tensors)):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * keep)])
        with pytest.raises(UserError, match=re.escape(str(path))):
            read(path)


def test_tensors_round_trip_and_the_same_ones_give_the_same_bytes(tmp_path: Path) -> None:
    metadata = {key: "\u00b0" * n for n, key in enumerate("edcba")}
    arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.float32([[1]])}
    for n in range(20):
        write_tensors(tmp_path / str(n), arrays, metadata)
    assert len({(tmp_path / str(n)).read_bytes() for n in range(20)}) == 1
    back, found = read_tensors(tmp_path / "0")
    assert found == metadata | {"versions": versions()}
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


def test_rows_in_any_order_give_the_layout_of_the_library(tmp_path: Path) -> None:
    from safetensors.numpy import save

    def parts(data: bytes) -> tuple[Any, bytes]:
        start = 8 + int.from_bytes(data[:8], "little")
        return json.loads(data[8:start]), data[start:]

    arrays = {"b": np.arange(12, dtype=np.float32).reshape(4, 3), "a.x": np.ones((2, 2, 2))}
    arrays["c"] = np.zeros((4,), np.float16)
    kinds = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    with tensor_file(tmp_path / "x", kinds, {"one": "entry"}) as put:
        for name, array in arrays.items():
            for rows in ([1], [x for x in range(len(array) - 1, -1, -1) if x != 1]):
                put(name, rows, array[rows])
    whole = parts((tmp_path / "x").read_bytes())
    assert whole == parts(save(arrays, {"one": "entry", "versions": versions()}))
    with (
        pytest.raises(AssertionError, match="not written"),
        tensor_file(tmp_path / "x", kinds, {}) as put,
    ):
        put("b", [0], arrays["b"][:1])
    assert parts((tmp_path / "x").read_bytes()) == whole


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_tensors_must_be_finite(tmp_path: Path, bad: float) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": np.ones(2)}, {})
    with pytest.raises(UserError, match=r"x\.safetensors: b"):
        write_tensors(path, {"a": np.zeros(2), "b": np.array([0.0, bad])}, {})
    np.testing.assert_array_equal(read_tensors(path)[0]["a"], np.ones(2))
    assert list(tmp_path.iterdir()) == [path]


def test_bfloat16_which_numpy_lacks_becomes_float32(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    save_file({"a": torch.full((2,), 1.5, dtype=torch.bfloat16), "b": torch.ones(1)}, str(path))
    found, _ = read_tensors(path)
    assert {name: (array.dtype, array.tolist()) for name, array in found.items()} == {
        "a": (np.float32, [1.5, 1.5]),
        "b": (np.float32, [1.0]),
    }


# -- a stage's results: all in the table, the headline in the metrics, the same numbers in both

NESTED = {
    "rate": {"a__b": Estimate(1 / 3, 0.1, 0.7, 48), "c": Estimate.undefined("too few, n = 2", 2)},
    "tokens": np.int64(12_345_678),
    "share": np.float32(0.1),
    "model": "tiny",
}


def test_results_round_trip(tmp_path: Path) -> None:
    table, metrics = tmp_path / "x.csv", tmp_path / "x.json"
    write_results(table, metrics, NESTED | {"rate.c.p": 0.5}, ["tokens", "rate.*"])
    assert list(read_json(metrics)) == ["tokens", "rate"]
    assert read_json(metrics) == {
        "tokens": 12_345_678,
        "rate": {
            "a__b": {"value": 0.333333, "low": 0.1, "high": 0.7, "n": 48, "status": "ok"},
            "c": {"n": 2, "status": "too few, n = 2"},
        },
    }
    found = read_results(table)
    assert found.names() == ["rate", "tokens", "share", "model"]
    assert found.group("rate")["a__b"] == Estimate(0.333333, 0.1, 0.7, 48.0)
    assert found.rows["rate.c"] == Estimate.undefined("too few, n = 2", 2)
    assert found.rows["tokens"].value == 12_345_678
    assert found.rows["share"].value == 0.1
    assert found.rows["model"].status == "tiny"


def test_what_is_no_result_or_no_table_of_them(tmp_path: Path) -> None:
    for value in (float("nan"), np.float64("inf")):
        with pytest.raises(ValueError, match="no result"):
            write_results(tmp_path / "x.csv", tmp_path / "x.json", {"a": {"b": value}})
    assert not list(tmp_path.iterdir())
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not a table of results"):
        read_results(tmp_path / "x.csv")
