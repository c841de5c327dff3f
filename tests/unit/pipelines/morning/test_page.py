import copy
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from pipelines.morning.judged import fold_gates, health, score_rows, verdict
from pipelines.morning.newest import OTHERS, AttributeMap, Cloud
from pipelines.morning.page import render_page
from pipelines.morning.searches import SearchExample

VOID = {"meta", "link", "img", "br", "circle"}
SECTIONS = (
    *("counts", "gates", "quality", "learned", "values", "nights", "maps"),
    *("searches", "quarantine", "timings", "files"),
)


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


def night(number, recall, moved):
    return {
        "night": number,
        "snapshot": f"n{number}",
        "created": "2026-11-23T04:01:12Z",
        "model": "9f3c",
        "seconds": 61.0,
        "counts": {"input": 3000, "embedded": 41, "quarantined": 9, "deleted": 20},
        "recall": {"neckline_design": recall},
        "probe": {"neckline_design": 0.99998},
        "overlap": {},
        "moved": moved,
    }


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
                "sha256": "5ha",
            }
        ],
    },
    "timings": {
        "stages": [
            {
                "name": "shard",
                "seconds": 12.0,
                "units": 12,
                "images": 3000,
                "parts": {"decode": 0.75, "read": 0.25},
            }
        ],
        "parts": {"read": 0.1, "decode": 0.2, "model": 0.6, "write": 0.1},
        "bottleneck": "model is the bottleneck: model 60%",
        "images_per_s": 140.2,
        "seconds": 61.0,
    },
    "training": {
        "run": "train-1",
        "step": 20,
        "loss": [[10, 3.5], [20, 2.5], [30, 1.25]],
        "validation": [[10, 0.31], [20, 0.42], [30, 0.4]],
    },
    "last_model": "0a1b",
    "last_evaluation": {
        "attributes": {"neckline_design": figures(0.4), "coat_length": figures(0.52)},
        "overall": {"query_weighted": figures(0.41), "plain": figures(0.46)},
    },
    "nights": [night(1, 0.96, {}), night(2, 0.99, {"neckline_design": 0.034})],
    "values": {
        "neckline_design": {"named": {"v": 60, "round": 40}, "absent": 7, "unknown": 0},
        "coat_length": {"named": {}, "absent": 0, "unknown": 107},
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


def mapped(attribute="neckline_design", **changes):
    clouds = (Cloud(value="v", count=2, path="M1 2h0M3 4h0"), Cloud(value=OTHERS, count=1, path="M5 6h0"))
    return AttributeMap(
        **{"attribute": attribute, "clouds": clouds, "labelled": True, "explained": 0.4, **changes}
    )


def changed(**sections):
    return {**copy.deepcopy(REPORT), **sections}


def test_the_page_says_what_the_report_holds():
    words = Page(render_page(REPORT, [example()])).words
    assert "All 5 passed." in words["verdict"]
    assert "9 of 3,000 records (0.3%): 7 truncated, 2 too_small." in words["verdict"]
    assert "MAP 0.420, 3.0 times a random ranking, +0.010 on the last model." in words["verdict"]
    assert "2026-11-23 04:01:12 UTC" in words["verdict"]
    assert "3,000 records in the source" in words["counts"]
    assert "recall@10 2 of 2 0.96 >= 0.95 coat_length" in words["gates"]
    assert re.search(r"neckline_design 0\.420 0\.400 \+0\.020 0\.200 0\.160 0\.140 3\.0", words["quality"])
    assert "Mean average precision on held-out products, beside" in words["quality"]
    assert "1 of 2 share a value" in words["searches"]
    assert "a1 shard truncated cut off s3://shop/a1.jpg" in words["quarantine"]
    assert "1 min 1 s in all, 140.2 images/s" in words["timings"]
    assert "12.0 s 3,000 250.0" in words["timings"]
    assert "embeddings 96 23,904 102.4 MB" in words["files"]


def test_the_page_shows_how_the_model_learned():
    page = Page(render_page(REPORT))
    assert "step 20, whose weights were kept" in page.words["learned"]
    assert "loss of the batches 1.250" in page.words["learned"]
    assert "validation 0.400" in page.words["learned"]
    charts = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg" and "over steps" in str(attrs)]
    assert charts == [
        "loss of the batches over steps, at the end 1.250",
        "validation over steps, at the end 0.400",
    ]
    lines = [attrs["points"] for tag, attrs in page.tags if tag == "polyline"]
    assert lines[0].count(",") == 3
    for training in (None, {}, {"run": "x", "loss": [[1, 2.0]]}):
        assert "No curves" in Page(render_page(changed(training=training))).words["learned"]


def test_the_last_model_stands_beside_where_it_was_judged_alike():
    words = Page(render_page(REPORT)).words
    assert "beside the last model 0a1b, the same network untrained" in words["quality"]
    assert re.search(r"neckline_design 0\.420 0\.400 \+0\.020 0\.200", words["quality"])
    assert re.search(r"coat_length 0\.500 0\.520 -0\.020", words["quality"])
    assert "+0.010 on the last model." in words["verdict"]
    other = copy.deepcopy(REPORT["last_evaluation"])
    for row in (*other["attributes"].values(), *other["overall"].values()):
        row["num_queries"] = 7
    for last in (None, other):
        words = Page(render_page(changed(last_evaluation=last))).words
        assert "last model" not in words["quality"] + words["verdict"]


def test_a_model_that_is_worse_than_the_last_is_noted():
    last = {**REPORT["last_evaluation"], "overall": {"query_weighted": figures(0.43)}}
    rows, overall = score_rows(REPORT["evaluation"], last)
    assert [row.gained for row in rows] == pytest.approx([0.02, -0.02])
    check = health(changed(last_evaluation=last), overall)[3]
    assert (check.level, "-0.010 on the last model" in check.text) == ("warn", True)


def test_nights_stand_beside_each_other():
    page = Page(render_page(REPORT))
    assert "neckline_design 0.9900 1.0000 0.0340" in page.words["nights"]
    assert "The last 2 nights" in page.words["nights"]
    assert page.words["nights"].index("2 2026-11-23 04:01:12 UTC") < page.words["nights"].index(
        "1 2026-11-23"
    )
    assert "No nights are recorded" in Page(render_page(changed(nights=None))).words["nights"]


def test_maps_name_their_colours_and_what_was_counted():
    page = Page(render_page(REPORT, maps=[mapped(), mapped("coat_length", labelled=False)]))
    assert "neckline_design v other values v 2 other values 1" in page.words["maps"]
    assert "coloured by label; 40% of the variance. All newest: v 60%, round 40%" in page.words["maps"]
    assert "coloured by the model; 40% of the variance" in page.words["maps"]
    drawn = [
        (attrs["class"], attrs["d"]) for tag, attrs in page.tags if tag == "path" and "cloud" in str(attrs)
    ]
    assert drawn[:2] == [("cloud c-0", "M1 2h0M3 4h0"), ("cloud c-rest", "M5 6h0")]


def test_broken_pictures_are_shown_as_far_as_there_is_something_to_see():
    page = Page(render_page(REPORT, broken={"5ha": picture("red")}))
    assert "what can be seen of a1" in [attrs.get("alt") for tag, attrs in page.tags if tag == "img"]
    assert "what can be seen" not in render_page(REPORT, broken={"other": picture("red")})


def test_a_stage_is_drawn_by_what_its_workers_did():
    parts = [
        attrs for tag, attrs in Page(render_page(REPORT)).tags if attrs.get("title", "").startswith("decode")
    ]
    assert [(attrs["class"], attrs["style"]) for attrs in parts] == [("part-1", "width:75.00%")]


def test_the_page_of_a_large_shop_stays_small():
    """Ten million pictures: what is drawn does not grow with them."""
    noise = Image.effect_noise((128, 128), 90).convert("RGB")
    names = [f"attribute_{number}" for number in range(24)]
    gallery = [
        example(attribute=name, query=noise, attention=noise, results=[(noise, "0.9 v", True)] * 7)
        for name in names
    ]
    dots = "M123 123h0" * 600
    maps = [mapped(name, clouds=(Cloud(value="v", count=600, path=dots),)) for name in names]
    nights = [night(number, 0.9, {}) | {"recall": dict.fromkeys(names, 0.9)} for number in range(30)]
    rows = [{**REPORT["quarantine"]["examples"][0], "sha256": str(number)} for number in range(50)]
    report = changed(
        nights=nights, quarantine={"total": 2_000_000, "by_kind": {"missing": 2_000_000}, "examples": rows}
    )
    page = render_page(report, gallery, maps, {str(number): noise.resize((72, 72)) for number in range(50)})
    assert len(page) < 4_000_000
    assert len(page) - sum(map(len, re.findall(r"data:image/jpeg[^\"]*", page))) < 600_000


def test_the_page_says_how_well_values_are_named():
    page = render_page(REPORT, [])
    words = Page(page).words
    assert "neckline_design 0.710 0.200 0.900 0.800 1,200 1,300 4,000" in words["values"]
    assert "coat_length 0.200 0.340 \N{EN DASH} 0.800" in words["values"]
    assert "all pictures 0.550" in words["values"]
    assert page.count('title="the model is no better than this">0.340') == 1
    for evaluation in (None, {**REPORT["evaluation"], "values": None}):
        assert "names no values" in Page(render_page(changed(evaluation=evaluation), [])).words["values"]


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
    assert said in Page(render_page(report, ())).words["quality"]


def test_a_model_that_is_judged_by_triplets_is_not_said_to_have_a_map():
    row = {"triplet_accuracy": 0.93, "random": 0.5, "untrained": 0.6, "pixels": 0.7, "num_triplets": 9}
    evaluation = {
        "measure": "triplet_accuracy",
        "attributes": {"gender": row},
        "overall": {"query_weighted": row, "plain": row},
    }
    words = Page(render_page(changed(evaluation=evaluation), [])).words
    assert "Right triplets 0.930, 1.9 times a random ranking." in words["verdict"]
    assert "MAP" not in words["quality"] + words["verdict"]
    assert "gender 0.930 0.600 0.700 0.500" in words["quality"]


def test_the_page_loads_nothing():
    page = Page(render_page(REPORT, [example(), example(attention=None)]))
    linked = [attrs[name] for _, attrs in page.tags for name in ("src", "href", "srcset") if name in attrs]
    places = {f"#{attrs['id']}" for _, attrs in page.tags if "id" in attrs}
    within = [link for link in linked if link.startswith("#")]
    assert set(within) <= places
    assert len(linked) == len(within) + 1 + 2 * 4 + 1
    assert all(link.startswith("data:image/") for link in linked if link not in within)
    assert "script" not in {tag for tag, _ in page.tags}
    style = re.search(r"<style>(.*?)</style>", render_page(REPORT, []), re.DOTALL)
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
    page = Page(render_page(report, [hostile]))
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
    words = Page(render_page(report, [example()])).words
    assert said in words[place]
    assert set(words) >= {"verdict", *SECTIONS}


def test_an_empty_report_is_still_a_page():
    words = Page(render_page({}, [])).words
    assert "status unknown" in words["verdict"]
    assert "No example searches" in words["searches"]


@pytest.mark.parametrize("section", [name for name, value in REPORT.items() if isinstance(value, dict)])
def test_a_section_without_its_figures_is_still_drawn(section):
    for name in REPORT[section]:
        for value in (None, "left out"):
            fields = dict(REPORT[section], **{name: value})
            if value:
                del fields[name]
            Page(render_page(changed(**{section: fields}), []))


def test_a_failing_gate_is_on_the_first_screen_and_named():
    report = changed(status="gate failed")
    report["gates"] += [
        gate("recall@10 collar_design", False, 0.81),
        gate("recall@10 neck_design", False, 0.7),
    ]
    page = Page(render_page(report, []))
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
    assert '<div class="tile alarm"><b>9</b><span>quarantined' in render_page(REPORT, [])
    calm = changed(counts={**REPORT["counts"], "quarantined": 0})
    assert '<div class="tile muted"><b>0</b><span>quarantined' in render_page(calm, [])
