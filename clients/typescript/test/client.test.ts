import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import test from "node:test";
import { MemoryClient, MemoryRefusedError } from "../src/index.js";

const url = process.env["DELTAMEM_URL"];
if (url === undefined) throw new Error("DELTAMEM_URL names no running server.");
const client = new MemoryClient({ url });
const city = "Which city do I live in?";

test("a memory is added, found, changed and forgotten", async () => {
  const userId = `ts-${randomUUID().slice(0, 8)}`;
  const [home] = await client.add("I settled in Lisbon some years ago.", { userId, metadata: { topic: "home" } });
  assert.ok(home);
  await client.add([{ role: "user", content: "There is a tortoise at home with me." }], { userId, runId: "7" });

  const found = await client.search("tortoises", { userId, ask: false });
  assert.deepEqual(found.results.map((one) => [one.memory, one.runId]), [["There is a tortoise at home with me.", "7"]]);
  assert.deepEqual(found.answers, []);
  const asked = await client.search(city, { userId });
  const told = asked.answers.find((one) => one.session === `user:${userId}`);
  assert.deepEqual([told?.answer, told?.known], ["Lisbon.", true]);

  const moved = await client.update(home.id, "I settled in Porto some years ago.");
  assert.deepEqual([moved.id, moved.metadata], [home.id, { topic: "home" }]);
  assert.ok(moved.updatedAt > moved.createdAt);
  assert.deepEqual(
    (await client.history(home.id)).map((one) => one.event),
    ["ADD", "UPDATE"],
  );
  assert.equal((await client.getAll({ userId })).length, 2);
  assert.equal((await client.getAll({ userId, limit: 1 })).length, 1);

  await client.delete(home.id);
  await assert.rejects(client.get(home.id), (error) => error instanceof MemoryRefusedError && error.status === 404);
  assert.equal((await client.deleteAll({ userId })).length, 2);
  assert.deepEqual(await client.getAll({ userId }), []);
});

test("what is refused says why", async () => {
  await assert.rejects(client.add("x", {}), /say whose memories/);
  await assert.rejects(client.getAll({ userId: "a:b" }), /user_id/);
});
