import json
import os
import unicodedata
from itertools import pairwise
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agman.errors import InvalidInput
from pipelines.sources import (
    RECORD_FIELDS,
    FolderSource,
    GeneratedSource,
    TableSource,
    open_source,
    shop_names,
)
from pipelines.sources.records import BATCH_ROWS


def records(source) -> pa.Table:
    batches = list(source.batches())
    assert all(batch.num_rows <= BATCH_ROWS for batch in batches)
    table = pa.Table.from_batches(batches)  # refuses batches of different schemas
    assert pa.schema(list(table.schema)[:5]) == RECORD_FIELDS
    return table


def column(source, name: str) -> list:
    return records(source)[name].to_pylist()


def labels_of(source) -> list[dict[str, list[str]]]:
    return [dict(row) for row in column(source, "labels")]


class TestFolder:
    def test_keys_are_relative_paths_in_a_fixed_order(self, tmp_path):
        for name in ("b.jpg", "a/2.v1.png", "a/1 blue dress.jpeg", "a.b/x.jpg", "no_suffix"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"x")
        table = records(FolderSource(tmp_path))
        assert table["key"].to_pylist() == [
            "a/1 blue dress.jpeg",
            "a/2.v1.png",
            "a.b/x.jpg",
            "b.jpg",
            "no_suffix",
        ]
        assert table["folder"].to_pylist() == ["a", "a", "a.b", "", ""]
        assert table["uri"].to_pylist()[0] == str(tmp_path / "a/1 blue dress.jpeg")
        assert table["role"].null_count == 5
        assert set(map(tuple, table["labels"].to_pylist())) == {()}

    def test_token_changes_with_the_file_alone(self, tmp_path):
        picture = tmp_path / "a.jpg"
        picture.write_bytes(b"1")
        first = column(FolderSource(tmp_path), "token")
        assert first == column(FolderSource(tmp_path), "token") == [f"1-{picture.stat().st_mtime_ns}"]
        os.utime(picture, ns=(1, 1))
        assert column(FolderSource(tmp_path), "token") == ["1-1"]

    def test_odd_names_survive(self, tmp_path):
        apart = unicodedata.normalize("NFD", "café.jpg")
        (tmp_path / apart).write_bytes(b"x")
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/50%\xff.jpg")).write_bytes(b"y")
        table = records(FolderSource(tmp_path))
        assert table["key"].to_pylist() == ["50%25%FF.jpg", "café.jpg"]
        assert table["uri"].to_pylist()[0].startswith("file:///")

    def test_leaves_out_what_is_no_picture_and_counts_it(self, tmp_path):
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "secret.jpg").write_bytes(b"x")
        root = tmp_path / "root"
        (root / ".git").mkdir(parents=True)
        for name in ("a.jpg", ".DS_Store", "Thumbs.db", "list.csv", "notes.TXT", ".git/x.jpg"):
            (root / name).write_bytes(b"x")
        (root / "out.jpg").symlink_to(outside / "secret.jpg")
        (root / "outdir").symlink_to(outside)
        (root / "loop").symlink_to(root)
        (root / "broken.jpg").symlink_to(root / "gone.jpg")
        (root / "alias.jpg").symlink_to(root / "a.jpg")
        os.mkfifo(root / "pipe.jpg")
        source = FolderSource(root)
        assert column(source, "key") == ["a.jpg", "alias.jpg"]
        assert source.skipped == 9

    def test_many_files_come_in_several_batches(self, tmp_path):
        for index in range(BATCH_ROWS + 1):
            (tmp_path / f"{index:05d}.jpg").touch()
        batches = list(FolderSource(tmp_path).batches())
        assert [batch.num_rows for batch in batches] == [BATCH_ROWS, 1]

    def test_refuses_a_folder_without_pictures(self, tmp_path):
        (tmp_path / "readme.md").write_text("x")
        with pytest.raises(InvalidInput, match="found none and left out 1"):
            list(FolderSource(tmp_path).batches())


def write_table(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        names = list(rows[0])
        lines = [
            ",".join(names),
            *(",".join("" if row[name] is None else str(row[name]) for name in names) for row in rows),
        ]
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("file", ["t.parquet", "t.csv", "t.jsonl", "t.ndjson", "odd [1]* name.csv"])
class TestTableFormats:
    def test_rows_arrive_in_order_with_types(self, tmp_path, file):
        rows = [{"key": f"{n:05d}", "uri": f"p/{n}.jpg", "price": n / 2, "style": n} for n in range(9000)]
        table = records(open_source(str(write_table(tmp_path / file, rows))))
        assert table["key"].to_pylist() == [row["key"] for row in rows]
        assert table["price"].to_pylist() == [row["price"] for row in rows]
        assert table.schema.field("style").type == pa.int64()
        assert table["uri"][3].as_py() == str(tmp_path / "p/3.jpg")
        assert set(table["token"].to_pylist()) == {"absent"}  # as long as nobody brings the files

    def test_rows_without_key_or_uri_are_passed_on(self, tmp_path, file):
        rows = [{"key": "a", "uri": None, "n": 1}, {"key": None, "uri": "b.jpg", "n": 2}]
        table = records(TableSource(str(write_table(tmp_path / file, rows))))
        assert table["key"].to_pylist() == ["a", ""]
        assert table["uri"].to_pylist() == ["", str(tmp_path / "b.jpg")]

    def test_attribute_columns_are_labels_and_stay(self, tmp_path, file):
        rows = [
            {"key": "a", "uri": "a.jpg", "neckline_design": "v", "role": "query"},
            {"key": "b", "uri": "b.jpg", "neckline_design": None, "role": "hero"},
        ]
        source = TableSource(str(write_table(tmp_path / file, rows)))
        assert labels_of(source) == [{"neckline_design": ["v"]}, {}]
        assert column(source, "neckline_design") == ["v", None]
        assert column(source, "role") == ["query", None]
        assert source.unknown_roles == 1

    def test_names_the_columns_found(self, tmp_path, file):
        path = write_table(tmp_path / file, [{"id": "a", "url": "b"}])
        with pytest.raises(InvalidInput, match="expected columns key and uri, found id, url"):
            list(TableSource(str(path)).batches())

    def test_reserved_names_are_carried_under_another(self, tmp_path, file):
        rows = [{"key": "a", "uri": "a.jpg", "status": "sold", "row": 7}]
        table = records(TableSource(str(write_table(tmp_path / file, rows))))
        assert table["shop_status"].to_pylist() == ["sold"]
        assert table["shop_row"].to_pylist() == [7]


class TestTable:
    def test_uris_resolve_against_the_table(self, tmp_path):
        uris = ["p/a.jpg", "../b.jpg", "/abs/c.jpg", "s3://bucket/d.jpg", "pipe:rm x", "file:///e%20f.jpg"]
        path = write_table(tmp_path / "t.parquet", [{"key": uri, "uri": uri, "token": "1"} for uri in uris])
        expected = [str(tmp_path / "p/a.jpg"), str(tmp_path.parent / "b.jpg"), *uris[2:]]
        assert column(TableSource(str(path)), "uri") == expected

    def test_remote_tables_and_tokens(self, tmp_path):
        memory = fsspec.filesystem("memory")
        memory.pipe("/shop/lists/t.csv", b"key;uri;price\na;../p/a.jpg;1,5\nb;../p/gone.jpg;2\n")
        memory.pipe("/shop/p/a.jpg", b"abc")
        table = records(open_source("memory://shop/lists/t.csv", ["memory://shop/"]))
        assert table["uri"].to_pylist() == ["memory://shop/p/a.jpg", "memory://shop/p/gone.jpg"]
        found, gone = table["token"].to_pylist()
        assert found.startswith("3-")
        assert gone == ""

    def test_local_tokens_and_the_shops_own(self, tmp_path):
        (tmp_path / "a.jpg").write_bytes(b"abc")
        rows = [{"key": "a", "uri": "a.jpg", "etag": None}, {"key": "b", "uri": "a.jpg", "etag": "e1"}]
        table = records(TableSource(str(write_table(tmp_path / "t.parquet", rows))))
        assert table["token"].to_pylist() == [f"3-{(tmp_path / 'a.jpg').stat().st_mtime_ns}", "e1"]
        assert table["etag"].to_pylist() == [None, "e1"]
        own = write_table(tmp_path / "own.parquet", [{"key": "a", "uri": "a.jpg", "token": 5}])
        assert records(TableSource(str(own))).schema.names == RECORD_FIELDS.names

    @pytest.mark.parametrize(
        "labels",
        [
            pa.array([[("neck_design", "turtle")], [], None], pa.map_(pa.string(), pa.string())),
            pa.array([[("neck_design", ["turtle"])], None, []], pa.map_(pa.string(), pa.list_(pa.string()))),
            pa.array([{"neck_design": "turtle"}, None, {"neck_design": None}]),
            pa.array([{"neck_design": ["turtle"]}, None, {"neck_design": []}]),
            pa.array(['{"neck_design": "turtle"}', "", None]),
            pa.array(['{"neck_design": ["turtle"]}', "null", "{}"]),
        ],
    )
    def test_labels_in_every_shape(self, tmp_path, labels):
        table = pa.table({"key": ["a", "b", "c"], "uri": ["a", "b", "c"], "labels": labels})
        pq.write_table(table, tmp_path / "t.parquet")
        source = TableSource(str(tmp_path / "t.parquet"))
        assert labels_of(source) == [{"neck_design": ["turtle"]}, {}, {}]
        assert source.unreadable_labels == 0

    def test_labels_in_json_lines_differ_from_row_to_row(self, tmp_path):
        rows = [{"key": "a", "uri": "a", "labels": {"neck_design": "turtle"}}]
        rows.append({"key": "b", "uri": "b", "labels": {"collar_design": ["puritan", "shirt_collar"]}})
        source = TableSource(str(write_table(tmp_path / "t.jsonl", rows)))
        assert labels_of(source) == [
            {"neck_design": ["turtle"]},
            {"collar_design": ["puritan", "shirt_collar"]},
        ]

    def test_other_labels_are_kept_as_the_shops(self, tmp_path):
        table = pa.table({"key": ["a", "b"], "uri": ["a", "b"], "labels": ["linen, sale", "[1]"]})
        pq.write_table(table, tmp_path / "t.parquet")
        source = TableSource(str(tmp_path / "t.parquet"))
        assert labels_of(source) == [{}, {}]
        assert source.unreadable_labels == 2
        assert column(source, "shop_labels") == ["linen, sale", "[1]"]

    def test_a_column_may_change_its_looks_late_in_a_csv(self, tmp_path):
        rows = [{"key": n, "uri": "a", "style": f"00{n}"} for n in range(30_000)]
        rows.append({"key": "x", "uri": "a", "style": "A7"})
        assert column(TableSource(str(write_table(tmp_path / "t.csv", rows))), "style")[-2:] == [
            "0029999",
            "A7",
        ]

    def test_dictionary_columns_and_number_keys(self, tmp_path):
        style = pa.array(["x", "y"]).dictionary_encode()
        pq.write_table(pa.table({"key": [1, 2], "uri": ["a", "b"], "style": style}), tmp_path / "t.parquet")
        table = records(TableSource(str(tmp_path / "t.parquet")))
        assert table["key"].to_pylist() == ["1", "2"]
        assert table.schema.field("style").type == pa.string()

    def test_a_folder_of_parquet_files_is_one_table(self, tmp_path):
        folder = tmp_path / "t.parquet"
        folder.mkdir()
        for name in ("a", "b"):
            write_table(folder / f"{name}.parquet", [{"key": name, "uri": name}])
        assert column(open_source(str(folder)), "key") == ["a", "b"]

    @pytest.mark.parametrize(
        ("file", "content"),
        [("t.parquet", b"not parquet"), ("t.csv", b""), ("t.jsonl", b'{"key": '), ("t.csv", b"key,uri\n")],
    )
    def test_a_broken_or_empty_table_is_one_clear_line(self, tmp_path, file, content):
        (tmp_path / file).write_bytes(content)
        with pytest.raises(InvalidInput, match=file) as caught:
            list(TableSource(str(tmp_path / file)).batches())
        assert "\n" not in str(caught.value)


def test_shop_names_never_meet():
    assert shop_names(["price", "status", "shop_status", "Key"]) == {
        "price": "price",
        "status": "shop_shop_status",
        "shop_status": "shop_status",
        "Key": "shop_Key",
    }


class TestGenerated:
    def test_first_night(self):
        table = records(GeneratedSource(num_images=30, seed=3))
        assert table["key"].to_pylist() == [f"style-{n:06d}" for n in range(30)]
        assert table["uri"][0].as_py() == "generated:3/0/256/style-000000"
        assert set(table["token"].to_pylist()) == {"v0"}
        assert table.schema.names[5:] == ["sku", "brand", "category", "price", "season"]
        assert all(table["labels"].to_pylist())

    @pytest.mark.parametrize("num_images", [2, 50, 3000])
    def test_nights_change_a_third_each_and_build_on_each_other(self, num_images):
        num_each = max(1, round(0.02 * num_images / 3))
        nights = [GeneratedSource(num_images=num_images, night=night).revisions() for night in (1, 2, 3)]
        for before, after in pairwise(nights):
            assert len(before.keys() - after.keys()) == num_each
            assert len(after.keys() - before.keys()) == num_each
            edited = {number for number in before.keys() & after.keys() if before[number] != after[number]}
            assert len(edited) == num_each
            assert all(after[number] == before[number] + 1 for number in edited)

    def test_is_pure_in_seed_and_night(self):
        first, again = (records(GeneratedSource(num_images=60, night=4)) for _ in range(2))
        assert first.equals(again)
        assert not first.equals(records(GeneratedSource(num_images=60, night=4, seed=1)))

    def test_no_change_is_no_change(self):
        nights = [GeneratedSource(num_images=9, night=night, change=0).revisions() for night in (1, 5)]
        assert nights[0] == nights[1]


class TestOpenSource:
    def test_generated_options(self):
        source = open_source("generated:num_images=40, seed=2,night=3,change=0.1")
        assert source == GeneratedSource(num_images=40, seed=2, night=3, change=0.1)
        assert open_source("generated") == GeneratedSource()

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("generated:nights=2", "unknown option 'nights'; expected num_images, seed, night, size, change"),
            ("generated:night=two", "night must be a number, found 'two'"),
            ("generated:night=0", "night must be 1 or more, found 0"),
            ("generated:num_images=1", "num_images must be 2 or more"),
            ("ftp://host/t.csv", "expected a scheme of s3, gs, http, https, memory, found ftp"),
            ("s3://bucket/pictures/", "a remote source is a table"),
            ("", "no such folder or file"),
            ("/no/such/parent/x", "no such folder or file; expected a folder"),
            ("a" * 300, "no such folder or file; expected a folder"),
            ("a" * 300 + ".csv", "no such folder or file; expected a folder"),
            ("a\0b", r"source 'a\\x00b': no such folder or file; expected a folder"),
        ],
    )
    def test_mistakes_are_one_clear_line(self, spec, message):
        with pytest.raises(InvalidInput, match=message) as caught:
            open_source(spec)
        assert "\n" not in str(caught.value)

    def test_suggests_the_nearest_name(self, tmp_path, monkeypatch):
        (tmp_path / "pictures").mkdir()
        (tmp_path / "a.bin").touch()
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InvalidInput, match=r"source \./pictres: .* did you mean \./pictures\?"):
            open_source("./pictres")
        with pytest.raises(InvalidInput, match="found a file of another kind"):
            open_source("a.bin")
        assert open_source("pictures").name == "folder pictures"
