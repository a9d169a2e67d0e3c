// Short messages at the foot of the page, and what can still be taken back.
import { signal } from "@preact/signals";

const STAYS_MS = 5000;
const UNDO_MS = 5000;

interface Toast {
  id: number;
  text: string;
  bad: boolean;
  undo?: () => void;
  link?: { to: string; text: string };
  /** Of messages of one series, only the newest is shown. */
  series?: string;
}

const toasts = signal<Toast[]>([]);
const pending = new Map<number, () => void>();
let last = 0;

function drop(id: number): void {
  toasts.value = toasts.value.filter((toast) => toast.id !== id);
}

function show(text: string, bad: boolean, undo?: () => void, series?: string): number {
  const id = ++last;
  // one trouble of many calls is told once
  const others = toasts.value.filter((toast) => (bad ? toast.text !== text : !series || toast.series !== series));
  toasts.value = [...others.slice(-3), { id, text, bad, undo, series }];
  return id;
}

export function say(text: string): void {
  const id = show(text, false);
  setTimeout(() => drop(id), STAYS_MS);
}

/** Show what went wrong, in the words of whoever noticed. */
export function complain(error: unknown): void {
  if (error instanceof DOMException && error.name === "AbortError") return;
  const id = show(error instanceof Error ? error.message : String(error), true);
  setTimeout(() => drop(id), 2 * STAYS_MS);
}

/** Show what went wrong elsewhere, with the way there. */
export function point(text: string, to: string, where: string): void {
  const id = show(text, true);
  toasts.value = toasts.value.map((toast) => (toast.id === id ? { ...toast, link: { to, text: where } } : toast));
  setTimeout(() => drop(id), 3 * STAYS_MS);
}

/** Say what was done and offer to take it back. */
export function offer(text: string, undo: () => void, series?: string): void {
  const run = () => {
    drop(id);
    undo();
  };
  const id = show(text, false, run, series);
  setTimeout(() => drop(id), UNDO_MS);
}

/** Do something that cannot be taken back only after the time to undo it has gone; leaving the page does it at once. */
export function later(text: string, act: () => void, undo: () => void): void {
  const run = () => {
    clearTimeout(timer);
    if (!pending.delete(id)) return;
    drop(id);
    act();
  };
  const id = show(text, false, () => {
    clearTimeout(timer);
    pending.delete(id);
    drop(id);
    undo();
  });
  pending.set(id, run);
  const timer = setTimeout(run, UNDO_MS);
}

addEventListener("pagehide", () => pending.forEach((run) => run()));

/** Take back the newest of what can be. */
export function undoLast(): void {
  toasts.value.findLast((toast) => toast.undo)?.undo?.();
}

export function Toasts() {
  // what was done last is taken back first
  const newest = toasts.value.findLast((toast) => toast.undo);
  return (
    <div class="toasts" role="status" aria-live="polite">
      {toasts.value.map((toast) => (
        <div key={toast.id} class={toast.bad ? "toast bad" : "toast"}>
          <span>{toast.text}</span>
          {toast.link && (
            <a href={toast.link.to} onClick={() => drop(toast.id)}>
              {toast.link.text}
            </a>
          )}
          {toast.undo && toast === newest && (
            <button data-testid="undo" onClick={toast.undo}>
              Undo <kbd>z</kbd>
            </button>
          )}
          <button class="quiet" aria-label="Dismiss the message" onClick={() => drop(toast.id)}>
            ×
          </button>
        </div>
      ))}
    </div>
  );
}
