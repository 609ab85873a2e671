"""anthropic of PyPI."""

import anthropic
from checks import ANSWER, CALL, CALLED, GREETING, URL, WEATHER, get_weather, run

client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)
ASK = [{"role": "user", "content": GREETING}]
TOOL = {"name": "get_weather", "description": "The weather.", "input_schema": WEATHER}
MORE = {"model": "claude-sonnet-4-5", "max_tokens": 1024}


def chat():
    assert client.messages.create(**MORE, messages=ASK).content[0].text == ANSWER


def stream():
    with client.messages.stream(**MORE, messages=ASK) as events:
        assert "".join(events.text_stream) == ANSWER


def tools():
    chat = [{"role": "user", "content": CALL}]
    made = client.messages.create(**MORE, messages=chat, tools=[TOOL])
    use = made.content[-1]
    result = {"type": "tool_result", "tool_use_id": use.id, "content": get_weather(**use.input)}
    chat += [{"role": "assistant", "content": made.content}, {"role": "user", "content": [result]}]
    assert made.stop_reason == "tool_use"
    assert client.messages.create(**MORE, messages=chat, tools=[TOOL]).content[0].text == CALLED


def tool_runner():
    weather = anthropic.beta_tool(get_weather)
    runner = client.beta.messages.tool_runner(
        **MORE, messages=[{"role": "user", "content": CALL}], tools=[weather]
    )
    assert runner.until_done().content[0].text == CALLED


def structured():
    made = client.messages.create(
        **MORE, messages=ASK, output_config={"format": {"type": "json_schema", "schema": WEATHER}}
    )
    assert made.content[0].text == '{"city": "Paris"}', made.content


def thinking():
    made = client.messages.create(
        model="claude-sonnet-4-5", max_tokens=2048, messages=ASK,
        thinking={"type": "enabled", "budget_tokens": 1024},
    )  # fmt: skip
    assert made.content[-1].text == ANSWER


def count_tokens():
    counted = client.messages.count_tokens(model="default", messages=ASK).input_tokens
    assert counted == client.messages.create(**MORE, messages=ASK).usage.input_tokens


def models():
    assert client.models.list().data[0].type == "model" and client.models.retrieve("default").id


def image():
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    client.messages.create(
        **MORE, messages=[{"role": "user", "content": [{"type": "image", "source": source}]}]
    )


run(chat, stream, tools, tool_runner, structured, thinking, count_tokens, models, image)
