// openai of npm.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { ANSWER, CALL, CALLED, GREETING, PIXEL, URL, WEATHER, assert, run, weather } from "./checks.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: GREETING }];
const Place = z.object({ city: z.string() });
const flat = { type: "function", name: "get_weather", parameters: WEATHER, strict: true };

await run({
  async chat() {
    const made = await client.chat.completions.create({ model: "gpt-4o", messages });
    assert.equal(made.choices[0].message.content, ANSWER);
  },
  async stream() {
    const stream = client.chat.completions.stream({ model: "default", messages });
    assert.equal((await stream.finalChatCompletion()).choices[0].message.content, ANSWER);
  },
  async tools() {
    const tool = { name: "get_weather", parameters: WEATHER, parse: JSON.parse, function: weather };
    const runner = client.chat.completions.runTools({
      model: "default", messages: [{ role: "user", content: CALL }], tools: [{ type: "function", function: tool }],
    });
    assert.equal(await runner.finalContent(), CALLED);
  },
  async structured() {
    const made = await client.chat.completions.parse({
      model: "default", messages, response_format: zodResponseFormat(Place, "place"),
    });
    assert.equal(made.choices[0].message.parsed.city, "Paris");
  },
  async responses() {
    const first = await client.responses.create({ model: "default", input: GREETING });
    assert.equal(first.output_text, ANSWER);
  },
  async responses_stream() {
    const stream = client.responses.stream({ model: "default", input: GREETING });
    assert.equal((await stream.finalResponse()).output_text, ANSWER);
  },
  async responses_tools() {
    const made = await client.responses.create({ model: "default", input: CALL, tools: [flat] });
    const call = made.output.find((item) => item.type === "function_call");
    const output = { type: "function_call_output", call_id: call.call_id, output: weather(JSON.parse(call.arguments)) };
    const after = await client.responses.create({
      model: "default", input: [output], tools: [flat], previous_response_id: made.id,
    });
    assert.equal(after.output_text, CALLED);
  },
  async embeddings() {
    const made = await client.embeddings.create({ model: "text-embedding-3-small", input: ["a", "b"] });
    assert.ok(Math.abs(made.data[1].embedding[0] - 0.6) < 1e-6);
  },
  async models() {
    assert.ok((await client.models.list()).data.length);
  },
  async image() {
    const content = [{ type: "image_url", image_url: { url: PIXEL } }];
    await client.chat.completions.create({ model: "default", messages: [{ role: "user", content }] });
  },
});
