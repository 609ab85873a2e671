// ai of npm, with its providers openai-compatible, openai (chat and responses) and anthropic.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from "ai";
import { z } from "zod";
import { ANSWER, CALL, CALLED, GREETING, URL, assert, run, weather } from "./checks.mjs";

const compatible = createOpenAICompatible({
  name: "steelyard", baseURL: `${URL}/v1`, supportsStructuredOutputs: true, includeUsage: true,
});
const openai = createOpenAI({ baseURL: `${URL}/v1`, apiKey: "none" });
const anthropic = createAnthropic({ baseURL: `${URL}/v1`, apiKey: "none" });
const models = {
  compatible: compatible("default"), chat: openai.chat("gpt-4o"), responses: openai("gpt-4o"),
  anthropic: anthropic("claude-sonnet-4-5"),
};
const schema = z.object({ city: z.string() });
const tools = {
  get_weather: tool({ description: "The weather.", inputSchema: schema, execute: async (at) => weather(at) }),
};
const maxRetries = 0;

const features = {};
for (const [name, model] of Object.entries(models)) {
  features[`${name}_text`] = async () => {
    const made = await generateText({ model, prompt: GREETING, maxRetries });
    assert.equal(made.text, ANSWER);
    assert.ok(made.usage.inputTokens > 0 && made.usage.outputTokens > 0);
  };
  features[`${name}_stream`] = async () => {
    let text = "";
    for await (const piece of streamText({
      model, prompt: GREETING, maxRetries, onError({ error }) { throw error; },
    }).textStream) text += piece;
    assert.equal(text, ANSWER);
  };
  features[`${name}_tools`] = async () => {
    const made = await generateText({ model, prompt: CALL, tools, stopWhen: stepCountIs(3), maxRetries });
    assert.equal(made.text, CALLED);
  };
  features[`${name}_stream_tools`] = async () => {
    const made = streamText({ model, prompt: CALL, tools, stopWhen: stepCountIs(3), maxRetries });
    assert.equal(await made.text, CALLED);
  };
  features[`${name}_object`] = async () => {
    const made = await generateObject({ model, schema, prompt: "A city.", maxRetries });
    assert.deepEqual(made.object, { city: "Paris" });
    const streamed = streamObject({ model, schema, prompt: "A city.", maxRetries });
    let last = null;
    for await (const part of streamed.partialObjectStream) last = part;
    assert.deepEqual(last, { city: "Paris" });
  };
}
features.embeddings = async () => {
  for (const words of [compatible.textEmbeddingModel("text-embedding-3-small"), openai.embedding("text-embedding-3-small")]) {
    const made = await embedMany({ model: words, values: ["a", "b"], maxRetries });
    assert.equal(made.embeddings.length, 2);
  }
};
await run(features);
