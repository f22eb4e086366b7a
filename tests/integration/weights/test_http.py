"""The HTTP source against a server that behaves badly."""

from __future__ import annotations

import hashlib

import httpx2
import pytest

from aviary.core.errors import WeightsError
from aviary.weights.http import HttpSource


@pytest.fixture
def source():
    return HttpSource(sleep=lambda _: None)


@pytest.fixture
def once():
    """A source that does not try again."""
    return HttpSource(retries=0)


def test_a_cut_transfer_goes_on_where_it_ended(standin, body, source, told, tmp_path):
    url = standin.put("/m.gguf", body, cuts=[1_000_000, 500_000])
    source.fetch(url, tmp_path / "m", told)
    assert (tmp_path / "m").read_bytes() == body
    ranges = [seen.headers.get("range") for seen in standin.gets()]
    assert ranges == [None, "bytes=1000000-", "bytes=1500000-"]
    assert standin.gets()[1].headers["if-range"] == '"v1"'
    assert any("interrupted" in text for text in told.texts)
    assert told.fractions[-1] == 1.0


def test_a_cut_transfer_is_resumed_by_the_next_call(standin, body, once, told, tmp_path):
    url = standin.put("/m.gguf", body, cuts=[1_200_000])
    with pytest.raises(WeightsError, match="broke off") as caught:
        once.fetch(url, tmp_path / "m", told)
    assert "1200000 bytes are kept" in caught.value.hint
    once.fetch(url, tmp_path / "m", told)
    assert (tmp_path / "m").read_bytes() == body
    assert standin.gets()[1].headers["range"] == "bytes=1200000-"


def test_last_modified_serves_as_validator(standin, body, once, told, tmp_path):
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    url = standin.put("/m", body, cuts=[9], etag='W/"weak"', modified=date)
    with pytest.raises(WeightsError):
        once.fetch(url, tmp_path / "m", told)
    once.fetch(url, tmp_path / "m", told)
    assert standin.gets()[1].headers["if-range"] == date
    assert (tmp_path / "m").read_bytes() == body


@pytest.mark.parametrize("ignore", [False, True])
def test_a_file_that_changed_is_not_mixed(standin, body, once, source, told, tmp_path, ignore):
    url = standin.put("/m", body, cuts=[1_000_000])
    with pytest.raises(WeightsError):
        once.fetch(url, tmp_path / "m", told)
    changed = body[::-1]
    standin.put("/m", changed, etag='"v2"', ignore_if_range=ignore)
    source.fetch(url, tmp_path / "m", told)
    assert (tmp_path / "m").read_bytes() == changed


@pytest.mark.parametrize("how", [{"ranges": False}, {"etag": None}])
def test_without_ranges_or_validator_it_starts_again(standin, body, source, told, tmp_path, how):
    url = standin.put("/m", body, cuts=[1_000_000], **how)
    source.fetch(url, tmp_path / "m", told)
    assert (tmp_path / "m").read_bytes() == body


def test_a_server_that_always_cuts_is_given_up(standin, body, told, tmp_path):
    pauses: list[float] = []
    source = HttpSource(retries=3, sleep=pauses.append)
    url = standin.put("/m", body, ranges=False, cuts=[1000] * 50)
    with pytest.raises(WeightsError, match="broke off"):
        source.fetch(url, tmp_path / "m", told)
    assert pauses == [1.0, 2.0, 4.0]
    assert len(standin.gets()) == 4


def test_a_whole_part_file_needs_no_second_transfer(standin, body, source, told, tmp_path):
    url = standin.put("/m", body)
    source.fetch(url, tmp_path / "m", told)
    source.fetch(url, tmp_path / "m", told)
    assert len(standin.gets()) == 1


def test_a_body_without_length(standin, body, source, told, tmp_path):
    url = standin.put("/m", body, length=False)
    source.fetch(url, tmp_path / "m", told)
    source.fetch(url, tmp_path / "m", told)  # asks for what follows the end: 416
    assert (tmp_path / "m").read_bytes() == body
    assert standin.gets()[1].headers["range"] == f"bytes={len(body)}-"


def test_a_part_longer_than_the_file_is_dropped(standin, body, source, told, tmp_path):
    url = standin.put("/m", body, length=False)
    source.fetch(url, tmp_path / "m", told)
    with (tmp_path / "m").open("ab") as file:
        file.write(b"too much")
    source.fetch(url, tmp_path / "m", told)
    assert (tmp_path / "m").read_bytes() == body


def test_an_empty_file(standin, source, told, tmp_path):
    source.fetch(standin.put("/m", b""), tmp_path / "m", told)
    assert (tmp_path / "m").read_bytes() == b""


def test_a_strange_state_file_is_ignored(standin, body, source, told, tmp_path):
    url = standin.put("/m", body)
    (tmp_path / "m").write_bytes(b"something else")
    for state in ("{", "[]", '{"url": 1}', '{"url": "other", "validator": "x", "total": 14}'):
        (tmp_path / "m.json").write_text(state)
        source.fetch(url, tmp_path / "m", told)
        assert (tmp_path / "m").read_bytes() == body


@pytest.mark.parametrize(
    ("status", "words"), [(404, "no such file"), (403, "permission"), (410, "no such file")]
)
def test_status_errors_say_what_to_do(standin, source, told, tmp_path, status, words):
    url = standin.put("/secret/m", b"", statuses=[status] * 9)
    with pytest.raises(WeightsError, match=f"HTTP {status}") as caught:
        source.fetch(f"{url}?token=hunter2", tmp_path / "m", told)
    assert words in caught.value.hint
    assert "hunter2" not in str(caught.value)
    assert len(standin.gets()) == 1
    assert not (tmp_path / "m").exists()


def test_a_busy_server_is_asked_again(standin, body, source, told, tmp_path):
    url = standin.put("/m", body, statuses=[503, 429])
    source.fetch(url, tmp_path / "m", told)
    assert (tmp_path / "m").read_bytes() == body


def test_redirects_are_followed_with_their_range(standin, body, source, told, tmp_path):
    standin.put("/real", body, cuts=[100])
    url = standin.put("/m", b"", redirect="/real")
    source.fetch(url, tmp_path / "m", told)
    assert (tmp_path / "m").read_bytes() == body
    assert standin.gets()[-1].headers["range"] == "bytes=100-"


def test_a_circle_of_redirects_ends(standin, source, told, tmp_path):
    standin.put("/a", b"", redirect="/b")
    url = standin.put("/b", b"", redirect="/a")
    with pytest.raises(WeightsError, match="more than 5 redirects"):
        source.fetch(url, tmp_path / "m", told)
    assert len(standin.gets()) == 6


def test_a_redirect_to_another_scheme_is_refused(standin, source, told, tmp_path):
    url = standin.put("/m", b"", redirect="file:///etc/passwd")
    with pytest.raises(WeightsError):
        source.fetch(url, tmp_path / "m", told)
    assert not (tmp_path / "m").exists()


def test_a_redirect_that_gives_up_encryption_is_refused(source, told, tmp_path, monkeypatch):
    asked: list[str] = []

    def answer(request):
        asked.append(str(request.url))
        return httpx2.Response(302, headers={"Location": "http://host/m"})

    real = httpx2.Client
    monkeypatch.setattr(
        httpx2, "Client", lambda **how: real(transport=httpx2.MockTransport(answer), **how)
    )
    with pytest.raises(WeightsError, match="not encrypted"):
        source.fetch("https://host/m", tmp_path / "m", told)
    assert asked == ["https://host/m"]


def test_an_encoded_body_is_refused(standin, body, source, told, tmp_path):
    url = standin.put("/m", body, encoding="gzip")
    with pytest.raises(WeightsError, match="gzip"):
        source.fetch(url, tmp_path / "m", told)


def test_silence_ends(standin, body, told, tmp_path):
    url = standin.put("/m", body, bytes_per_second=50)
    source = HttpSource(retries=0, read_timeout_s=0.005)
    with pytest.raises(WeightsError, match="broke off"):
        source.fetch(url, tmp_path / "m", told)


def test_nobody_listens(source, told, tmp_path, unused_tcp_port):
    with pytest.raises(WeightsError, match=r"cannot reach 127\.0\.0\.1") as caught:
        source.fetch(f"http://127.0.0.1:{unused_tcp_port}/m", tmp_path / "m", told)
    assert "mirror" in caught.value.hint


def test_unknown_host(source, told, tmp_path):
    with pytest.raises(WeightsError, match=r"cannot reach no-such-host\.invalid"):
        source.fetch("http://no-such-host.invalid/m", tmp_path / "m", told)


@pytest.mark.parametrize("url", ["http:///m", "https:m", "http://[::1/m", "http://host:port/m"])
def test_what_is_no_address(source, told, tmp_path, url):
    with pytest.raises(WeightsError, match="not an address"):
        source.fetch(url, tmp_path / "m", told)


def test_a_large_body_is_whole(standin, source, told, tmp_path):
    body = hashlib.sha256(b"x").digest() * 1_000_000
    source.fetch(standin.put("/m", body), tmp_path / "m", told)
    assert (tmp_path / "m").stat().st_size == len(body)
