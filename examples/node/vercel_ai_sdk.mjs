// Vercel's AI SDK with a memory in the model: text, a stream, an object, and a tool.
//
//     deltamem serve
//     npm ci && node vercel_ai_sdk.mjs

import { randomUUID } from "node:crypto";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, Output, streamText, tool } from "ai";

const url = process.env.DELTAMEM_URL ?? "http://127.0.0.1:8000";

/** The model with the memory of one user. */
function modelOf(user) {
  const provider = createOpenAICompatible({
    name: "deltamem",
    baseURL: `${url}/v1`,
    apiKey: process.env.DELTAMEM_API_KEY ?? "none",
    headers: user === undefined ? {} : { "X-Memory-Session": user },
    includeUsage: true,
    supportsStructuredOutputs: true,
  });
  return provider("deltamem");
}

const model = modelOf(`example-${randomUUID().slice(0, 8)}`);
await generateText({ model, prompt: "I live in Lisbon.", temperature: 0 });

const { text } = await generateText({ model, prompt: "Where do I live?", temperature: 0 });
console.log(`text: ${text}`);

const stream = streamText({ model, prompt: "Where do I live?", temperature: 0 });
process.stdout.write("stream: ");
for await (const part of stream.textStream) process.stdout.write(part);
console.log(`   (${(await stream.usage).totalTokens} tokens)`);

const place = jsonSchema({
  type: "object",
  properties: { city: { type: "string", enum: ["Lisbon", "Porto"] } },
  required: ["city"],
  additionalProperties: false,
});
const { output } = await generateText({
  model,
  prompt: "Where do I live?",
  temperature: 0,
  output: Output.object({ schema: place }),
});
console.log(`object: ${JSON.stringify(output)}`);

const weather = tool({
  description: "Tells it.",
  inputSchema: place,
  execute: async ({ city }) => `It rains in ${city}.`,
});
const { toolResults } = await generateText({
  model: modelOf(),
  prompt: "How is it in Porto?",
  temperature: 0,
  tools: { weather },
  toolChoice: "required",
});
console.log(`tool: ${toolResults[0].output}`);
