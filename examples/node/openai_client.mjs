// A memory through OpenAI's client for Node: what one request tells, another knows.
//
//     deltamem serve
//     npm ci && node openai_client.mjs

import { randomUUID } from "node:crypto";
import OpenAI from "openai";

const url = process.env.DELTAMEM_URL ?? "http://127.0.0.1:8000";
const session = `example-${randomUUID().slice(0, 8)}`;
const client = new OpenAI({
  baseURL: `${url}/v1`,
  apiKey: process.env.DELTAMEM_API_KEY ?? "none",
  defaultHeaders: { "X-Memory-Session": session },
});

/** One request with one message: nothing of the past is sent. */
async function ask(text) {
  const reply = await client.chat.completions.create({
    model: "deltamem",
    messages: [{ role: "user", content: text }],
    temperature: 0,
  });
  console.log(`> ${text}\n${reply.choices[0].message.content}`);
}

await ask("I live in Lisbon.");
await ask("My cat is called Biscuit.");
await ask("Where do I live?");

console.log("> What is my pet called?");
const stream = await client.chat.completions.create({
  model: "deltamem",
  messages: [{ role: "user", content: "What is my pet called?" }],
  temperature: 0,
  stream: true,
  memory: { session, mode: "read_only" },
});
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
console.log("   (read only)");

// The Responses read the same memory; with store: false they write nothing.
const response = await client.responses.create({
  model: "deltamem",
  input: "Where do I live?",
  temperature: 0,
  store: false,
});
console.log(`> Where do I live?\n${response.output_text}   (Responses)`);
