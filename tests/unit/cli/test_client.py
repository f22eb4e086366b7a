"""The client maps whatever answers to shapes or to Aviary's errors."""

from __future__ import annotations

import pytest

from aviary.cli.client import Client, base_url
from aviary.config.settings import Settings
from aviary.core.errors import (
    AviaryError,
    BudgetExceeded,
    ModelNotFound,
    NotAuthorized,
    Overloaded,
    SpecError,
)


@pytest.fixture
def client(aviary):
    with Client(Settings(url=aviary.url)) as opened:
        yield opened


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "model_not_found", ModelNotFound),
        (401, "invalid_api_key", NotAuthorized),
        (429, "overloaded", Overloaded),
        (429, "budget_exceeded", BudgetExceeded),
        (422, "invalid_spec", SpecError),
        (401, "something_new", NotAuthorized),
        (500, "something_new", AviaryError),
    ],
)
def test_openai_errors(aviary, client, status: int, code: str, kind: type[AviaryError]):
    aviary.on("GET", "/x", lambda call: call.error(status, code, "So it is.", retry_after="3"))
    with pytest.raises(kind, match=r"So it is\.") as caught:
        client.get("/x")
    assert type(caught.value) is kind
    assert caught.value.retry_after_s == 3


def test_key_hint(aviary, client):
    aviary.on("GET", "/x", lambda call: call.error(401, "invalid_api_key", "No key."))
    with pytest.raises(NotAuthorized, match="AVIARY_API_KEY"):
        client.get("/x")


@pytest.mark.parametrize("status", [200, 404, 502])
def test_something_else_answers(aviary, client, status: int):
    aviary.on("GET", "/x", lambda call: call.raw(b"<html>nginx</html>", status, "text/html"))
    with pytest.raises(AviaryError, match="is not an Aviary of this version"):
        client.get("/x")


def test_wrong_shape(aviary, client):
    aviary.on("GET", "/api/models", {"models": 3})
    with pytest.raises(AviaryError, match="is not an Aviary of this version"):
        client.models()


def test_server_that_hangs_up(aviary, client):
    def hang_up(call):
        call.http.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
        call.http.close_connection = True

    aviary.on("GET", "/x", hang_up)
    with pytest.raises(AviaryError, match="broke"):
        client.get("/x")


def test_model_ids_are_quoted(aviary, client):
    aviary.on("DELETE", "/api/models/a b/c?d", {"model": "a", "action": "stopped"})
    assert client.stop("a b/c?d")["action"] == "stopped"


def test_events_with_unicode_line_separators(aviary, client):
    events = [{"line": "a\u2028b\x85c"}, {"line": "ünï 漢"}]
    aviary.on("GET", "/e", lambda call: call.stream(events, gap=0.01))
    assert list(client.events("/e")) == events


def test_events_that_fall_silent_end(aviary, client):
    aviary.on("GET", "/e", lambda call: call.stream([{"a": 1}, {"a": 2}], gap=1))
    assert list(client.events("/e", silence_s=0.2)) == []


def test_base_url():
    assert base_url(" http://host:8000/v1/ ") == "http://host:8000"
    assert base_url("https://host/aviary/") == "https://host/aviary"
    for bad in ("", "host:8000", "ftp://host", "http://", "http://host:port", "http://[::1"):
        with pytest.raises(SpecError, match="no HTTP address"):
            base_url(bad)


def test_api_key_that_cannot_be_sent():
    with pytest.raises(SpecError, match="API key"):
        Client(Settings(api_key="ключ"))
