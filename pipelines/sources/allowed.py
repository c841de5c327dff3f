"""Which uris of a catalog may be read: those below named places, and public web addresses.

A catalog is written by others. Whoever fetches what it names has rights that its writer lacks: files of this
machine, buckets of its role, services of its network. So a uri is read only where it lies in a place that
whoever runs the night named, compared after everything that hides where a uri leads is resolved.
"""

import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import yarl

from agman.errors import BadSample, InvalidInput
from pipelines.redaction import shown_uri

REMOTE_SCHEMES = ("s3", "gs", "http", "https", "memory")
"""What is fetched by a client. A scheme outside this list and `file`, `generated` is refused: webdataset's
`pipe:` runs a shell and fsspec's `a::b` chains reach any local file."""
WEB_SCHEMES = ("http", "https")
NOT_ALLOWED = "uri_not_allowed"
"""Kind of a record that is refused for its uri alone."""

SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):")
_HIDING = re.compile(r"[\x00-\x1f\x7f\\]")  # parsers disagree about what these mean in a host or a path
_PLAIN = re.compile(
    r"(?:(?:|s3:/|gs:/)/|https?://(?=[a-z0-9.-]*\.[a-z]{2,}/))(?!.*/\.)"
    r"[^%\\\x00-\x20\x7f@?#]+(?:\?[^\\\x00-\x20\x7f]*)?",
    re.DOTALL,
)
"""What leads nowhere but where its letters say: a million of a catalog's uris are judged in seconds by it."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_METADATA = (ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200"))
"""Metadata of AWS and Alibaba machines at addresses that are private and not link-local."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Place:
    """Where a uri leads, or the beginning of where it may lead."""

    scheme: str
    """"file" for local paths."""
    authority: str = ""
    """Bucket, or host:port; "" in a prefix: any bucket, any public host."""
    path: tuple[str, ...] = ()

    def holds(self, other: "Place") -> bool:
        """Tell whether the other place is this one or below it."""
        return (
            self.scheme == other.scheme
            and self.authority in ("", other.authority)
            and self.path == other.path[: len(self.path)]
        )

    def beginning(self) -> str:
        """Return how every plain uri below this begins."""
        path = "".join(f"{part}/" for part in self.path)
        if self.scheme == "file":
            return f"/{path}"
        default_port = {"http": ":80", "https": ":443"}.get(self.scheme, "")
        authority = self.authority.removesuffix(default_port)
        return f"{self.scheme}://{authority}/{path}" if authority else f"{self.scheme}://"

    def __str__(self) -> str:
        """Return it as a person writes it."""
        path = "/".join(self.path)
        if self.scheme == "file":
            return f"/{path}"
        return f"{self.scheme}:" if self.scheme == "generated" else f"{self.scheme}://{self.authority}/{path}"


PUBLIC_WEB = (Place("https"), Place("http"))


@dataclass(frozen=True, slots=True)
class Allowed:
    """The places of one source; travels to the workers that fetch.

    A web host that a place names may have a private address, because somebody vouches for it; any other one
    must have a public one.
    """

    places: tuple[Place, ...] = PUBLIC_WEB
    _beginnings: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Note how plain uris begin that are allowed."""
        object.__setattr__(self, "_beginnings", tuple(place.beginning() for place in self.places))

    def refusal(self, uri: str) -> str:
        """Return why a uri is not to be looked at, "" where it may be; touches nothing but local links.

        For whole catalogs: a local path that lies in a place by its letters is believed here. `check` follows
        links before a byte is read.
        """
        if uri.startswith(self._beginnings) and _PLAIN.fullmatch(uri):
            return ""
        try:
            self.check(uri)
        except BadSample as error:
            return error.message
        return ""

    def check(self, uri: str) -> Place:
        """Return where a uri leads.

        Raises:
            BadSample: kind NOT_ALLOWED if that is out of the places; it says what is allowed and what to do.
        """
        try:
            place = place_of(uri)
        except ValueError as error:
            raise BadSample(NOT_ALLOWED, f"{shown_uri(uri)}: {error}") from error
        refusal = self._refusal(uri, place)
        if refusal:
            raise BadSample(NOT_ALLOWED, refusal)
        return place

    def has_file(self, real_path: str) -> bool:
        """Tell whether a local file, by its absolute path without links, lies below a place.

        False says nothing: a place may be the file itself. `check` decides.
        """
        return real_path.startswith("/") and real_path.startswith(self._beginnings)

    def admits(self, host: str, port: int, address: str) -> bool:
        """Tell whether a web host may be reached at an address.

        Args:
            host: as the uri has it.
            port: as the uri has it.
            address: what the host was resolved to; the host itself where it is one.
        """
        try:
            found = _real_address(ipaddress.ip_address(address.partition("%")[0]))
        except ValueError:  # 2130706433 and 0x7f.1 are 127.0.0.1 to the system, and no address to us
            return False
        if found.is_link_local or found.is_multicast or found.is_unspecified or found in _METADATA:
            return False
        if found.is_global and not found.is_reserved:
            return True
        authority = _authority(host, port)
        is_named = any(place.scheme in WEB_SCHEMES and place.authority == authority for place in self.places)
        return is_named and (not found.is_loopback or host in (address, "localhost"))

    def __str__(self) -> str:
        """Say in words what is allowed."""
        web = [place for place in self.places if place in PUBLIC_WEB]
        named = [str(place) for place in self.places if place not in web]
        said = [f"below {', '.join(named)}"] if named else []
        said += [f"at public {' and '.join(place.scheme for place in web)} addresses"] if web else []
        return " or ".join(said) or "nowhere"

    def _has(self, place: Place) -> bool:
        return any(allowed.holds(place) for allowed in self.places)

    def _refusal(self, uri: str, place: Place) -> str:
        if self._has(place):
            return self._address_refusal(uri, place)
        leads = f" leads to {place};" if place.scheme == "file" and str(place) != uri else ""
        return (
            f"{shown_uri(uri)}:{leads} expected a uri {self}; if this one is wanted, add its beginning to "
            "--shards.allow-uris"
        )

    def _address_refusal(self, uri: str, place: Place) -> str:
        """Refuse a web uri whose host is a private address itself; names are resolved when fetched."""
        host, _, port = place.authority.rpartition(":")
        if place.scheme not in WEB_SCHEMES or not (":" in host or host.replace(".", "").isdigit()):
            return ""
        if self.admits(host, int(port), host):
            return ""
        return f"{shown_uri(uri)}: {not_public(host)}"


def not_public(address: str) -> str:
    """Say why an address is refused."""
    return (
        f"{address} is no public address; if a server of your own is meant, name it with its port in "
        "--shards.allow-uris"
    )


def allow(own: Sequence[Place], prefixes: Iterable[str]) -> Allowed:
    """Return what a source may read.

    Args:
        own: places of the source itself.
        prefixes: what whoever runs it allows besides, as uris or local paths; none of them: public web
            addresses.

    Raises:
        InvalidInput: if a prefix cannot be one.
    """
    named = [_prefix(prefix) for prefix in prefixes]
    return Allowed((*own, *(named or PUBLIC_WEB)))


def folder_place(folder: str) -> tuple[Place, ...]:
    """Return a local folder as places: as it is written, and where its links lead."""
    spelled, real = os.path.abspath(folder), os.path.realpath(folder)
    return tuple(Place("file", "", _parts(path)) for path in dict.fromkeys((real, spelled)))


def scheme_of(uri: str) -> str:
    """Return the scheme in lower case; "" for a plain path."""
    found = SCHEME.match(uri)
    return found.group(1).lower() if found else ""


def local_path(uri: str) -> Path | None:
    """Return the file a plain path or a `file:` URI names, None where the bytes are elsewhere.

    A `file:` URI may percent-encode any byte, which is how file names that are not UTF-8 travel in Parquet.
    """
    scheme = scheme_of(uri)
    if scheme == "":
        return Path(uri)
    if scheme != "file":
        return None
    try:
        path = urlsplit(uri).path
    except ValueError:  # such as an unclosed bracket in the host: no file of ours
        return None
    return Path(unquote_to_bytes(path).decode("utf-8", "surrogateescape"))


def place_of(uri: str) -> Place:
    """Return where a uri leads, links followed.

    Raises:
        ValueError: if no place can be told, or it is hidden by `..`, an encoded one or a backslash.
    """
    scheme, path = scheme_of(uri), local_path(uri)
    if path is not None:
        return Place("file", "", _parts(os.path.realpath(path) if "\0" not in str(path) else str(path)))
    if scheme == "generated":
        return Place("generated")
    if scheme not in REMOTE_SCHEMES or "://" not in uri:
        schemes = ", ".join(("a path", "file", *REMOTE_SCHEMES, "generated"))
        raise ValueError(f"expected one of {schemes}; write ./ before a file name")
    if scheme in WEB_SCHEMES:
        return _web_place(scheme, uri)
    authority, _, key = uri[len(scheme) + 3 :].partition("/")
    if not authority:
        raise ValueError(f"expected {scheme}://bucket/key")
    return Place(scheme, authority, _without_climbing(key))


def _web_place(scheme: str, uri: str) -> Place:
    """Read a web address with the parser of the client that will fetch it, so that no two disagree."""
    if _HIDING.search(uri):
        raise ValueError("has a backslash or a control character")
    try:
        url = yarl.URL(uri)
        host, port = url.raw_host, url.port
    except ValueError as error:
        raise ValueError("not a valid address") from error
    if not host or port is None:
        raise ValueError("not a valid address")
    return Place(scheme, _authority(host, port), _without_climbing(unquote(url.raw_path).lstrip("/")))


def _without_climbing(path: str) -> tuple[str, ...]:
    parts = tuple(path.split("/")) if path else ()
    decoded = unquote(unquote(path)).replace("\\", "/").split("/")
    if any(part in (".", "..") for part in (*parts, *decoded)):
        raise ValueError("has '.' or '..' for a folder in its path")
    return parts


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part)


def _prefix(text: str) -> Place:
    scheme = scheme_of(text)
    if scheme in REMOTE_SCHEMES and text.lower() == f"{scheme}://":
        return Place(scheme)
    try:
        if not text:
            raise ValueError("found nothing")
        place = place_of(text)
    except ValueError as error:
        raise InvalidInput(
            f"--shards.allow-uris {shown_uri(text)}: expected a folder or the beginning of a uri, such as "
            f"s3://shop-pictures, https://images.shop.example or https://: {error}"
        ) from error
    return Place(place.scheme, place.authority, tuple(part for part in place.path if part))


def _authority(host: str, port: int) -> str:
    return f"{host.lower().rstrip('.')}:{port}"


def _real_address(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one carries, else the address."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
