"""`aviary keys` on a real state database."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from aviary.auth.keys import KeyRing
from aviary.cli import keys as keys_cli
from aviary.config.settings import Settings
from aviary.store import SqlKeys


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AVIARY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AVIARY_DATABASE_URL", raising=False)
    return tmp_path / "home"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(keys_cli.app, list(arguments))


def create(*arguments: str) -> dict[str, str]:
    result = run("create", *arguments, "--json")
    assert result.exit_code == 0, result.output
    created: dict[str, str] = json.loads(result.stdout)
    return created


def test_the_secret_works_is_shown_once_and_not_stored(home: Path) -> None:
    result = run("create", "my app", "--role", "admin")
    assert result.exit_code == 0
    secret = result.stdout.removesuffix("\n")
    assert "not stored" in result.stderr
    assert secret not in run("list").stdout + run("list", "--json").stdout
    for file in home.iterdir():
        assert secret.encode() not in file.read_bytes()

    keys = SqlKeys.open(Settings().store_url("state"))
    key = KeyRing(keys.active()).identify(b"Bearer " + secret.encode(), None)
    keys.close()
    assert key is not None
    assert key.role == "admin"


def test_list_and_revoke() -> None:
    assert run("list").stdout.startswith("No keys")
    assert json.loads(run("list", "--json").stdout) == []
    one, two = create("[red]one[/red]"), create("two", "--role", "admin")
    assert one["secret"] != two["secret"]
    listed = json.loads(run("list", "--json").stdout)
    assert [(row["id"], row["name"], row["role"]) for row in listed] == [
        (one["id"], "[red]one[/red]", "user"),
        (two["id"], "two", "admin"),
    ]
    assert "hash" not in listed[0]
    assert "[red]one" in run("list").stdout

    revoked = run("revoke", one["id"])
    assert (revoked.exit_code, revoked.stderr) == (0, "")
    assert json.loads(run("list", "--json").stdout)[0]["revoked"] > 0
    assert "revoked" in run("list").stdout


def test_warns_when_the_last_admin_or_the_last_key_goes() -> None:
    user, first, last = create("u"), create("a", "--role", "admin"), create("b", "--role", "admin")
    assert run("revoke", first["id"]).stderr == ""
    result = run("revoke", last["id"], "--json")
    assert json.loads(result.stdout)["id"] == last["id"]
    assert "no admin key is left" in result.stderr
    assert "no key is left" in run("revoke", user["id"]).stderr


@pytest.mark.parametrize(
    "arguments", [["revoke", "ak_nobody"], ["create", ""], ["create", "x" * 101]]
)
def test_errors(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output


def test_unknown_role_is_wrong_usage() -> None:
    assert run("create", "a", "--role", "root").exit_code == 2


def test_database_out_of_reach(home: Path) -> None:
    home.parent.mkdir(exist_ok=True)
    home.touch()  # a file where the folder should be
    result = run("list")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: The state database")


def test_import_is_cheap() -> None:
    code = (
        "import sys, aviary.cli.keys\n"
        "heavy = {'sqlalchemy', 'alembic', 'pydantic', 'pydantic_settings'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
