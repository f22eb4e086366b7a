"""`aviary check`: templates are tried in a sandbox, engines by one short generation."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aviary.cli.main import app
from aviary.cli.render_template import render

runner = CliRunner()
GOOD = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"


def write(folder: Path, template: str = "", more: str = "") -> str:
    text = f"id: a\nengine: {{kind: fake}}\n{more}"
    if template:
        text += f"chat: {{template: {json.dumps(template)}}}\n"
    path = folder / "a.yaml"
    path.write_text(text)
    return str(path)


def run(*arguments: str) -> tuple[int, list[dict]]:
    result = runner.invoke(app, ["check", "--json", *arguments])
    return result.exit_code, json.loads(result.stdout)


def test_good_spec_generates(tmp_path):
    code, checks = run(write(tmp_path, GOOD))
    assert [(check["name"], check["ok"]) for check in checks] == [
        ("spec", True),
        ("template", True),
        ("generate", True),
    ]
    assert code == 0
    assert "16 tokens" in checks[-1]["detail"]


def test_lines_for_people(tmp_path):
    path = write(tmp_path)
    result = runner.invoke(app, ["check", path, "--no-generate"])
    assert result.stdout.startswith(f"{path}: spec: ok (")
    assert "\x1b" not in result.stdout


def test_bad_spec_does_not_hide_the_others(tmp_path):
    (tmp_path / "b.yaml").write_text("id: b\n")
    write(tmp_path)
    code, checks = run(str(tmp_path), "--no-generate")
    assert code == 1
    assert [check["ok"] for check in checks] == [True, False]
    assert "b.yaml:1:1: engine: is missing." in checks[1]["detail"]


def test_engine_that_does_not_start(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("id: a\nengine: {kind: fake, fail_start: no wings}\n")
    code, checks = run(str(path))
    assert code == 1
    assert "no wings" in checks[-1]["detail"]


def test_engine_of_a_later_version(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("id: a\nengine: {kind: openai}\n")
    code, checks = run(str(path))
    assert code == 1
    assert "not available in this version" in checks[-1]["detail"]


def test_engine_that_hangs_is_given_up(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("id: a\nengine: {kind: fake, start: 60s}\n")
    began = time.monotonic()
    code, checks = run(str(path), "--timeout", "1")
    assert code == 1
    assert "No answer within 1 s." in checks[-1]["detail"]
    assert time.monotonic() - began < 15


def test_catalog_prompt_format_renders():
    code, checks = run(str(Path(__file__).parents[3] / "models"), "--no-generate")
    assert code == 0
    assert [check["name"] for check in checks].count("template") == 1


LONG_LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
LONG_TEXT = "{% for a in range(99999) %}{{ 'xxxxxxxxxxxxxxxxxxxxx' }}{% endfor %}"
ESCAPED = "{% for m in messages %}{{ m.content|e }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}", "line 1 of the template"),
        ("(" * 5000 + "{{" + "(" * 5000, "template"),
        ("{{ messages[0].content }}", "is lost, changed or out of order"),
        (ESCAPED, "is lost, changed or out of order"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages.clear() }}", "SecurityError"),
        ("{{ undefined_thing.x }}", "UndefinedError"),
        ("{{ raise_exception('never') }}", "the template fails: never"),
        (LONG_LOOP, "needs more than"),
        (LONG_TEXT, "more than 1,000,000"),
        ("{{ 'x' * 9999999999 }}", "needs more than"),
        ("{{ 9 ** (9 ** (9 ** 9)) }}", "needs more than"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{% include '/etc/passwd' %}", "TypeError"),
    ],
)
def test_bad_templates(tmp_path, template: str, message: str):
    began = time.monotonic()
    code, checks = run(write(tmp_path, template), "--no-generate")
    assert code == 1
    assert checks[-1]["name"] == "template"
    assert message in checks[-1]["detail"]
    assert time.monotonic() - began < 25


def test_refused_system_message_is_a_note_unless_the_spec_has_one(tmp_path):
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    code, checks = run(write(tmp_path, refuses + GOOD), "--no-generate")
    assert code == 0
    assert "refuses system messages (no system)" in checks[-1]["detail"]
    path = tmp_path / "a.yaml"
    path.write_text(path.read_text().replace("chat: {", "chat: {system: Be kind, "))
    code, checks = run(str(path), "--no-generate")
    assert code == 1


def test_what_models_templates_use_is_there():
    template = (
        "{%- set ns = namespace(n=0) -%}{{ bos_token }}{{ strftime_now('%Y')|length }}"
        "{%- for m in messages -%}{%- if m.content == 'x' -%}{%- continue -%}{%- endif -%}"
        "{{ {'a': m.content}|tojson }}{%- endfor -%}"
        "{%- if tools is not none -%}tools{%- endif -%}"
    )
    messages = [{"role": "user", "content": "x"}, {"role": "user", "content": "<ü>"}]
    assert render(template, [messages]) == [{"text": '4{"a": "<ü>"}'}]
