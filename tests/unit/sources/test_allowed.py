import os
import pickle

import pytest

from agman.errors import BadSample, InvalidInput
from pipelines.sources import Allowed, TableSource, open_source
from pipelines.sources.allowed import Place, allow, folder_place
from pipelines.sources.tokens import version_token


def refused(allowed: Allowed, uri: str) -> str:
    """Return why a uri is refused, as both checks say it; "" where it is allowed."""
    refusal = allowed.refusal(uri)
    assert "\n" not in refusal
    if refusal:
        with pytest.raises(BadSample) as caught:
            allowed.check(uri)
        assert (caught.value.kind, caught.value.message) == ("uri_not_allowed", refusal)
    else:
        allowed.check(uri)
    return refusal


def places(*prefixes: str) -> Allowed:
    return allow((), prefixes)


@pytest.mark.parametrize(
    ("prefix", "uri"),
    [
        ("s3://shop/img", "s3://shop/img/a.jpg"),
        ("s3://shop/img/", "s3://shop/img/b/a b%.jpg"),
        ("s3://shop", "s3://shop/a.jpg"),
        ("s3://", "s3://other/a.jpg"),
        ("S3://shop/img", "s3://shop/img/a.jpg"),
        ("https://cdn.example/img", "https://cdn.example/img/a.jpg?w=3"),
        ("https://cdn.example/img", "https://CDN.example.:443/%69mg/a.jpg"),
        ("https://cdn.example/my img", "https://cdn.example/my%20img/a.jpg"),
        ("https://", "https://anything.example/a.jpg"),
        ("http://10.0.0.7:8080", "http://10.0.0.7:8080/a.jpg"),
        ("http://localhost:80/", "http://localhost/a.jpg"),
        ("memory://shop", "memory://shop/a.jpg"),
        ("generated:", "generated:0/1/64/a"),
        ("/", "/etc/hostname"),
    ],
)
def test_what_lies_below_a_prefix_is_allowed(prefix, uri):
    assert refused(places(prefix), uri) == ""


@pytest.mark.parametrize(
    ("prefix", "uri"),
    [
        ("s3://shop/img", "s3://shop/img-private/a.jpg"),
        ("s3://shop/img", "s3://shop/im"),
        ("s3://shop/img", "s3://shop/img/../private/a.jpg"),
        ("s3://shop/img", "s3://shop/img/%2e%2e/private/a.jpg"),
        ("s3://shop/img", "s3://shop/img/%252e%252e/private/a.jpg"),
        ("s3://shop/img", "s3://shop/img/..%2fprivate/a.jpg"),
        ("s3://shop/img", "s3://shop/img/..\\private/a.jpg"),
        ("s3://shop/img", "s3://shop//img/a.jpg"),
        ("s3://shop/img", "s3:///shop/img/a.jpg"),
        ("s3://shop/img", "s3:shop/img/a.jpg"),
        ("s3://shop/img", "gs://shop/img/a.jpg"),
        ("s3://shop/img", "s3://shop.evil/img/a.jpg"),
        ("s3://shop/img", "/shop/img/a.jpg"),
        ("s3://shop/img", "https://cdn.example/a.jpg"),
        ("https://cdn.example/img", "https://cdn.example/private/a.jpg"),
        ("https://cdn.example/img", "https://cdn.example/img/../private/a.jpg"),
        ("https://cdn.example/img", "https://cdn.example/img/%2e%2e/private/a.jpg"),
        ("https://cdn.example/img", "https://cdn.example/img%2f..%2fprivate/a.jpg"),
        ("https://cdn.example/img", "https://cdn.example//private/img/a.jpg/"),
        ("https://cdn.example/img", "https://cdn.example@evil.example/img/a.jpg"),
        ("https://cdn.example/img", "https://evil.example\\@cdn.example/img/a.jpg"),
        ("https://cdn.example/img", "https://cdn.example:8443/img/a.jpg"),
        ("https://cdn.example/img", "http://cdn.example/img/a.jpg"),
        ("https://cdn.example/img", "https://cdn.example.evil/img/a.jpg"),
        ("https://", "http://cdn.example/a.jpg"),
        ("/", "generated:0/1/99999/a"),
        ("/", "pipe:cat /etc/passwd"),
        ("/", "PIPE:id"),
        ("/", "ftp://host/a.jpg"),
        ("/", "data:image/png;base64,AA=="),
        ("/", "zip://a.jpg::/etc/x.zip"),
        ("/", "simplecache::file:///etc/passwd"),
    ],
)
def test_what_does_not_is_refused(prefix, uri):
    assert refused(places(prefix), uri)


@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1/a.jpg",
        "http://2130706433/a.jpg",
        "http://127.1/a.jpg",
        "http://0/a.jpg",
        "http://10.1.2.3/a.jpg",
        "http://100.100.100.200/latest/meta-data/",
        "http://[::1]/a.jpg",
        "http://[::ffff:169.254.169.254]/a.jpg",
        "http://[64:ff9b::a9fe:a9fe]/a.jpg",
        "http://[2002:a9fe:a9fe::1]/a.jpg",
        "http://[fe80::1%25eth0]/a.jpg",
        "http://[fd00:ec2::254]/a.jpg",
        "http://224.0.0.1/a.jpg",
        "http://[::1/a.jpg",
        "http:///a.jpg",
        "http://",
    ],
)
def test_the_public_web_has_no_private_addresses(uri):
    assert refused(Allowed(), uri)


def test_the_public_web_is_allowed_where_nothing_is_named():
    assert refused(Allowed(), "https://cdn.example/a.jpg") == ""
    assert refused(Allowed(), "http://93.184.216.34/a.jpg") == ""
    assert refused(places("s3://shop"), "https://cdn.example/a.jpg") != ""


@pytest.mark.parametrize(
    ("host", "address", "is_named", "expected"),
    [
        ("cdn.example", "93.184.216.34", False, True),
        ("cdn.example", "10.0.0.1", False, False),
        ("cdn.example", "10.0.0.1", True, True),
        ("cdn.example", "fd12::1", True, True),
        ("cdn.example", "127.0.0.1", True, False),  # whoever owns the name points it at this machine
        ("127.0.0.1", "127.0.0.1", True, True),
        ("localhost", "::1", True, True),
        ("cdn.example", "169.254.169.254", True, False),
        ("169.254.169.254", "169.254.169.254", True, False),
        ("cdn.example", "fe80::1", True, False),
        ("cdn.example", "fd00:ec2::254", True, False),
        ("cdn.example", "::ffff:10.0.0.1", False, False),
        ("cdn.example", "0.0.0.0", True, False),
        ("cdn.example", "no address", True, False),
    ],
)  # fmt: skip
def test_a_named_host_may_be_private_but_never_metadata(host, address, is_named, expected):
    allowed = allow((), [f"http://{host}:8080"]) if is_named else Allowed()
    assert allowed.admits(host, 8080, address) is expected
    if is_named and not address.startswith("93."):
        assert not allowed.admits(host, 80, address)


def test_links_are_followed_before_a_byte_is_read(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "shop/a.jpg").write_bytes(b"a")
    (tmp_path / "shop/link.jpg").symlink_to(tmp_path / "secret")
    (tmp_path / "shop/up").symlink_to(tmp_path)
    (tmp_path / "alias").symlink_to(tmp_path / "shop")
    allowed = Allowed(folder_place(str(tmp_path / "alias")))
    for uri in ("shop/a.jpg", "alias/a.jpg", "shop/../shop/./a.jpg", "shop/up/shop/a.jpg"):
        assert allowed.check(f"{tmp_path}/{uri}") == allowed.check(f"file://{tmp_path}/{uri}")
    for uri in ("shop/link.jpg", "shop/up/secret", "shop/../secret", "shop-b/a.jpg", "secret"):
        with pytest.raises(BadSample, match=rf"expected a uri below {tmp_path}/shop.*--shards.allow-uris"):
            allowed.check(f"{tmp_path}/{uri}")
    assert refused(allowed, f"file://{tmp_path}/shop/%2e%2e/secret") != ""
    assert refused(allowed, f"file://localhost{tmp_path}/secret") != ""


def test_nothing_is_asked_about_a_uri_that_is_not_allowed(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    assert version_token(str(tmp_path / "secret"), Allowed()) == ""
    assert version_token(str(tmp_path / "secret"), places(str(tmp_path))) != ""


def test_a_source_allows_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "feed").mkdir()
    (tmp_path / "feed/t.csv").write_text("key,uri\n")
    table = open_source("feed/t.csv").allowed
    assert refused(table, f"{tmp_path}/feed/a.jpg") == refused(table, "https://cdn.example/a.jpg") == ""
    assert refused(table, "/etc/passwd").endswith(
        f"expected a uri below {tmp_path}/feed or at public https and http addresses; if this one is wanted, "
        "add its beginning to --shards.allow-uris"
    )
    assert refused(table, "s3://shop/feed/a.jpg")
    remote = TableSource("s3://shop/feed/t.csv").allowed
    assert refused(remote, "s3://shop/feed/p/a.jpg") == ""
    assert refused(remote, "s3://shop/feed-b/a.jpg")
    assert refused(remote, str(tmp_path / "feed/a.jpg"))
    private = TableSource("http://10.0.0.7/feed/t.csv").allowed
    assert refused(private, "http://10.0.0.7/feed/a.jpg") == ""
    assert refused(private, "http://10.0.0.8/feed/a.jpg")
    assert refused(open_source("generated").allowed, "generated:0/1/64/a") == ""
    assert refused(open_source("generated").allowed, "https://cdn.example/a.jpg")


@pytest.mark.parametrize("prefix", ["", "pipe:", "ftp://host", "s3:shop", "s3://shop/../x", "http://[::1"])
def test_a_prefix_that_is_none_is_one_line(prefix):
    with pytest.raises(InvalidInput, match=r"--shards\.allow-uris") as caught:
        places(prefix)
    assert "\n" not in str(caught.value)


def test_travels_to_workers():
    allowed = places("s3://shop/img", os.getcwd())
    assert pickle.loads(pickle.dumps(allowed)) == allowed
    assert Place("https", "a:443").holds(Place("https", "a:443", ("x",)))
