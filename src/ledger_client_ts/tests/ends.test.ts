import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { Door, freshLine, live, notes, problem, Server, taken } from "./support.js";

/** A program of its own: give its exit code, its output, and the seconds that it took. */
async function program(source: string, url: string) {
  const head = 'import { Ledger } from "execution-ledger-client"; const ledger = new Ledger();';
  const env = { ...process.env, ELK_URL: url, ELK_TOKEN: live.token, ELK_SOURCE: "/tests" };
  const began = performance.now();
  const code = `${head}\n${source}`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", code], { env });
  const ended = once(child, "exit");
  const output = (await text(child.stdout)) + (await text(child.stderr));
  return { code: (await ended)[0], output, took: (performance.now() - began) / 1000 };
}

const REPORT = (line: string) => `for (let at = 0; at < 1500; at += 1)
  ledger.report("execution.checked_in", "${line}", { note: "note " + at });`;

test("a program that ends without flush has sent its facts, also over a short outage", async () => {
  const line = await freshLine();
  const door = await new Door().start();
  door.shut = () => {
    door.shut = null;
    return problem(503, "behind");
  };
  const { code, output } = await program(REPORT(line), door.url);
  assert.deepEqual([code, output], [0, ""]);
  assert.equal((await notes(line)).length, 1500);
});

test("a program ends, and tells of lost facts, though the ledger stays away", async () => {
  const server = await new Server(() => problem(503, "behind")).start();
  const away = await program(REPORT("LIN-26-000001"), server.url);
  assert.equal(away.code, 0);
  assert.match(away.output, /1500 facts were not judged by the ledger, and are lost/);
  assert.ok(away.took > 5 && away.took < 9, `${away.took} s`);
  const left = await program(`${REPORT("LIN-26-000001")}\nprocess.exit(3);`, server.url);
  assert.equal(left.code, 3);
  assert.match(left.output, /1500 facts were not judged by the ledger, and are lost/);
  const error = `${REPORT("LIN-26-000001")}\nthrow new Error("the host's own");`;
  const failed = await program(error, server.url);
  assert.equal(failed.code, 1);
  assert.match(failed.output, /1500 facts .* are lost[^]*the host's own|the host's own[^]*1500/);
});

test("a program with an idle ledger, or an open lease, ends at once", async () => {
  const server = await new Server(taken).start();
  const source = `ledger.run("LIN-26-000001", { lease: 5 }, () => new Promise(() => {}));
    await ledger.flush();`;
  const { code, took } = await program(source, server.url);
  assert.equal(code, 0);
  assert.ok(took < 4, `${took} s`);
});

test("a program's end tells the number of refusals that no line has named", async () => {
  const server = await new Server(taken).start();
  const refuse = `for (let at = 0; at < 3; at += 1) ledger.report("run.failed", null, 1n);`;
  for (const end of ["", "process.exit();"]) {
    const { output } = await program(`${refuse}\n${end}`, server.url);
    const [first, ...others] = output.trim().split("\n");
    assert.match(first ?? "", /^The ledger has refused run.failed: not_sendable: /);
    assert.equal(others.length, 1);
    assert.match(others[0] ?? "", /^2 more facts were refused since \d\d:\d\d:\d\d: not_sendable$/);
  }
});
