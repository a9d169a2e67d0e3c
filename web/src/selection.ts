// What is selected, by id: it survives scrolling, filters and the way from one screen to another.
import { signal } from "@preact/signals";

export const selected = signal<ReadonlySet<string>>(new Set());
export const current = signal<string>("");
let collection = "";

/** Start afresh where another collection is opened. */
export function enter(name: string): void {
  if (collection === name) return;
  collection = name;
  selected.value = new Set();
  current.value = "";
}

export function set(ids: Iterable<string>): void {
  selected.value = new Set(ids);
}

export function add(ids: Iterable<string>): void {
  const next = new Set(selected.value);
  for (const id of ids) next.add(id);
  selected.value = next;
}

export function remove(ids: Iterable<string>): void {
  const next = new Set(selected.value);
  for (const id of ids) next.delete(id);
  selected.value = next;
}

export function toggle(id: string): void {
  if (selected.value.has(id)) remove([id]);
  else add([id]);
}

export function clear(): void {
  if (selected.value.size) selected.value = new Set();
}
