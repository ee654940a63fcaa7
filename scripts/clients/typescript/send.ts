// The function by which orval's client sends a request: address, token, and the answer by its
// content type. Without such a function orval 7 parses every answer as JSON, a text too.

import { address, token } from "./told";

export async function send<T>(url: string, options: RequestInit): Promise<T> {
  const headers = new Headers(options.headers);
  headers.set("authorization", `Bearer ${token}`);
  const answer = await fetch(address + url, { ...options, headers });
  const text = await answer.text();
  const isJson = /[/+]json/.test(answer.headers.get("content-type") ?? "");
  const data: unknown = isJson ? JSON.parse(text) : text;
  return { data, status: answer.status, headers: answer.headers } as T;
}
