"""Writes cases.json: what transformers makes of the templates in this folder.

    pip install transformers==5.23.0 jinja2==3.1.6 && python make_cases.py

The clock stands at 2024-07-26 00:00:00 UTC, the special tokens are <s> and </s>.
"""

import json
from datetime import datetime
from pathlib import Path

import jinja2
import transformers.utils.chat_template_utils as chat

HERE = Path(__file__).parent


class Clock(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


def message(role, content, **fields):
    return {"role": role, "content": content, **fields}


SYSTEM = message("system", "Be brief.")
HELLO = message("user", "Héllo <you>")
ANSWER = message("assistant", "  Hi!  ")
AGAIN = message("user", "日本語 & 'more'?")
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather at a \"place\"",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "days": {"type": "integer", "minimum": 1.0}},
            "required": ["place"],
        },
    },
}
TIME = {"name": "time", "zone": None, "precise": True, "empty": {}, "list": []}
CALL = message(
    "assistant",
    "Looking.",
    tool_calls=[{"function": {"name": "weather", "arguments": {"place": "京都", "days": 2}}}, {"name": "time", "arguments": "{}"}],
)
RESULT = message("tool", "sunny")
THOUGHT = message("assistant", "<think>\nhm\n</think>\n\nfine")
REASONED = message("assistant", "fine", reasoning="hm")
DOCUMENTS = [{"title": "a", "text": "first"}, {"title": "b", "text": "second"}]

PARTS = message("user", [{"type": "text", "text": "one "}, {"type": "image"}, "two"])
SILENT = message("assistant", None, tool_calls=[{"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"place": "<\"é\">", "days": 1.0, "all": [True, None]}}}])
MISSING = {"role": "assistant", "tool_calls": [{"function": {"name": "time", "arguments": "{\"a\": 1}"}}]}
PART_RESULT = message("tool", [{"type": "text", "text": "rain"}], tool_call_id="1")

INPUTS = [
    ("chatml", dict(messages=[SYSTEM, HELLO, ANSWER, AGAIN], add_generation_prompt=True)),
    ("chatml", dict(messages=[HELLO], add_generation_prompt=True, variables={"enable_thinking": False})),
    ("chatml", dict(messages=[SYSTEM, HELLO, CALL, RESULT, RESULT], tools=[WEATHER, TIME], add_generation_prompt=True)),
    ("chatml", dict(messages=[HELLO, THOUGHT, AGAIN, THOUGHT])),
    ("chatml", dict(messages=[HELLO, REASONED])),
    ("inst", dict(messages=[HELLO, ANSWER, AGAIN])),
    ("inst", dict(messages=[SYSTEM, HELLO])),
    ("inst", dict(messages=[HELLO, AGAIN])),
    ("inst", dict(messages=[HELLO, message("tool", "x")])),
    ("granite", dict(messages=[HELLO], add_generation_prompt=True, variables={"controls": {"length": "long"}})),
    ("granite", dict(messages=[SYSTEM, HELLO], tools=[WEATHER, TIME], documents=DOCUMENTS, add_generation_prompt=True)),
    ("granite", dict(messages=[HELLO], documents=DOCUMENTS)),
    ("olmoe", dict(messages=[SYSTEM, HELLO, ANSWER, AGAIN], add_generation_prompt=True)),
    ("olmoe", dict(messages=[HELLO, ANSWER])),
    ("features", dict(messages=[HELLO, ANSWER, AGAIN])),
    ("breaks", dict(messages=[SYSTEM, HELLO])),
    ("tools", dict(messages=[HELLO])),
    ("tools", dict(messages=[SYSTEM, PARTS, THOUGHT, AGAIN, THOUGHT], add_generation_prompt=True)),
    ("tools", dict(messages=[SYSTEM, HELLO, SILENT, RESULT, PART_RESULT], tools=[WEATHER, TIME], add_generation_prompt=True)),
    ("tools", dict(messages=[HELLO, MISSING, RESULT, REASONED, AGAIN, REASONED], tools=[WEATHER])),
    ("tools", dict(messages=[HELLO], add_generation_prompt=True, variables={"enable_thinking": False, "reasoning_effort": "high"})),
    ("tools", dict(messages=[HELLO, message("developer", "x")])),
]


def render(name, messages, tools=None, documents=None, add_generation_prompt=False, variables=None):
    rendered, _ = chat.render_jinja_template(
        conversations=[messages],
        tools=tools,
        documents=documents,
        chat_template=(HERE / f"{name}.jinja").read_bytes().decode("utf-8"),
        add_generation_prompt=add_generation_prompt,
        bos_token="<s>",
        eos_token="</s>",
        **(variables or {}),
    )
    return rendered[0]


def main():
    chat.datetime = Clock
    cases = []
    for template, inputs in INPUTS:
        case = {"template": template, **inputs}
        try:
            case["expected"] = render(template, **inputs)
        except jinja2.exceptions.TemplateError as error:
            case["refused"] = str(error)
        cases.append(case)
    text = json.dumps(cases, ensure_ascii=False, indent=1)
    (HERE / "cases.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
