"""openai of PyPI."""

import openai
from checks import ANSWER, CALL, CALLED, GREETING, PIXEL, URL, WEATHER, get_weather, run
from pydantic import BaseModel

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
ASK = [{"role": "user", "content": GREETING}]
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER, "strict": True}}
FLAT = {"type": "function", **TOOL["function"]}


class Place(BaseModel):
    city: str


def chat():
    assert client.chat.completions.create(model="gpt-4o", messages=ASK).choices[0].message.content == ANSWER


def stream():
    with client.chat.completions.stream(model="default", messages=ASK) as events:
        assert events.get_final_completion().choices[0].message.content == ANSWER


def tools():
    chat = [{"role": "user", "content": CALL}]
    made = client.chat.completions.create(model="default", messages=chat, tools=[TOOL]).choices[0]
    (call,) = made.message.tool_calls
    place = Place.model_validate_json(call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": get_weather(place.city)}
    chat += [made.message, result]
    after = client.chat.completions.create(model="default", messages=chat, tools=[TOOL])
    assert made.finish_reason == "tool_calls" and after.choices[0].message.content == CALLED


def structured():
    made = client.chat.completions.parse(model="default", messages=ASK, response_format=Place)
    assert made.choices[0].message.parsed.city == "Paris"


def responses():
    first = client.responses.create(model="default", input=GREETING)
    again = client.responses.create(model="default", input="And?", previous_response_id=first.id)
    assert first.output_text == again.output_text == ANSWER


def responses_stream():
    with client.responses.stream(model="default", input=GREETING) as events:
        assert events.until_done().get_final_response().output_text == ANSWER


def responses_tools():
    made = client.responses.create(model="default", input=CALL, tools=[FLAT])
    (call,) = [item for item in made.output if item.type == "function_call"]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": get_weather("Paris")}
    after = client.responses.create(
        model="default", input=[output], tools=[FLAT], previous_response_id=made.id
    )
    assert after.output_text == CALLED


def responses_structured():
    assert client.responses.parse(model="default", input=GREETING, text_format=Place).output_parsed.city


def embeddings():
    assert client.embeddings.create(model="text-embedding-3-small", input=["a", "b"]).data[1].embedding


def models():
    assert client.models.list().data[0].id == client.models.retrieve("default").id


def image():
    part = {"type": "image_url", "image_url": {"url": PIXEL}}
    client.chat.completions.create(model="default", messages=[{"role": "user", "content": [part]}])


run(chat, stream, tools, structured, responses, responses_stream, responses_tools, responses_structured,
    embeddings, models, image)  # fmt: skip
