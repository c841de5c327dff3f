from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from stored_bytes import overwrite

from pipelines.errors import CorruptShard, GateFailed
from pipelines.index import IndexOptions, build_group, group_of, plan_groups
from pipelines.parts import write_embeddings, write_part
from pipelines.quality import (
    Gate,
    GateOptions,
    check_gates,
    count_gates,
    index_gates,
    judge_groups,
    judgement,
    stamps_of,
    unjudged,
)
from pipelines.storage.objects import describe
from pipelines.storage.snapshots import Group, Part

COUNTS = {"input": 100, "embedded": 60, "reused": 35, "quarantined": 5}
ATTRIBUTE = "skirt_length"


def verdicts(gates: list[Gate]) -> dict[str, bool]:
    return {gate.name.removesuffix(f" {ATTRIBUTE}"): gate.passed for gate in gates}


def judge(lake: Any, groups: list[Group], parts: list[Part], **options: Any) -> dict[str, bool]:
    gates, by_name = GateOptions(**options), {part.name: part for part in parts}
    stamps = stamps_of(lake, "m")
    keys = {group.name: judgement(ATTRIBUTE, group, by_name, gates, stamps) for group in groups}
    judged = judge_groups(lake, ATTRIBUTE, groups, by_name, keys, gates)
    return verdicts(index_gates(ATTRIBUTE, "flat", list(judged.values()), gates))


def indexed(small_lake: Any, parts: list[Part]) -> list[Group]:
    units = plan_groups("m", parts, IndexOptions(parts_per_group=2))
    return [group_of(build_group(small_lake.lake, unit)) for unit in units]


@pytest.fixture
def parts(small_lake: Any) -> list[Part]:
    return [small_lake.add_part(f"shard{number}", 40, seed=number) for number in range(3)]


def stored_again(small_lake: Any, entry: Any, local: Path) -> Any:
    overwrite(small_lake.lake, entry.name, local.read_bytes())
    return describe(small_lake.lake.store, entry.name, entry.num_rows)


def test_counts_that_add_up_pass() -> None:
    assert all(gate.passed for gate in count_gates(COUNTS, 0, GateOptions()))


@pytest.mark.parametrize("name", ["embedded", "reused", "quarantined"])
@pytest.mark.parametrize("by", [-1, 1])
def test_one_record_lost_or_made_up_fails(name: str, by: int) -> None:
    gates = count_gates({**COUNTS, name: COUNTS[name] + by}, 0, GateOptions())
    assert [gate.name for gate in gates if not gate.passed] == ["reconciliation"]


def test_too_much_quarantine_fails() -> None:
    counts = {"input": 1000, "embedded": 750, "reused": 0, "quarantined": 250}
    failed = [gate for gate in count_gates(counts, 0, GateOptions()) if not gate.passed]
    assert [(gate.name, gate.found) for gate in failed] == [("quarantined share", 0.25)]
    assert all(gate.passed for gate in count_gates(counts, 0, GateOptions(max_quarantined=0.25)))


def test_a_few_broken_pictures_never_stop_a_night() -> None:
    counts = {"input": 11, "embedded": 7, "reused": 0, "quarantined": 4}
    assert all(gate.passed for gate in count_gates(counts, 0, GateOptions()))
    strict = count_gates(counts, 0, GateOptions(min_quarantined=4))
    assert [gate.name for gate in strict if not gate.passed] == ["quarantined share"]


def test_a_picture_embedded_twice_fails() -> None:
    assert [g.name for g in count_gates(COUNTS, 1, GateOptions()) if not g.passed] == [
        "no picture embedded twice"
    ]


def test_a_sound_index_passes(small_lake: Any, parts: list[Part]) -> None:
    assert judge(small_lake.lake, indexed(small_lake, parts), parts) == {
        "recall@10": True, "self-query": True, "unit norm": True,
    }  # fmt: skip


def test_a_wrong_norm_fails(small_lake: Any, parts: list[Part], tmp_path: Path) -> None:
    digests = small_lake.digests(parts[1])
    vectors = np.stack([small_lake.vectors[digest][1] for digest in digests])
    vectors[7] *= 1.01
    write_embeddings(tmp_path / "long.parquet", digests, vectors)
    entry = stored_again(small_lake, parts[1].files[ATTRIBUTE], tmp_path / "long.parquet")
    parts[1] = replace(parts[1], files={**parts[1].files, ATTRIBUTE: entry})
    found = judge(small_lake.lake, indexed(small_lake, parts), parts)
    assert not found["unit norm"]


def test_an_index_of_other_vectors_fails(small_lake: Any, parts: list[Part], tmp_path: Path) -> None:
    groups = indexed(small_lake, parts)
    entry = groups[0].files[ATTRIBUTE]
    index = faiss.IndexFlatIP(16)
    rows = [small_lake.vectors[digest][1] for part in parts[:2] for digest in small_lake.digests(part)]
    index.add(np.stack(rows[::-1]))  # the right vectors in the wrong order: each id names another picture
    faiss.write_index(index, str(tmp_path / "wrong.faiss"))
    wrong = stored_again(small_lake, entry, tmp_path / "wrong.faiss")
    groups[0] = replace(groups[0], files={**groups[0].files, ATTRIBUTE: wrong})
    assert not judge(small_lake.lake, groups, parts)["self-query"]


def test_near_duplicates_do_not_fail(small_lake: Any) -> None:
    twins = small_lake.add_part("twins", 40, seed=9)
    digests = small_lake.digests(twins)
    rows = np.repeat(np.stack([small_lake.vectors[digest] for digest in digests])[:1], 40, axis=0)
    rows *= 1 + np.linspace(-4e-4, 4e-4, 40)[:, None, None]  # as rounding to float16 leaves them
    files = write_part(small_lake.lake, "m", "near", list(twins.files), digests, rows.astype(np.float32))
    part = replace(twins, name="near", files=files)
    assert all(judge(small_lake.lake, indexed(small_lake, [part]), [part]).values())


def test_an_index_that_lost_rows_fails(small_lake: Any, parts: list[Part], tmp_path: Path) -> None:
    groups = indexed(small_lake, parts)
    rows = [small_lake.vectors[digest][1] for part in parts[:2] for digest in small_lake.digests(part)]
    index = faiss.IndexFlatIP(16)
    index.add(np.stack(rows[:20]))
    faiss.write_index(index, str(tmp_path / "short.faiss"))
    short = stored_again(small_lake, groups[0].files[ATTRIBUTE], tmp_path / "short.faiss")
    groups[0] = replace(groups[0], files={**groups[0].files, ATTRIBUTE: short})
    found = judge(small_lake.lake, groups, parts)
    assert not found["self-query"]
    assert not found["recall@10"]


def test_an_index_with_too_small_a_search_fails(small_lake: Any, parts: list[Part], tmp_path: Path) -> None:
    groups = indexed(small_lake, parts)
    rows = np.stack(
        [small_lake.vectors[digest][1] for part in parts[:2] for digest in small_lake.digests(part)]
    )
    index = faiss.index_factory(16, "IVF20,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    index.add(rows)
    index.nprobe = 1
    index.make_direct_map()
    faiss.write_index(index, str(tmp_path / "narrow.faiss"))
    narrow = stored_again(small_lake, groups[0].files[ATTRIBUTE], tmp_path / "narrow.faiss")
    groups[0] = replace(groups[0], files={**groups[0].files, ATTRIBUTE: narrow})
    found = judge(small_lake.lake, groups, parts)
    assert found["self-query"]
    assert not found["recall@10"]
    assert judge(small_lake.lake, groups, parts, min_recall=0.01)["recall@10"]


def test_a_verdict_holds_until_somebody_writes_to_a_file(small_lake: Any, parts: list[Part]) -> None:
    groups, lake = indexed(small_lake, parts), small_lake.lake
    by_name = {part.name: part for part in parts}

    def keys(**options: Any) -> dict[str, str]:
        stamps = stamps_of(lake, "0123456789abcdef") | stamps_of(lake, "m")
        found = GateOptions(**options)
        return {group.name: judgement(ATTRIBUTE, group, by_name, found, stamps) for group in groups}

    first = keys()
    judged = judge_groups(lake, ATTRIBUTE, groups, by_name, first, GateOptions())
    groups = [replace(group, judged={ATTRIBUTE: judged[group.name]}) for group in groups]
    assert unjudged(ATTRIBUTE, groups, keys()) == []
    assert unjudged(ATTRIBUTE, groups, keys(min_recall=0.1)) == []
    assert unjudged("collar_design", groups, keys()) == groups
    assert unjudged(ATTRIBUTE, groups, keys(recall_queries=5)) == groups
    for entry in (groups[1].ids, groups[1].files[ATTRIBUTE], by_name[groups[1].parts[0]].files[ATTRIBUTE]):
        before = keys()
        overwrite(lake, entry.name, lake.store.read(entry.name).body)  # the same bytes: who knows
        after = keys()
        assert [name for name in after if after[name] != before[name]] == [groups[1].name]


def test_a_group_without_files_has_no_verdict(small_lake: Any, parts: list[Part]) -> None:
    (group, _), by_name = indexed(small_lake, parts), {part.name: part for part in parts}
    options = GateOptions()
    key = judgement(ATTRIBUTE, group, by_name, options, stamps_of(small_lake.lake, "m"))
    small_lake.lake.store.delete(group.files[ATTRIBUTE].name)
    assert judgement(ATTRIBUTE, group, by_name, options, stamps_of(small_lake.lake, "m")) != key
    with pytest.raises(CorruptShard, match=group.files[ATTRIBUTE].name):
        judge_groups(small_lake.lake, ATTRIBUTE, [group], by_name, {group.name: key}, options)


def test_failed_gates_are_named_with_their_figures() -> None:
    gates = count_gates({**COUNTS, "embedded": 1}, 2, GateOptions())
    with pytest.raises(
        GateFailed, match=r"2 of 3 .* reconciliation: expected == 100, found 41; no picture.*see report.html"
    ):
        check_gates(gates, "report.html")
    check_gates([gate for gate in gates if gate.passed], "report.html")
