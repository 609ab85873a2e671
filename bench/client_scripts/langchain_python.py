"""langchain, langchain-openai and langchain-anthropic of PyPI."""

from checks import ANSWER, CALL, CALLED, GREETING, URL, get_weather, run
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

WHERE = {"base_url": f"{URL}/v1", "api_key": "none", "max_retries": 0}
model = ChatOpenAI(model="default", **WHERE)
weather = tool(get_weather)


class Place(BaseModel):
    """A place."""

    city: str


def chat():
    assert model.invoke(GREETING).content == ANSWER


def stream():
    assert "".join(piece.content for piece in model.stream(GREETING)) == ANSWER


def tools():
    (call,) = model.bind_tools([weather]).invoke(CALL).tool_calls
    assert call["args"] == {"city": "Paris"}
    forced = model.bind_tools([weather], tool_choice="get_weather").invoke("Any.")
    assert forced.tool_calls[0]["name"] == "get_weather"


def agent():
    made = create_agent(model, [weather]).invoke({"messages": [("user", CALL)]})
    assert made["messages"][-1].content == CALLED


def agent_structured():
    made = create_agent(model, [weather], response_format=Place).invoke({"messages": [("user", CALL)]})
    assert made["structured_response"] == Place(city="Paris")


def structured():
    for method in ("json_schema", "function_calling", "json_mode"):
        made = model.with_structured_output(Place, method=method).invoke("A JSON of a city: Paris.")
        assert made == Place(city="Paris"), method


def responses():
    other = ChatOpenAI(model="default", use_responses_api=True, **WHERE)
    assert other.invoke(GREETING).text == ANSWER
    assert "".join(piece.text for piece in other.stream(GREETING)) == ANSWER
    assert (
        create_agent(other, [weather]).invoke({"messages": [("user", CALL)]})["messages"][-1].text == CALLED
    )


def embeddings():
    words = OpenAIEmbeddings(model="text-embedding-3-small", check_embedding_ctx_length=False, **WHERE)
    assert len(words.embed_documents(["a", "b"])) == 2 and words.embed_query("a")


def anthropic():
    claude = ChatAnthropic(model="claude-sonnet-4-5", base_url=URL, api_key="none", max_retries=0)
    assert claude.invoke(GREETING).content == ANSWER
    assert "".join(piece.text for piece in claude.stream(GREETING)) == ANSWER
    made = create_agent(claude, [weather]).invoke({"messages": [("user", CALL)]})
    assert made["messages"][-1].content == CALLED


run(chat, stream, tools, agent, agent_structured, structured, responses, embeddings, anthropic)
