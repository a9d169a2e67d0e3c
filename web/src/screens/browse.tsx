// All images of a collection.
import { useComputed, useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { over } from "../api";
import { SelectionBar } from "../bar";
import { Drawer } from "../drawer";
import { Grid, toGrid } from "../grid";
import { BRINGS, ends, running } from "../jobs";
import { useKeys } from "../keyboard";
import { note, query } from "../route";
import { current } from "../selection";
import { changes, NONE, open, rows, table } from "../table";
import { complain, say } from "../toasts";
import { sending, upload } from "../upload";
import { count, images } from "../words";
import { dropTarget, FileButtons } from "./collections";
import { Missing } from "./missing";
import { Waiting } from "./waiting";

/** A collection that grows is brought again each time it has grown by this much. */
const GROWTH = 1.25;

export function Browse({ name }: { name: string }) {
  const label = query.value.get("label");
  const part = query.value.get("key") ?? "";
  const order = query.value.get("order") ?? "created";
  const image = query.value.get("image") ?? "";
  const fault = useSignal("");

  // what a job brought in shows as soon as it ends, and a growing collection while it grows
  useEffect(() => {
    fault.value = "";
    open(name).catch((error) => {
      if (!(error instanceof DOMException)) fault.value = error.message;
    });
  }, [name, ends.value]);

  const growing = [...running.value.values()].find((job) => job.collection === name && BRINGS.has(job.kind) && !over(job));
  const landed = growing ? growing.progress.embedded + growing.progress.reused : 0;
  const brought = useRef(0);
  useEffect(() => {
    if (landed < brought.current) brought.current = 0;
    if (landed <= GROWTH * brought.current) return;
    brought.current = landed;
    open(name).catch(() => undefined);
  }, [name, landed]);

  const here = table.value?.name === name ? table.value : null;
  const shown = useMemo(() => (here ? rows(here, label, part, order) : null), [here, label, part, order, changes.value]);
  const labels = useComputed(() => (changes.value, table.value?.label.counts(table.value.hidden) ?? []));

  const take = async (files: { key: string; file: File }[]) => {
    try {
      if (!(await upload(name, files, false))) say("All of these pictures are in the collection already.");
    } catch (error) {
      complain(error);
    }
  };
  const show = (id: string) => {
    current.value = id || current.value;
    note({ image: id });
  };
  const step = (by: number) => {
    const at = here && shown ? shown.indexOf(here.row(image) ?? -1) : -1;
    if (at < 0) return;
    const next = shown![Math.max(0, Math.min(shown!.length - 1, at + by))];
    show(here!.ids.at(next));
  };
  const showAll = () => note({ key: "", label: null });
  useKeys([
    { key: "/", does: "Find by name (Enter: on to the pictures)", run: () => document.getElementById("find")?.focus() },
    { key: "Escape", does: "Show all images again", when: () => part !== "" || label !== null, run: showAll },
  ]);

  if (fault.value) return <Missing title={name} text={fault.value} to="/" where="All collections" />;
  const total = here?.whole ? here.shown() : null;
  const empty = here && here.size === 0;
  return (
    <main class={image ? "browse with-drawer" : "browse"} {...dropTarget(take)}>
      <h1 class="hidden-text">{name}</h1>
      <div class="tools" role="toolbar" aria-label="Filters">
        <input id="find" type="search" aria-label="Find by name" placeholder="Find by name  /" value={part} onInput={(event) => note({ key: event.currentTarget.value })} onKeyDown={(event) => event.key === "Enter" && toGrid()} />
        <select aria-label="Filter by label" value={label === null ? "*" : `=${label}`} onChange={(event) => filter(event.currentTarget.value)}>
          <option value="*">All labels</option>
          <option value="=">Without a label</option>
          {label && !labels.value.some((each) => String(each.value) === label) && <option value={`=${label}`}>{label}</option>}
          {labels.value.slice(0, 500).map(({ value, count: times }) => (
            <option key={String(value)} value={`=${value}`}>
              {String(value)} ({count(times)})
            </option>
          ))}
        </select>
        <select aria-label="Order" value={order} onChange={(event) => note({ order: event.currentTarget.value === "created" ? "" : event.currentTarget.value })}>
          <option value="created">Oldest first</option>
          <option value="-created">Newest first</option>
          <option value="key">By name</option>
        </select>
        <span class="muted" role="status">
          {total !== null && shown && (shown.length === total ? images(total) : `${count(shown.length)} of ${images(total)}`)}
        </span>
        <span class="spacer" />
        {sending.value && <progress data-testid="progress" max={1} value={sending.value.share ?? undefined} aria-label={sending.value.step} />}
        <FileButtons take={take} more />
      </div>
      {empty && growing ? (
        <div class="page narrow">
          <Waiting job={growing} />
        </div>
      ) : empty && !sending.value ? (
        <p class="empty big">Nothing here yet. Drop pictures, a folder or an archive onto this page, or press “Add pictures”.</p>
      ) : here && shown && !shown.length && !empty ? (
        <p class="empty big">
          No image fits. <button onClick={showAll}>Show all</button>
        </p>
      ) : (
        here && shown && <Grid table={here} rows={shown} open={show} />
      )}
      {image && <Drawer name={name} id={image} open={show} close={() => show("")} step={step} />}
      <SelectionBar name={name} marked={() => (here && shown?.includes(here.row(current.value) ?? NONE) ? current.value : "")} />
    </main>
  );
}

function filter(value: string): void {
  const next = new URLSearchParams(query.value);
  if (value === "*") note({ label: null });
  else if (value !== "=") note({ label: value.slice(1) });
  else {
    // an empty label is a filter of its own: those without one
    next.set("label", "");
    history.replaceState(null, "", `?${next}`);
    query.value = next;
  }
}
