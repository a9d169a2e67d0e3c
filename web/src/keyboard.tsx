// Keys: each screen says what its keys do, and `?` shows these same ones: there is no other list.
import { signal } from "@preact/signals";
import type { RefObject } from "preact";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { undoLast } from "./toasts";

export interface Key {
  key: string;
  does: string;
  run: (event: KeyboardEvent) => void;
  /** Otherwise the key is for what lies below; `?` shows it all the same. */
  when?: () => boolean;
  /** Only while this has the focus, and then before all others. */
  within?: RefObject<HTMLElement | null>;
}

/** Whose keys come first: what lies over the screen, then the selection, then the screen. */
export const LEVELS = { over: 2, selection: 1, screen: 0, last: -1 };

interface Layer {
  keys: Key[];
  level: number;
}

const layers = signal<{ current: Layer }[]>([]);
export const helping = signal(false);

/** Let keys do something while the component is there; of a level, what came last is asked first. */
export function useKeys(keys: Key[], level = LEVELS.screen): void {
  const now = useRef<Layer>({ keys, level });
  now.current = { keys, level };
  // before the screen is painted: what can be seen can be pressed
  useLayoutEffect(() => {
    layers.value = [...layers.value, now];
    return () => {
      layers.value = layers.value.filter((each) => each !== now);
    };
  }, []);
}

const EVERYWHERE: Key[] = [
  { key: "?", does: "All keys", run: () => (helping.value = !helping.value) },
  { key: "z", does: "Undo", run: undoLast },
];

/** All keys of the screen, in the order in which they are asked. */
function asked(): Key[] {
  const ordered = layers.value.map((each) => each.current).reverse().sort((a, b) => b.level - a.level);
  return [...ordered.flatMap((layer) => layer.keys), ...EVERYWHERE];
}

const SLIDES = new Set(["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown"]);

/** Tell whether a key is for what has the focus: all of them for a text, those that move it for a slider. */
function typing(event: KeyboardEvent): boolean {
  const target = event.target as HTMLInputElement;
  if (target.tagName !== "INPUT") return target.isContentEditable || /^(TEXTAREA|SELECT)$/.test(target.tagName);
  if (target.type === "range") return SLIDES.has(event.key);
  return target.type !== "checkbox" && target.type !== "radio";
}

function onKey(event: KeyboardEvent): void {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (helping.value && event.key === "Escape") {
    helping.value = false;
    return;
  }
  const target = event.target as HTMLElement;
  if (typing(event)) {
    if (event.key !== "Escape") return;
    target.blur();
    // what a search box looks for is let go of like all else
    if ((target as HTMLInputElement).type !== "search") return;
  }
  // Enter and space on a button or a link are the browser's
  if ((event.key === "Enter" || event.key === " ") && target.closest("button, a, summary")) return;
  const wanted = event.shiftKey && event.key.length > 1 ? `Shift+${event.key}` : event.key;
  const able = asked().filter((each) => each.key.split(" ").includes(wanted) && (each.when?.() ?? true));
  const found = able.find((each) => each.within?.current?.contains(target)) ?? able.find((each) => !each.within);
  if (!found) return;
  event.preventDefault();
  found.run(event);
}

export function listen(): void {
  document.addEventListener("keydown", onKey);
}

export function Help() {
  const dialog = useRef<HTMLDialogElement>(null);
  const open = helping.value;
  useEffect(() => {
    if (open) dialog.current?.showModal();
  }, [open]);
  if (!open) return null;
  const taken = new Set<string>();
  const rows = asked().flatMap((each) => {
    const free = each.key.split(" ").filter((key) => !taken.has(key));
    if (!each.when && !each.within) for (const key of free) taken.add(key);
    return free.length ? [{ keys: free, does: each.does }] : [];
  });
  return (
    <dialog ref={dialog} class="help" aria-labelledby="help-title" onClose={() => (helping.value = false)}>
      <h2 id="help-title">Keys on this screen</h2>
      <dl>
        {rows.map((each) => (
          <div key={each.keys.join(" ") + each.does}>
            <dt>
              {each.keys.map((key) => (
                <kbd key={key}>{spelled(key)}</kbd>
              ))}
            </dt>
            <dd>{each.does}</dd>
          </div>
        ))}
      </dl>
      <button autofocus onClick={() => (helping.value = false)}>
        Close
      </button>
    </dialog>
  );
}

const NAMES: Record<string, string> = {
  ArrowLeft: "←",
  ArrowRight: "→",
  ArrowUp: "↑",
  ArrowDown: "↓",
  Escape: "Esc",
  PageUp: "Page ↑",
  PageDown: "Page ↓",
  Delete: "Del",
  " ": "space",
};

function spelled(key: string): string {
  const plain = key.replace(/^Shift\+(?=.)/, "");
  return (plain === key ? "" : "⇧ ") + (NAMES[plain] ?? plain);
}
