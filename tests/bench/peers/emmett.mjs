// Emmett's PostgreSQL store and its command handler, as its documentation uses them; a pool of as many connections as callers.
import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";
import { CommandHandler } from "@event-driven-io/emmett";
import { getPostgreSQLEventStore } from "@event-driven-io/emmett-postgresql";
import pg from "pg";

const CONNECTIONS = 16;
const given = JSON.parse(process.env.BENCH_PEER);
const pool = new pg.Pool({ connectionString: given.dsn, max: CONNECTIONS });
const store = getPostgreSQLEventStore(given.dsn, { connectionOptions: { pooled: true, pool } });

const proposed = () => ({ type: "Proposed", data: { ...given.proposed, entry_id: randomUUID() } });

const handle = CommandHandler({
  retry: { onVersionConflict: 10 }, // A slow command may still be at a stream when its turn comes again.
  initialState: () => ({ waiting: new Map() }),
  evolve: (state, { type, data }) => {
    if (type === "Proposed") state.waiting.set(data.entry_id, data.minutes);
    else state.waiting.delete(data.entry_id);
    return state;
  },
});

const loop = async (callers, seconds, once) => {
  const began = performance.now();
  const end = began + 1000 * seconds;
  const latencies = [];
  let count = 0;
  const call = async () => {
    for (let started = performance.now(); started < end; started = performance.now()) {
      const done = await once();
      if (!done) return;
      latencies.push((performance.now() - started) / 1000);
      count += done;
    }
  };
  await Promise.all(Array.from({ length: callers }, call));
  return { count, seconds: (performance.now() - began) / 1000, latencies };
};

const append = ({ callers, seconds, length }) =>
  loop(callers, seconds, async () => {
    const events = Array.from({ length }, proposed);
    await store.appendToStream(`account-${randomUUID()}`, events, { expectedStreamVersion: "STREAM_DOES_NOT_EXIST" });
    return length;
  });

let seeded = [];

const seed = async ({ streams, length }) => {
  seeded = [];
  for (let begin = 0; begin < streams; begin += CONNECTIONS) {
    const some = Array.from({ length: Math.min(CONNECTIONS, streams - begin) }, async () => {
      const stream = `account-${randomUUID()}`;
      const events = Array.from({ length }, proposed);
      await store.appendToStream(stream, events, { expectedStreamVersion: "STREAM_DOES_NOT_EXIST" });
      return { stream, entries: events.map(({ data }) => data.entry_id) };
    });
    seeded.push(...(await Promise.all(some)));
  }
  return { count: streams * length };
};

const command = ({ callers, seconds, used }) => {
  const waiting = Array.from({ length: used }, (_, number) => seeded.map(({ stream, entries }) => [stream, entries[number]])).flat();
  let next = 0;
  return loop(callers, seconds, async () => {
    if (next === waiting.length) return 0;
    const [stream, entry] = waiting[next++];
    await handle(store, stream, (state) => {
      if (!state.waiting.has(entry)) throw new Error(`${entry} does not wait`);
      return { type: "Confirmed", data: { ...given.confirmed, entry_id: entry } };
    });
    return 1;
  });
};

const doing = { append, seed, command };
const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);

await store.schema.migrate();
say({ ready: true });
for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...asked } = JSON.parse(line);
  say(await doing[name](asked));
}
await store.close();
await pool.end();
