// @continuedev/openai-adapters of npm: the API client inside Continue.
import { constructLlmApi } from "@continuedev/openai-adapters";
import { ANSWER, CALL, GREETING, URL, WEATHER, assert, run } from "./checks.mjs";

const api = constructLlmApi({ provider: "openai", apiBase: `${URL}/v1/`, apiKey: "none", model: "default" });
const claude = constructLlmApi({ provider: "anthropic", apiBase: `${URL}/v1/`, apiKey: "none", model: "claude-sonnet-4-5" });
const { signal } = new AbortController();
const body = { model: "default", messages: [{ role: "user", content: GREETING }] };
const tool = { type: "function", function: { name: "get_weather", parameters: WEATHER } };

async function streamed(from, more = {}) {
  const deltas = [];
  for await (const piece of from.chatCompletionStream({ ...body, ...more, stream: true }, signal)) {
    deltas.push(...piece.choices.map((choice) => choice.delta));
  }
  return deltas;
}
const text = (deltas) => deltas.map((delta) => delta.content ?? "").join("");
const called = (deltas) => deltas.flatMap((delta) => delta.tool_calls ?? []).find((call) => call.function?.name);

await run({
  async chat() {
    const made = await api.chatCompletionNonStream({ ...body, stream: false }, signal);
    assert.equal(made.choices[0].message.content, ANSWER);
  },
  async stream() {
    assert.equal(text(await streamed(api)), ANSWER);
  },
  async tools() {
    const deltas = await streamed(api, { messages: [{ role: "user", content: CALL }], tools: [tool] });
    assert.equal(called(deltas).function.name, "get_weather");
  },
  async completion() {
    const made = await api.completionNonStream({ model: "default", prompt: GREETING, max_tokens: 64 }, signal);
    assert.equal(made.choices[0].text, ANSWER);
  },
  async embeddings() {
    const made = await api.embed({ model: "text-embedding-3-small", input: ["a"] });
    assert.ok(made.data[0].embedding);
  },
  async models() {
    assert.ok((await api.list()).length);
  },
  async anthropic_stream() {
    assert.equal(text(await streamed(claude, { model: "claude-sonnet-4-5", max_tokens: 64 })), ANSWER);
  },
  async anthropic_tools() {
    const more = { model: "claude-sonnet-4-5", max_tokens: 64, messages: [{ role: "user", content: CALL }], tools: [tool] };
    assert.equal(called(await streamed(claude, more)).function.name, "get_weather");
  },
});
