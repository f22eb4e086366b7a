from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from aviary.config.spec import Chat, PromptFormat
from aviary.engines.templates import chat_template, template_of

# What could end a literal or begin template code, and what JSON writes differently.
NASTY = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "'",
    '"',
    "\\",
    "\\n",
    "\n",
    "\r\n",
    "\t",
    "\u2028",
    "é🐦",
]
TEXT = st.lists(st.sampled_from(NASTY) | st.text(max_size=3), max_size=5).map("".join)
PART = st.tuples(TEXT, TEXT).map("{content}".join).filter(lambda t: t.count("{content}") == 1)
FORMAT = st.builds(PromptFormat, system=PART, user=PART, assistant=PART, trailing=TEXT)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": TEXT}
    ),
    min_size=1,
    max_size=4,
)


def render(template: str, messages: list[dict[str, str]], prompt: bool) -> str:
    # llama.cpp and transformers trim blocks like this
    jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return jinja.from_string(template).render(messages=messages, add_generation_prompt=prompt)


def concatenated(form: PromptFormat, messages: list[dict[str, str]], prompt: bool) -> str:
    parts = {"system": form.system, "assistant": form.assistant}
    text = ""
    for index, message in enumerate(messages):
        part = parts.get(message["role"], form.user)
        if message["role"] == "assistant" and index == len(messages) - 1 and not prompt:
            part = part[: part.index("{content}") + len("{content}")]
        before, after = part.split("{content}")
        text += before + message["content"] + after
    return text + (form.trailing if prompt else "")


@given(FORMAT, MESSAGES, st.booleans())
def test_a_template_renders_the_plain_concatenation(
    form: PromptFormat, messages: list[dict[str, str]], prompt: bool
) -> None:
    assert render(template_of(form), messages, prompt) == concatenated(form, messages, prompt)


def test_which_template_is_used() -> None:
    form: dict[str, Any] = {"user": "Q: {content}\n", "trailing": "A:"}
    assert chat_template(Chat()) is None
    assert chat_template(Chat(template="{{ 1 }}")) == "{{ 1 }}"
    template = chat_template(Chat(prompt_format=PromptFormat(**form)))
    assert template is not None
    assert render(template, [{"role": "user", "content": "why?"}], True) == "Q: why?\nA:"
