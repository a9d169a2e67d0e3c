// Jobs that this page started or found running: followed in the background, shown in the header.
import { signal } from "@preact/signals";
import { follow, get, over, Problem, send } from "./api";
import { complain, point, say } from "./toasts";
import { images } from "./words";
import type { Job, Page } from "./wire";

const STAYS_MS = 2500;

export const running = signal<ReadonlyMap<string, Job>>(new Map());
/** Rises whenever a job ends. */
export const ends = signal(0);
const followed = new Map<string, Promise<Job>>();

export const VERBS: Record<string, string> = {
  embed: "Embedding",
  search: "Searching",
  cluster: "Grouping",
  assign: "Assigning",
  import: "Importing",
  duplicates: "Finding duplicates",
  outliers: "Finding outliers",
  split: "Splitting",
  select: "Selecting",
  map: "Drawing the map",
  classify: "Suggesting labels",
  adapt: "Adapting",
  index: "Indexing",
};

/** Kinds that bring images, while the page may be anywhere. */
export const BRINGS = new Set(["embed", "import"]);

function put(job: Job): void {
  running.value = new Map(running.value).set(job.id, job);
}

/** Follow a job to its end, however often it is asked for. */
export function watch(job: Job): Promise<Job> {
  let ending = followed.get(job.id);
  if (!ending) {
    put(job);
    ending = follow(job.id, put).then((ended) => {
      ends.value++;
      if (BRINGS.has(job.kind) && ended.progress.failed) point(`${images(ended.progress.failed)} could not be read.`, `/jobs/${job.id}`, "See why");
      else if (BRINGS.has(job.kind) && ended.status === "failed") point(ended.error?.detail ?? "The job failed.", `/jobs/${job.id}`, "See more");
      setTimeout(() => {
        const left = new Map(running.value);
        left.delete(job.id);
        running.value = left;
        followed.delete(job.id);
      }, STAYS_MS);
      return ended;
    });
    followed.set(job.id, ending);
  }
  return ending;
}

/** Start a job and follow it; raises Problem where it is refused. */
export async function start(kind: string, body: Record<string, unknown>): Promise<Job> {
  const job = await send<Job>("POST", `/v1/jobs/${kind}`, body);
  void watch(job).catch(complain);
  return job;
}

/** Wait for a job and bring its result; says why there is none. */
export async function result<T>(job: Job): Promise<T> {
  const ended = await watch(job);
  if (ended.status !== "succeeded" && ended.status !== "partial") {
    throw new Problem(0, ended.error?.code ?? ended.status, ended.error?.detail ?? `The job was ${ended.status}.`);
  }
  return get<T>(`/v1/jobs/${job.id}/result`);
}

/** The newest job of a kind that did not fail. */
export async function latest(kind: string, collection: string, wanted: (job: Job) => boolean = () => true): Promise<Job | null> {
  const page = await get<Page<Job>>(`/v1/jobs?kind=${kind}&collection=${encodeURIComponent(collection)}&limit=20`);
  return page.items.find((job) => job.status !== "failed" && job.status !== "cancelled" && wanted(job)) ?? null;
}

/** Take up what was running before the page was opened. */
export async function resume(): Promise<void> {
  for (const status of ["queued", "planning", "running", "finalizing"]) {
    const page = await get<Page<Job>>(`/v1/jobs?status=${status}&limit=20`);
    for (const job of page.items) void watch(job).catch(complain);
  }
}

export async function cancel(job: Job): Promise<void> {
  put(await send<Job>("POST", `/v1/jobs/${job.id}/cancel`));
}

export async function retry(job: Job): Promise<Job> {
  const next = await send<Job>("POST", `/v1/jobs/${job.id}/retry`, { items: "failed" });
  void watch(next).catch(complain);
  say("The failed ones are tried again.");
  return next;
}

/** How far a job is, 0 to 1; null before that is known. */
export function share(job: Job): number | null {
  if (over(job)) return 1;
  const { fraction, total, done } = job.progress;
  if (fraction !== null && fraction !== undefined) return fraction;
  return total ? done / total : null;
}
