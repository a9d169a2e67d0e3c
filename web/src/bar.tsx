// What is selected and what can be done with it; the same bar on every screen.
import { useSignal } from "@preact/signals";
import type { RefObject } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { erase, label } from "./deeds";
import { toGrid } from "./grid";
import { LEVELS, useKeys } from "./keyboard";
import { go, here } from "./route";
import { clear, selected, set } from "./selection";
import { changes, table } from "./table";
import { count, csv, download } from "./words";

const MOST_QUERIES = 64;

/** Set while the box for a label is to have the focus as soon as it is there. */
let wanted = false;

/** Select images alone, and have their label typed. */
export function askLabel(ids: string[]): void {
  wanted = true;
  set(ids);
}

/** The labels of the collection, for choosing one that is there; any other may be typed. */
function LabelList() {
  void changes.value;
  const counts = table.value?.label.counts(table.value.hidden) ?? [];
  return (
    <datalist id="labels">
      {counts.slice(0, 200).map(({ value }) => (
        <option key={String(value)} value={String(value)} />
      ))}
    </datalist>
  );
}

/** `marked` tells which image the screen marks: the keys are about it where nothing is selected. */
export function SelectionBar({ name, marked }: { name: string; marked?: () => string }) {
  const ids = selected.value;
  const any = ids.size > 0;
  const input = useRef<HTMLInputElement>(null);
  useLayoutEffect(() => {
    if (!wanted) return;
    wanted = false;
    input.current?.focus();
  });
  const when = () => any;
  useKeys(
    [
      { key: "l", does: marked ? "Label what is selected, or the marked image" : "Label what is selected", when: () => any || Boolean(marked?.()), run: () => (any ? input.current?.focus() : askLabel([marked!()])) },
      { key: "Delete", does: "Delete what is selected", when, run: () => erase(name, [...ids]) },
      { key: "s", does: "Search with what is selected", when, run: () => search(name, ids) },
      { key: "Escape", does: "Let go of the selection", when, run: clear },
    ],
    any ? LEVELS.selection : LEVELS.last,
  );
  return (
    <>
      {any && <Bar name={name} ids={ids} input={input} />}
      <LabelList />
    </>
  );
}

function search(name: string, ids: ReadonlySet<string>): void {
  const images = [...ids].slice(0, MOST_QUERIES).join(",");
  go(`${here(name, "search")}?images=${images}`);
}

function Bar({ name, ids, input }: { name: string; ids: ReadonlySet<string>; input: RefObject<HTMLInputElement | null> }) {
  const text = useSignal("");
  const busy = useSignal(false);

  const apply = async () => {
    const value = text.value.trim();
    if (!value || busy.value) return;
    busy.value = true;
    const done = await label(name, [...ids], value);
    busy.value = false;
    if (!done) return;
    clear();
    toGrid();
  };
  const list = () => {
    const here = table.value;
    const rows = [...ids].map((id) => {
      const row = here?.row(id);
      return row === undefined ? [id] : [id, here!.keys.at(row), here!.label.at(row), here!.hashes.at(row)];
    });
    download(`${name}-selected.csv`, csv([["id", "key", "label", "content_hash"], ...rows]), "text/csv");
  };

  return (
    <div class="bar" role="region" aria-label="Selection">
      <span class="bar-count">
        <b data-testid="selected-count">{count(ids.size)}</b> <span class="wide">selected</span>
      </span>
      <form
        class="bar-label"
        onSubmit={(event) => {
          event.preventDefault();
          void apply();
        }}
      >
        <input
          ref={input}
          data-testid="label-input"
          aria-label="Label"
          placeholder="Label"
          list="labels"
          maxLength={1000}
          autocomplete="off"
          value={text.value}
          onInput={(event) => (text.value = event.currentTarget.value)}
        />
        <button class="primary" data-testid="apply-label" disabled={busy.value}>
          {busy.value ? "Labelling…" : "Label"}
        </button>
      </form>
      <button onClick={() => void label(name, [...ids], null)}>No label</button>
      <button onClick={() => search(name, ids)} title={ids.size > MOST_QUERIES ? `The first ${MOST_QUERIES} of them` : ""}>
        Search
      </button>
      <button onClick={list}>List</button>
      <button class="danger" onClick={() => erase(name, [...ids])}>
        Delete
      </button>
      <button class="quiet" aria-label="Let go of the selection" onClick={clear}>
        ×
      </button>
    </div>
  );
}
