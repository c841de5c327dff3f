"""The search page in a real browser, before a real service: what people do, and what can go wrong."""

import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from pipelines.sources.drawing import draw_jpeg

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[2] / "pipelines" / "serving" / "page"
MAX_BYTES = 60_000
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
MIN_TARGET = 44  # pixels
KEY = "style-000003"
SHARED = f"/?key={KEY}&like=neckline_design:60,sleeve_length:30"
ORIENTATION = 0x0112  # of EXIF
NOTE_SENT = """() => {
    const {fetch} = window;
    window.sent = [];
    window.fetch = (path, options) => {
        const picture = options.body?.get("picture");
        if (picture) sent.push(picture);
        return fetch(path, options);
    };
}"""
SENT = "Promise.all(sent.map(async picture => [...new Uint8Array(await picture.arrayBuffer())]))"
Open = Callable[..., Page]


@contextmanager
def searching(page: Page) -> Iterator[None]:
    """Wait for the answer to what is done in a `with`, and until the page shows it."""
    with page.expect_response(lambda response: response.url.endswith("/search") and response.ok):
        yield
    expect(page.locator("#progress")).to_be_hidden()


def settled(page: Page) -> Page:
    expect(page.locator("#results .card").first).to_be_visible()
    expect(page.locator("#progress")).to_be_hidden()
    return page


def keys(cards: Locator) -> list[str]:
    return [card.get_attribute("data-key") for card in cards.all()]


def path_of(page: Page) -> str:
    return "/" + page.url.split("/", 3)[3]


def similar(page: Page, key: str, attributes: str, **options: Any) -> list[dict[str, Any]]:
    """Ask the service itself."""
    base = page.url.removesuffix(path_of(page))
    answer = page.request.get(f"{base}/similar/{key}", params={"attributes": attributes, **options})
    return answer.json()["results"]


def upload(page: Page, name: str, body: bytes) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "image/jpeg", "buffer": body})


def test_a_picture_of_the_catalog_is_enough(open_page: Open) -> None:
    page = open_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    settled(page)
    expect(page.locator("#results .card")).to_have_count(24)
    with searching(page):
        page.locator("#results .frame").nth(3).click()
    key = page.locator("#query-title").inner_text()
    attribute = re.search(r"like=(\w+)$", page.url)[1]
    expect(page.get_by_role("status").first).to_have_text("24 products, most alike first")
    expect(page.locator("#chips [aria-pressed=true]")).to_have_count(1)
    found = similar(page, key, attribute)
    cards = page.locator("#results .card")
    assert keys(cards) == [each["key"] for each in found]
    first = cards.first.inner_text()
    assert f"{found[0]['score']:.3f}" in first
    assert f"{found[0]['columns']['price']:.2f}" in first
    value = found[0]["predicted"][attribute]["value"]
    assert (value or f"no {attribute}").replace("_", " ") in first.lower()
    assert all(url.startswith((page.url.removesuffix(path_of(page)), "blob:")) for url in asked)


def test_attributes_are_mixed_by_weight(open_page: Open) -> None:
    page = settled(open_page(f"/?key={KEY}&like=neckline_design"))
    with searching(page):
        page.locator(".chip", has_text="Sleeve length").evaluate(
            "chip => chip.click()"
        )  # it may be folded away
    slider = page.get_by_role("slider", name="Weight of neckline design")
    with searching(page):
        slider.fill("95")
    assert page.url.endswith("like=neckline_design:95,sleeve_length:50")
    expect(slider).to_have_attribute("aria-valuetext", "66 percent of the search")
    found = similar(page, KEY, "neckline_design=95,sleeve_length=50")
    assert keys(page.locator("#results .card")) == [each["key"] for each in found]
    with searching(page):
        page.locator(".chip", has_text="Neckline design").click()
    assert page.url.endswith("like=sleeve_length")
    expect(page.get_by_role("slider")).to_have_count(0)


def test_an_upload_is_searched_with_and_never_shared(open_page: Open) -> None:
    page = settled(open_page())
    with searching(page):
        upload(page, "street.jpg", draw_jpeg("street-photo", 7))
    expect(page.get_by_alt_text("Your picture")).to_be_visible()
    expect(page.locator("#results .card")).to_have_count(24)
    page.locator("#query-picture button").click()
    expect(page.locator("#query-picture .mapped")).to_be_visible()
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#toast")).to_contain_text("cannot carry your picture")
    with searching(page):
        page.locator("#results .more").first.click()
        page.locator("#sheet .ways button").first.click()
    page.go_back()
    expect(page.get_by_alt_text("Your picture")).to_be_visible()
    other = settled(open_page(path_of(page)))
    expect(other.get_by_role("alert")).to_contain_text("Drop that picture here")


def test_a_heat_map_lies_over_what_is_looked_at(open_page: Open) -> None:
    page = settled(open_page(SHARED))
    card = page.locator("#results .frame").nth(1)
    card.hover()
    expect(card).to_have_class(re.compile("mapped"))
    expect(card.locator(".looks")).to_have_text("neckline design")
    assert card.locator(".map").evaluate("map => map.naturalWidth") > 0
    page.locator("#title").hover()
    expect(card).not_to_have_class(re.compile("mapped"))


@pytest.mark.parametrize("size", [(200, 300), (300, 200), (240, 240), (480, 600)])
def test_a_heat_map_lies_over_the_centre_square_and_the_rest_is_dimmed(
    open_page: Open, size: tuple[int, int]
) -> None:
    page = settled(open_page())
    with searching(page):
        upload(page, "white.png", encoded(Image.new("RGB", size, "white"), "PNG"))
    frame = page.locator("#query-picture .frame")
    frame.click()
    expect(frame).to_have_class(re.compile("mapped"))
    around, over = frame.bounding_box(), frame.locator(".map").bounding_box()
    scale = min(around["width"] / size[0], around["height"] / size[1])
    side = min(size) * scale
    for place, length in (("x", "width"), ("y", "height")):
        assert over[length] == pytest.approx(side, abs=1)
        assert over[place] - around[place] == pytest.approx((around[length] - side) / 2, abs=1)
    frame.evaluate("frame => Promise.all(frame.getAnimations({subtree: true}).map(each => each.finished))")
    shown = picture_of(frame.screenshot()).convert("RGB")
    middle = [round(length / 2) for length in shown.size]
    beside = [round(max(at - long * scale / 2 + 3, 3)) for at, long in zip(middle, size, strict=True)]
    assert shown.getpixel(tuple(middle)) != (128, 128, 128)
    assert (shown.getpixel((middle[0], beside[1])) == (128, 128, 128)) == (size[1] > size[0])
    assert (shown.getpixel((beside[0], middle[1])) == (128, 128, 128)) == (size[0] > size[1])


def test_a_tap_pins_the_heat_map(open_page: Open) -> None:
    page = settled(open_page(SHARED, **PHONE))
    card = page.locator("#results .frame").nth(1)
    card.tap()
    expect(card).to_have_class(re.compile("mapped"))
    expect(card).to_have_attribute("aria-pressed", "true")
    card.tap()
    expect(card).not_to_have_class(re.compile("mapped"))


def test_filters_narrow_the_results(open_page: Open) -> None:
    page = settled(open_page(SHARED))
    page.locator("#filters summary").click()
    brand = page.get_by_label("Brand").locator("option").nth(1).get_attribute("value")
    with searching(page):
        page.get_by_label("Brand").select_option(brand)
    with searching(page):
        page.get_by_label("Price to").fill("90")
        page.get_by_label("Price to").blur()
    filters = json.dumps({"brand": [brand], "price": {"max": 90}})
    found = similar(page, KEY, "neckline_design=60,sleeve_length=30", filters=filters)
    assert 0 < len(found) < 24
    assert keys(page.locator("#results .card")) == [each["key"] for each in found]
    assert all(each["columns"]["brand"] == brand and each["columns"]["price"] <= 90 for each in found)
    with searching(page):
        page.get_by_label("Price to").fill("1")
        page.get_by_label("Price to").blur()
    expect(page.get_by_text("Nothing passes these filters")).to_be_visible()
    expect(page.locator("#count")).to_have_text("No products")
    with searching(page):
        page.locator(".empty").get_by_role("button", name="Clear filters").click()
    expect(page.locator("#results .card")).to_have_count(24)


def test_the_address_is_the_search(open_page: Open) -> None:
    page = settled(
        open_page(f"{SHARED}&where.brand=Bruma&where.brand=Halcyon&where.price=20..250&same=1&absent=1")
    )
    with searching(page):
        page.get_by_role("button", name="Side by side").click()
    other = settled(open_page(path_of(page)))
    assert other.url == page.url
    assert keys(other.locator("#results .card")) == keys(page.locator("#results .card"))
    assert other.locator(".tag").all_inner_texts() == page.locator(".tag").all_inner_texts()
    expect(other.get_by_label("Price from")).to_have_value("20")
    expect(other.locator("#absent")).to_be_checked()


def test_two_attributes_side_by_side(open_page: Open) -> None:
    page = settled(open_page(SHARED))
    with searching(page):
        page.get_by_role("button", name="Side by side").click()
    columns = [keys(page.locator("#results section").nth(index).locator(".card")) for index in (0, 1)]
    asked = ("neckline_design", "sleeve_length")
    assert columns == [[each["key"] for each in similar(page, KEY, name)] for name in asked]
    both = len(set(columns[0]) & set(columns[1]))
    expect(page.locator("#count")).to_have_text(f"24 and 24 products, {both or 'none'} in both")
    expect(page.locator(".both")).to_have_count(2 * both)
    with searching(page):
        page.get_by_label("Attribute of column 2").select_option("coat_length")
    assert "like=neckline_design:60,coat_length:50" in page.url


def test_more_like_this_goes_on_from_a_result(open_page: Open) -> None:
    page = settled(open_page(SHARED))
    before, key = page.url, page.locator("#results .card").nth(2).get_attribute("data-key")
    page.locator("#results .more").nth(2).click()
    sheet = page.get_by_role("dialog", name="More like this for")
    sheet.get_by_role("button", name="Coat length").hover()
    expect(sheet.locator(".mapped")).to_be_visible()
    with searching(page):
        sheet.get_by_role("button", name="Coat length").click()
    assert page.url.endswith(f"key={key}&like=coat_length")
    with searching(page):
        page.go_back()
    assert page.url == before


@pytest.mark.parametrize(
    "path",
    ["/", SHARED, f"{SHARED}&side=1", f"/?key={KEY}&like=coat_length&where.price=..1"],
    ids=["start", "mix", "side", "nothing"],
)
def test_a_phone_shows_all_of_it(open_page: Open, path: str) -> None:
    page = open_page(path, **PHONE)
    expect(page.locator("#results .card, #results .empty").first).to_be_visible()
    for folded in page.locator("summary:visible").all():
        folded.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    small = """nodes => nodes.filter(node => node.offsetParent && node.type !== 'checkbox').flatMap(node => {
        const {width, height} = node.getBoundingClientRect();
        return Math.min(width, height) < 44 ? [node.outerHTML.slice(0, 90)] : [];
    })"""
    assert (
        page.locator("button, select, summary, a:not(.skip), label.check, .ends input").evaluate_all(small)
        == []
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out(open_page: Open, scheme: str) -> None:
    page = settled(open_page(SHARED, color_scheme=scheme))
    read = (
        "names => names.map(name => getComputedStyle(document.documentElement).getPropertyValue('--' + name))"
    )
    names = ["paper", "card", "ink", "soft", "accent", "alarm-wash", "alarm"]
    colours = dict(zip(names, page.evaluate(read, names), strict=True))
    pairs = [(text, ground) for text in ("ink", "soft", "accent") for ground in ("paper", "card")]
    for text, ground in [*pairs, ("alarm", "alarm-wash")]:
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, as WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        digits = colour.strip().lstrip("#")
        digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
        shares = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_what_is_no_picture_is_refused_with_advice(open_page: Open) -> None:
    page = settled(open_page())
    for name in ("notes.txt", "IMG_1.heic"):
        upload(page, name, b"not decoded here")
        expect(page.get_by_role("alert")).to_contain_text("The picture cannot be used. Send another picture")
        expect(page.locator("#query-picture .frame")).to_have_class(re.compile("broken"))
        page.get_by_role("button", name="Choose another picture").last.click()
        expect(settled(page).get_by_role("heading", name="Or start from a product")).to_be_visible()
        expect(page.get_by_role("alert")).to_be_hidden()
    with searching(page):
        upload(page, "street.jpg", draw_jpeg("street-photo", 7))
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_large_picture_is_sent_smaller(open_page: Open) -> None:
    page = settled(open_page())
    page.evaluate(NOTE_SENT)
    turned = Image.Exif()
    turned[ORIENTATION] = 6  # a phone's upright photo, held as a lying one
    phone = encoded(Image.new("RGB", (4000, 3000), "teal"), "JPEG", exif=turned)
    clear = encoded(Image.new("RGBA", (2000, 500)), "PNG")
    small = encoded(Image.new("RGB", (1024, 640), "teal"), "PNG")
    scan = encoded(
        Image.new("RGB", (1500, 1000), "teal"), "TIFF", compression="tiff_lzw"
    )  # which no Chromium shows
    for body in (phone, clear, small, scan):
        with searching(page):
            upload(page, "street.jpg", body)
    asked = list(dict.fromkeys(map(bytes, page.evaluate(SENT))))  # one search or two for each
    assert [picture_of(body).size for body in asked[:2]] == [(768, 1024), (1024, 256)]
    assert all(picture_of(body).format == "JPEG" for body in asked[:2])
    assert picture_of(asked[1]).getpixel((9, 9)) == (255, 255, 255)
    assert asked[2:] == [small, scan]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def picture_of(body: bytes) -> Image.Image:
    return Image.open(io.BytesIO(body))


def test_a_product_that_is_gone_is_said_to_be(open_page: Open) -> None:
    page = open_page("/?key=gone&like=coat_length")
    expect(page.get_by_role("alert")).to_contain_text("The catalog has no product \u201cgone\u201d")
    page.locator("#results").get_by_role("button", name="Choose another picture").click()
    expect(settled(page).get_by_role("alert")).to_be_hidden()
    assert page.url.endswith("/")


def test_a_token_is_asked_for_and_kept(open_page: Open, guarded_address: str, token: str) -> None:
    page = open_page(SHARED, guarded_address)
    dialog = page.get_by_role("dialog", name="asks for a token")
    for said, advice in (("wrong", "Whoever runs it"), (token, "was not accepted")):
        expect(dialog).to_contain_text(advice)
        dialog.get_by_label("Token").fill(said)
        dialog.get_by_role("button", name="Go on").click()
    picture = settled(page).locator("#results .photo").first
    expect(picture).to_have_attribute("src", re.compile("^blob:"))
    picture.evaluate("image => image.decode()")
    settled(page.reload() and page)
    expect(dialog).to_be_hidden()


def test_the_keyboard_reaches_everything(open_page: Open) -> None:
    page = settled(open_page())
    page.get_by_label("Find a product").focus()
    page.keyboard.press("Tab")
    picked = page.locator("#results .frame")
    expect(picked.first).to_be_focused()
    assert picked.first.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    page.keyboard.press("ArrowRight")
    expect(picked.nth(1)).to_be_focused()
    page.keyboard.press("ArrowDown")
    below = page.evaluate("[...document.querySelectorAll('#results .frame')].indexOf(document.activeElement)")
    assert picked.nth(below).bounding_box()["x"] == picked.nth(1).bounding_box()["x"]
    page.keyboard.press("Home")
    with searching(page):
        page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    cards = page.locator("#results .card")
    cards.first.locator(".frame").focus()
    page.keyboard.press("Space")
    expect(cards.first.locator(".frame")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Tab")
    expect(cards.first.locator(".more")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(cards.nth(1).locator(".more")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(cards.nth(1).locator(".more")).to_be_focused()


def test_everything_has_a_name(open_page: Open) -> None:
    page = settled(open_page(SHARED))
    page.locator("#filters summary").click()
    roles = ("slider", "combobox", "spinbutton", "checkbox", "list")
    controls = [each for role in roles for each in page.get_by_role(role).all()]
    assert len(controls) >= 9
    for each in [
        *controls,
        *page.locator("#panel button:visible, #results .card:first-child :is(button, img)").all(),
    ]:
        expect(each).to_have_accessible_name(re.compile(r"\w"))


def test_more_of_the_catalog_and_of_a_search(open_page: Open) -> None:
    page = settled(open_page())
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("#results .card")).to_have_count(48)
    page.get_by_label("Find a product").fill("000007")
    expect(page.locator("#count")).to_have_text("1 product")
    with searching(page):
        page.locator("#results .frame").click()
    with searching(page):
        page.get_by_role("button", name="Show more").click()
    assert "k=48" in page.url


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in PAGE.iterdir()) <= MAX_BYTES
