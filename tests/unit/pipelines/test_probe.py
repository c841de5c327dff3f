"""Pictures embedded anew and compared with what is stored: what must be noticed, and what must not."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_model
from made_up_snapshots import Shop

from pipelines.catalog import Catalog
from pipelines.condemned import condemn, condemned_parts
from pipelines.drift import (
    Moved,
    compare_vectors,
    drift_gates,
    has_drifted,
    model_gates,
    neighbour_overlap,
)
from pipelines.embedding import EmbedOptions, PartEmbedder, plan_part
from pipelines.errors import CorruptShard
from pipelines.lake import Lake, shard_index, shard_tar
from pipelines.models import import_model
from pipelines.parts import read_embeddings, write_part
from pipelines.probe import (
    Place,
    Probe,
    embed_again,
    plan_probe,
    probe_gates,
    published_places,
    sample_places,
)
from pipelines.quality import Gate, GateOptions
from pipelines.storage.objects import store_file
from pipelines.storage.snapshots import Manifest, Part

EMBED = EmbedOptions(precision="float32", batch_size=2)
BOUNDS = GateOptions()
SAME = Moved(overlap=1.0, norm=0.0, min_cosine=1.0, mean_cosine=1.0, num_not_finite=0)


def unit(num_rows: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((num_rows, dim))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def failed(gates: list[Gate]) -> list[str]:
    return [gate.name for gate in gates if not gate.passed]


def clusters(members: list[int]) -> np.ndarray:
    """Vectors of pictures that lie near the axis that each is a member of."""
    return np.eye(2)[members] @ np.eye(2, 16) + 0.01 * unit(len(members))


def test_the_same_vectors_have_not_moved() -> None:
    found = compare_vectors(unit(20), unit(20))
    assert (found.overlap, found.norm, found.num_not_finite) == (1.0, 0.0, 0)
    assert found.min_cosine == pytest.approx(1)


def test_another_basis_moves_the_vectors_and_keeps_their_neighbours() -> None:
    turned = unit(40) @ np.linalg.qr(np.random.default_rng(1).standard_normal((16, 16)))[0]
    found = compare_vectors(turned, unit(40))
    assert found.overlap == 1.0
    assert found.mean_cosine is not None
    assert found.mean_cosine < 0.5


def test_overlap_is_the_share_of_neighbours_that_stay() -> None:
    # Two groups of 11, in which all others are the 10 nearest; then one of each changes sides. Those that
    # stay keep 9 of 10, those that changed keep none.
    old, new = [0] * 11 + [1] * 11, [0] * 10 + [1, 0] + [1] * 10
    assert neighbour_overlap(clusters(new), clusters(old)) == pytest.approx(9 / 11)
    assert neighbour_overlap(clusters(old), clusters(old)) == 1.0


def test_equal_scores_agree_and_one_picture_has_no_neighbours() -> None:
    same = np.repeat(unit(1), 30, axis=0)
    assert neighbour_overlap(unit(30), same) == 1.0
    assert neighbour_overlap(unit(1), unit(1, seed=1)) == 1.0


def test_one_picture_that_moved_is_found_among_many() -> None:
    new = unit(64)
    new[17] = unit(64, seed=1)[17]
    found = compare_vectors(new, unit(64))
    assert found.min_cosine == pytest.approx(new[17] @ unit(64)[17])
    assert found.mean_cosine is not None
    assert found.mean_cosine > 0.97
    gates = drift_gates({"collar": SAME, "skirt": found}, {}, BOUNDS)
    assert failed(gates) == ["probe cosine skirt"]
    assert has_drifted(gates)


def test_a_longer_vector_is_found_though_it_points_the_same_way() -> None:
    new = unit(8)
    new[3] *= 1.01
    gates = drift_gates({"collar": compare_vectors(new, unit(8))}, {}, BOUNDS)
    assert failed(gates) == ["probe norm"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("which", ["new", "old"])
def test_a_component_that_is_no_number_is_counted_and_stays_out_of_the_figures(
    value: float, which: str
) -> None:
    vectors = {"new": unit(8), "old": unit(8)}
    vectors[which][3, 5] = value
    found = compare_vectors(**vectors)
    assert found.num_not_finite == 1
    gates = drift_gates({"collar": found}, {}, BOUNDS)
    assert failed(gates) == ["probe finite", "probe cosine collar"]
    assert all(np.isfinite(gate.found) for gate in gates)  # JSON has no other numbers


def test_a_picture_that_can_no_longer_be_decoded_fails() -> None:
    gates = drift_gates({"collar": SAME}, {"ab" * 32: "truncated: ends early"}, BOUNDS)
    assert failed(gates) == ["probe decoded"]
    assert gates[0].detail == "abababababab…: truncated: ends early"
    assert failed(drift_gates({}, {"ab" * 32: "truncated: ends early"}, BOUNDS)) == ["probe decoded"]


def test_a_new_model_is_only_recorded_unless_a_bound_is_given() -> None:
    moved = {
        "collar": compare_vectors(unit(40, seed=1), unit(40)),
        "skirt": compare_vectors(unit(40, 8), unit(40)),
    }
    (collar, skirt) = model_gates(moved, BOUNDS)
    assert collar.passed
    assert 0 < collar.found < 0.6
    assert collar.detail.startswith("mean cosine old to new ")
    assert skirt.detail == "other dimensions"
    strict = model_gates(moved, replace(BOUNDS, min_model_overlap=0.9))
    assert len(failed(strict)) == 2
    assert not has_drifted(strict)  # what it embedded is sound, however little it is liked


def catalog_of(folder: Path, tonight: list[Place], previous: list[Place]) -> Catalog:
    """A night's tables as far as the probe reads them."""
    catalog = Catalog(folder)
    for name, places in (("pictures", tonight), ("previous", previous)):
        catalog.db.execute(f"create table {name} (sha256 varchar, shard varchar, part varchar, row integer)")
        if places:
            catalog.db.executemany(f"insert into {name} values (?, ?, ?, ?)", places)
    return catalog


def place(digest: str, part: str | None = "p", row: int = 0) -> Place:
    return Place(digest, "s", part, row)


def digests(places: tuple[Place, ...]) -> str:
    return "".join(found.sha256 for found in places)


def test_the_probe_is_the_same_pictures_as_long_as_they_live(tmp_path: Path) -> None:
    db = catalog_of(tmp_path, [place(digest) for digest in "hgfedcb"], []).db
    assert digests(sample_places(db, "pictures", (), 3)) == "bcd"
    db.execute("insert into pictures values ('a', 's', 'p', 7)")  # a lower digest takes nobody's place
    assert digests(sample_places(db, "pictures", "bcd", 3)) == "bcd"
    db.execute("delete from pictures where sha256 = 'c'")
    db.execute("update pictures set part = null where sha256 = 'd'")  # it was refused tonight
    assert digests(sample_places(db, "pictures", "bcd", 3)) == "abe"
    assert digests(sample_places(db, "pictures", "fgh", 2)) == "fg"
    assert digests(sample_places(db, "pictures", "", 99)) == "abefgh"
    assert sample_places(db, "pictures", "abe", 0) == ()


def test_a_picture_under_two_keys_is_asked_once(tmp_path: Path) -> None:
    db = catalog_of(tmp_path, [place("b"), place("a"), place("b")], []).db
    assert digests(sample_places(db, "pictures", "b", 9)) == "ab"


def made_up_part(name: str) -> Part:
    return Part(name=name, shard="", num_rows=9, files={})


def test_a_new_model_is_compared_with_the_parents_vectors_of_the_same_pictures(
    tmp_path: Path, small_lake
) -> None:
    small_lake.add_part("old", 2, seed=0)
    parent: Manifest = replace(small_lake.manifest(small_lake.places()), probe=("b", "c", "x"))
    parent = replace(parent, parts=(made_up_part("old"), made_up_part("torn")))
    tonight = [place("a", "new", 2), place("b", "new", 0), place("c", "merged", 5), place("d", "lost", 1)]
    previous = [place("b", "old", 4), place("c", "torn", 1), place("x", "old", 3), place("e", "old", 5)]
    catalog = catalog_of(tmp_path, tonight, previous)
    parts = [made_up_part("new"), made_up_part("merged")]

    def plan(model: str, parent: Manifest | None) -> Probe:
        return plan_probe(catalog, model, parent, parts, lambda shard: (shard,), 4, lost=["torn"])

    found = plan("another", parent)
    assert found.digests == ("a", "b", "c")  # d lies in a part that no group has: not for this gate to say
    assert found.places == tuple(tonight[:3])
    assert sorted(found.parts) == ["merged", "new"]
    assert found.shards == {"s": ("s",)}
    assert found.sample == (tonight[0], tonight[2])  # a picture of each new part
    assert found.before == (previous[0],)
    assert sorted(found.parts_before) == ["old"]
    assert plan(parent.model, parent).before == ()
    assert plan("another", None).before == ()
    published = replace(parent, parts=(made_up_part("new"),))
    assert plan(parent.model, published).sample == (tonight[2],)
    assert plan("another", published).sample == found.sample


class Embedded:
    """Four pictures in a tar, embedded by a real network."""

    def __init__(self, lake: Lake, folder: Path, model: Path, encode: Callable[..., bytes]) -> None:
        self.lake = lake
        self.shop = Shop(lake, folder)
        self.first = self.shop.night("one", {str(seed): encode(seed) for seed in range(4)})
        self.model = import_model(lake, model)
        ((self.shard, self.files),) = self.shop.shards.items()
        self.digests = self.shop.pictures[self.shard]
        made = PartEmbedder(lake, self.model, EMBED).run(
            plan_part(self.shard, self.files, self.model, self.digests)
        )
        names = made.detail["attributes"]
        self.part = Part(
            name=made.unit,
            shard=self.shard,
            num_rows=4,
            files=dict(zip(names, made.files, strict=True)),
        )

    def probe(self, part: Part | None = None, rows: tuple[int, ...] = (0, 1, 2, 3)) -> Probe:
        part = part or self.part
        places = tuple(
            Place(digest, self.shard, part.name, row) for digest, row in zip(self.digests, rows, strict=True)
        )
        return Probe(places, {self.shard: self.files}, {part.name: part})

    def judge(self, probe: Probe, model: str = "") -> list[Gate]:
        return probe_gates(self.lake, model or self.model, probe, EMBED, BOUNDS)


@pytest.fixture
def embedded(
    lake: Lake, tmp_path: Path, other_taxonomy_model: Path, picture: Callable[..., bytes]
) -> Embedded:
    return Embedded(lake, tmp_path, other_taxonomy_model, picture)


def test_what_was_embedded_is_found_again(embedded: Embedded) -> None:
    gates = embedded.judge(embedded.probe())
    assert [gate.name for gate in gates] == [
        "probe decoded", "probe finite", "probe norm",
        "probe cosine skirt_length", "probe cosine sleeve_length",
    ]  # fmt: skip
    assert failed(gates) == []
    assert not has_drifted(gates)
    assert gates[-1].found == pytest.approx(1)
    assert embedded.judge(Probe()) == []


def test_another_model_under_the_old_ones_name_is_found(embedded: Embedded, tmp_path: Path) -> None:
    from agman.taxonomy import FASHIONAI, Taxonomy

    other = make_model(tmp_path / "other", Taxonomy(FASHIONAI.attributes[:2]), seed=1)
    gates = embedded.judge(embedded.probe(), import_model(embedded.lake, other))
    assert failed(gates) == ["probe cosine skirt_length", "probe cosine sleeve_length"]


def test_one_attribute_whose_vectors_are_others_is_found(embedded: Embedded) -> None:
    attribute = "sleeve_length"
    with embedded.lake.checked(embedded.part.files[attribute]) as path:
        names, vectors = read_embeddings(path)
    swapped = vectors[[1, 0, 2, 3]]
    files = write_part(embedded.lake, embedded.model, "swapped", [attribute], names, swapped[:, None])
    part = replace(embedded.part, name="swapped", files={**embedded.part.files, **files})
    assert failed(embedded.judge(embedded.probe(part))) == ["probe cosine sleeve_length"]


def test_a_row_of_another_picture_is_damage_and_named(embedded: Embedded) -> None:
    for rows in ((1, 0, 2, 3), (0, 1, 2, 4)):
        with pytest.raises(CorruptShard, match="in row") as caught:
            embedded.judge(embedded.probe(rows=rows))
        assert caught.value.name in {entry.name for entry in embedded.part.files.values()}


def test_a_damaged_part_and_a_damaged_tar_are_named(embedded: Embedded) -> None:
    for name in (embedded.part.files["skirt_length"].name, embedded.files[1].name):
        embedded.shop.damage(name)
        with pytest.raises(CorruptShard) as caught:
            embedded.judge(embedded.probe())
        assert caught.value.name == name
        embedded.shop.damage(name)  # the bit is as it was
    assert failed(embedded.judge(embedded.probe())) == []


def test_a_part_that_an_earlier_attempt_made_with_other_software_is_found(embedded: Embedded) -> None:
    names, vectors = embedded.digests[:1], unit(1, 32, seed=5).astype(np.float32)
    files = {
        **embedded.part.files,
        **write_part(embedded.lake, embedded.model, "drifted", ["sleeve_length"], names, vectors[:, None]),
    }
    drifted = replace(embedded.part, name="drifted", files=files)
    whole = embedded.probe()
    picked = Place(whole.places[0].sha256, embedded.shard, "drifted", 0)
    # The fixed pictures are all as they were.
    probe = replace(whole, parts={**whole.parts, "drifted": drifted}, sample=(picked,))
    gates = embedded.judge(probe)
    assert failed(gates) == ["probe new parts"]
    assert gates[-1].detail == "a picture of each of 1 parts"
    assert has_drifted(gates)
    sound = replace(whole, sample=whole.places[1:2])
    assert failed(embedded.judge(sound)) == []


def test_what_a_drifted_night_made_is_not_taken_for_done(lake: Lake) -> None:
    assert condemned_parts(lake, "m1") == frozenset()
    condemn(lake, "m1", ["p", "q-12345678"], "one")
    condemn(lake, "m1", ["p"], "two")
    assert condemned_parts(lake, "m1") == {"p", "q-12345678"}
    assert condemned_parts(lake, "m2") == frozenset()


def test_on_the_night_of_a_new_model_the_old_vectors_are_compared_too(embedded: Embedded) -> None:
    (old,) = embedded.first.parts
    before = embedded.probe(old)
    probe = replace(embedded.probe(), before=before.places, parts_before=before.parts)
    gates = embedded.judge(probe)
    assert failed(gates) == []
    assert [(gate.name, gate.detail) for gate in gates[-1:]] == [
        ("model overlap@10 skirt_length", "other dimensions")  # the only attribute that both models have
    ]


def test_a_picture_that_no_longer_decodes_is_told_and_the_others_compared(
    embedded: Embedded, tmp_path: Path
) -> None:
    body = b"bytes that were a picture to the decoder of last year"
    digest = hashlib.sha256(body).hexdigest()
    (tmp_path / "tar").write_bytes(body)
    row = {"sha256": digest, "status": "ok", "member": "a", "offset": 0, "num_bytes": len(body)}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "index")
    store = embedded.lake.store
    files = (
        store_file(store, tmp_path / "tar", shard_tar("shop", "odd"), 1),
        store_file(store, tmp_path / "index", shard_index("shop", "odd"), 1),
    )
    probe = embedded.probe()
    odd = Place(digest, "odd", embedded.part.name, 0)
    shards = {**probe.shards, "odd": files}
    anew = embed_again(PartEmbedder(embedded.lake, embedded.model, EMBED), [odd, *probe.places], shards)
    assert list(anew.refused) == [digest]
    assert anew.refused[digest].startswith("not_an_image: ")
    assert list(anew.digests) == embedded.digests
    gates = embedded.judge(replace(probe, places=(odd, *probe.places), shards=shards))
    assert failed(gates) == ["probe decoded"]


def test_a_snapshot_tells_where_its_probe_is(small_lake) -> None:
    part = small_lake.add_part("p", 9, seed=0)
    rows = small_lake.places()
    manifest = small_lake.manifest(rows)
    lowest = sorted(small_lake.digests(part))
    assert [found.sha256 for found in published_places(small_lake.lake, manifest, 4)] == lowest[:4]
    kept = replace(manifest, probe=tuple(lowest[5:8]))
    found = published_places(small_lake.lake, kept, 4)
    assert [each.sha256 for each in found] == lowest[5:8]
    by_digest = {row["sha256"]: row["row"] for row in rows}
    assert [each.row for each in found] == [by_digest[each.sha256] for each in found]
    assert Manifest.from_json(kept.to_json()).probe == kept.probe


def test_a_table_of_any_name_is_sampled() -> None:
    with duckdb.connect() as db:
        db.execute("create table t as select 'a' as sha256, 's' as shard, 'p' as part, 3 as row")
        assert sample_places(db, "t", ["a", "b"], 2) == (Place("a", "s", "p", 3),)
