// What runs, what ran, and what went wrong in it.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { all, follow, get, over, pause } from "../api";
import { cancel, retry, running, share, VERBS } from "../jobs";
import { go, here } from "../route";
import { complain } from "../toasts";
import { ago, count, csv, download, duration, images, lines, percent } from "../words";
import type { Item, Job, Page } from "../wire";
import { Missing } from "./missing";

const LOOK_MS = 1000;
const SHOWN_OF_A_CODE = 200;
const SCREEN_OF: Record<string, string> = { cluster: "groups", duplicates: "duplicates", map: "map", search: "search" };

export function Jobs() {
  const found = useSignal<Job[] | null>(null);
  const cursor = useSignal<string | null>(null);
  const searches = useSignal(false);
  useEffect(() => {
    const abort = new AbortController();
    (async () => {
      for (;;) {
        const page = await get<Page<Job>>("/v1/jobs?limit=100", abort.signal);
        const fresh = new Set(page.items.map((job) => job.id));
        const older = (found.value ?? []).filter((job) => !fresh.has(job.id)).slice(0, Math.max(0, (found.value?.length ?? 0) - page.items.length));
        if (!older.length) cursor.value = page.next_cursor;
        found.value = [...page.items, ...older];
        await pause(document.hidden ? 10 * LOOK_MS : LOOK_MS, abort.signal);
      }
    })().catch((error) => !abort.signal.aborted && complain(error));
    return () => abort.abort();
  }, []);
  const more = async () => {
    const page = await get<Page<Job>>(`/v1/jobs?limit=100&cursor=${encodeURIComponent(cursor.value!)}`);
    cursor.value = page.next_cursor;
    found.value = [...(found.value ?? []), ...page.items];
  };
  const jobs = (found.value ?? []).filter((job) => searches.value || job.kind !== "search" || !over(job));
  return (
    <main class="page narrow">
      <div class="row between">
        <h1>Jobs</h1>
        <label class="check">
          <input type="checkbox" checked={searches.value} onChange={(event) => (searches.value = event.currentTarget.checked)} /> searches too
        </label>
      </div>
      {found.value && !jobs.length && (
        <p class="empty">
          Nothing has run yet. <a href="/">Drop some pictures</a>, and their job stands here.
        </p>
      )}
      <ul class="jobs">
        {jobs.map((job) => (
          <Row key={job.id} job={job} />
        ))}
      </ul>
      {cursor.value && <button onClick={() => void more().catch(complain)}>Older ones</button>}
    </main>
  );
}

function Row({ job }: { job: Job }) {
  const part = share(job);
  return (
    <li class="job" data-testid="job" data-id={job.id} data-status={job.status}>
      <a href={`/jobs/${job.id}`}>
        <b>{VERBS[job.kind] ?? job.kind}</b> in <bdi>{job.collection}</bdi>
      </a>
      <span class={`status ${job.status}`}>{job.status}</span>
      <Bar job={job} part={part} />
      <span class="numbers">{summary(job)}</span>
    </li>
  );
}

function Bar({ job, part }: { job: Job; part: number | null }) {
  return over(job) ? <span class="spacer" /> : <progress data-testid="progress" max={1} value={part ?? undefined} aria-label={`Progress of ${job.kind}`} />;
}

export function summary(job: Job): string {
  const { progress } = job;
  const parts: string[] = [];
  if (job.status === "queued" && job.queue_position !== null) parts.push(job.queue_position > 1 ? `number ${count(job.queue_position)} in the queue` : "next in the queue");
  if (progress.total) parts.push(over(job) ? images(progress.done) : `${count(progress.done)} of ${count(progress.total)}`);
  else if (!over(job) && progress.fraction) parts.push(percent(progress.fraction));
  if (progress.reused) parts.push(`${count(progress.reused)} reused`);
  if (progress.failed) parts.push(`${count(progress.failed)} failed`);
  if (!over(job) && progress.images_per_s) parts.push(`${progress.images_per_s.toFixed(0)} images/s`);
  if (!over(job) && progress.eta_s !== null) parts.push(`${duration(progress.eta_s)} left`);
  if (over(job)) parts.push(ago(job.finished_at ?? job.created_at));
  return parts.join(" · ");
}

export function JobScreen({ id }: { id: string }) {
  const job = useSignal<Job | null>(null);
  const failed = useSignal<Item[]>([]);
  const missing = useSignal("");
  useEffect(() => {
    const abort = new AbortController();
    job.value = null;
    failed.value = [];
    let seen = -1;
    const tell = (now: Job) => {
      job.value = now;
      if (now.progress.failed === seen || (!over(now) && now.progress.failed - seen < 50)) return;
      seen = now.progress.failed;
      if (seen) all<Item>(`/v1/jobs/${id}/items?status=failed`, abort.signal).then((items) => (failed.value = items), complain);
    };
    follow(id, tell, abort.signal).catch((error) => !abort.signal.aborted && (missing.value = error.message));
    return () => abort.abort();
  }, [id]);
  const now = running.value.get(id) && !job.value ? running.value.get(id)! : job.value;
  if (missing.value) return <Missing title="Job" text={missing.value} to="/jobs" where="All jobs" />;
  if (!now) return <main class="page" aria-busy="true" />;
  const part = share(now);
  const screen = SCREEN_OF[now.kind];
  const byCode = Map.groupBy(failed.value, (item) => item.error?.code ?? "failed");
  const again = () => retry(now).then((next) => go(`/jobs/${next.id}`), complain);
  const list = () => download(`${now.id}-failed.csv`, csv([["key", "code", "detail"], ...failed.value.map((item) => [item.key, item.error?.code, item.error?.detail])]), "text/csv");
  return (
    <main class="page narrow">
      <h1>
        {VERBS[now.kind] ?? now.kind} in <bdi>{now.collection}</bdi>
      </h1>
      <section class="job-card" data-testid="job" data-id={now.id} data-status={now.status}>
        <div class="row between">
          <span class={`status ${now.status}`}>{now.status}</span>
          <span>{summary(now)}</span>
        </div>
        <progress data-testid="progress" max={1} value={part ?? undefined} aria-label="Progress" />
        {now.error && <p class="fault">{now.error.detail}</p>}
        <div class="row wrap">
          {!over(now) && <button onClick={() => void cancel(now).catch(complain)}>Cancel</button>}
          {over(now) && now.progress.failed > 0 && <button class="primary" onClick={again}>Try the failed ones again</button>}
          {failed.value.length > 0 && <button onClick={list}>List of failures</button>}
          <a class="button" href={screen ? `${here(now.collection, screen, screen === "search" ? "" : now.id)}${screen === "search" ? `?job=${now.id}` : ""}` : here(now.collection)}>
            {screen ? "Look at the result" : "Look at the pictures"}
          </a>
        </div>
      </section>
      <Counts job={now} />
      {[...byCode].map(([code, items]) => (
        <section key={code} class="failures">
          <h2>
            {code.replaceAll("_", " ")} <span class="muted">{count(items.length)}</span>
          </h2>
          <ul>
            {items.slice(0, SHOWN_OF_A_CODE).map((item) => (
              <li key={item.key}>
                <bdi>{item.key}</bdi>
                <span>{item.error?.detail}</span>
              </li>
            ))}
          </ul>
          {items.length > SHOWN_OF_A_CODE && <p class="muted">The list of failures has all {count(items.length)}.</p>}
        </section>
      ))}
      <details>
        <summary>Parameters</summary>
        <dl class="facts">
          {lines(now.params).map(([name, value]) => (
            <>
              <dt>{name}</dt>
              <dd>
                <bdi>{value}</bdi>
              </dd>
            </>
          ))}
        </dl>
      </details>
    </main>
  );
}

function Counts({ job }: { job: Job }) {
  const { embedded, reused, skipped, failed, cancelled, ignored } = job.progress;
  const counts = Object.entries({ embedded, reused, skipped, failed, cancelled, ignored }).filter(([, value]) => value);
  if (!counts.length) return null;
  return (
    <dl class="counts">
      {counts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{count(value)}</dd>
        </div>
      ))}
    </dl>
  );
}
