// @anthropic-ai/sdk of npm.
import Anthropic from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";
import { ANSWER, CALL, CALLED, GREETING, URL, WEATHER, assert, run, weather } from "./checks.mjs";

const client = new Anthropic({ baseURL: URL, apiKey: "none", maxRetries: 0 });
const more = { model: "claude-sonnet-4-5", max_tokens: 1024, messages: [{ role: "user", content: GREETING }] };

await run({
  async chat() {
    assert.equal((await client.messages.create(more)).content[0].text, ANSWER);
  },
  async stream() {
    assert.equal(await client.messages.stream(more).finalText(), ANSWER);
  },
  async tool_runner() {
    const tool = betaTool({ name: "get_weather", description: "The weather.", inputSchema: WEATHER, run: weather });
    const made = await client.beta.messages.toolRunner({
      ...more, messages: [{ role: "user", content: CALL }], tools: [tool],
    });
    assert.equal(made.content[0].text, CALLED);
  },
  async thinking() {
    const made = await client.messages.create({
      ...more, max_tokens: 2048, thinking: { type: "enabled", budget_tokens: 1024 },
    });
    assert.equal(made.content.at(-1).text, ANSWER);
  },
  async count_tokens() {
    const counted = await client.messages.countTokens({ model: "default", messages: more.messages });
    assert.equal(counted.input_tokens, (await client.messages.create(more)).usage.input_tokens);
  },
  async models() {
    assert.equal((await client.models.list()).data[0].type, "model");
  },
});
