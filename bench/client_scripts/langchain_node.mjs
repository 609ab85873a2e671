// @langchain/openai of npm, with the settings that the nodes of n8n and LibreChat give it.
import { HumanMessage } from "@langchain/core/messages";
import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { ANSWER, CALL, GREETING, URL, WEATHER, assert, run } from "./checks.mjs";

const configuration = { baseURL: `${URL}/v1` };
const more = { apiKey: "none", maxRetries: 0, configuration };
const n8n = new ChatOpenAI({
  ...more, model: "gpt-4o-mini", maxTokens: -1, timeout: 60000, temperature: 0.7, topP: 1,
  frequencyPenalty: 0, presencePenalty: 0, modelKwargs: { response_format: { type: "text" } },
});
const librechat = new ChatOpenAI({
  ...more, model: "default", streaming: true, streamUsage: true, user: "6650", maxTokens: 100000,
});
const place = { title: "Place", ...WEATHER };
const tool = { type: "function", function: { name: "get_weather", parameters: WEATHER } };

await run({
  async n8n_chat() {
    assert.equal((await n8n.invoke(GREETING)).content, ANSWER);
  },
  async n8n_tools() {
    assert.equal((await n8n.bindTools([tool]).invoke([new HumanMessage(CALL)])).tool_calls[0].args.city, "Paris");
  },
  async n8n_structured() {
    const plain = new ChatOpenAI({ ...more, model: "default" });
    assert.deepEqual(await plain.withStructuredOutput(place).invoke("A city."), { city: "Paris" });
  },
  async n8n_responses() {
    const other = new ChatOpenAI({ ...more, model: "default", useResponsesApi: true });
    assert.equal((await other.invoke(GREETING)).text, ANSWER);
  },
  async n8n_embeddings() {
    const words = new OpenAIEmbeddings({ ...more, model: "text-embedding-3-small", batchSize: 512, stripNewLines: true });
    assert.equal((await words.embedDocuments(["a", "b"])).length, 2);
  },
  async librechat_stream() {
    let text = "";
    for await (const piece of await librechat.stream(GREETING)) text += piece.content;
    assert.equal(text, ANSWER);
  },
});
