"""The loader names every problem with file, line, column and field, and executes nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from aviary.config.loader import catalog_dir, load_spec, load_specs, parse_spec
from aviary.config.spec import FakeEngine, ScalingSignal
from aviary.core.errors import SpecError

GOOD = "id: a\nengine: {kind: fake}\n"


def problems(text: str | bytes, name: str = "a.yaml") -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, name)
    return str(caught.value).split("\n")


def one(text: str | bytes) -> str:
    found = problems(text)
    assert len(found) == 1, found
    return found[0]


def test_good_spec():
    spec = parse_spec(
        "id: a\nengine:\n  kind: fake\n  gap: 20ms\n"
        "scaling:\n  signal: {queue: 2}\n  schedule:\n"
        "    - {cron: '0 16 * * MON-FRI', duration: 2h, min_replicas: 1}\n"
        "tags: [x, 'no']\n",
        "a.yaml",
    )
    assert isinstance(spec.engine, FakeEngine)
    assert spec.engine.gap == pytest.approx(0.02)
    assert spec.scaling.signal == ScalingSignal(queue=2)
    assert spec.scaling.schedule[0].duration == 7200
    assert spec.tags == ("x", "no")


@pytest.mark.parametrize("kind", ["vllm", "openai", "anthropic"])
def test_kinds_of_later_versions_parse(kind: str):
    source = "source: {uri: 'hf:org/model'}\n" if kind == "vllm" else ""
    assert parse_spec(f"id: a\n{source}engine: {{kind: {kind}}}\n", "a").engine.kind == kind


# Each: text, the whole message.
CASES = {
    "unknown key with suggestion": (
        GOOD + "engin: 1\n",
        "a.yaml:3:1: engin: unknown key. Did you mean engine?",
    ),
    "unknown nested key of the chosen engine": (
        "id: a\nengine:\n  kind: fake\n  slot: 3\n",
        "a.yaml:4:3: engine.slot: unknown key. Did you mean slots?",
    ),
    "unknown key in a list": (
        "id: a\nengine:\n  kind: fake\n  faults:\n    - kind: error\n      at_tokn: 3\n",
        "a.yaml:6:7: engine.faults[0].at_tokn: unknown key. Did you mean at_token?",
    ),
    "unknown kind": (
        "id: a\nengine:\n  kind: lamacpp\n",
        "a.yaml:3:9: engine.kind: unknown engine kind lamacpp. Did you mean llamacpp?",
    ),
    "no kind": (
        "id: a\nengine: {slots: 2}\n",
        (
            "a.yaml:2:1: engine.kind: is missing. "
            "Known: llamacpp, fake, vllm, openai, anthropic, command."
        ),
    ),
    "missing id": ("engine: {kind: fake}\n", "a.yaml:1:1: id: is missing."),
    "missing source": (
        "id: a\nengine: {kind: llamacpp}\n",
        "a.yaml:1:1: an engine of kind llamacpp needs source.uri.",
    ),
    "duplicate key": (
        GOOD + "tags: [a]\ntags: [b]\n",
        "a.yaml:4:1: tags: is given twice (first in line 3).",
    ),
    "duplicate nested key": (
        "id: a\nengine: {kind: fake, slots: 1, slots: 2}\n",
        "a.yaml:2:32: engine.slots: is given twice (in this line).",
    ),
    "quoted number": (
        "id: a\nengine: {kind: fake, slots: '4'}\n",
        'a.yaml:2:29: engine.slots: must be a whole number, not "4". Remove the quotes.',
    ),
    "true is no number": (
        "id: a\nengine: {kind: fake, slots: on}\n",
        "a.yaml:2:29: engine.slots: must be a whole number; on is read as true/false.",
    ),
    "no is no text": (
        "id: a\nengine: {kind: fake}\ntags: [yes, x]\n",
        "a.yaml:3:8: tags[0]: must be text; yes is read as true/false. Put it in quotes.",
    ),
    "id as a number": (
        "id: 7\nengine: {kind: fake}\n",
        "a.yaml:1:5: id: must be text; 7 is read as a number. Put it in quotes.",
    ),
    "nothing given": (
        GOOD + "price:\n",
        (
            "a.yaml:3:7: price: must be a mapping (lines of key: value), but nothing is given. "
            "Fill it in, or remove the key."
        ),
    ),
    "text for a list": (
        GOOD + "tags: chat\n",
        'a.yaml:3:7: tags: must be a list, not "chat". Write it as [chat].',
    ),
    "bad id": (
        "id: A b\nengine: {kind: fake}\n",
        (
            "a.yaml:1:5: id: must be 1 to 63 lower-case letters, digits, dots, dashes or "
            'underscores, and begin with a letter or digit, not "A b".'
        ),
    ),
    "out of range": (
        GOOD + "generation:\n  temperature: 9\n",
        "a.yaml:4:16: generation.temperature: must be less than or equal to 5, not 9.",
    ),
    "bad duration": (
        GOOD + "limits: {wait: soon}\n",
        (
            "a.yaml:3:16: limits.wait: 'soon' is not a duration; "
            "write for example 500ms, 30s, 10m, 2h or 1h30m."
        ),
    ),
    "unknown word": (
        GOOD + "scaling: {idle: {then: sleeep}}\n",
        'a.yaml:3:24: scaling.idle.then: unknown value "sleeep". Did you mean sleep?',
    ),
    "rule between fields": (
        GOOD + "scaling: {min_replicas: 3, max_replicas: 2}\n",
        "a.yaml:3:1: scaling: min_replicas 3 is larger than max_replicas 2.",
    ),
    "route": (
        "id: auto\nroute: {kind: llm}\n",
        "a.yaml:2:1: route: routes are not available in this version.",
    ),
    "date": (
        GOOD + "description: 2024-01-02\n",
        "a.yaml:3:14: description: 2024-01-02 is read as a date. Put it in quotes.",
    ),
    "base-60": (
        GOOD + "limits: {wait: 1:30}\n",
        (
            "a.yaml:3:16: limits.wait: 1:30 is read as a base-60 number (as in hours:minutes). "
            "Put it in quotes if it is text, or write the plain number."
        ),
    ),
    "octal": (
        GOOD + "limits: {queue: 010}\n",
        (
            "a.yaml:3:17: limits.queue: 010 is read as an octal number. "
            "Put it in quotes if it is text, or write the plain number."
        ),
    ),
    "infinity": (
        GOOD + "limits: {wait: .inf}\n",
        "a.yaml:3:16: limits.wait: .inf is not a finite number.",
    ),
    "huge number": (
        GOOD + f"generation: {{seed: {2**63}}}\n",
        f"a.yaml:3:20: generation.seed: {2**63} is too large a number.",
    ),
    "key that is no text": (
        GOOD + "no: 1\n",
        "a.yaml:3:1: the key no is read as true/false, not as text. Put it in quotes.",
    ),
    "key that is a list": (
        GOOD + "? [a]\n: 1\n",
        "a.yaml:3:3: a list or mapping cannot be a key.",
    ),
    "tab": (
        "id: a\nengine:\n\tkind: fake\n",
        "a.yaml:3:1: a tab is used to indent. Indent with spaces.",
    ),
    "colon in a text": (
        "id: a\ndescription: good: very\n",
        (
            "a.yaml:2:18: a colon where no key can be. "
            "Quote texts that contain ': ', and check the indentation."
        ),
    ),
    "second document": (
        GOOD + "---\n" + GOOD,
        "a.yaml:3:1: a second document begins here. Write one model per file.",
    ),
    "empty": ("", "a.yaml: is empty. A spec needs at least id: and engine: (see aviary schema)."),
    "only a comment": (
        "# nothing\n",
        "a.yaml: is empty. A spec needs at least id: and engine: (see aviary schema).",
    ),
    "list on top": (
        "- id: a\n",
        (
            "a.yaml:1:1: is not a mapping (lines of key: value). "
            "Begin with id: and engine: (see aviary schema)."
        ),
    ),
    "NUL": ("id: a\x00\n", "a.yaml:1:6: the control character U+0000 is not allowed. Remove it."),
    "undefined alias": (
        "id: *x\n",
        "a.yaml:1:5: an alias (*name) without an anchor (&name) before it.",
    ),
    "file URI with a host": (
        GOOD + "source: {uri: 'file://models/a.gguf'}\n",
        (
            "a.yaml:3:15: source.uri: file://models/a.gguf names the host models. "
            "Write file:relative/path or file:///absolute/path."
        ),
    ),
}


@pytest.mark.parametrize("case", CASES, ids=lambda name: name.replace(" ", "-"))
def test_message(case: str):
    text, message = CASES[case]
    assert one(text) == message


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch HACKED']",
        "!!python/name:os.system",
        "!!python/object:object {}",
        "!!binary aGk=",
        "!!set {a}",
        "!!omap [a: 1]",
        "!mine x",
    ],
)
def test_tags_are_refused_and_never_executed(tag: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = "\n".join(problems(GOOD + f"description: {tag}\n"))
    assert "a.yaml:3:14: description: the tag !" in found
    assert "is not allowed" in found
    assert "pydantic" not in found
    assert list(tmp_path.iterdir()) == []


def test_number_with_exponent_is_a_number():
    assert parse_spec(GOOD + "generation: {temperature: 1e-1}\n", "a").generation.temperature == 0.1


def test_byte_order_marks():
    assert parse_spec(b"\xef\xbb\xbf" + GOOD.encode(), "a").id == "a"
    assert "UTF-16" in one(GOOD.encode("utf-16"))
    assert "UTF-16 or UTF-32" in one(GOOD.encode("utf-32"))


def test_bad_utf8_has_a_place():
    assert one(b"id: a\ndescription: \xc3\xa4\xff\n") == (
        "a.yaml:2:15: the byte 0xff is not UTF-8. Save the file as UTF-8."
    )


def test_too_large():
    assert "more than the 1,048,576 allowed" in one(GOOD.encode() + b"#" * (1 << 20))


def test_alias_bomb_ends_quickly():
    lines = ["id: a", "engine: {kind: fake}", "x0: &x0 [a, a, a, a, a, a, a, a, a]"]
    lines += [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 12)]
    began = time.perf_counter()
    assert "once its aliases (*name) are filled in" in one("\n".join(lines))
    assert time.perf_counter() - began < 3


def test_recursive_alias():
    assert "contains itself by an alias" in one("id: a\nengine: &e {kind: fake, faults: [*e]}\n")


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 5000, "- " * 5000])
def test_deep_nesting_ends_quickly(text: str):
    began = time.perf_counter()
    assert "nested deeper than 32 levels" in one(text)
    assert time.perf_counter() - began < 3


def test_too_many_values():
    assert "more than 20,000 values" in one(GOOD + "tags: [" + "a," * 30_000 + "]\n")


def test_merge_keys():
    spec = parse_spec(
        "id: a\nengine:\n  kind: fake\n  faults:\n"
        "    - &base {kind: error, at_token: 3}\n"
        "    - {<<: *base, every: 2}\n"
        "    - {kind: hang, <<: [*base]}\n",
        "a",
    )
    assert isinstance(spec.engine, FakeEngine)
    assert spec.engine.faults[1].at_token == 3
    assert spec.engine.faults[1].every == 2
    assert spec.engine.faults[2].kind == "hang"


def test_merge_key_twice_and_merge_of_a_text():
    text = "id: a\nengine: {kind: fake, faults: [&b {kind: hang}, {<<: *b, <<: *b}]}\n"
    assert one(text).endswith("is given twice (in this line).")
    assert "<< needs a mapping" in one("id: a\nengine: {kind: fake, <<: x}\n")


def test_many_problems_are_listed_in_order_up_to_twenty():
    found = problems(
        "id: A\nengine: {kind: fake, slots: x}\n" + "".join(f"k{n}: 1\n" for n in range(30))
    )
    assert len(found) == 21
    assert found[0].startswith("a.yaml:1:5: id: ")
    assert found[1].startswith("a.yaml:2:29: engine.slots: ")
    assert found[-1] == "… and 12 more."


def test_no_message_leaks_pydantics_inner_words():
    text = "id: 1\nengine: {kind: llamacpp, slots: -1, x: 1}\nsource: []\nlimits: 3\ntags: {a: b}\n"
    joined = "\n".join(problems(text))
    for word in ("pydantic", "http", "llamacpp.", "tuple", "instance of", "Input", "Value error"):
        assert word not in joined, joined


def test_missing_files_folders_and_unreadable_files(tmp_path: Path):
    with pytest.raises(SpecError, match=r"none\.yaml: there is no such file"):
        load_spec(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="is a folder"):
        load_spec(tmp_path)
    with pytest.raises(SpecError, match=r"holds no \*.yaml"):
        load_specs([tmp_path])
    secret = tmp_path / "a.yaml"
    secret.write_text(GOOD)
    secret.chmod(0)
    if not os.access(secret, os.R_OK):  # root reads everything
        with pytest.raises(SpecError, match="cannot be read: permission denied"):
            load_spec(secret)


def test_folder_and_duplicate_ids(tmp_path: Path):
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yml").write_text(GOOD.replace("id: a", "id: b"))
    (tmp_path / ".hidden.yaml").write_text("oops")
    (tmp_path / "notes.txt").write_text("oops")
    assert [spec.id for spec in load_specs([tmp_path, tmp_path / "a.yaml"])] == ["a", "b"]
    (tmp_path / "c.yaml").write_text(GOOD)
    with pytest.raises(SpecError) as caught:
        load_specs([tmp_path])
    assert str(tmp_path / "a.yaml") in str(caught.value)
    assert str(tmp_path / "c.yaml") in str(caught.value)


def test_problems_of_several_files_come_together(tmp_path: Path):
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text("id: x\n")
    with pytest.raises(SpecError) as caught:
        load_specs([tmp_path])
    assert [line.split("/")[-1] for line in str(caught.value).split("\n")] == [
        "a.yaml:1:1: engine: is missing.",
        "b.yaml:1:1: engine: is missing.",
    ]


def test_file_uris_begin_at_the_specs_folder(tmp_path: Path):
    (tmp_path / "my weights.gguf").write_bytes(b"GGUF")
    path = tmp_path / "a.yaml"
    path.write_text(
        GOOD + "source:\n  uri: 'file:my weights.gguf'\n  mirrors: ['file:../x.gguf', 'hf:a/b']\n"
    )
    source = load_spec(path).source
    assert source is not None
    assert source.uri == (tmp_path / "my weights.gguf").as_uri()
    assert source.mirrors == ((tmp_path.parent / "x.gguf").as_uri(), "hf:a/b")


def test_missing_weights_are_told_unless_there_is_a_mirror(tmp_path: Path):
    path = tmp_path / "a.yaml"
    path.write_text(GOOD + "source: {parts: ['file:a', 'file:///b']}\n")
    with pytest.raises(SpecError, match=r"source\.parts\[0\]: there is no file"):
        load_spec(path)
    source = load_spec(path, check_source=False).source
    assert source is not None
    assert source.parts == ((tmp_path / "a").as_uri(), "file:///b")
    path.write_text(GOOD + "source: {uri: 'file:a', mirrors: ['https://x/a']}\n")
    load_spec(path)


def test_spec_survives_json():
    text = GOOD + "scaling: {signal: {queue: 2}, idle: {after: 15m}}\n"
    spec = parse_spec(text, "a")
    again = type(spec).model_validate_json(spec.model_dump_json(exclude_none=True))
    assert again == spec


def test_catalog_dir():
    assert (catalog_dir() / "smollm2-135m-instruct.yaml").is_file()
