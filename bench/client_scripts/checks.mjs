// One client in Node: each feature a function that throws; one JSON line a feature on standard output.
import assert from "node:assert/strict";

export const URL = process.env.CLIENTS_URL; // of the service, without /v1
export const ANSWER = "Hello there.", CALLED = "Done: 20 degrees"; // to a greeting; after a call
export const GREETING = "Say hello.";
export const CALL = 'Use get_weather {"city": "Paris"}'; // the engine does what stands here
export const WEATHER = {
  type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false,
};
export const PIXEL = "data:image/png;base64,iVBORw0KGgo=";

export function weather({ city }) {
  assert.equal(city, "Paris");
  return "20 degrees";
}

export async function run(features) {
  for (const [feature, does] of Object.entries(features)) {
    let line = { outcome: "works" };
    try {
      await does();
    } catch (e) {
      const status = e.status ?? e.statusCode ?? e.cause?.statusCode;
      line = { outcome: status === 400 ? "refused" : "fails", why: `${e.name}: ${e.message}`.slice(0, 600) };
    }
    console.log(JSON.stringify({ feature, ...line }));
  }
}

export { assert };
