"""POST /api/models: JSON, read as strictly as files are."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from aviary.config.loader import load_spec, parse_spec, spec_files
from aviary.config.spec import ModelSpec
from aviary.core.errors import AviaryError, SpecError
from aviary.fleet.desired import Application
from aviary.fleet.diff import Change, compare
from aviary.web.api import make_router

MODELS = Path(__file__).parents[3] / "models"
GOOD: dict[str, Any] = {"id": "a", "engine": {"kind": "fake", "gap": "5ms"}, "tags": ["x"]}


class Fleet:
    """Keeps what it is asked to serve."""

    def __init__(self) -> None:
        self.specs: list[ModelSpec] = []
        self.options: dict[str, Any] = {}
        self.events = None

    def compare(self, specs: list[ModelSpec], *, prune: bool) -> list[Change]:
        return compare({"old": ModelSpec.model_validate({**GOOD, "id": "old"})}, specs, prune=prune)

    async def apply(
        self, specs: list[ModelSpec], **options: Any
    ) -> tuple[Application, list[Change]]:
        self.specs.extend(specs)
        self.options = options
        return Application("ap-1"), self.compare(specs, prune=options.get("prune", False))


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def client(fleet: Fleet) -> TestClient:
    app = FastAPI()
    control: Any = SimpleNamespace(
        keeper=None,
        fleet=fleet,
        keys=None,
        backend=None,
        observed=None,
        backend_name="",
        url="",
        started=0.0,
    )
    app.include_router(make_router(control))

    @app.exception_handler(AviaryError)
    async def show(_request: Any, error: AviaryError) -> JSONResponse:
        return JSONResponse({"message": str(error)}, error.status)

    return TestClient(app, headers={"x-aviary-role": "admin"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"id":"a","engine":{"kind":"fake","slots":"4"}}', "engine.slots"),
        ('{"id":"a","id":"b","engine":{"kind":"fake"}}', "is given twice"),
        ('{"id":"a","engine":{"kind":"fake"},"limits":{"wait":1e999}}', "finite"),
        ('{"id":"a","engine":{"kind":"fake"},"limits":{"queue":1.0}}', "limits.queue"),
        ('{"id":"a","engine":{"kind":"fake"},"description":"\\ud83d"}', "half a character"),
        ("[]", "not a mapping"),
        ("", "is empty"),
        ("{", ""),
    ],
)
def test_wrong_specs(client: TestClient, fleet: Fleet, text: str, words: str) -> None:
    answer = client.post("/api/models", content=text)
    assert answer.status_code == 422
    assert words in answer.json()["message"]
    assert not fleet.specs
    if text:  # in a set likewise; what says where it is
        answer = client.post("/api/apply", content='{"specs":[' + text + "]}")
        assert answer.status_code in (400, 422)
        assert words in answer.json()["message"] or "no apply" in answer.json()["message"]
        assert not fleet.specs


def test_apply(client: TestClient, fleet: Fleet) -> None:
    body = {"specs": [GOOD, {**GOOD, "id": "old", "tags": []}], "prune": True, "rollback": False}
    dry = client.post("/api/apply", json={**body, "dry_run": True})
    assert (dry.status_code, dry.json()["id"], fleet.specs) == (202, None, [])
    answer = client.post("/api/apply", json=body, headers={"x-aviary-key": "ak_7"})
    assert answer.json()["id"] == "ap-1"
    assert answer.json()["changes"] == dry.json()["changes"]
    assert [(c["model"], c["action"], c["restarts"]) for c in answer.json()["changes"]] == [
        ("a", "added", True),
        ("old", "changed", False),
    ]
    assert answer.json()["changes"][1]["fields"] == [
        {"field": "tags[0]", "before": "x", "after": None}
    ]
    assert fleet.options == {"prune": True, "rollback": False, "by": "ak_7"}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"specs":1}', '{"specs":[],"pruen":true}', "\xff"]
)
def test_no_apply(client: TestClient, fleet: Fleet, text: str) -> None:
    answer = client.post("/api/apply", content=text.encode("latin-1"))
    assert answer.status_code == 400
    assert "no apply" in answer.json()["message"]
    assert not fleet.options


def test_good_specs(client: TestClient, fleet: Fleet) -> None:
    for path in spec_files([MODELS]):
        spec = load_spec(path, check_source=False)
        for data in (
            spec.model_dump(mode="json", exclude_none=True),
            spec.model_dump(mode="json"),
        ):
            for text in (json.dumps(data), json.dumps(data, indent="\t", ensure_ascii=False)):
                assert client.post("/api/models", content=text).status_code == 202
                assert fleet.specs.pop() == spec


def test_too_large(client: TestClient) -> None:
    assert client.post("/api/models", content=b" " * ((1 << 20) + 1)).status_code == 413


@pytest.mark.parametrize("ascii_only", [True, False])
def test_every_text_of_json_is_read_as_it_is(ascii_only: bool) -> None:
    text = "é🐦\x7f\x85\u2028\ufeff a\tb\nc: d # e 'f' \"g\" \\ud83d\\udc26 {{ x }} %/\u200b  "
    data = {**GOOD, "chat": {"system": text}}
    for indent in (None, 2, "\t"):
        spec = parse_spec(json.dumps(data, ensure_ascii=ascii_only, indent=indent), "spec")
        assert spec.chat.system == text
    assert parse_spec('{"id":"a","engine":{"kind":"fake"},"description":"\\/"}', "x").description


@pytest.mark.parametrize(("number", "value"), [("1e3", 1000.0), ("1E+2", 100), ("2.5e-1", 0.25)])
def test_numbers_with_exponents(number: str, value: float) -> None:
    text = f'{{"id":"a","engine":{{"kind":"fake"}},"limits":{{"wait":{number}}}}}'
    assert parse_spec(text, "spec").limits.wait == value


def test_a_key_may_not_hide_behind_an_escape() -> None:
    with pytest.raises(SpecError, match="given twice"):
        parse_spec('{"id":"a","\\u0069d":"b","engine":{"kind":"fake"}}', "spec")
