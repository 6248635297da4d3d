// The official `openai` package for Node: asks what test_openai_node.py expects, prints what it got as JSON.
import OpenAI from "openai";

const [baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 60_000 });
const messages = [{ role: "user", content: "What is the capital of Peru?" }];
const ask = { model, temperature: 0, max_tokens: 64 };
const tool = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Get the weather of a city",
    parameters: {
      type: "object",
      properties: { location: { type: "string" } },
      required: ["location"],
    },
  },
};
const seen = {};

const whole = await client.chat.completions.create({ ...ask, messages });
seen.whole = whole.choices[0].message.content;
seen.usage = whole.usage.total_tokens;

const stream = await client.chat.completions.create({
  ...ask, messages, stream: true, stream_options: { include_usage: true },
});
seen.streamed = "";
for await (const chunk of stream) {
  seen.streamed += chunk.choices[0]?.delta?.content ?? "";
  if (chunk.usage) seen.streamUsage = chunk.usage.total_tokens;
}

const runner = client.chat.completions.stream({
  ...ask, tools: [tool], messages: [{ role: "user", content: "What is the weather in Lima?" }],
});
const called = await runner.finalChatCompletion();
seen.tool = called.choices[0].message.tool_calls[0].function;

const city = {
  type: "object",
  properties: { city: { enum: ["Lima", "Paris"], type: "string" }, capital: { type: "boolean" } },
  required: ["city", "capital"],
  additionalProperties: false,
};
const structured = await client.chat.completions.create({
  ...ask, max_tokens: 256, messages,
  response_format: { type: "json_schema", json_schema: { name: "city", strict: true, schema: city } },
});
seen.structured = JSON.parse(structured.choices[0].message.content);

const response = await client.responses.create({ model, input: messages[0].content, temperature: 0 });
seen.response = response.output_text;

seen.models = [];
for await (const one of client.models.list()) seen.models.push(one.id);

const error = async (change, key = apiKey) => {
  try {
    const other = new OpenAI({ baseURL, apiKey: key, maxRetries: 0 });
    await other.chat.completions.create({ ...ask, messages, ...change });
    return "none";
  } catch (raised) {
    return [raised.constructor.name, raised.status, raised.code];
  }
};
seen.wrongKey = await error({}, "gms_never_made");
seen.wrongModel = await error({ model: "gemma-4-9b" });
seen.tooLong = await error({ messages: [{ role: "user", content: "river ".repeat(300_000) }] });

const leaving = await client.chat.completions.create({ ...ask, max_tokens: 500, messages, stream: true });
for await (const _ of leaving) break; // leaves after the first chunk
seen.afterLeaving = (await client.chat.completions.create({ ...ask, messages })).choices[0].message.content;

console.log(JSON.stringify(seen));
