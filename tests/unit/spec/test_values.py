"""Memory, time, cores, signals and image references: what is read, and what it means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tank_agent.errors import Stalled
from tank_agent.spec.model import CpuLimit
from tank_agent.spec.quantities import (
    MEMORY_MAX,
    MEMORY_MIN,
    format_duration,
    format_memory,
    parse_cores,
    parse_duration,
    parse_memory,
)
from tank_agent.spec.reference import Reference, find_image, is_digest, parse_reference
from tank_agent.spec.values import parse_signal, signal_number

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (4194304, 2**22),
        ("4194304", 2**22),
        ("4096K", 2**22),
        ("4m", 2**22),
        ("256M", 2**28),
        ("1g", 2**30),
        ("2T", 2**41),
        (MEMORY_MAX, MEMORY_MAX),
    ],
)
def test_memory(text: int | str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("256MB", "256M"),
        ("256 MiB", "256M"),
        ("256Mi", "256M"),
        ("0.5G", "512M"),
        ("1.5g", "1536M"),
        ("", "256M"),
        ("lots", "256M"),
        ("-5M", "256M"),
        ("\u0665M", "256M"),
        ("1e9", "256M"),
        ("9" * 99, "256M"),
    ],
)
def test_memory_that_is_none_says_what_would_be_right(text: str, right: str) -> None:
    with pytest.raises(ValueError, match=rf'(write|such as) "{right}"$'):
        parse_memory(text)


@pytest.mark.parametrize("size", [0, -1, MEMORY_MIN - 1, "4095K", MEMORY_MAX + 1, 10**4000])
def test_memory_out_of_range(size: int | str) -> None:
    with pytest.raises(ValueError, match=r"too little|more than"):
        parse_memory(size)


@given(st.integers(MEMORY_MIN, MEMORY_MAX))
def test_memory_reads_back(size: int) -> None:
    assert parse_memory(format_memory(size)) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10.0),
        ("1m30s", 90.0),
        ("500ms", 0.5),
        ("1h", 3600.0),
        ("1d", 86_400.0),
        ("1h1m1s1ms", 3661.001),
        ("1.5s", 1.5),
        ("0s", 0.0),
        (7, 7.0),
        (0.25, 0.25),
    ],
)
def test_durations(text: float | str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "s", "1h1d", "1w", "1s1m", "1s1s", "-1s", "1 s", "\u0661s", "1e3s", ".5s", "5.s", "1S"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a length of time"):
        parse_duration(text)


@pytest.mark.parametrize("value", [-1, -0.001, float("nan"), float("inf"), 10**400, 3601, "61m", "3600001ms"])
def test_durations_out_of_range(value: float | str) -> None:
    with pytest.raises(ValueError, match=r"is out of range; it must be at least 0s and at most 1h$"):
        parse_duration(value, high=3600)


@given(st.one_of(st.floats(0, 10**6), st.integers(0, 10**9).map(lambda number: number / 1000)))
def test_durations_read_back(seconds: float) -> None:
    text = format_duration(seconds)
    assert parse_duration(text if text[-1] == "s" or text[-1] in "mh" else float(text)) == seconds


def test_cores() -> None:
    assert parse_cores(0.5) == CpuLimit(quota=50_000, period=100_000)
    assert parse_cores(2) == CpuLimit(quota=200_000)
    assert parse_cores(0.01) == CpuLimit(quota=1_000)


@pytest.mark.parametrize("cores", [0, -1, float("nan"), float("inf"), 1e-9, 0.009, 8193, 10**400])
def test_cores_out_of_range(cores: float) -> None:
    with pytest.raises(ValueError, match="cores"):
        parse_cores(cores)


@pytest.mark.parametrize(
    ("value", "name", "number"),
    [
        ("SIGTERM", "SIGTERM", 15),
        ("TERM", "SIGTERM", 15),
        ("sigterm", "SIGTERM", 15),
        (15, "SIGTERM", 15),
        ("15", "SIGTERM", 15),
        ("KILL", "SIGKILL", 9),
        (34, "SIGRTMIN", 34),
        ("RTMIN", "SIGRTMIN", 34),
        ("RTMIN+3", "SIGRTMIN+3", 37),
        ("SIGRTMAX", "SIGRTMIN+30", 64),
        ("RTMAX-14", "SIGRTMIN+16", 50),
        (64, "SIGRTMIN+30", 64),
        ("SIGPOLL", "SIGIO", 29),
        ("cld", "SIGCHLD", 17),
    ],
)
def test_signals_have_one_name(value: str | int, name: str, number: int) -> None:
    assert parse_signal(value) == name
    assert parse_signal(name) == name
    assert signal_number(name) == signal_number(value) == number


@pytest.mark.parametrize(
    "value", [0, -1, 32, 33, 65, 10**50, "0", "99", "", "SIG", "RTMIN+31", "RTMAX-31", "-TERM", "TERM "]
)
def test_what_is_no_signal(value: str | int) -> None:
    with pytest.raises(ValueError, match="signal"):
        parse_signal(value)


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("owner/name", "docker.io/owner/name:latest"),
        ("library/nginx", "docker.io/library/nginx:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("docker.io/library/a:b", "docker.io/library/a:b"),
        ("index.docker.io/library/nginx", "docker.io/library/nginx:latest"),
        ("ghcr.io/a/b/c:x", "ghcr.io/a/b/c:x"),
        ("localhost/name", "localhost/name:latest"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
        ("registry:5000/name", "registry:5000/name:latest"),
        ("Registry/name", "Registry/name:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        (f"ghcr.io/a/b@{DIGEST}", f"ghcr.io/a/b@{DIGEST}"),
        (f"a:b@{DIGEST}", f"docker.io/library/a:b@{DIGEST}"),
        ("a__b.c--d_e", "docker.io/library/a__b.c--d_e:latest"),
        ("oci", "docker.io/library/oci:latest"),
        ("oci/1", "docker.io/oci/1:latest"),
        ("oci:/srv/app", "oci:/srv/app"),
        ("oci:/srv/app:latest", "oci:/srv/app:latest"),
        ("oci:/srv/app:docker.io/library/app:1", "oci:/srv/app:docker.io/library/app:1"),
        ("oci:/srv/a@shared", "oci:/srv/a@shared"),
        (f"oci:/srv/a@b:1@{DIGEST}", f"oci:/srv/a@b:1@{DIGEST}"),
        ("oci-archive:/a.tar", "oci-archive:/a.tar"),
        ("docker-archive:/a.tar:example.com/a:1", "docker-archive:/a.tar:example.com/a:1"),
        ("docker-archive:/a.tar:repo@x", "docker-archive:/a.tar:repo@x"),
    ],
)
def test_image_references(text: str, full: str) -> None:
    assert str(parse_reference(text)) == full
    assert parse_reference(full) == parse_reference(text)


def test_an_image_reference_taken_apart() -> None:
    assert parse_reference(f"reg.lan:5000/a/b:t@{DIGEST}") == Reference(
        registry="reg.lan:5000", repository="a/b", tag="t", digest=DIGEST
    )
    assert parse_reference(f"oci:/srv/a@b:c@d@{DIGEST}") == Reference(
        transport="oci", path="/srv/a@b", tag="c@d", digest=DIGEST
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not an image reference"),
        ("-rm", "is not an image reference"),
        ("a b", "is not an image reference"),
        ("a/", "is not an image reference"),
        ("/srv/app", "write oci:/path for an OCI layout"),
        ("./app", "write oci:/path for an OCI layout"),
        ("Nginx", 'has capital letters, and image names are lower case; write "nginx"'),
        ("library/Nginx:1", "has capital letters"),
        ("nginx:", '"" is not a tag'),
        ("nginx:-x", '"-x" is not a tag'),
        ("nginx:" + "a" * 129, "is not a tag"),
        ("nginx@sha256:12", "is not a digest; write sha256: and 64 digits"),
        ("nginx@" + DIGEST.upper(), "is not a digest"),
        ("nginx@", "is not a digest"),
        ("nginx@sha512:" + "a" * 128, "is not a digest; write sha256: and 64 digits"),
        ("oci:/a@sha256:abc", '"sha256:abc" is not a digest'),
        (f"oci:/a@{DIGEST}x", "is not a digest"),
        ("0a" * 32, "an image can't be named by its id alone"),
        ("-x.example/a", "is not a registry's host name"),
        ("a..b/c", "is not a registry's host name"),
        ("reg.io:99999999/x", "is not a registry's host name"),
        ("a." * 150 + "io/x", "is not a registry's host name"),
        ("a//b", "is not an image reference"),
        ("ngi\nnx", "is not an image reference"),
        ("a.example:x/c", "is not a registry's host name"),
        ("docker://nginx", 'has "docker://" in front; write only "nginx"'),
        ("https://ghcr.io/a", 'write only "ghcr.io/a"'),
        ("dir:/srv/app", "dir: is not read here"),
        ("oci:layout", 'it must start with "/"; the form is oci:/path/to/layout[:tag]'),
        ("oci:1", "the form is oci:/path/to/layout[:tag]"),
        ("oci:./layout", 'it must start with "/"'),
        ("oci:/srv//app/.:tag", 'write "/srv/app"'),
        ("oci:", "the form is oci:/path/to/layout"),
        ("oci:/", "the host's root directory"),
        ("oci:/a/../b", 'write "/b"'),
        ("oci:/a:", '"" is not a tag'),
        ("oci:/a:b c", '"b c" is not a tag'),
        ("oci-archive:a.tar", "the form is oci-archive:/path/to/image.tar"),
        ("a" * 256, "more than 255 characters"),
        ("a" * 248, "more than 255 characters"),
        ("oci:/srv/\udcff", "is not UTF-8"),
        ("a" * 2000, "at most 1024 characters"),
    ],
)
def test_what_is_no_image_reference(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_reference(text)
    assert message in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_says_why_not(text: str) -> None:
    try:
        reference = parse_reference(text)
    except ValueError as error:
        assert str(error).isprintable()
    else:
        assert parse_reference(str(reference)) == reference
        assert not text.startswith("-")
        assert not reference.digest or is_digest(reference.digest)
        assert ".." not in f"{reference.repository}{reference.path}".split("/")


@pytest.mark.parametrize("text", ["", "Nginx", "nginx@sha256:abc", "oci:relative", "/srv/app"])
def test_what_is_no_reference_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(Stalled, match="write for example"):
        find_image(text)
