"""openai-agents of PyPI: both of its models."""

import agents
from checks import ANSWER, CALL, CALLED, GREETING, URL, get_weather, run
from openai import AsyncOpenAI
from pydantic import BaseModel

agents.set_tracing_disabled(True)  # its telemetry
client = AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
RESPONSES = agents.OpenAIResponsesModel(model="default", openai_client=client)
CHAT = agents.OpenAIChatCompletionsModel(model="default", openai_client=client)


class Place(BaseModel):
    city: str


def agent(model, **more):
    return agents.Agent(
        name="Weather", instructions="Be brief.", model=model, tools=[agents.function_tool(get_weather)],
        **more,
    )  # fmt: skip


async def answer(model):
    assert (await agents.Runner.run(agent(model), CALL)).final_output == CALLED


async def streamed(model):
    running = agents.Runner.run_streamed(agent(model), CALL)
    kinds = [event.type async for event in running.stream_events()]
    assert "raw_response_event" in kinds and running.final_output == CALLED


async def format_of(model):
    made = await agents.Runner.run(agent(model, output_type=Place), "Where is the tower?")
    assert made.final_output == Place(city="Paris")


async def handed_over(model):
    first = agents.Agent(name="Desk", model=model, handoffs=[agent(model)])
    made = await agents.Runner.run(first, "Use transfer_to_weather {}")
    assert made.last_agent.name == "Weather" and made.final_output


async def remembered(model):
    session = agents.SQLiteSession("one")
    for text in (CALL, GREETING):
        made = await agents.Runner.run(agent(model), text, session=session)
    assert made.final_output == ANSWER


def responses_tools():
    return answer(RESPONSES)


def responses_stream():
    return streamed(RESPONSES)


def responses_structured():
    return format_of(RESPONSES)


def responses_handoff():
    return handed_over(RESPONSES)


def responses_session():
    return remembered(RESPONSES)


def tools():
    return answer(CHAT)


def stream():
    return streamed(CHAT)


def structured():
    return format_of(CHAT)


def handoff():
    return handed_over(CHAT)


def session():
    return remembered(CHAT)


run(responses_tools, responses_stream, responses_structured, responses_handoff, responses_session,
    tools, stream, structured, handoff, session)  # fmt: skip
