"""Every layout of the public benchmarks, as made-up copies, to exact records, taxonomies and triplets."""

import json
import os
from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pytest
from made_up_datasets import ATTRIBUTES, SPLITS, make_asen, make_fashionai_raw, make_zappos50k, write_lines

from agman.errors import InvalidInput
from agman.taxonomy import FASHIONAI
from pipelines.sources import ABSENT, RECORD_FIELDS, FolderSource, ListedTriplets, open_source
from pipelines.sources.records import BATCH_ROWS

ROLE_OF = {
    ("valid", True): "valid_query",
    ("valid", False): "valid_candidate",
    ("test", True): "query",
    ("test", False): "candidate",
}


def records(source) -> pa.Table:
    batches = list(source.batches())
    assert all(batch.num_rows <= BATCH_ROWS for batch in batches)
    table = pa.Table.from_batches(batches)
    assert pa.schema(list(table.schema)[:5]) == RECORD_FIELDS
    return table


def uses(source) -> dict[str, tuple[str | None, dict[str, list[str]]]]:
    """Return key -> role and labels."""
    rows = records(source).to_pylist()
    found = {row["key"]: (row["role"], dict(row["labels"])) for row in rows}
    assert len(found) == len(rows)
    return found


def expected_uses(made, taxonomy) -> dict[str, tuple[str | None, dict[str, list[str]]]]:
    """Say by a plain loop what the lists of an ASEN data set mean."""
    lines = {
        ("train", "train"): [
            (number, attribute, value)
            for number, shown in enumerate(made.shown["train"])
            for attribute, values in shown.items()
            for value in values
        ]
    }
    for split in ("valid", "test"):
        lines[split, ROLE_OF[split, True]] = made.queries[split]
        lines[split, ROLE_OF[split, False]] = made.candidates[split]
    found = {}
    for (split, role), listed in lines.items():
        shown = defaultdict(set)
        for number, attribute, value in listed:
            shown[number].add((attribute, value))
        for number, pairs in shown.items():
            path = made.paths[split][number]
            labels = defaultdict(list)
            for attribute, value in sorted(pairs):
                labels[taxonomy.names[attribute]].append(taxonomy.attributes[attribute].values[value])
            found[path if role == "train" else f"{path}@{role}"] = (role, dict(labels))
    return found


class TestAsen:
    @pytest.mark.parametrize("at_root", [True, False])
    def test_fashionai(self, tmp_path, at_root):
        made = make_asen(tmp_path)
        source = open_source(f"fashionai:{tmp_path if at_root else made.root}")
        assert source.name == f"fashionai {made.root}"
        assert source.taxonomy == FASHIONAI
        assert source.triplets() == {}
        found = uses(source)
        assert found == expected_uses(made, FASHIONAI)
        assert found["pictures/train/0007.jpg"] == ("train", {"sleeve_length": ["sleeveless"]})
        assert found["pictures/test/0000.jpg@query"] == ("query", {"skirt_length": ["invisible"]})
        assert Counter(role for role, _ in found.values()) == {
            "train": 108, "valid_query": 54, "valid_candidate": 108, "query": 54, "candidate": 108,
        }  # fmt: skip
        assert source.missing == 0

    @pytest.mark.parametrize(("spec", "name"), [("deepfashion", "DeepFashion"), ("darn", "DARN")])
    def test_values_without_names_and_pictures_with_several_uses(self, tmp_path, spec, name):
        make_asen(tmp_path, "FashionAI", attributes={"neck_design": 5}, train_per_value=1)
        made = make_asen(tmp_path, name, multi=True)
        source = open_source(f"{spec}:{tmp_path}")
        published = ATTRIBUTES[name]
        assert source.taxonomy.names == tuple(a.replace("-", "_").replace(" ", "_") for a in published)
        assert [len(attribute.values) for attribute in source.taxonomy] == list(published.values())
        assert source.taxonomy.attributes[0].values[:3] == ("v0", "v1", "v2")
        found = uses(source)
        assert found == expected_uses(made, source.taxonomy)
        first, second = source.taxonomy.names[:2]
        assert found["pictures/train/0000.jpg"][1] == {first: ["v0", "v1"], second: ["v0"]}
        assert found["pictures/test/0001.jpg@query"] == ("query", {first: ["v1"]})
        assert found["pictures/test/0001.jpg@candidate"] == ("candidate", {second: ["v1"]})

    def test_records_say_where_the_pictures_are(self, tmp_path):
        made = make_asen(tmp_path, attributes={"neck_design": 5})
        row = records(open_source(f"fashionai:{made.root}")).to_pylist()[-1]
        picture = made.picture("test", len(made.paths["test"]) - 1)
        assert row["path"] == made.paths["test"][-1]
        assert row["uri"] == str(picture)
        assert row["token"] == f"{picture.stat().st_size}-{picture.stat().st_mtime_ns}"

    def test_a_picture_named_twice_is_one(self, tmp_path):
        made = make_asen(tmp_path, attributes={"neck_design": 5}, train_per_value=1)
        write_lines(made.root / "filenames_train.txt", [*made.paths["train"], made.paths["train"][0]])
        write_lines(made.root / "label_train.txt", ["0 0 1", "5 0 2", "0 0 1"])
        found = uses(open_source(f"fashionai:{tmp_path}"))
        assert found[made.paths["train"][0]] == ("train", {"neck_design": ["turtle", "ruffle_semi_high"]})

    def test_a_picture_in_no_list_is_there_without_labels(self, tmp_path):
        made = make_asen(tmp_path, attributes={"neck_design": 5}, train_per_value=2)
        write_lines(made.root / "label_train.txt", ["1 0 3"])
        for split in ("valid", "test"):
            write_lines(made.root / f"query_{split}.txt", ["0 0 3"])
            write_lines(made.root / f"candidate_{split}.txt", ["0 0 3", "1 0 3"])
        found = uses(open_source(f"fashionai:{tmp_path}"))
        assert found["pictures/train/0000.jpg"] == ("train", {})
        assert found["pictures/train/0001.jpg"] == ("train", {"neck_design": ["low_turtle"]})
        assert found["pictures/valid/0002.jpg@valid"] == ("valid", {})
        assert found["pictures/test/0002.jpg@test"] == ("test", {})
        assert "pictures/test/0001.jpg@test" not in found
        assert len(found) == 10 + 2 * (1 + 2 + 13)

    def test_missing_pictures_are_listed_and_counted(self, tmp_path):
        made = make_asen(tmp_path, "DeepFashion")
        made.picture("train", 3).unlink()
        made.picture("test", 1).unlink()  # used twice
        source = open_source(f"deepfashion:{tmp_path}")
        tokens = {row["key"]: row["token"] for row in records(source).to_pylist()}
        assert [key for key, token in tokens.items() if token == ABSENT] == [
            "pictures/train/0003.jpg",
            "pictures/test/0001.jpg@query",
            "pictures/test/0001.jpg@candidate",
        ]
        assert source.missing == 2

    def test_a_picture_whose_uses_lie_in_two_batches_is_missed_once(self, tmp_path, monkeypatch):
        monkeypatch.setattr("pipelines.sources.benchmark.BATCH_ROWS", 3)
        made = make_asen(tmp_path, "DeepFashion")
        for split in SPLITS[1:]:
            for number in range(len(made.paths[split])):
                made.picture(split, number).unlink()
        source = open_source(f"deepfashion:{tmp_path}")
        assert len(records(source)) == 20 + 4 * 30
        assert source.missing == 60

    def test_no_picture_at_all_is_the_persons_mistake(self, tmp_path):
        made = make_asen(tmp_path, attributes={"neck_design": 5})
        os.rename(made.root / "pictures", tmp_path / "elsewhere")
        with pytest.raises(
            InvalidInput, match=f"expected 40 pictures, such as .* below {made.root}, found none"
        ):
            list(open_source(f"fashionai:{tmp_path}").batches())

    def test_a_malformed_line_refuses_the_source(self, tmp_path):
        made = make_asen(tmp_path, attributes={"neck_design": 5})
        write_lines(made.root / "candidate_test.txt", ["0 0 1", "1 0"])
        with pytest.raises(
            InvalidInput, match=r"candidate_test\.txt: line 2: expected picture attribute value"
        ):
            list(open_source(f"fashionai:{tmp_path}").batches())

    @pytest.mark.parametrize("lacking", ["filenames_valid.txt", "label_train.txt", "query_test.txt"])
    def test_a_lacking_list_is_named(self, tmp_path, lacking):
        made = make_asen(tmp_path, "DARN")
        (made.root / lacking).unlink()
        with pytest.raises(InvalidInput, match=f"found no {lacking}; get them from https://github") as caught:
            open_source(f"darn:{tmp_path}")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("document", "message"),
        [
            (None, "expected meta.json beside"),
            ("{", "reading it failed with JSONDecodeError"),
            ("[]", "reading it failed with AttributeError"),
            ('{"DARN": {}}', "reading it failed with KeyError"),
            (
                '{"FashionAI": {"ATTRIBUTES": ["a"], "ATTRIBUTES_NUM": {}}}',
                "reading it failed with KeyError: 'a'",
            ),
            (
                '{"FashionAI": {"ATTRIBUTES": ["a"], "ATTRIBUTES_NUM": {"a": 0}}}',
                "FashionAI: need at least one value",
            ),
            (
                '{"FashionAI": {"ATTRIBUTES": ["a b", "a-b"], "ATTRIBUTES_NUM": {"a b": 1, "a-b": 1}}}',
                "appears twice",
            ),
            ('{"FashionAI": {"ATTRIBUTES": [], "ATTRIBUTES_NUM": {}}}', "need at least one attribute"),
        ],
    )
    def test_a_broken_meta_is_one_line(self, tmp_path, document, message):
        make_asen(tmp_path, attributes={"neck_design": 5})
        (tmp_path / "meta.json").unlink()
        if document is not None:
            (tmp_path / "meta.json").write_text(document)
        with pytest.raises(InvalidInput, match=message) as caught:
            open_source(f"fashionai:{tmp_path}")
        assert "\n" not in str(caught.value)
        assert "meta.json" in str(caught.value)

    def test_an_early_meta_lies_in_the_folder_and_names_no_data_set(self, tmp_path):
        made = make_asen(tmp_path, attributes={"neck_design": 5, "sleeve_length": 4})
        entry = json.loads((tmp_path / "meta.json").read_text())["FashionAI"]
        (tmp_path / "meta.json").unlink()
        (made.root / "meta.json").write_text(json.dumps(entry))
        taxonomy = open_source(f"fashionai:{made.root}").taxonomy
        assert taxonomy.attributes[0] == FASHIONAI.attributes[7]
        assert taxonomy.attributes[1].values == ("v0", "v1", "v2", "v3")  # FashionAI's has nine


class TestFashionAIRaw:
    @pytest.mark.parametrize("header", [True, False])
    @pytest.mark.parametrize("place", ["", "Annotations", "Annotations/label.csv"])
    def test_yes_is_the_label(self, tmp_path, header, place):
        made = make_fashionai_raw(tmp_path, header=header)
        source = open_source(f"fashionai-raw:{tmp_path / place}")
        assert source.taxonomy == FASHIONAI
        assert uses(source) == {
            path: (None, {FASHIONAI.names[a]: [FASHIONAI.attributes[a].values[v] for v in values]})
            for path, shown in zip(made.paths["train"], made.shown["train"], strict=True)
            for a, values in shown.items()
        }
        assert source.unlabelled == source.missing == 0

    def test_pictures_beside_the_list(self, tmp_path):
        made = make_fashionai_raw(tmp_path)
        os.rename(tmp_path / "Annotations/label.csv", tmp_path / "label.csv")
        source = open_source(f"fashionai-raw:{tmp_path}")
        assert records(source)["uri"][0].as_py() == str(made.picture("train", 0))

    def test_several_lines_of_a_picture_are_one_record(self, tmp_path, caplog):
        make_fashionai_raw(tmp_path)
        path = f"Images/skirt_length_labels/{0:032x}.jpg"
        write_lines(
            tmp_path / "Annotations/label.csv",
            [
                f"{path},skirt_length_labels,nynnyn",
                f"{path},neck_design_labels,nmnny",
                f"{path},neck_design_labels,nmnnn",
            ],
        )
        source = open_source(f"fashionai-raw:{tmp_path}")
        assert uses(source) == {path: (None, {"skirt_length": ["short", "ankle"], "neck_design": ["draped"]})}
        assert source.unlabelled == 1
        assert "1 lines have no y" in caplog.text

    def test_a_header_alone_is_no_list(self, tmp_path):
        write_lines(tmp_path / "label.csv", ["path,attribute,labels"])
        with pytest.raises(InvalidInput, match="expected at least one picture in its lists, found none"):
            list(open_source(f"fashionai-raw:{tmp_path}").batches())

    @pytest.mark.parametrize("path", ["../secret.jpg", "Images/../../secret.jpg", "{outside}/secret.jpg"])
    def test_a_list_reaches_no_other_file_of_the_machine(self, tmp_path, path):
        made = make_fashionai_raw(tmp_path / "set")
        (tmp_path / "secret.jpg").write_bytes(b"secret")
        path = path.format(outside=tmp_path)
        lines = [f"{each},neck_design_labels,nnnny" for each in (made.paths["train"][0], path)]
        write_lines(tmp_path / "set/Annotations/label.csv", lines)
        source = open_source(f"fashionai-raw:{tmp_path / 'set'}")
        _, other = records(source).to_pylist()
        assert (other["key"], other["token"]) == (path, ABSENT)
        assert other["uri"].startswith(f"{tmp_path / 'set'}/")
        assert not os.path.exists(other["uri"])
        assert source.missing == 1

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("a.jpg,neck_design_labels,nnnnny", "line 2: expected one letter n, m or y for each value"),
            ("a.jpg,neck_design_labels,nn?ny", "line 2: expected path,attribute_labels,nnymn, found 'a.jpg"),
            ("a.jpg,neck_design,nnnny", "line 2: expected path,attribute_labels,nnymn"),
            ("a.jpg,hat_labels,nnnny", "line 2: expected an attribute of skirt_length, .* found 'a.jpg,hat"),
        ],
    )
    def test_a_malformed_line_is_named(self, tmp_path, line, message):
        made = make_fashionai_raw(tmp_path)
        write_lines(
            tmp_path / "Annotations/label.csv", [f"{made.paths['train'][0]},skirt_length_labels,ynnnnn", line]
        )
        with pytest.raises(InvalidInput, match=message):
            list(open_source(f"fashionai-raw:{tmp_path}").batches())


class TestZappos50k:
    def test_roles_and_triplets(self, tmp_path):
        made = make_zappos50k(tmp_path)
        source = open_source(f"zappos50k:{tmp_path}")
        assert source.taxonomy.names == ("class", "closure", "gender", "heel")
        triplets = source.triplets()
        assert list(triplets) == list(SPLITS)
        named = set()
        for split in SPLITS:
            suffix = "" if split == "train" else f"@{split}"
            listed = triplets[split]
            found = [
                (int(attribute), *(listed.pictures[row] for row in rows))
                for attribute, rows in zip(listed.attribute, listed.rows, strict=True)
            ]
            assert found == [
                (attribute, *(f"{made.paths['all'][number]}{suffix}" for number in numbers))
                for attribute, *numbers in made.triplets[split]
            ]
            named |= {(key, split) for key in listed.pictures}
        last = made.paths["all"][-1]
        in_no_list = {number for number in range(49)} - {
            number for split in SPLITS for _, *numbers in made.triplets[split] for number in numbers
        }
        assert 48 in in_no_list
        expected = {key: (split, {}) for key, split in named} | {
            f"{made.paths['all'][number]}@test": ("test", {}) for number in in_no_list
        }
        assert uses(source) == expected
        row = next(row for row in records(source).to_pylist() if row["path"] == last)
        assert row["uri"] == str(made.picture("all", 48))

    def test_a_picture_of_two_splits_has_a_use_in_each(self, tmp_path):
        made = make_zappos50k(tmp_path)
        write_lines(tmp_path / "tripletlists/heel_tripletlist_val.txt", ["0 30 1"])
        found = uses(open_source(f"zappos50k:{tmp_path}"))
        assert found[made.paths["all"][0]] == ("train", {})
        assert found[f"{made.paths['all'][0]}@valid"] == ("valid", {})

    def test_a_lacking_list_is_named(self, tmp_path):
        make_zappos50k(tmp_path)
        (tmp_path / "tripletlists/heel_tripletlist_val.txt").unlink()
        with pytest.raises(
            InvalidInput, match=r"found no tripletlists/heel_tripletlist_val\.txt; get them from"
        ):
            open_source(f"zappos50k:{tmp_path}")


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    few = {"attributes": {"neck_design": 2}, "train_per_value": 1}
    for name in ("DeepFashion", "FashionAI", "DARN"):
        make_asen(folder, name, **few)
    os.rename(folder / "DeepFashion", folder / "renamed")
    make_fashionai_raw(folder / "raw", header=True, per_value=1)
    make_zappos50k(folder / "zappos")
    return folder


class TestOpening:
    @pytest.mark.parametrize("spec", ["fashionai", "deepfashion", "darn", "zappos50k", "fashionai-raw"])
    def test_a_mistyped_path_says_what_is_expected_and_where_to_get_it(self, tmp_path, spec):
        for path in ("", tmp_path / "nowhere", tmp_path):
            with pytest.raises(InvalidInput, match=r"expected .* get them from .*https://") as caught:
                open_source(f"{spec}:{path}")
            assert "\n" not in str(caught.value)
        with pytest.raises(InvalidInput, match=f"expected {spec}:<folder of the data set>"):
            open_source(spec)

    @pytest.mark.parametrize("path", ["a" * 400, "~nobody-of-that-name/x", "a\0b"])
    def test_a_path_that_no_file_can_have_is_one_line(self, path):
        for spec in ("fashionai", "fashionai-raw"):
            with pytest.raises(InvalidInput, match="no such folder on this machine") as caught:
                open_source(f"{spec}:{path}")
            assert str(caught.value).isprintable()

    @pytest.mark.parametrize(
        ("place", "spec"),
        [
            ("", "fashionai"),
            ("FashionAI", "fashionai"),
            ("DARN", "darn"),
            ("renamed", "fashionai or deepfashion or darn"),
            ("raw", "fashionai-raw"),
            ("raw/Annotations", "fashionai-raw"),
            ("raw/Annotations/label.csv", "fashionai-raw"),
            ("zappos", "zappos50k"),
        ],
    )
    def test_a_benchmark_as_a_plain_path_is_refused(self, benchmarks, place, spec):
        path = benchmarks / place
        with pytest.raises(InvalidInput, match=f"this is a public benchmark.* write {spec}:{path}"):
            open_source(str(path))

    def test_its_pictures_alone_are_a_folder_like_any(self, benchmarks):
        assert isinstance(open_source(str(benchmarks / "FashionAI/pictures")), FolderSource)


def test_triplets_take_other_names_and_lose_what_has_none():
    listed = ListedTriplets(
        ("a", "b", "c", "d"), np.array([0, 1, 2]), np.array([[0, 1, 2], [1, 2, 3], [2, 1, 0]])
    )
    renamed = listed.renamed({"a": "z", "b": "y", "c": "z", "x": "unused"})
    assert renamed.pictures == ("y", "z")
    assert renamed.attribute.tolist() == [0, 2]
    assert [[renamed.pictures[row] for row in rows] for rows in renamed.rows] == [
        ["z", "y", "z"],
        ["z", "y", "z"],
    ]
    assert listed.renamed({}).rows.shape == (0, 3)
