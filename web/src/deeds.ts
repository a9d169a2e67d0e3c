// What changes images: labels and deletions, each with its undo.
import { at, request, send } from "./api";
import { remove } from "./selection";
import { hide, table, write } from "./table";
import { complain, later, offer } from "./toasts";
import { images } from "./words";

const AT_ONCE = 10_000;

function batches(ids: string[]): string[][] {
  const all: string[][] = [];
  for (let start = 0; start < ids.length; start += AT_ONCE) all.push(ids.slice(start, start + AT_ONCE));
  return all;
}

async function patch(name: string, ids: string[], metadata: Record<string, unknown>): Promise<void> {
  for (const some of batches(ids)) await send("PATCH", at.images(name), { image_ids: some, metadata });
}

/** Give images a label (null takes it away), and offer to undo it. */
export async function label(name: string, ids: string[], value: string | null, quietly = false): Promise<boolean> {
  const before = new Map<string | null, string[]>();
  const here = table.value?.name === name ? table.value : null;
  for (const id of ids) {
    const row = here?.row(id);
    const old = here && row !== undefined ? (here.label.at(row) as string | null) : null;
    if (!before.has(old)) before.set(old, []);
    before.get(old)!.push(id);
  }
  const restore = () => before.forEach((some, old) => write("label", some, old));
  write("label", ids, value);
  try {
    await patch(name, ids, { label: value });
  } catch (error) {
    restore();
    complain(error);
    return false;
  }
  if (!quietly) {
    const done = value === null ? `Took the label from ${images(ids.length)}.` : `${images(ids.length)} labelled “${value}”.`;
    offer(done, () => {
      restore();
      Promise.all([...before].map(([old, some]) => patch(name, some, { label: old }))).catch(complain);
    });
  }
  return true;
}

/** Delete images once the time for undoing it is over. */
export function erase(name: string, ids: string[], after?: () => void, undone?: () => void): void {
  hide(ids, true);
  remove(ids);
  later(
    `${images(ids.length)} deleted.`,
    () => {
      Promise.all(
        batches(ids).map((some) =>
          // goes through though the page is left; a long list is too much for that
          request("DELETE", at.images(name), {
            keepalive: some.length < 1000,
            headers: { "Content-Type": "application/json" },
            body: JSON.stringify({ image_ids: some }),
          }),
        ),
      ).then(after, (error) => {
        hide(ids, false);
        complain(error);
      });
    },
    () => {
      hide(ids, false);
      undone?.();
    },
  );
}
