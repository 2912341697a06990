#!/usr/bin/env python3
"""Writes renders/: what transformers makes of the templates of this directory, or the fact that it raises.

Every template renders every input below, through the functions behind `apply_chat_template`: fields of messages that
are null are left out, then the conversation is laid out. The clock stands at 2024-07-26 00:00:00, and the special
tokens are <s> and </s>. Snippets are templates of one line, one for each way in which Python is easily missed.

Usage: make_renders.py [--check]    --check writes nothing and fails if anything would change
"""

import json
import sys
from datetime import datetime
from pathlib import Path

import transformers.utils.chat_template_utils as chat

from snippets import SNIPPETS, VARIABLES

HERE = Path(__file__).parent
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


class Clock(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


def say(role, content, **fields):
    return {"role": role, "content": content, **fields}


def call(name, arguments, **fields):
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **fields}


SYSTEM = say("system", "  Be brief.\n")
HELLO = say("user", "Héllo <you> & \"all\"")
ANSWER = say("assistant", "  Hi!  ")
AGAIN = say("user", "日本語 & 'more'?\n")
THOUGHT = say("assistant", "<think>\nhm\n</think>\n\nfine")
REASONED = say("assistant", "fine", reasoning="hm,\nso so\n")
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather at a \"place\"\nfor some days",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Where, e.g. Zürich"},
                "days": {"type": "integer", "minimum": 1.0, "default": 3},
                "unit": {"type": ["string", "null"], "enum": ["C", "F"]},
                "hours": {"type": "array", "items": {"type": "number"}},
            },
            "required": ["place"],
        },
        "strict": True,
    },
}
TIME = {"type": "function", "function": {"name": "time", "description": "", "parameters": {"type": "object", "properties": {}}}}
CALL = say("assistant", "Looking.", tool_calls=[call("weather", {"place": "京都", "days": 2, "hours": [6, 18.5], "unit": None})])
CALLS = say(
    "assistant",
    None,
    reasoning_content="two at once",
    tool_calls=[call("weather", {"place": "<\"é\">", "deep": {"a": [True, None]}}, id="1"), call("time", {}, id="2")],
)
TEXT_CALL = say("assistant", "", tool_calls=[call("time", "{\"zone\": \"UTC\"}")])
SUNNY = say("tool", "sunny", tool_call_id="1")
NOON = say("tool", "{\"time\": \"12:00\"}", name="time")
PARTS = say("user", [{"type": "text", "text": "one "}, {"type": "image"}, {"type": "text", "text": "two"}])
NULLS = say("assistant", "yes", tool_calls=None, reasoning_content=None, name=None)
DOCUMENTS = [{"title": "a & b", "text": "first"}, {"title": "c", "text": "second\nline"}]
ASK = {"add_generation_prompt": True}

INPUTS = {
    "one question": {"messages": [HELLO], **ASK},
    "one question, nothing asked": {"messages": [HELLO]},
    "system and several turns": {"messages": [SYSTEM, HELLO, ANSWER, AGAIN], **ASK},
    "ends with an answer": {"messages": [HELLO, ANSWER, AGAIN, ANSWER]},
    "system alone": {"messages": [SYSTEM], **ASK},
    "two questions": {"messages": [HELLO, AGAIN], **ASK},
    "thinking off": {"messages": [SYSTEM, HELLO], "variables": {"enable_thinking": False, "thinking": False}, **ASK},
    "thinking on": {
        "messages": [HELLO],
        "variables": {"enable_thinking": True, "thinking": True, "thinking_option": "on", "reasoning_effort": "high"},
        **ASK,
    },
    "switches in the text": {"messages": [say("system", "Calm. /no_think"), say("user", "Now /think of it")], **ASK},
    "thoughts in turns": {"messages": [HELLO, THOUGHT, AGAIN, THOUGHT]},
    "reasoning fields": {"messages": [SYSTEM, HELLO, REASONED, AGAIN, REASONED]},
    "fields that are null": {"messages": [HELLO, NULLS, AGAIN], **ASK},
    "parts of content": {"messages": [PARTS], **ASK},
    "tools": {"messages": [HELLO], "tools": [WEATHER, TIME], **ASK},
    "tools and system": {"messages": [SYSTEM, HELLO], "tools": [WEATHER], **ASK},
    "a call and its answer": {"messages": [HELLO, CALL, SUNNY], "tools": [WEATHER], **ASK},
    "two calls and answers": {"messages": [SYSTEM, HELLO, CALLS, SUNNY, NOON], "tools": [WEATHER, TIME], **ASK},
    "calls in the past": {"messages": [HELLO, TEXT_CALL, NOON, ANSWER, AGAIN, CALL, SUNNY, REASONED], "tools": [TIME]},
    "documents": {"messages": [HELLO], "documents": DOCUMENTS, "variables": {"controls": {"originality": "high", "length": "long"}}, **ASK},
    "everything": {"messages": [SYSTEM, HELLO, CALL, SUNNY, ANSWER, AGAIN], "tools": [WEATHER, TIME], "documents": DOCUMENTS, **ASK},
    "a role that nobody knows": {"messages": [HELLO, say("critic", "x")]},
    "markers in the text": {"messages": [say("user", "{{ x }} {% raw %} </s> <answer>a</answer>\r\n"), say("assistant", "<answer>b</answer>")]},
}


def render(source, messages, tools=None, documents=None, add_generation_prompt=False, variables=None):
    try:
        texts, _ = chat.render_jinja_template(
            conversations=[[{key: value for key, value in message.items() if value is not None} for message in messages]],
            tools=tools,
            documents=documents,
            chat_template=source,
            add_generation_prompt=add_generation_prompt,
            **{**SPECIAL, **(variables or {})},
        )
        return {"text": texts[0]}
    except Exception as error:  # whatever Python makes of it: not every error is one of jinja2
        return {"raises": f"{type(error).__name__}: {error}"}


def files():
    yield "inputs.json", INPUTS
    for path in sorted(HERE.glob("*.jinja")) + sorted(HERE.glob("extra/*.jinja")):
        source = path.read_bytes().decode("utf-8")
        yield f"renders/{path.stem}.json", {name: render(source, **given) for name, given in INPUTS.items()}
    given = {"messages": INPUTS["system and several turns"]["messages"], "variables": VARIABLES}
    yield "snippets.json", {**given, "snippets": [{"source": source, **render(source, **given)} for source in SNIPPETS]}


def main():
    chat.datetime = Clock
    changed = []
    for name, value in files():
        path = HERE / name
        text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            changed.append(name)
            if "--check" not in sys.argv:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8", newline="\n")
    print(*changed or ["nothing changes"], sep="\n")
    return 1 if changed and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
