// The official Node client against a running service: node clients.mjs BASE_URL; one JSON line out.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Name three colours." }];
const asked = { model: "default", messages, max_tokens: 12, temperature: 0 };

const whole = await client.chat.completions.create(asked);
let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}
const response = await client.responses.create({
  model: "default", input: "Name three colours.", max_output_tokens: 12, temperature: 0,
});
const kinds = [];
for await (const event of await client.responses.create({
  model: "default", input: "Name three colours.", max_output_tokens: 12, temperature: 0, stream: true,
})) kinds.push(event.type);
let refused = null;
try {
  await client.chat.completions.create({ ...asked, temperature: 9 });
} catch (e) {
  refused = { status: e.status, param: e.param };
}
const models = (await client.models.list()).data.map((model) => model.id);
console.log(JSON.stringify({
  text: whole.choices[0].message.content, streamed, response: response.output_text,
  first: kinds[0], last: kinds.at(-1), refused, models,
}));
