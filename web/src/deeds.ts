// What changes images: labels and deletions, each with its undo.
import { at, inOrder, request, send } from "./api";
import { remove } from "./selection";
import { hide, whole, write } from "./table";
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
export function label(name: string, ids: string[], value: string | null): Promise<boolean> {
  const done = value === null ? `Took the label from ${images(ids.length)}.` : `${images(ids.length)} labelled “${value}”.`;
  return labelEach(name, new Map([[value, ids]]), done);
}

/** Give images their labels, and offer to undo all of it at once. */
export async function labelEach(name: string, wanted: Map<string | null, string[]>, done: string, series?: string): Promise<boolean> {
  // what they had is known only once all of the collection is
  const here = await whole(name);
  const before = new Map<string | null, string[]>();
  for (const id of [...wanted.values()].flat()) {
    const row = here.row(id);
    const old = row === undefined ? null : (here.label.at(row) as string | null);
    if (!before.has(old)) before.set(old, []);
    before.get(old)!.push(id);
  }
  const set = (labels: Map<string | null, string[]>) => labels.forEach((ids, value) => write("label", ids, value));
  const store = (labels: Map<string | null, string[]>) =>
    inOrder(async () => {
      for (const [value, ids] of labels) await patch(name, ids, { label: value });
    });
  set(wanted);
  try {
    await store(wanted);
  } catch (error) {
    set(before);
    complain(error);
    return false;
  }
  const undo = () => {
    set(before);
    store(before).catch((error) => {
      set(wanted);
      complain(error);
    });
  };
  offer(done, undo, series);
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
