"""Prompt formats as Jinja chat templates.

A `prompt_format` is plain text around each message; engines want a chat template. The text is put
into the template as JSON string literals, so nothing in it can become template code.
"""

from __future__ import annotations

import json

from aviary.config.spec import Chat, PromptFormat


def chat_template(chat: Chat) -> str | None:
    """The Jinja template the spec asks for; `None` for the one in the weights."""
    if chat.template is not None:
        return chat.template
    if chat.prompt_format is not None:
        return template_of(chat.prompt_format)
    return None


def template_of(prompt_format: PromptFormat) -> str:
    """A Jinja chat template that renders what the prompt format describes.

    An assistant message at the very end is left open, so that the model continues it.
    """

    def literal(text: str) -> str:
        # Not ASCII: JSON's escapes of other characters are not those of Jinja.
        return json.dumps(text, ensure_ascii=False)

    def parts(text: str) -> tuple[str, str]:
        before, after = text.split("{content}")
        return literal(before), literal(after)

    def block(text: str) -> str:
        before, after = parts(text)
        return "{{ " + before + " + message['content'] + " + after + " }}"

    open_before, _ = parts(prompt_format.assistant)
    return (
        "{%- for message in messages -%}"
        "{%- if message['role'] == 'system' -%}" + block(prompt_format.system) + ""
        "{%- elif message['role'] == 'assistant' -%}"
        "{%- if loop.last and not add_generation_prompt -%}"
        "{{ " + open_before + " + message['content'] }}"
        "{%- else -%}" + block(prompt_format.assistant) + "{%- endif -%}"
        "{%- else -%}" + block(prompt_format.user) + "{%- endif -%}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ " + literal(prompt_format.trailing) + " }}"
        "{%- endif -%}"
    )
