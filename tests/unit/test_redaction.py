import pytest

from pipelines.redaction import redacted, redacted_uri, shown_uri, without_secrets

SIGNED = "https://user:pass@cdn.shop.example/a b.jpg?X-Amz-Signature=secret&x=1#token"


def test_user_and_query_are_not_shown():
    shown = redacted_uri(SIGNED)
    assert shown.startswith("https://…@cdn.shop.example/a b.jpg?…")
    assert not any(word in shown for word in ("user", "pass", "secret", "Signature", "token"))
    assert redacted_uri(shown) == shown


def test_two_queries_stay_two_addresses():
    assert redacted_uri("https://h/i?id=1") != redacted_uri("https://h/i?id=2")
    assert redacted_uri("https://h/i?id=1") == redacted_uri("https://h/i?id=1")


@pytest.mark.parametrize("uri", ["/shop/a?b#c.jpg", "s3://shop/a@b.jpg", "./x", "generated:0/1/64/a", ""])
def test_what_holds_no_secret_is_kept(uri):
    assert redacted_uri(uri) == shown_uri(uri) == uri


def test_addresses_in_a_text():
    said = without_secrets("GET 'https://u:p@h/x?sig=s', then s3://k:secret@bucket/y: see a@b.example")
    assert said.startswith("GET 'https://…@h/x?…")
    assert said.endswith("', then s3://…@bucket/y: see a@b.example")
    assert without_secrets(said) == said


def test_a_terminal_obeys_nothing_of_it():
    assert without_secrets("a\x1b[2Jb\x07\n\tc") == "a\\x1b[2Jb\\x07\n\tc"
    assert shown_uri("a\nb") == "a\\nb"
    assert len(shown_uri("x" * 10_000)) == 300


def test_json_is_redacted_throughout():
    found = redacted({"a": ["https://h/x?k=v", 1, None], "b": {"c": True}, "d": ("s3://k:v@b/x",)})
    assert found["a"][0].startswith("https://h/x?…")
    assert (found["a"][1:], found["b"], found["d"]) == ([1, None], {"c": True}, ["s3://…@b/x"])
