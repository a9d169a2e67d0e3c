// What is selected and what can be done with it; the same bar on every screen.
import { useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { erase, label } from "./deeds";
import { useKeys } from "./keyboard";
import { go, here } from "./route";
import { clear, selected } from "./selection";
import { changes, table } from "./table";
import { count, csv, download } from "./words";

const MOST_QUERIES = 64;

/** The labels of the collection, for choosing one that is there. */
export function LabelList() {
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

export function SelectionBar({ name }: { name: string }) {
  const ids = selected.value;
  if (!ids.size) return null;
  return <Bar name={name} ids={ids} />;
}

function Bar({ name, ids }: { name: string; ids: ReadonlySet<string> }) {
  const input = useRef<HTMLInputElement>(null);
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
    (document.querySelector("[role=listbox]") as HTMLElement | null)?.focus();
  };
  const erased = () => erase(name, [...ids]);
  const list = () => {
    const here = table.value;
    const rows = [...ids].map((id) => {
      const row = here?.row(id);
      return row === undefined ? [id] : [id, here!.keys.at(row), here!.label.at(row), here!.hashes.at(row)];
    });
    download(`${name}-selected.csv`, csv([["id", "key", "label", "content_hash"], ...rows]), "text/csv");
  };
  const search = () => {
    const images = [...ids].slice(0, MOST_QUERIES).join(",");
    go(`${here(name, "search")}?images=${images}`);
  };

  useKeys([
    { key: "l", does: "Label what is selected", run: () => input.current?.focus() },
    { key: "Delete", does: "Delete what is selected", run: erased },
    { key: "s", does: "Search with what is selected", run: search },
    { key: "Escape", does: "Let go of the selection", run: clear },
  ]);

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
      <button onClick={search} title={ids.size > MOST_QUERIES ? `The first ${MOST_QUERIES} of them` : ""}>
        Search
      </button>
      <button onClick={list}>List</button>
      <button class="danger" onClick={erased}>
        Delete
      </button>
      <button class="quiet" aria-label="Let go of the selection" onClick={clear}>
        ×
      </button>
      <LabelList />
    </div>
  );
}
