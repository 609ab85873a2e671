// @openai/agents of npm: both of its models.
import { Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, run as answer, setTracingDisabled, tool } from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";
import { CALL, CALLED, URL, assert, run, weather } from "./checks.mjs";

setTracingDisabled(true); // its telemetry
const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: "none", maxRetries: 0 });
const schema = z.object({ city: z.string() });
const tools = [tool({ name: "get_weather", description: "The weather.", parameters: schema, execute: weather })];
const features = {};
for (const [name, Model] of [["responses", OpenAIResponsesModel], ["chat", OpenAIChatCompletionsModel]]) {
  const about = { name: "Weather", instructions: "Be brief.", model: new Model(client, "default"), tools };
  features[`${name}_tools`] = async () => {
    assert.equal((await answer(new Agent(about), CALL)).finalOutput, CALLED);
  };
  features[`${name}_stream`] = async () => {
    const made = await answer(new Agent(about), CALL, { stream: true });
    await made.completed;
    assert.equal(made.finalOutput, CALLED);
  };
  features[`${name}_structured`] = async () => {
    const made = await answer(new Agent({ ...about, outputType: schema }), "Where is the tower?");
    assert.deepEqual(made.finalOutput, { city: "Paris" });
  };
}
await run(features);
