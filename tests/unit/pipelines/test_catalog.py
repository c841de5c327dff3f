import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agman.errors import InvalidInput
from pipelines import labelled
from pipelines.catalog import Catalog, Changes, Difference
from pipelines.shards.write import IndexRow, index_table
from pipelines.sources import ABSENT
from pipelines.sources.records import record_batch
from pipelines.tables import same_rows
from pipelines.tonight import Tonight

Row = tuple[str, str, str]  # key, uri, token


@dataclass
class Rows:
    """A source of hand-made rows with one column of the shop's own."""

    rows: list[Row]
    price: float = 9.5
    name: str = "hand-made"

    def batches(self) -> Iterator[pa.RecordBatch]:
        columns = [pa.array([row[i] for row in self.rows], pa.string()) for i in range(3)]
        prices = pa.array([self.price] * len(self.rows), pa.float64())
        if self.rows:
            yield record_batch(keys=columns[0], uris=columns[1], tokens=columns[2], shop={"price": prices})


def digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


@dataclass
class Shop:
    """Runs nights without storage: what a uri and a token hold is made up, `bad` says what is broken."""

    folder: Path
    bad: dict[str, str] = field(default_factory=dict)
    """uri -> kind."""
    forbidden: dict[str, str] = field(default_factory=dict)
    """uri -> why it is not allowed."""
    content: dict[str, str] = field(default_factory=dict)
    """uri -> what is in it beside the token; the uri itself where it is not here."""
    unembeddable: frozenset[str] = frozenset()
    night: int = 0
    fetched: list[str] = field(default_factory=list)
    embedded: list[str] = field(default_factory=list)
    unpublished: list[Path] = field(default_factory=list)
    """Indexes of shards that a stopped run left."""
    num_adopted: int = 0
    """How many records they must settle."""
    packed: list[str] = field(default_factory=list)
    ignore_token: bool = False
    """Whether the bytes are the same under every token."""

    def run(
        self,
        rows: list[Row],
        *,
        same_model: bool = True,
        price: float = 9.5,
        damaged_parts: Sequence[str] = (),
        **options: Any,
    ) -> Changes:
        """Run one night over the previous one; keeps `catalog.parquet` and `quarantine.parquet`."""
        self.night += 1
        work = self.folder / f"night-{self.night}"
        work.mkdir()
        catalog = Catalog(work)
        catalog.read_source(Rows(rows, price), lambda uri: self.forbidden.get(uri, ""))
        self.said = catalog.refusals()
        last = self.folder / f"night-{self.night - 1}"
        known = (last / "catalog.parquet", last / "quarantine.parquet") if self.night > 1 else (None, None)
        catalog.read_previous(*known)
        self.difference = catalog.diff(**options)
        assert catalog.adopt(self.unpublished) == self.num_adopted
        wanted = list(catalog.records_to_fetch())
        self.fetched = [record.key for record in wanted]
        self.attempts = {record.key: record.attempt for record in wanted}
        catalog.add_shards(self._shards(work, wanted))
        changes = catalog.changes()
        tonight = Tonight(catalog, same_model=same_model, damaged_parts=damaged_parts)
        self._embed(tonight)
        tonight.write(work / "catalog.parquet", work / "quarantine.parquet", f"2024-01-{self.night:02d}")
        self.twice = tonight.count_twice_embedded()
        self.published = tonight.count_published(work / "catalog.parquet")
        self.same = self.night > 1 and same_rows(catalog, work / "catalog.parquet", last / "catalog.parquet")
        catalog.close()
        return changes

    def catalog(self) -> dict[str, dict[str, Any]]:
        rows = pq.read_table(self.folder / f"night-{self.night}" / "catalog.parquet").to_pylist()
        assert len({row["key"] for row in rows}) == len(rows)
        return {row["key"]: row for row in rows}

    def quarantine(self) -> list[dict[str, Any]]:
        return pq.read_table(self.folder / f"night-{self.night}" / "quarantine.parquet").to_pylist()

    def _shards(self, work: Path, wanted: list[Any]) -> list[Path]:
        paths, self.packed = [], []
        for number in range(0, len(wanted), 3):
            rows = [self._fetch(record) for record in wanted[number : number + 3]]
            paths.append(work / f"shard-{self.night}-{number}.parquet")
            pq.write_table(index_table(rows), paths[-1])
        return paths

    def _fetch(self, record: Any) -> IndexRow:
        row = IndexRow(record.key, record.uri, record.token, record.role, record.labels)
        if record.uri in self.bad:
            row.status, row.kind, row.error = "quarantined", self.bad[record.uri], "made up"
        else:
            content = self.content.get(record.uri, record.uri)
            row.sha256 = digest(content if self.ignore_token else f"{content}@{record.token}")
            if row.sha256 != record.known or record.damaged:
                row.member = f"{row.sha256}.jpg"
                self.packed.append(row.sha256)
        return row

    def _embed(self, tonight: Tonight) -> None:
        parts, refused = [], []
        self.embedded = []
        for shard, digests in tonight.pictures_to_embed():
            bad = [each for each in digests if each in self.unembeddable]
            refused += [{"sha256": each, "kind": "undecodable", "message": "made up"} for each in bad]
            good = [each for each in digests if each not in self.unembeddable]
            parts.append((f"part-{self.night}-{shard}", good))
            self.embedded += good
        tonight.add_parts([part for part in parts if part[1]])
        tonight.refuse_pictures(refused)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


FIRST = [("a", "u/a", "1"), ("b", "u/b", "1"), ("c", "u/c", "1"), ("d", "u/d", "1")]


def test_the_first_night_adds_everything(shop: Shop) -> None:
    changes = shop.run(FIRST)
    assert changes == Changes(added=4, edited=0, moved=0, unchanged=0, deleted=0)
    assert shop.difference == Difference(input=4, unchanged=0, wanted=4, gone=0, refused=0)
    assert shop.fetched == ["a", "b", "c", "d"]
    assert {key: row["sha256"] for key, row in shop.catalog().items()} == {
        key: digest(f"{uri}@{token}") for key, uri, token in FIRST
    }
    assert {row["price"] for row in shop.catalog().values()} == {9.5}


def test_the_second_night_fetches_only_what_changed(shop: Shop) -> None:
    shop.run(FIRST)
    before = shop.catalog()
    shop.content = {"v/c": "u/c"}
    changes = shop.run([("a", "u/a", "1"), ("b", "u/b", "2"), ("c", "v/c", "1"), ("e", "u/e", "1")])
    assert changes == Changes(added=1, edited=1, moved=1, unchanged=1, deleted=1)
    assert shop.difference == Difference(input=4, unchanged=1, wanted=3, gone=1, refused=0)
    assert shop.fetched == ["b", "c", "e"]
    assert set(shop.catalog()) == {"a", "b", "c", "e"}
    assert shop.catalog()["a"] == before["a"]
    assert shop.catalog()["b"]["sha256"] == digest("u/b@2")


def test_a_moved_picture_is_not_embedded_again(shop: Shop) -> None:
    shop.run(FIRST)
    place = shop.catalog()["c"]
    shop.content = {"v/c": "u/c"}
    shop.run([*FIRST[:2], ("c", "v/c", "1"), FIRST[3]])
    assert shop.fetched == ["c"]
    assert shop.embedded == []
    moved = shop.catalog()["c"]
    assert [moved[n] for n in ("sha256", "shard", "part", "row")] == [
        place[n] for n in ("sha256", "shard", "part", "row")
    ]


def test_an_identical_night_changes_nothing(shop: Shop) -> None:
    shop.run(FIRST)
    changes = shop.run(FIRST[::-1])
    assert (changes.unchanged, changes.added, changes.deleted) == (4, 0, 0)
    assert (shop.fetched, shop.embedded, shop.same) == ([], [], True)


def test_a_new_price_alone_fetches_nothing_but_is_another_catalog(shop: Shop) -> None:
    shop.run(FIRST)
    shop.run(FIRST, price=5.0)
    assert (shop.fetched, shop.embedded, shop.same) == ([], [], False)
    assert {row["price"] for row in shop.catalog().values()} == {5.0}


def test_another_model_embeds_all_and_fetches_nothing(shop: Shop) -> None:
    shop.run(FIRST)
    shop.run(FIRST, same_model=False)
    assert (len(shop.embedded), shop.fetched) == (4, [])
    assert all(row["part"].startswith("part-2") for row in shop.catalog().values())


def test_a_source_without_tokens_is_fetched_every_night_and_embedded_once(shop: Shop) -> None:
    rows = [(key, uri, "") for key, uri, _ in FIRST]
    shop.run(rows)
    changes = shop.run(rows)
    assert (changes.unchanged, shop.fetched, shop.embedded) == (4, ["a", "b", "c", "d"], [])
    assert shop.same


def test_a_new_name_for_a_file_embeds_and_packs_nothing(shop: Shop) -> None:
    shop.run([("a.jpg", "u/a", "9-1"), ("b.jpg", "u/b", "9-2")])
    before = shop.catalog()["a.jpg"]
    shop.content = {"u/renamed": "u/a"}
    changes = shop.run([("renamed.jpg", "u/renamed", "9-1"), ("b.jpg", "u/b", "9-2")])
    assert changes == Changes(added=0, edited=0, moved=1, unchanged=1, deleted=0)
    assert (shop.fetched, shop.embedded, shop.packed) == (["renamed.jpg"], [], [])
    assert all(shop.catalog()["renamed.jpg"][n] == before[n] for n in ("sha256", "shard", "part", "row"))


def test_a_copy_beside_the_old_file_is_added(shop: Shop) -> None:
    shop.run([("a", "u/a", "1")])
    shop.content = {"u/copy": "u/a"}
    changes = shop.run([("a", "u/a", "1"), ("copy", "u/copy", "1")])
    assert changes == Changes(added=1, edited=0, moved=0, unchanged=1, deleted=0)
    assert (shop.embedded, shop.packed, shop.published["duplicate"]) == ([], [], 1)


def test_a_touched_file_is_unchanged(shop: Shop) -> None:
    shop.content = {"u/a": "same"}
    shop.ignore_token = True
    shop.run([("a", "u/a", "1")])
    changes = shop.run([("a", "u/a", "2")])
    assert changes == Changes(added=0, edited=0, moved=0, unchanged=1, deleted=0)
    assert (shop.fetched, shop.embedded, shop.packed) == (["a"], [], [])
    assert shop.catalog()["a"]["token"] == "2"


def test_verifying_content_finds_other_bytes_under_the_same_token(shop: Shop) -> None:
    shop.run(FIRST)
    shop.content = {"u/b": "swapped in secret"}
    assert shop.run(FIRST).unchanged == 4
    changes = shop.run(FIRST, verify_content=True)
    assert changes == Changes(added=0, edited=1, moved=0, unchanged=3, deleted=0)
    assert shop.fetched == ["a", "b", "c", "d"]
    assert shop.embedded == shop.packed == [digest("swapped in secret@1")]
    assert shop.catalog()["b"]["sha256"] == digest("swapped in secret@1")


def test_a_damaged_shard_is_packed_anew_and_not_embedded(shop: Shop) -> None:
    shop.run(FIRST)
    before = shop.catalog()
    lost = before["a"]["shard"]
    damaged = sorted(key for key, row in before.items() if row["shard"] == lost)
    changes = shop.run(FIRST, damaged_shards=[lost])
    assert changes.unchanged == 4
    assert (shop.fetched, shop.embedded, len(shop.packed)) == (damaged, [], len(damaged))
    assert lost not in {row["shard"] for row in shop.catalog().values()}
    assert {key: row["part"] for key, row in shop.catalog().items()} == {
        key: row["part"] for key, row in before.items()
    }


def test_a_damaged_part_is_embedded_anew_and_not_fetched(shop: Shop) -> None:
    shop.run(FIRST)
    before = shop.catalog()
    lost = before["a"]["part"]
    shop.run(FIRST, damaged_parts=[lost])
    assert shop.fetched == []
    assert sorted(shop.embedded) == sorted(row["sha256"] for row in before.values() if row["part"] == lost)
    assert lost not in {row["part"] for row in shop.catalog().values()}


def test_what_a_stopped_run_packed_is_not_fetched_again(shop: Shop) -> None:
    shop.run([("z", "u/z", "1")])
    stopped = Shop(shop.folder / "stopped")
    stopped.folder.mkdir()
    stopped.bad = {"u/c": "unavailable"}
    stopped.run(FIRST)
    shop.unpublished = sorted((stopped.folder / "night-1").glob("shard-*.parquet"))
    shop.num_adopted = 2
    # The catalog went on: a is the same, b was edited, c was unavailable, d is the same, e is new.
    shop.run([FIRST[0], ("b", "u/b", "2"), FIRST[2], FIRST[3], ("e", "u/e", "1"), ("z", "u/z", "1")])
    assert shop.fetched == ["b", "c", "e"]
    assert {key: row["sha256"] for key, row in shop.catalog().items()} == {
        "a": digest("u/a@1"), "b": digest("u/b@2"), "c": digest("u/c@1"), "d": digest("u/d@1"),
        "e": digest("u/e@1"), "z": digest("u/z@1"),
    }  # fmt: skip
    assert len(shop.embedded) == 5


@pytest.mark.parametrize(("kind", "is_final"), [("truncated", True), ("unavailable", False)])
def test_what_a_stopped_run_found_bad_is_not_fetched_again_unless_it_may_have_passed(
    shop: Shop, kind: str, is_final: bool
) -> None:
    stopped = Shop(shop.folder / "stopped")
    stopped.folder.mkdir()
    stopped.bad = shop.bad = {"u/c": kind}
    stopped.run(FIRST)
    shop.unpublished = sorted((stopped.folder / "night-1").glob("shard-*.parquet"))
    shop.num_adopted = 4 if is_final else 3
    shop.run(FIRST)
    assert shop.fetched == ([] if is_final else ["c"])
    assert [(row["key"], row["kind"]) for row in shop.quarantine()] == [("c", kind)]
    assert set(shop.catalog()) == {"a", "b", "d"}


def test_a_row_whose_picture_lies_in_a_shard_that_is_not_known_is_not_adopted(shop: Shop) -> None:
    first, second = Shop(shop.folder / "first"), shop
    first.folder.mkdir()
    first.run([("a", "u/a", "1")])
    first.content = {"u/copy": "u/a"}
    first.run([("a", "u/a", "1"), ("copy", "u/copy", "1")])
    assert first.packed == []
    second.unpublished = list((first.folder / "night-2").glob("shard-*.parquet"))
    second.content = {"u/copy": "u/a"}
    second.run([("copy", "u/copy", "1")])
    assert (second.fetched, len(second.packed)) == (["copy"], 1)


def test_equal_pictures_under_two_keys_are_embedded_once(shop: Shop) -> None:
    shop.content = {"u/a": "same", "u/d": "same"}
    shop.run(FIRST)
    assert len(shop.embedded) == 3
    assert shop.published == {"rows": 4, "reused": 0, "pictures": 3, "duplicate": 1}
    one, other = shop.catalog()["a"], shop.catalog()["d"]
    assert (one["sha256"], one["part"], one["row"]) == (other["sha256"], other["part"], other["row"])
    assert shop.twice == 0


def test_an_added_twin_of_an_old_picture_is_read_from_where_that_is(shop: Shop) -> None:
    shop.run(FIRST)
    shop.content = {"u/new": "u/b"}
    shop.run([*FIRST, ("new", "u/new", "1")])
    assert (shop.fetched, shop.embedded) == (["new"], [])
    names = ("sha256", "shard", "part", "row")
    assert [shop.catalog()["new"][n] for n in names] == [shop.catalog()["b"][n] for n in names]


def test_what_cannot_be_told_apart_is_refused_and_counted(shop: Shop) -> None:
    rows = [*FIRST, ("", "u/x", "1"), ("n", "", "1"), ("a", "u/z", "1"), ("a", "u/a", "1")]
    shop.run(rows)
    assert (shop.difference.input, shop.difference.refused) == (8, 4)
    assert set(shop.catalog()) == {"a", "b", "c", "d"}
    assert shop.catalog()["a"]["uri"] == "u/a"
    assert sorted((row["key"], row["kind"], row["stage"]) for row in shop.quarantine()) == [
        ("a", "duplicate_key", "source"),
        ("a", "duplicate_key", "source"),
        ("n", "no_uri", "source"),
        ("row 4", "no_key", "source"),
    ]
    assert shop.difference.input == len(shop.catalog()) + len(shop.quarantine())


def test_a_key_repeated_in_full_is_counted_alike_every_night(shop: Shop) -> None:
    rows = [*FIRST, FIRST[0]]
    shop.run(rows)
    first = shop.quarantine()
    for _ in range(2):
        shop.run(rows)
        assert set(shop.catalog()) == {"a", "b", "c", "d"}
        assert [row["key"] for row in shop.quarantine()] == [row["key"] for row in first] == ["a"]
    assert shop.quarantine()[0]["attempts"] == 3
    assert shop.quarantine()[0]["first_seen"] == "2024-01-01"


def test_a_refused_copy_is_fetched_once_it_stands_alone(shop: Shop) -> None:
    shop.run([("a", "u/1", "1"), ("a", "u/2", "1")])
    shop.run([("a", "u/2", "1")])
    assert shop.catalog()["a"]["sha256"] == digest("u/2@1")
    assert shop.quarantine() == []


def test_a_copy_without_uri_does_not_hide_the_good_one(shop: Shop) -> None:
    shop.run([("a", "", "1"), ("a", "u/a", "1"), ("b", "u/b", "1")])
    assert set(shop.catalog()) == {"a", "b"}
    assert [(row["key"], row["kind"]) for row in shop.quarantine()] == [("a", "no_uri")]


def test_quarantine_stays_until_the_token_changes(shop: Shop) -> None:
    shop.bad = {"u/b": "truncated"}
    shop.run(FIRST)
    assert set(shop.catalog()) == {"a", "c", "d"}
    shop.run(FIRST)
    assert shop.fetched == []
    (row,) = shop.quarantine()
    assert (row["key"], row["kind"], row["stage"], row["attempts"]) == ("b", "truncated", "shards", 1)
    shop.bad = {}
    shop.run([("b", "u/b", "2") if row[0] == "b" else row for row in FIRST])
    assert shop.fetched == ["b"]
    assert set(shop.catalog()) == {"a", "b", "c", "d"}
    assert shop.quarantine() == []
    assert shop.difference.input == 4


def test_quarantine_is_tried_again_on_demand(shop: Shop) -> None:
    shop.bad = {"u/b": "truncated"}
    shop.run(FIRST)
    shop.run(FIRST, retry_quarantined=True)
    (row,) = shop.quarantine()
    assert (shop.fetched, shop.attempts) == (["b"], {"b": 1})
    assert (row["attempts"], row["first_seen"], row["last_seen"]) == (2, "2024-01-01", "2024-01-02")


def test_what_was_unavailable_is_always_tried_again(shop: Shop) -> None:
    shop.bad = {"u/b": "unavailable", "u/c": "truncated"}
    shop.run(FIRST)
    shop.run(FIRST)
    assert (shop.fetched, shop.attempts) == (["b"], {"b": 1})
    shop.bad = {}
    shop.run(FIRST)
    assert shop.attempts == {"b": 2}
    assert set(shop.catalog()) == {"a", "b", "d"}


def test_a_file_known_to_be_absent_is_fetched_once_it_comes(shop: Shop) -> None:
    shop.bad = {"u/b": "missing", "u/c": "missing"}
    rows = [("b", "u/b", ABSENT), ("c", "u/c", "1"), FIRST[0]]
    shop.run(rows)
    shop.run(rows)
    assert shop.fetched == ["c"]  # the source had a version of it: it may be back
    assert {row["key"]: row["kind"] for row in shop.quarantine()} == {"b": "missing", "c": "missing"}
    shop.bad = {}
    shop.run([("b", "u/b", "1"), *rows[1:]])
    assert shop.fetched == ["b", "c"]
    assert set(shop.catalog()) == {"a", "b", "c"}


def test_says_what_is_live_and_what_is_left_out(shop: Shop, tmp_path: Path) -> None:
    shop.bad = {"u/b": "truncated", "u/c": "missing", "u/e": "missing"}
    shop.content = {"u/d": "u/a"}
    catalog = Catalog(tmp_path)
    catalog.read_source(Rows([*FIRST, ("e", "u/e", ABSENT), ("", "u/f", "1")]))
    catalog.read_previous(None, None)
    catalog.diff()
    catalog.add_shards(shop._shards(tmp_path, list(catalog.records_to_fetch())))
    same = digest("u/a@1")
    assert labelled.digests(catalog) == {"a": same, "d": same}
    assert labelled.homes(catalog) == {same: "shard-0-0"}  # d lies in shard-0-3 as well
    assert labelled.left_out(catalog) == [("missing", 2, "c"), ("no_key", 1, "row 5"), ("truncated", 1, "b")]
    labelled.write_left_out(catalog, tmp_path / "left_out.parquet")
    listed = pq.read_table(tmp_path / "left_out.parquet").to_pylist()
    assert [(row["key"], row["uri"], row["kind"]) for row in listed] == [
        ("b", "u/b", "truncated"),
        ("c", "u/c", "missing"),
        ("e", "u/e", "missing"),
        ("row 5", "u/f", "no_key"),
    ]
    assert listed[3]["message"] == "the record has no key"
    catalog.close()


def test_a_deleted_product_leaves_the_quarantine_too(shop: Shop) -> None:
    shop.bad = {"u/b": "truncated"}
    shop.run(FIRST)
    changes = shop.run([row for row in FIRST if row[0] in "ac"])
    assert shop.quarantine() == []
    assert changes.deleted == 1  # of the catalog: d; b was never in it


def test_a_good_product_that_breaks_leaves_the_catalog(shop: Shop) -> None:
    shop.run(FIRST)
    shop.bad = {"u/b": "truncated"}
    shop.run([("b", "u/b", "2") if row[0] == "b" else row for row in FIRST])
    assert set(shop.catalog()) == {"a", "c", "d"}
    assert [row["key"] for row in shop.quarantine()] == ["b"]


def test_a_picture_that_cannot_be_embedded_is_quarantined_under_every_key(shop: Shop) -> None:
    shop.content = {"u/a": "same", "u/d": "same"}
    shop.unembeddable = frozenset([digest("same@1")])
    shop.run(FIRST)
    assert set(shop.catalog()) == {"b", "c"}
    assert [(row["key"], row["stage"]) for row in shop.quarantine()] == [
        ("a", "embeddings"),
        ("d", "embeddings"),
    ]
    shop.run(FIRST)
    assert (shop.fetched, len(shop.catalog()), len(shop.quarantine())) == ([], 2, 2)


def test_roles_follow_the_key_alone(shop: Shop) -> None:
    rows = [(f"key-{number}", f"u/{number}", "1") for number in range(400)]
    shop.run(rows)
    roles = {key: row["role"] for key, row in shop.catalog().items()}
    shares = Counter(roles.values())
    assert set(shares) == {"train", "valid", "query", "candidate"}
    assert 0.68 < shares["train"] / 400 < 0.82
    shop.run([(key, f"moved/{uri}", "2") for key, uri, _ in rows[::-1][:50]])
    assert {key: row["role"] for key, row in shop.catalog().items()} == {
        key: roles[key] for key in shop.catalog()
    }


def test_an_empty_source_is_the_persons_mistake(shop: Shop) -> None:
    with pytest.raises(InvalidInput, match="at least one record"):
        shop.run([])


@dataclass
class Plain:
    """The same nights on plain dictionaries."""

    catalog: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """key -> uri, token, digest."""
    quarantine: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """key -> uri, token, kind; without what the source itself repeats or leaves out."""

    def run(self, rows: list[Row], bad: dict[str, str]) -> None:
        chosen: dict[str, tuple[str, str]] = {}
        for key, uri, token in rows:
            if key and uri:
                chosen[key] = min(chosen.get(key, (uri, token)), (uri, token))
        self.refused = len(rows) - len(chosen)
        before, unusable, unchanged = self.catalog, self.quarantine, 0
        self.catalog, self.quarantine, self.fetched = {}, {}, []
        for key, (uri, token) in chosen.items():
            if token and before.get(key, ())[:2] == (uri, token):
                self.catalog[key] = before[key]
                unchanged += 1
            elif token and unusable.get(key, ())[:2] == (uri, token) and unusable[key][2] != "unavailable":
                self.quarantine[key] = unusable[key]
            else:
                self.fetched.append(key)
                if uri in bad:
                    self.quarantine[key] = (uri, token, bad[uri])
                else:
                    self.catalog[key] = (uri, token, digest(f"{uri}@{token}"))
        self.deleted, self.unchanged = len(set(before) - set(chosen)), unchanged


night_rows = st.lists(
    st.tuples(
        st.sampled_from(["", "a", "b", "c", "d", "e"]),
        st.sampled_from(["", "u1", "u2", "u3"]),
        st.sampled_from(["", "1", "2"]),
    ),
    min_size=1,
    max_size=9,
)
broken = st.dictionaries(st.sampled_from(["u1", "u2"]), st.sampled_from(["truncated", "unavailable"]))


def test_a_uri_that_is_not_allowed_is_refused_for_tonight_alone(shop: Shop) -> None:
    rows = [("a", "/in/a", "1"), ("b", "/out/b", "1"), ("c", "/out/c", "1"), ("c", "/in/z", "1")]
    shop.forbidden = {"/out/b": "not here", "/out/c": "not here either"}
    shop.run(rows)
    assert shop.fetched == ["a", "c"]
    assert shop.catalog()["c"]["uri"] == "/in/z"  # of two, the one that may be read
    found = {(row["key"], row["stage"], row["kind"], row["message"]) for row in shop.quarantine()}
    assert ("b", "source", "uri_not_allowed", "not here") in found
    assert shop.difference.input == len(shop.catalog()) + len(shop.quarantine()) == 4
    assert shop.said == ["1 records have a uri that is not allowed: not here"]
    shop.forbidden = {}
    shop.run(rows[:2])
    assert (shop.fetched, shop.quarantine(), shop.said) == (["b"], [], [])
    shop.forbidden = {"/out/b": "no more"}
    shop.run(rows[:2])
    assert (shop.fetched, list(shop.catalog())) == ([], ["a"])


def test_the_quarantine_holds_no_secret_and_knows_the_record_all_the_same(shop: Shop) -> None:
    uri = "https://user:word@shop.example/a?signature=secret"
    shop.bad = {uri: "truncated"}
    shop.run([("a", uri, "1")])
    (row,) = shop.quarantine()
    assert row["uri"].startswith("https://…@shop.example/a?…")
    assert "secret" not in str(row)
    shop.run([("a", uri, "1")])
    assert (shop.fetched, shop.quarantine()[0]["attempts"]) == ([], 1)
    shop.run([("a", uri.replace("secret", "fresh"), "1")])
    assert shop.fetched == ["a"]


@given(st.lists(st.tuples(night_rows, broken), min_size=2, max_size=3))
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # to shrink would take minutes of nights
    suppress_health_check=[HealthCheck.too_slow],
)
def test_random_nights_equal_plain_dictionaries(
    tmp_path_factory: pytest.TempPathFactory, nights: list[tuple[list[Row], dict[str, str]]]
) -> None:
    shop, plain = Shop(tmp_path_factory.mktemp("nights")), Plain()
    for rows, bad in nights:
        shop.bad = bad
        shop.run(rows)
        plain.run(rows, bad)
        assert {
            key: (r["uri"], r["token"], r["sha256"]) for key, r in shop.catalog().items()
        } == plain.catalog
        found = {
            r["key"]: (r["uri"], r["token"], r["kind"]) for r in shop.quarantine() if r["stage"] != "source"
        }
        assert found == plain.quarantine
        assert shop.fetched == sorted(plain.fetched)
        found = shop.difference
        assert (found.input, found.refused, found.unchanged, found.gone) == (
            len(rows), plain.refused, plain.unchanged, plain.deleted,
        )  # fmt: skip
        assert found.input == len(shop.catalog()) + len(shop.quarantine())
        assert shop.twice == 0
