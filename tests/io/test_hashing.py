"""Hashes are keys of journals and random streams: their values may not move."""

from pathlib import Path

from em_geometry.hashing import file_sha256, stream_key, value_sha256


def test_hashes_are_stable_and_ignore_the_order_of_keys_only(tmp_path: Path) -> None:
    known = "ad0b5fe37d2050a3361db635d2212fcf5abedad5461e4cd61387351ca9ffac74"
    assert value_sha256({"b": [1, None, "ä"], "a": 0.5}) == known
    assert value_sha256({"a": 0.5, "b": [1, None, "ä"]}) == known
    different = ([1, 2], [2, 1], [1], ["1"], ["ab", "c"], ["a", "bc"])
    assert len(set(map(value_sha256, different))) == len(different)
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x").startswith("ba7816bf8f01cfea414140de5dae2223b00361a396177a9")


def test_stream_keys_are_stable_and_fit_philox() -> None:
    assert stream_key(0, "train", "finance", 0) == 100857708656652827659491758721430006220
    keys = {stream_key(seed, "x", i) for seed in range(20) for i in range(50)}
    assert len(keys) == 1000 and max(keys) < 2**128
