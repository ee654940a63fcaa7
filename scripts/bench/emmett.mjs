// Appends one event at a time to Emmett on PostgreSQL, with an inline projection in raw SQL.
//
//     node emmett.mjs URL SECONDS CLIENTS      in the folder where Emmett is installed
//
// Prints appends per second, after a warm-up of half a second.

import { createRequire } from "node:module";

const require = createRequire(`${process.cwd()}/`);
const { SQL } = require("@event-driven-io/dumbo");
const { projections } = require("@event-driven-io/emmett");
const {
  getPostgreSQLEventStore,
  postgreSQLRawSQLProjection,
} = require("@event-driven-io/emmett-postgresql");

const LINES = 1000; // per client
const WARM_UP = 500;

const [url, seconds, clients] = process.argv.slice(2);
const hours = postgreSQLRawSQLProjection({
  name: "hours",
  canHandle: ["CheckedIn"],
  init: () => SQL`CREATE TABLE IF NOT EXISTS line (id text PRIMARY KEY, hours float8, last_at text)`,
  evolve: ({ data }) => SQL`
    INSERT INTO line (id, hours, last_at) VALUES (${data.line}, ${data.hours}, ${data.at})
    ON CONFLICT (id) DO UPDATE
    SET hours = line.hours + excluded.hours, last_at = excluded.last_at`,
});
const store = getPostgreSQLEventStore(url, { projections: projections.inline([hours]) });
await store.schema.migrate();

let appended = 0;
let over = false;

async function client(number) {
  for (let n = 0; !over; n++) {
    const line = `LIN-${number}-${n % LINES}`;
    const data = { line, hours: 0.25, resource: "RES-1", note: "as agreed", at: new Date().toISOString() };
    await store.appendToStream(line, [{ type: "CheckedIn", data }]);
    appended++;
  }
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const working = Array.from({ length: Number(clients) }, (_, number) => client(number));
await pause(WARM_UP);
const [before, began] = [appended, performance.now()];
await pause(Number(seconds) * 1000);
const rate = (appended - before) / ((performance.now() - began) / 1000);
over = true;
await Promise.all(working);
await store.close();
console.log(rate);
