// The signatures of webhook deliveries, as in Standard Webhooks.

import { NotVerified } from "./errors.js";
import type { Event } from "./types.js";

/**
 * How far the clocks of sender and receiver may differ, including the time of delivery. In seconds.
 */
const TOLERANCE = 300;

/** Headers as `fetch`, Node or Express give them. */
export type GivenHeaders = Headers | Record<string, string | readonly string[] | undefined>;

/**
 * The event of a delivery with a valid signature. Throws NotVerified.
 *
 * `body` is the body as it arrived, to the byte. `secret` is the endpoint's `whsec_…`, or a list of
 * several during a rotation. A delivery may come twice: its id is the header `webhook-id`, and the
 * event's own `id`. `now` is by default the present time.
 */
export async function verify(
  body: string | Uint8Array | ArrayBuffer,
  headers: GivenHeaders,
  secret: string | readonly string[],
  { tolerance = TOLERANCE, now = new Date() }: { tolerance?: number; now?: Date } = {},
): Promise<Event> {
  const octets = typeof body === "string" ? new TextEncoder().encode(body) : new Uint8Array(body);
  const [id, time, signatures] = ["id", "timestamp", "signature"].map((name) => {
    return headerOf(headers, `webhook-${name}`);
  });
  if (!id || !signatures || !/^\d+$/.test(time ?? "")) {
    throw new NotVerified("The headers of a signed delivery are missing.");
  }
  if (!(Math.abs(now.getTime() / 1000 - Number(time)) <= tolerance)) {
    throw new NotVerified("The delivery was signed too long ago, or in the future.");
  }
  const head = new TextEncoder().encode(`${id}.${time}.`);
  const signed = new Uint8Array(head.length + octets.length);
  signed.set(head);
  signed.set(octets, head.length);
  if (!(await isSigned(signed, signatures, typeof secret === "string" ? [secret] : secret))) {
    throw new NotVerified("No signature is by this secret.");
  }
  return eventOf(octets);
}

/** Return true if a secret made the signature. `crypto.subtle.verify` takes constant time. */
async function isSigned(signed: BufferSource, told: string, secrets: readonly string[]) {
  const hmac = { name: "HMAC", hash: "SHA-256" };
  for (const secret of secrets) {
    const octets = decoded(secret.replace(/^whsec_/, ""));
    if (!octets?.length) throw new NotVerified("A secret is whsec_ and base64.");
    const key = await crypto.subtle.importKey("raw", octets, hmac, false, ["verify"]);
    for (const each of told.split(" ")) {
      const signature = each.startsWith("v1,") && decoded(each.slice(3));
      if (signature && (await crypto.subtle.verify("HMAC", key, signature, signed))) return true;
    }
  }
  return false;
}

function eventOf(octets: Uint8Array): Event {
  try {
    const told = JSON.parse(new TextDecoder().decode(octets));
    const event = "specversion" in told ? told.data : told; // formats cloudevents and standard
    if (typeof event.id === "string" && typeof event.type === "string") return event;
  } catch {
    // no JSON, or no object
  }
  throw new NotVerified("The body is no event.");
}

function headerOf(headers: GivenHeaders, name: string): string | undefined {
  if (headers instanceof Headers) return headers.get(name) ?? undefined;
  const found = Object.entries(headers).find(([each]) => each.toLowerCase() === name)?.[1];
  return typeof found === "string" ? found : found?.[0];
}

function decoded(base64: string): Uint8Array<ArrayBuffer> | null {
  try {
    return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  } catch {
    return null;
  }
}
