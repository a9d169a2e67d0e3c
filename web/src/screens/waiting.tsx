// A job that the screen waits for: how far it is, and where it stands in the queue.
import { cancel, running, share, VERBS } from "../jobs";
import { complain } from "../toasts";
import type { Job } from "../wire";
import { summary } from "./jobs";

export function Waiting({ job }: { job: Job | null }) {
  if (!job) return <div class="waiting big" aria-busy="true" />;
  const now = running.value.get(job.id) ?? job;
  const part = share(now);
  return (
    <section class="job-card" data-testid="job" data-id={now.id} data-status={now.status}>
      <div class="row between">
        <b>{VERBS[now.kind] ?? now.kind}</b>
        <span class="muted">{summary(now)}</span>
      </div>
      <progress data-testid="progress" max={1} value={part ?? undefined} aria-label={VERBS[now.kind] ?? now.kind} />
      <p class="muted">
        It continues when you leave this page. <button onClick={() => void cancel(now).catch(complain)}>Cancel</button>
      </p>
    </section>
  );
}
