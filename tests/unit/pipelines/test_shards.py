import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.errors import CorruptShard
from pipelines.lake import Lake, shard_index, shard_tar
from pipelines.scheduling import Receipt, Unit
from pipelines.shards.plan import ShardOptions, SourceRecord, plan_shards, shard_name
from pipelines.shards.read import read_picture, read_pictures, stream_samples
from pipelines.shards.write import write_shard
from pipelines.sources import ABSENT, Allowed
from pipelines.sources.allowed import folder_place
from pipelines.storage.objects import describe

OPTIONS = ShardOptions(max_pixels=10_000)
LOCAL_FILES = Allowed(folder_place("/"))


def record(path: Path, key: str, **labels: list[str]) -> SourceRecord:
    return SourceRecord(key, str(path), "v0", "train", labels)


def write(lake: Lake, records: list[SourceRecord], options: ShardOptions = OPTIONS) -> Receipt:
    (unit,) = plan_shards(
        "shop", records, replace(options, images_per_shard=len(records)), allowed=LOCAL_FILES
    )
    return write_shard(lake, unit)


def index_of(lake: Lake, shard: str) -> list[dict]:
    with lake.store.local_copy(shard_index("shop", shard)) as path:
        return pq.read_table(path).to_pylist(maps_as_pydicts="strict")


@pytest.fixture
def records(tmp_path: Path, picture: Callable[..., bytes]) -> list[SourceRecord]:
    found = []
    for number, kind in enumerate(["JPEG", "PNG", "WEBP", "JPEG", "TIFF"]):
        path = tmp_path / f"{number}.pic"
        path.write_bytes(picture(number, kind=kind))
        found.append(record(path, f"key {number}", collar_design=["shawl"], skirt_length=["knee", "midi"]))
    return found


def test_a_shard_is_plain_webdataset(lake: Lake, records: list[SourceRecord]) -> None:
    made = write(lake, records)
    with lake.store.local_copy(shard_tar("shop", made.unit)) as path:
        samples = list(wds.WebDataset(str(path), shardshuffle=False).decode("pil"))
    assert [sample["json"]["key"] for sample in samples] == [each.key for each in records]
    pictures = [
        next(value for value in sample.values() if isinstance(value, Image.Image)) for sample in samples
    ]
    assert {each.size for each in pictures} == {(40, 30)}
    assert [{"jpg", "png", "webp", "tif"} & set(sample) for sample in samples] == [
        {"jpg"}, {"png"}, {"webp"}, {"jpg"}, {"tif"},
    ]  # fmt: skip


def test_a_shard_made_again_is_byte_identical(tmp_path: Path, records: list[SourceRecord]) -> None:
    one, other = (write(Lake(str(tmp_path / name)), records) for name in ("one", "other"))
    assert one.files == other.files
    assert one.counts == other.counts


def test_a_tar_names_no_person_and_no_time(lake: Lake, records: list[SourceRecord]) -> None:
    made = write(lake, records)
    with lake.store.local_copy(shard_tar("shop", made.unit)) as path, tarfile.open(path) as tar:
        members = tar.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.isreg()) for m in members} == {
        (0, 0, 0, "", "", True)
    }


def test_offsets_point_at_the_pictures_bytes(lake: Lake, records: list[SourceRecord]) -> None:
    made = write(lake, records)
    body = lake.store.read(shard_tar("shop", made.unit)).body
    for row, each in zip(index_of(lake, made.unit), records, strict=True):
        stored = body[row["offset"] : row["offset"] + row["num_bytes"]]
        assert stored == Path(each.uri).read_bytes()
        assert row["sha256"] == hashlib.sha256(stored).hexdigest()
        with tarfile.open(fileobj=io.BytesIO(body)) as tar:
            assert tar.extractfile(row["member"]).read() == stored


def test_a_picture_under_two_keys_is_packed_once(lake: Lake, records: list[SourceRecord]) -> None:
    twins = [*records, replace(records[1], key="twin", labels={"collar_design": ["notched"]})]
    made = write(lake, twins)
    rows = index_of(lake, made.unit)
    assert (rows[1]["member"], rows[1]["offset"]) == (rows[5]["member"], rows[5]["offset"])
    assert rows[5]["labels"] == {"collar_design": ["notched"]}
    with tarfile.open(fileobj=io.BytesIO(lake.store.read(shard_tar("shop", made.unit)).body)) as tar:
        assert len(tar.getmembers()) == 2 * len(records)
    assert made.files[0].num_rows == len(records)
    assert made.counts == {"input": 6, "ok": 6, "quarantined": 0, "passing": 0}


def test_bad_pictures_cost_their_row_alone(
    lake: Lake, records: list[SourceRecord], tmp_path: Path, picture: Callable[..., bytes]
) -> None:
    bad = {
        "empty": b"",
        "not_an_image": b"this is a text, whatever its name says",
        "truncated": picture(9)[:400],
        "too_large": picture(9, size=(200, 200)),
    }
    odd = []
    for kind, body in bad.items():
        (tmp_path / f"{kind}.jpg").write_bytes(body)
        odd.append(record(tmp_path / f"{kind}.jpg", kind))
    odd.append(record(tmp_path / "nowhere.jpg", "missing"))
    odd.append(SourceRecord("uri_not_allowed", "pipe:cat /etc/passwd", "", "train", {}))
    made = write(lake, [*odd[:3], *records, *odd[3:]], replace(OPTIONS, check="full"))
    rows = {row["key"]: row for row in index_of(lake, made.unit)}
    assert {key: row["kind"] for key, row in rows.items() if row["status"] == "quarantined"} == {
        key: key for key in (*bad, "missing", "uri_not_allowed")
    }
    assert all(row["error"] for row in rows.values() if row["status"] == "quarantined")
    assert made.counts == {"input": 11, "ok": 5, "quarantined": 6, "passing": 2}
    with tarfile.open(fileobj=io.BytesIO(lake.store.read(shard_tar("shop", made.unit)).body)) as tar:
        assert len(tar.getmembers()) == 2 * len(records)


def test_a_picture_known_to_be_absent_is_no_passing_trouble(lake: Lake, tmp_path: Path) -> None:
    gone = record(tmp_path / "nowhere.jpg", "gone")
    made = write(lake, [replace(gone, token=ABSENT), replace(gone, key="was there a moment ago")])
    assert [row["kind"] for row in index_of(lake, made.unit)] == ["missing", "missing"]
    assert made.counts == {"input": 2, "ok": 0, "quarantined": 2, "passing": 1}


def test_a_shard_of_bad_pictures_alone_is_still_readable(lake: Lake, tmp_path: Path) -> None:
    made = write(lake, [record(tmp_path / "nowhere.jpg", "gone")])
    assert made.files[0].num_rows == 0
    assert list(stream_samples([f"{lake.url}/{shard_tar('shop', made.unit)}"])) == []


def test_a_file_above_the_byte_limit_is_quarantined(lake: Lake, records: list[SourceRecord]) -> None:
    limit = len(Path(records[0].uri).read_bytes())
    longer = [each for each in records if len(Path(each.uri).read_bytes()) > limit]
    made = write(lake, records, replace(OPTIONS, max_bytes=limit))
    kinds = {row["key"]: row["kind"] for row in index_of(lake, made.unit)}
    assert {key for key, kind in kinds.items() if kind == "too_large"} == {each.key for each in longer}
    assert kinds[records[0].key] is None


@pytest.mark.parametrize(
    "key", ["a.b.c", "with space", "robe d'été", "shoe/39.5", "日本", "a\tb", "../up", "x" * 300]
)
def test_any_key_comes_back(lake: Lake, records: list[SourceRecord], key: str) -> None:
    made = write(lake, [records[0], replace(records[1], key=key)])
    assert [row["key"] for row in index_of(lake, made.unit)] == [records[0].key, key]
    (_, sample) = stream_samples([f"{lake.url}/{shard_tar('shop', made.unit)}"])
    assert sample.encoded == Path(records[1].uri).read_bytes()


def test_samples_stream_as_they_were_written(lake: Lake, records: list[SourceRecord]) -> None:
    shards = [write(lake, records[:2]), write(lake, records[2:])]
    samples = list(stream_samples([f"{lake.url}/{shard_tar('shop', made.unit)}" for made in shards]))
    assert [sample.encoded for sample in samples] == [Path(each.uri).read_bytes() for each in records]
    assert [sample.labels for sample in samples] == [each.labels for each in records]
    assert [sample.sha256 for sample in samples] == [hashlib.sha256(s.encoded).hexdigest() for s in samples]
    assert {sample.role for sample in samples} == {"train"}


def test_pictures_are_read_in_the_order_wanted(lake: Lake, records: list[SourceRecord]) -> None:
    made = write(lake, records)
    digests = [row["sha256"] for row in index_of(lake, made.unit)]
    random.Random(0).shuffle(digests)
    read = list(read_pictures(lake, made.files, digests[:3]))
    assert [digest for digest, _ in read] == digests[:3]
    assert [hashlib.sha256(body).hexdigest() for _, body in read] == digests[:3]
    assert read_picture(lake, made.files, digests[0]) == read[0][1]


def test_a_flipped_bit_is_told_with_the_tars_name(lake: Lake, records: list[SourceRecord]) -> None:
    made = write(lake, records)
    rows = index_of(lake, made.unit)
    name = shard_tar("shop", made.unit)
    path = Path(lake.url) / name
    body = bytearray(path.read_bytes())
    body[rows[2]["offset"] + 100] ^= 1
    path.chmod(0o644)
    path.write_bytes(body)
    good, bad = rows[0]["sha256"], rows[2]["sha256"]
    assert [digest for digest, _ in read_pictures(lake, made.files, [good])] == [good]
    with pytest.raises(CorruptShard, match=name):
        list(read_pictures(lake, made.files, [good, bad]))
    with pytest.raises(CorruptShard, match=name):
        read_picture(lake, made.files, bad)


def flip(lake: Lake, name: str, place: int) -> None:
    path = Path(lake.url) / name
    body = bytearray(path.read_bytes())
    body[place] ^= 1
    path.write_bytes(body)


def test_a_flipped_bit_of_an_index_is_told_before_a_row_is_believed(
    lake: Lake, records: list[SourceRecord]
) -> None:
    made = write(lake, records)
    digest = index_of(lake, made.unit)[0]["sha256"]
    flip(lake, shard_index("shop", made.unit), 40)
    with pytest.raises(CorruptShard, match="expected") as caught:
        read_picture(lake, made.files, digest)
    assert caught.value.name == shard_index("shop", made.unit)


def test_a_picture_that_the_lake_has_is_not_packed_again(lake: Lake, records: list[SourceRecord]) -> None:
    first = index_of(lake, write(lake, records).unit)
    known = [
        replace(each, token="touched", known=row["sha256"]) for each, row in zip(records, first, strict=True)
    ]
    Path(records[1].uri).write_bytes(Path(records[0].uri).read_bytes() + b"edited")
    made = write(lake, known)
    rows = index_of(lake, made.unit)
    assert [row["member"] is None for row in rows] == [True, False, True, True, True]
    assert {row["status"] for row in rows} == {"ok"}
    assert rows[0]["sha256"] == first[0]["sha256"]
    assert made.files[0].num_rows == 1
    with pytest.raises(CorruptShard):
        read_picture(lake, made.files, rows[0]["sha256"])


def test_a_damaged_shard_is_packed_anew_from_itself_and_else_from_the_source(
    lake: Lake, records: list[SourceRecord]
) -> None:
    old = write(lake, records)
    rows = index_of(lake, old.unit)
    flip(lake, old.files[0].name, rows[2]["offset"] + 50)
    flip(lake, old.files[0].name, rows[3]["offset"] + 50)
    for number in (0, 1, 3):  # these are gone from the source
        Path(records[number].uri).unlink()
    again = [
        replace(each, known=row["sha256"], damaged=old.unit) for each, row in zip(records, rows, strict=True)
    ]
    made = write(lake, again)
    found = index_of(lake, made.unit)
    assert [row["kind"] for row in found] == [None, None, None, "missing", None]
    whole = [row["sha256"] for number, row in enumerate(rows) if number != 3]
    assert [digest for digest, _ in read_pictures(lake, made.files, whole)] == whole


@pytest.mark.parametrize("place", [0, 40, 200, -20, -1])
def test_a_damaged_index_costs_no_picture(lake: Lake, records: list[SourceRecord], place: int) -> None:
    old = write(lake, records)
    rows = index_of(lake, old.unit)
    flip(lake, old.files[1].name, place)
    made = write(
        lake, [replace(e, known=r["sha256"], damaged=old.unit) for e, r in zip(records, rows, strict=True)]
    )
    assert made.counts["ok"] == len(records)


def test_a_picture_of_another_shard_is_not_found(lake: Lake, records: list[SourceRecord]) -> None:
    made = write(lake, records)
    with pytest.raises(CorruptShard, match=made.unit):
        list(read_pictures(lake, made.files, ["0" * 64]))
    with pytest.raises(CorruptShard, match=made.unit):
        read_picture(lake, made.files, "0" * 64)


def test_a_quarantined_picture_cannot_be_read(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_bytes(b"plain text, long enough to be looked at")
    made = write(lake, [record(tmp_path / "text.jpg", "text")])
    (row,) = index_of(lake, made.unit)
    with pytest.raises(CorruptShard):
        read_picture(lake, made.files, row["sha256"])


SMALLER = replace(OPTIONS, resize=20)


def test_larger_pictures_are_packed_smaller_under_their_own_names(
    lake: Lake, records: list[SourceRecord]
) -> None:
    small = Path(records[0].uri).parent / "small.jpg"
    Image.new("RGB", (20, 25)).save(small)
    made = write(lake, [*records, record(small, "small"), replace(records[1], key="twin")], SMALLER)
    rows = index_of(lake, made.unit)
    for row, uri in zip(rows, [*(each.uri for each in records), str(small), records[1].uri], strict=True):
        assert row["sha256"] == hashlib.sha256(Path(uri).read_bytes()).hexdigest()
        assert row["member"] == f"{row['sha256']}.jpg"
        stored = read_picture(lake, made.files, row["sha256"])
        assert (len(stored), row["format"]) == (row["num_bytes"], "JPEG")
        with Image.open(io.BytesIO(stored)) as image:
            assert (
                image.size == (row["width"], row["height"]) == ((20, 25) if uri == str(small) else (27, 20))
            )
        packed = None if uri == str(small) else hashlib.sha256(stored).hexdigest()
        assert row["packed_sha256"] == packed
    assert rows[1] | {"key": "twin"} == rows[-1]
    digests = [row["sha256"] for row in rows]
    assert [digest for digest, _ in read_pictures(lake, made.files, digests)] == digests
    (sample, *_) = stream_samples([f"{lake.url}/{shard_tar('shop', made.unit)}"])
    assert sample.sha256 == digests[0]
    assert made.detail["options"]["resize"] == 20


def test_a_shard_of_smaller_pictures_made_again_is_byte_identical(
    tmp_path: Path, records: list[SourceRecord]
) -> None:
    one, other = (write(Lake(str(tmp_path / name)), records, SMALLER) for name in ("one", "other"))
    assert one.files == other.files


def test_a_picture_packed_smaller_has_its_flipped_bits_told(lake: Lake, records: list[SourceRecord]) -> None:
    made = write(lake, records, SMALLER)
    row = index_of(lake, made.unit)[2]
    flip(lake, made.files[0].name, row["offset"] + 50)
    with pytest.raises(CorruptShard, match=made.files[0].name):
        read_picture(lake, made.files, row["sha256"])


@pytest.mark.parametrize("place", ["bytes", "name"])
def test_smaller_pictures_of_a_damaged_shard_are_packed_anew_as_they_are(
    lake: Lake, records: list[SourceRecord], place: str
) -> None:
    old = write(lake, records, SMALLER)
    rows = index_of(lake, old.unit)
    flip(lake, old.files[0].name, rows[3]["offset"] + (50 if place == "bytes" else -500))
    for each in (*records[:2], records[3]):  # gone from the source
        Path(each.uri).unlink()
    again = [
        replace(each, known=row["sha256"], damaged=old.unit) for each, row in zip(records, rows, strict=True)
    ]
    made = write(lake, again, SMALLER)
    found = index_of(lake, made.unit)
    assert [row["kind"] for row in found] == [None, None, None, "missing", None]
    for number in (0, 1, 2, 4):
        assert found[number]["sha256"] == rows[number]["sha256"]
        assert found[number]["packed_sha256"] == rows[number]["packed_sha256"]
        assert read_picture(lake, made.files, rows[number]["sha256"]) == read_picture(
            lake, old.files, rows[number]["sha256"]
        )


def test_an_index_of_before_pictures_were_scaled_is_read(lake: Lake, records: list[SourceRecord]) -> None:
    made = write(lake, records)
    digest = index_of(lake, made.unit)[1]["sha256"]
    with lake.store.local_copy(made.files[1].name) as path:
        pq.write_table(pq.read_table(path).drop_columns(["packed_sha256"]), path)
    old = (made.files[0], describe(lake.store, made.files[1].name, made.files[1].num_rows))
    assert read_picture(lake, old, digest) == Path(records[1].uri).read_bytes()


def test_a_picture_that_cannot_be_made_smaller_is_quarantined(lake: Lake, tmp_path: Path) -> None:
    noise = Image.effect_noise((60, 60), 90)
    noise.save(tmp_path / "broken.png")
    body = bytearray((tmp_path / "broken.png").read_bytes())
    body[300:400] = bytes(100)
    (tmp_path / "broken.png").write_bytes(body)
    broken = [record(tmp_path / "broken.png", "broken")]
    assert write(lake, broken).counts["ok"] == 1, "its header is whole"
    made = write(lake, broken, SMALLER)
    assert index_of(lake, made.unit)[0]["kind"] in ("truncated", "undecodable")


def test_a_size_that_is_not_asked_for_names_no_shard() -> None:
    assert "resize" not in OPTIONS.naming()
    assert SMALLER.naming() == {**OPTIONS.naming(), "resize": 20}
    with pytest.raises(ValueError, match="resize: expected 0 or at least 8 pixels, found 7"):
        ShardOptions(resize=7)


def test_files_that_come_slowly_are_fetched_several_at_once(
    lake: Lake, records: list[SourceRecord], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quick = write(Lake(str(tmp_path / "quick")), records)
    # With no patience every file is late, so the first one alone is fetched by itself.
    monkeypatch.setattr("pipelines.shards.write.PATIENCE_S", -1)
    assert write(lake, records).files == quick.files


texts = st.text(st.characters(codec="utf-8"), max_size=5)
source_records = st.builds(
    SourceRecord,
    key=texts,
    uri=texts,
    token=texts,
    role=st.sampled_from(["train", "valid"]),
    labels=st.dictionaries(texts, st.lists(texts, max_size=2), max_size=2),
    attempt=st.integers(0, 3),
)


@given(st.lists(source_records, max_size=30), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_every_record_is_in_one_shard_in_order(records: list[SourceRecord], size: int) -> None:
    units = list(plan_shards("shop", iter(records), ShardOptions(images_per_shard=size)))
    assert [each for unit in units for each in unit.payload.records] == records
    assert [unit.num_images for unit in units] == [len(unit.payload.records) for unit in units]
    assert all(unit.num_images == size for unit in units[:-1])
    assert all(1 <= unit.num_images <= size for unit in units)


@given(st.lists(source_records, min_size=1, max_size=4), st.lists(source_records, min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_names_are_equal_exactly_where_the_inputs_are(
    one: list[SourceRecord], other: list[SourceRecord]
) -> None:
    names = [shard_name("shop", records, OPTIONS) for records in (one, other)]
    assert (names[0] == names[1]) == (one == other)
    assert shard_name("shop", json_copy(one), OPTIONS) == names[0]


def json_copy(records: list[SourceRecord]) -> list[SourceRecord]:
    values = json.loads(json.dumps([[r.key, r.uri, r.token, r.role, r.labels, r.attempt] for r in records]))
    return [SourceRecord(*value) for value in values]


@pytest.mark.parametrize(
    "change",
    [
        {"key": "other"},
        {"uri": "other"},
        {"token": "v1"},
        {"role": "valid"},
        {"labels": {"collar_design": ["shawl"]}},
        {"attempt": 1},
    ],
)
def test_any_change_of_a_record_renames_its_shard(change: dict) -> None:
    one = SourceRecord("k", "u", "v0", "train", {})
    names = {shard_name("shop", [one, each], OPTIONS) for each in (one, replace(one, **change))}
    assert len(names) == 2


@pytest.mark.parametrize(
    "change", [{"images_per_shard": 9}, {"resize": 9}, {"check": "full"}, {"max_pixels": 9}, {"max_bytes": 9}]
)
def test_any_change_of_an_option_renames_a_shard(change: dict) -> None:
    one = [SourceRecord("k", "u", "v0", "train", {})]
    assert shard_name("shop", one, OPTIONS) != shard_name("shop", one, replace(OPTIONS, **change))
    assert shard_name("shop", one, OPTIONS) != shard_name("shoes", one, OPTIONS)


def test_the_parent_snapshot_names_a_shard_only_where_a_token_is_unknown_or_not_believed() -> None:
    known, unknown = SourceRecord("k", "u", "v0", "train", {}), SourceRecord("k", "u", "", "train", {})

    def name(record: SourceRecord, salt: str, **how: bool) -> str:
        return next(plan_shards("shop", [record], OPTIONS, salt, **how)).name

    assert name(known, "one") == name(known, "two")
    assert name(unknown, "one") != name(unknown, "two")
    assert name(known, "one", anew=True) != name(known, "two", anew=True)


def test_an_edit_renames_its_own_shard_alone() -> None:
    records = [SourceRecord(f"{i}", "u", "v0", "train", {}) for i in range(20)]
    edited = [replace(each, token="v1") if each.key == "7" else each for each in records]
    options = replace(OPTIONS, images_per_shard=5)
    one, other = ([unit.name for unit in plan_shards("shop", each, options)] for each in (records, edited))
    assert [a == b for a, b in zip(one, other, strict=True)] == [True, False, True, True]


def test_a_shard_of_no_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="images_per_shard"):
        ShardOptions(images_per_shard=0)


def test_a_unit_survives_the_way_to_a_worker(records: list[SourceRecord]) -> None:
    import pickle

    (unit,) = plan_shards("shop", records, OPTIONS, allowed=LOCAL_FILES)
    assert isinstance(unit, Unit)
    assert pickle.loads(pickle.dumps(unit)) == unit


def test_a_shard_made_in_an_outage_is_planned_under_another_name(records: list[SourceRecord]) -> None:
    first = next(plan_shards("shop", records, OPTIONS))
    again = next(plan_shards("shop", records, OPTIONS, is_spent=lambda unit: unit.name == first.name))
    assert again.name != first.name
    assert again.payload == first.payload
    assert again == next(plan_shards("shop", records, OPTIONS, is_spent=lambda unit: unit.name == first.name))
