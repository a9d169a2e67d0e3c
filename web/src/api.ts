// The one way to the service: JSON in and out, its own sentences as errors.
import { signal } from "@preact/signals";
import type { Job, Page, Session } from "./wire";
import { TERMINAL } from "./wire";

const POLL_FIRST_MS = 120;
const POLL_LAST_MS = 1000;

export const session = signal<Session | null>(null);
export const signedOut = signal(false);

/** An error that the service answered with. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    detail: string,
  ) {
    super(detail);
  }
}

async function problem(answer: Response): Promise<Problem> {
  if (answer.status === 401) signedOut.value = true;
  const body = await answer.json().catch(() => null);
  // what a proxy on the way says is a page of its own, and never a sentence for this one
  const said = typeof body?.detail === "string" ? body.detail : `The service answered ${answer.status} and not why. Try again; if it stays so, ask its operator.`;
  return new Problem(answer.status, body?.code ?? "", said);
}

/** Call the service; raises Problem for its errors and for a service that does not answer. */
export async function request(method: string, path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (method !== "GET" && session.value?.token) headers.set("X-Page-Token", session.value.token);
  let answer: Response;
  try {
    answer = await fetch(path, { ...init, method, headers, credentials: "same-origin" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Problem(0, "unreachable", "The service does not answer. Is it running? The page continues when it is back.");
  }
  if (!answer.ok) throw await problem(answer);
  return answer;
}

export async function get<T>(path: string, signal?: AbortSignal, headers?: HeadersInit): Promise<T> {
  return (await request("GET", path, { signal, headers })).json();
}

export async function send<T>(method: string, path: string, body?: unknown): Promise<T> {
  const init: RequestInit =
    body === undefined ? {} : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  const answer = await request(method, path, init);
  return answer.status === 204 ? (undefined as T) : answer.json();
}

let before: Promise<unknown> = Promise.resolve();

/** Do one thing after the other: what is said, taken back and said again would else come in any order. */
export function inOrder<T>(work: () => Promise<T>): Promise<T> {
  const done = before.then(work);
  before = done.catch(() => undefined);
  return done;
}

/** Send a form, telling how much of it is on its way (0 to 1). */
export function sendBody<T>(path: string, body: Blob | FormData, tell: (share: number) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    // fetch does not say how much of a body has been sent
    const call = new XMLHttpRequest();
    call.open("POST", path);
    if (session.value?.token) call.setRequestHeader("X-Page-Token", session.value.token);
    if (body instanceof Blob) call.setRequestHeader("Content-Type", "application/octet-stream");
    call.upload.onprogress = (event) => tell(event.total ? event.loaded / event.total : 0);
    call.onerror = () => reject(new Problem(0, "unreachable", "The connection broke while the files were being sent."));
    call.onload = () => {
      const answer = new Response(call.response, {
        status: call.status,
        headers: { "Content-Type": call.getResponseHeader("Content-Type") ?? "" },
      });
      if (answer.ok) answer.json().then(resolve, reject);
      else problem(answer).then(reject, reject);
    };
    call.send(body);
  });
}

/** All items of a list, page by page. */
export async function all<T>(path: string, signal?: AbortSignal): Promise<T[]> {
  const items: T[] = [];
  let cursor: string | null = null;
  do {
    const more = cursor ? `&cursor=${encodeURIComponent(cursor)}` : "";
    const page: Page<T> = await get(`${path}${path.includes("?") ? "&" : "?"}limit=1000${more}`, signal);
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor);
  return items;
}

export function over(job: Job): boolean {
  return TERMINAL.has(job.status);
}

export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/** Wait until a job is over, telling each state of it; a broken connection is waited out. */
export async function follow(id: string, tell: (job: Job) => void, signal?: AbortSignal): Promise<Job> {
  let wait = POLL_FIRST_MS;
  for (;;) {
    try {
      const job = await get<Job>(`/v1/jobs/${id}`, signal);
      tell(job);
      if (over(job)) return job;
    } catch (error) {
      if (!(error instanceof Problem) || (error.status !== 0 && error.status !== 429 && error.status !== 503)) throw error;
    }
    await pause(wait, signal);
    wait = Math.min(POLL_LAST_MS, wait * 1.4);
  }
}

export const at = {
  collection: (name: string) => `/v1/collections/${encodeURIComponent(name)}`,
  images: (name: string) => `/v1/collections/${encodeURIComponent(name)}/images`,
  image: (name: string, id: string) => `/v1/collections/${encodeURIComponent(name)}/images/${encodeURIComponent(id)}`,
  thumbnail: (name: string, id: string, hash?: string) =>
    `/v1/collections/${encodeURIComponent(name)}/images/${encodeURIComponent(id)}/thumbnail` +
    (hash ? `?v=${hash.slice(0, 16)}` : ""),
};
