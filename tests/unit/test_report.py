import copy
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from pipelines.report import SearchExample, fold_gates, health, render_report, score_rows, verdict

VOID = {"meta", "link", "img", "br", "circle", "path"}
SECTIONS = ("counts", "gates", "quality", "searches", "quarantine", "timings", "files")


class Page(HTMLParser):
    """Checks the nesting of tags and keeps what each section says."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.section = ""
        self.words: dict[str, str] = {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self.section = dict(attrs).get("id", "verdict")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, text):
        said = f"{self.words.get(self.section, '')} {text}"
        self.words[self.section] = " ".join(said.split())


def gate(name, passed=True, found=1.0, expected=">= 0.95", detail=""):
    return {"name": name, "passed": passed, "found": found, "expected": expected, "detail": detail}


def figures(found, **changes):
    base = {"map": found, "random": 0.14, "pixels": 0.16, "untrained": 0.2, "recall_at_1": 0.5}
    return {**base, "num_queries": 1200, "num_candidates": 4000, "queries_without_relevant": 0, **changes}


def spoken(accuracy, common):
    shares = {
        "value_accuracy": accuracy,
        "most_common": common,
        "absent_precision": 0.9,
        "absent_recall": 0.8,
    }
    return {**shares, "num_having": 1200, "num_said_having": 1300, "num_lacking": 4000}


REPORT = {
    "lake": "s3://shop-lake",
    "snapshot": "20261123T040112Z-5f2c",
    "parent": "20261122T040031Z-b1e0",
    "created": "2026-11-23T04:01:12Z",
    "night": 2,
    "model": "9f3c",
    "dataset": "catalog",
    "source": "feed",
    "status": "published",
    "counts": {"input": 3000, "embedded": 41, "reused": 2950, "quarantined": 9, "moved": 0, "deleted": 20},
    "reconciliation": {"line": "3000 input = 41 embedded + 2950 reused + 9 quarantined", "holds": True},
    "gates": [
        gate("reconciliation", found=3000, expected="== 3000"),
        gate("recall@10 neckline_design", found=0.99),
        gate("recall@10 coat_length", found=0.96),
        gate("unit norm neckline_design", found=2e-6, expected="<= 0.001"),
        gate("unit norm coat_length", found=4e-4, expected="<= 0.001"),
    ],
    "evaluation": {
        "attributes": {"neckline_design": figures(0.42), "coat_length": figures(0.5, pixels=0.61)},
        "overall": {"query_weighted": figures(0.42), "plain": figures(0.46)},
        "values": {
            "attributes": {
                "neckline_design": spoken(0.71, 0.2),
                "coat_length": {**spoken(0.2, 0.34), "absent_precision": None},
            },
            "overall": spoken(0.55, 0.25),
        },
    },
    "quarantine": {
        "total": 9,
        "by_kind": {"too_small": 2, "truncated": 7},
        "examples": [
            {
                "key": "a1",
                "uri": "s3://shop/a1.jpg",
                "stage": "shard",
                "kind": "truncated",
                "message": "cut off",
            }
        ],
    },
    "timings": {
        "stages": [{"name": "shard", "seconds": 12.0, "units": 12, "images": 3000}],
        "parts": {"read": 0.1, "decode": 0.2, "model": 0.6, "write": 0.1},
        "bottleneck": "model is the bottleneck: model 60%",
        "images_per_s": 140.2,
        "seconds": 61.0,
    },
    "files": {"embeddings": {"files": 96, "bytes": 102_400_000, "rows": 23904}},
}


def picture(colour="teal"):
    return Image.new("RGB", (32, 32), colour)


def example(**changes):
    results = [
        (picture("navy"), "0.97 v", True),
        (picture("red"), "0.91 round", False),
        (picture(), "0.9", None),
    ]
    fields = {"attribute": "neckline_design", "query": picture(), "query_caption": "deep_v"}
    return SearchExample(**{**fields, "attention": picture("gold"), "results": results, **changes})


def changed(**sections):
    return {**copy.deepcopy(REPORT), **sections}


def test_the_page_says_what_the_report_holds():
    words = Page(render_report(REPORT, [example()])).words
    assert "All 5 passed." in words["verdict"]
    assert "9 of 3,000 records (0.3%): 7 truncated, 2 too_small." in words["verdict"]
    assert "MAP 0.420, 3.0 times a random ranking." in words["verdict"]
    assert "2026-11-23 04:01:12 UTC" in words["verdict"]
    assert "3,000 records in the source" in words["counts"]
    assert "recall@10 2 of 2 0.96 >= 0.95 coat_length" in words["gates"]
    assert re.search(r"neckline_design 0\.420 0\.200 0\.160 0\.140 3\.0", words["quality"])
    assert "Mean average precision on held-out products, beside" in words["quality"]
    assert "1 of 2 share a value" in words["searches"]
    assert "a1 shard truncated cut off s3://shop/a1.jpg" in words["quarantine"]
    assert "1 min 1 s in all, 140.2 images/s" in words["timings"]
    assert "12.0 s 3,000 250.0" in words["timings"]
    assert "embeddings 96 23,904 102.4 MB" in words["files"]


def test_the_page_says_how_well_values_are_named():
    page = render_report(REPORT, [])
    words = Page(page).words
    assert "neckline_design 0.710 0.200 0.900 0.800 1,200 1,300 4,000" in words["values"]
    assert "coat_length 0.200 0.340 \N{EN DASH} 0.800" in words["values"]
    assert "all pictures 0.550" in words["values"]
    assert page.count('title="the model is no better than this">0.340') == 1
    for evaluation in (None, {**REPORT["evaluation"], "values": None}):
        assert "names no values" in Page(render_report(changed(evaluation=evaluation), [])).words["values"]


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("test", "held-out products of shoes, split test"),
        ("valid", "that chose the model of shoes, split valid"),
    ],
)
def test_figures_name_the_pictures_that_gave_them(split: str, said: str) -> None:
    report = copy.deepcopy(REPORT)
    report["evaluation"].update(dataset="shoes", split=split)
    assert said in Page(render_report(report, ())).words["quality"]


def test_a_model_that_is_judged_by_triplets_is_not_said_to_have_a_map():
    row = {"triplet_accuracy": 0.93, "random": 0.5, "untrained": 0.6, "pixels": 0.7, "num_triplets": 9}
    evaluation = {
        "measure": "triplet_accuracy",
        "attributes": {"gender": row},
        "overall": {"query_weighted": row, "plain": row},
    }
    words = Page(render_report(changed(evaluation=evaluation), [])).words
    assert "Right triplets 0.930, 1.9 times a random ranking." in words["verdict"]
    assert "MAP" not in words["quality"] + words["verdict"]
    assert "gender 0.930 0.600 0.700 0.500" in words["quality"]


def test_the_page_loads_nothing():
    page = Page(render_report(REPORT, [example(), example(attention=None)]))
    linked = [attrs[name] for _, attrs in page.tags for name in ("src", "href", "srcset") if name in attrs]
    assert len(linked) == 1 + 2 * 4 + 1
    assert all(link.startswith("data:image/") for link in linked)
    assert "script" not in {tag for tag, _ in page.tags}
    style = re.search(r"<style>(.*?)</style>", render_report(REPORT, []), re.DOTALL)
    assert "url(" not in style[1]
    assert "@import" not in style[1]


HOSTILE = '</td><script>alert("x")</script><img src=x onerror=alert(1)>'


def poisoned(value):
    if isinstance(value, dict):
        return {
            HOSTILE if key in ("truncated", "coat_length") else key: poisoned(v) for key, v in value.items()
        }
    if isinstance(value, list):
        return [poisoned(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


def test_text_of_a_catalog_stays_text():
    report = poisoned(REPORT)
    hostile = example(
        attribute=HOSTILE, query_caption=f'"{HOSTILE}', results=[(picture(), f'" onload="{HOSTILE}', None)]
    )
    page = Page(render_report(report, [hostile]))
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [attrs for _, attrs in page.tags if {"onerror", "onload"} & attrs.keys()]
    assert HOSTILE in page.words["quarantine"]


@pytest.mark.parametrize("absent", [None, "left out"])
@pytest.mark.parametrize(
    ("section", "place", "said"),
    [
        ("counts", "counts", "No counts are recorded"),
        ("gates", "gates", "No gates are recorded"),
        ("evaluation", "quality", "was not evaluated"),
        ("quarantine", "quarantine", "is not recorded"),
        ("timings", "timings", "No timings are recorded"),
        ("files", "files", "No files are recorded"),
        ("reconciliation", "verdict", "No reconciliation is recorded"),
    ],
)
def test_a_missing_section_is_named(section, place, said, absent):
    report = changed(**{section: None})
    if absent == "left out":
        del report[section]
    words = Page(render_report(report, [example()])).words
    assert said in words[place]
    assert set(words) >= {"verdict", *SECTIONS}


def test_an_empty_report_is_still_a_page():
    words = Page(render_report({}, [])).words
    assert "status unknown" in words["verdict"]
    assert "No example searches" in words["searches"]


@pytest.mark.parametrize("section", [name for name, value in REPORT.items() if isinstance(value, dict)])
def test_a_section_without_its_figures_is_still_drawn(section):
    for name in REPORT[section]:
        for value in (None, "left out"):
            fields = dict(REPORT[section], **{name: value})
            if value:
                del fields[name]
            Page(render_report(changed(**{section: fields}), []))


def test_a_failing_gate_is_on_the_first_screen_and_named():
    report = changed(status="gate failed")
    report["gates"] += [
        gate("recall@10 collar_design", False, 0.81),
        gate("recall@10 neck_design", False, 0.7),
    ]
    page = Page(render_report(report, []))
    first = page.words["verdict"]
    assert "gate failed This snapshot was not published; snapshot 20261122T040031Z-b1e0 goes on" in first
    assert "2 of 7 failed: recall@10 collar_design found 0.81, expected >= 0.95; recall@10 neck" in first
    assert "✗ gate failed" in page.words[""]
    folded, *_ = page.words["gates"].split("All 7 gates")
    assert folded.index("recall@10 2 of 4 0.7") < folded.index("recall@10 collar_design failed 0.81")
    assert folded.index("recall@10 neck_design failed 0.7") < folded.index("reconciliation")


def test_gates_fold_to_their_worst_figure():
    kinds = {kind.name: kind for kind in fold_gates(REPORT["gates"])}
    assert list(kinds) == ["reconciliation", "recall@10", "unit norm"]
    assert (kinds["recall@10"].worst["found"], kinds["recall@10"].worst_attribute) == (0.96, "coat_length")
    assert (kinds["unit norm"].worst["found"], kinds["unit norm"].worst_attribute) == (4e-4, "coat_length")
    alone = fold_gates(
        [gate("quarantined share", found=0.1, expected="<= 0.2"), gate("no figure", found=None)]
    )
    assert [(kind.name, kind.worst_attribute) for kind in alone] == [
        ("quarantined share", ""),
        ("no figure", ""),
    ]


def level(**sections):
    report = {name: value for name, value in changed(**sections).items() if value is not None}
    checks = health(report, score_rows(report.get("evaluation"))[1])
    return verdict(report, checks).level


def test_the_verdict_is_only_as_good_as_what_was_checked():
    assert level() == "ok"
    assert level(evaluation=None) == "ok"
    assert level(gates=None) == level(reconciliation=None) == "warn"
    assert level(reconciliation={"line": "1 = 2", "holds": False}) == "bad"
    assert level(gates=[gate("recall@10 a", False)]) == "bad"
    assert level(status="gate failed") == "bad"


def test_a_model_that_learned_nothing_is_noted():
    rows, overall = score_rows(REPORT["evaluation"])
    assert [row.not_beaten for row in rows] == [[], ["pixels"]]
    assert overall[0].factor == pytest.approx(3.0)
    evaluation = {"overall": {"query_weighted": figures(0.15)}}
    checks = health(changed(evaluation=evaluation), score_rows(evaluation)[1])
    assert checks[3].level == "warn"
    assert checks[3].text.endswith("no better than untrained, pixels.")
    assert score_rows({"overall": {"plain": {"map": 0.3, "random": 0.0}}})[1][0].factor is None


def test_bad_counts_stand_out_only_where_there_are_some():
    assert '<div class="tile alarm"><b>9</b><span>quarantined' in render_report(REPORT, [])
    calm = changed(counts={**REPORT["counts"], "quarantined": 0})
    assert '<div class="tile muted"><b>0</b><span>quarantined' in render_report(calm, [])
