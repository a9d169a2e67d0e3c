// Keys: each screen says what its keys do, and `?` shows them all.
import { signal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { undoLast } from "./toasts";

export interface Key {
  key: string;
  does: string;
  run: (event: KeyboardEvent) => void;
}

interface Layer {
  keys: () => Key[];
}

const layers = signal<Layer[]>([]);
export const helping = signal(false);

/** Let keys do something while the component is there; what came last is asked first. */
export function useKeys(keys: Key[]): void {
  const now = useRef(keys);
  now.current = keys;
  // before the screen is painted: what can be seen can be pressed
  useLayoutEffect(() => {
    const layer = { keys: () => now.current };
    layers.value = [...layers.value, layer];
    return () => {
      layers.value = layers.value.filter((each) => each !== layer);
    };
  }, []);
}

const EVERYWHERE: Key[] = [
  { key: "?", does: "All keys", run: () => (helping.value = !helping.value) },
  { key: "z", does: "Undo", run: undoLast },
];

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
  if (typing(event)) {
    if (event.key === "Escape") (event.target as HTMLElement).blur();
    return;
  }
  // Enter and space on a button or a link are the browser's
  if ((event.key === "Enter" || event.key === " ") && (event.target as HTMLElement).closest("button, a, summary")) return;
  const wanted = event.shiftKey && event.key.length > 1 ? `Shift+${event.key}` : event.key;
  for (const layer of [...layers.value.toReversed(), { keys: () => EVERYWHERE }]) {
    const found = layer.keys().find((each) => each.key.split(" ").includes(wanted));
    if (found) {
      event.preventDefault();
      found.run(event);
      return;
    }
  }
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
  const seen = new Set<string>();
  const rows = [...layers.value.toReversed().flatMap((layer) => layer.keys()), ...EVERYWHERE].filter((each) => {
    const fresh = each.does && !seen.has(each.key);
    seen.add(each.key);
    return fresh;
  });
  return (
    <dialog ref={dialog} class="help" aria-labelledby="help-title" onClose={() => (helping.value = false)}>
      <h2 id="help-title">Keys on this screen</h2>
      <dl>
        {rows.map((each) => (
          <div key={each.key}>
            <dt>
              {each.key.split(" ").map((key) => (
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
