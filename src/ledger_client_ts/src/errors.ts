// The errors of the client. `LedgerError` is the parent of all.
//
//   LedgerError
//   ├── NotConfigured       no address or no token was given
//   ├── NotReachable        no answer came in time
//   ├── UnexpectedAnswer    something else than a ledger answered; `status`, `contentType`
//   ├── NotVerified         a signature does not hold
//   └── Problem             the service refused; `status`, `code`, `detail`, `errors`
//       ├── BadRequest      400   ├── Conflict       409   ├── RateLimited  429
//       ├── Unauthorized    401   ├── TooLarge       413   ├── Fault        500, 502, 504
//       ├── Forbidden       403   ├── Invalid        422   └── Unavailable  503
//       └── NotFound        404

import type { FieldError } from "./types.js";

/** Anything that goes wrong between the caller and the ledger. */
export class LedgerError extends Error {
  override name = "LedgerError";
}

/** No address or no token was given, and the environment has none either. */
export class NotConfigured extends LedgerError {
  override name = "NotConfigured";
}

/** No answer came within the timeout. A command may have been done nevertheless: send it again. */
export class NotReachable extends LedgerError {
  override name = "NotReachable";
}

/** The answer is not that of a ledger: the address is wrong, or a proxy answered. */
export class UnexpectedAnswer extends LedgerError {
  override name = "UnexpectedAnswer";

  constructor(
    /** The address of the ledger. */
    readonly url: string,
    /** 0 for a redirect in a browser, which does not give the status. */
    readonly status: number,
    /** The media type of the answer, such as `text/html`; null if it has none. */
    readonly contentType: string | null,
  ) {
    const told = [status || "a redirect", contentType].filter(Boolean).join(", ");
    super(`${url} has not answered as a ledger does (${told}): is the address right?`);
  }
}

/** A signature does not hold. */
export class NotVerified extends LedgerError {
  override name = "NotVerified";
}

/** The service refused a request. The subclass stands for the status. */
export class Problem extends LedgerError {
  override name = "Problem";

  constructor(
    /** 0 for a fact that the client itself refused. */
    readonly status: number,
    readonly code: string | null,
    readonly detail: string,
    readonly title: string | null = null,
    readonly type: string | null = null,
    /** The wrong parts of the request, by JSON pointers such as `/data/hours`. */
    readonly errors: readonly FieldError[] = [],
    readonly requestId: string | null = null,
    /** Seconds after which the service asks for another attempt; null if it does not say. */
    readonly retryAfter: number | null = null,
  ) {
    const places = errors.map((place) => ` ${place.pointer || "/"}: ${place.detail}.`).join("");
    const request = requestId ? ` (request ${requestId})` : "";
    super(`${status || ""} ${code ?? "problem"}: ${detail}${places}${request}`.trim());
  }
}

/** 400: the request cannot be read, or a cursor is not one of this list. */
export class BadRequest extends Problem {
  override name = "BadRequest";
}

/** 401: there is no token, or the token is unknown, revoked or expired. */
export class Unauthorized extends Problem {
  override name = "Unauthorized";
}

/** 403: the credential lacks the permission, or the body names another tenant. */
export class Forbidden extends Problem {
  override name = "Forbidden";
}

/** 404: the thing does not exist, or belongs to another tenant. */
export class NotFound extends Problem {
  override name = "NotFound";
}

/** 409: the present state forbids it; `code` names the rule. */
export class Conflict extends Problem {
  override name = "Conflict";
}

/** 413: a fact, a batch or a body is above its limit. */
export class TooLarge extends Problem {
  override name = "TooLarge";
}

/** 422: a field or a parameter is missing, unknown or wrong; `errors` names it. */
export class Invalid extends Problem {
  override name = "Invalid";
}

/** 429: too many requests of the credential are in progress; nothing was recorded. */
export class RateLimited extends Problem {
  override name = "RateLimited";
}

/** 500, 502 or 504: a fault of the service, or of a proxy before it. */
export class Fault extends Problem {
  override name = "Fault";
}

/** 503: the service cannot answer now. A write may have been recorded nevertheless. */
export class Unavailable extends Problem {
  override name = "Unavailable";
}

const BY_STATUS: Record<number, typeof Problem> = {
  400: BadRequest,
  401: Unauthorized,
  403: Forbidden,
  404: NotFound,
  409: Conflict,
  413: TooLarge,
  422: Invalid,
  429: RateLimited,
  500: Fault,
  502: Fault,
  503: Unavailable,
  504: Fault,
};

/** The error for a problem document, or for the error of an item in a batch. */
export function problemOf(status: number, told: unknown, retryAfter?: string | null): Problem {
  const given = (told && typeof told === "object" ? told : {}) as Record<string, unknown>;
  const text = (name: string) => (typeof given[name] === "string" ? given[name] : null);
  return new (BY_STATUS[status] ?? Problem)(
    status,
    text("code"),
    text("detail") ?? "The answer has no problem document of the ledger.",
    text("title"),
    text("type"),
    Array.isArray(given.errors) ? given.errors : [],
    text("request_id"),
    retryAfter && /^\d+$/.test(retryAfter) ? Number(retryAfter) : null,
  );
}

/** The reason why a `fetch` failed, in words. Node has it in the error's `cause`. */
export function causeOf(failure: unknown): string {
  const { cause } = failure as Error;
  const error = cause instanceof Error ? cause : failure;
  return error instanceof Error ? error.message || error.name : String(error);
}
