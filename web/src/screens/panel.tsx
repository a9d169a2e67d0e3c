// What the panels of a screen share: a job that one starts and shows, and what to say where it failed.
import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import { over, Problem } from "../api";
import { latest, result, start } from "../jobs";
import type { Job } from "../wire";

/** A job that a panel starts, shows and may start again; what runs or ran before is taken up. */
export function useJob<T>(name: string, kind: string, wanted: (job: Job) => boolean = () => true) {
  const job = useSignal<Job | null>(null);
  const found = useSignal<T | null>(null);
  const fault = useSignal<{ text: string; code: string } | null>(null);
  const wait = async (asked: Promise<Job | null>, strict: boolean) => {
    fault.value = null;
    try {
      const made = await asked;
      if (!made) return;
      job.value = over(made) ? null : made;
      found.value = await result<T>(made);
    } catch (error) {
      // an old result may have expired: then there is none
      if (strict) fault.value = { text: (error as Error).message, code: error instanceof Problem ? error.code : "" };
    } finally {
      job.value = null;
    }
  };
  useEffect(() => {
    found.value = null;
    void wait(latest(kind, name, wanted), false);
  }, [name]);
  const run = (body: Record<string, unknown> = {}) => wait(start(kind, { collection: name, ...body }), true);
  return { job, found, fault, run };
}

export type Kept<T> = ReturnType<typeof useJob<T>>;

export function Fault({ fault, children }: { fault: { text: string } | null; children?: ComponentChildren }) {
  if (!fault) return null;
  return (
    <p class="fault" role="alert">
      {fault.text} {children}
    </p>
  );
}
