// Teach a few labels, look at what the service makes of them, take the set away.
import { useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { askLabel, SelectionBar } from "../bar";
import { labelEach } from "../deeds";
import { Drawer, thumbnail } from "../drawer";
import { useKeys } from "../keyboard";
import { here } from "../route";
import { current, selected, toggle } from "../selection";
import { changes, open as openTable, table, unlabelled } from "../table";
import { Thumbnail } from "../tile";
import { complain, offer } from "../toasts";
import { base, count, images, known, percent } from "../words";
import type { ClassifyResult, ClassifyRow } from "../wire";
import { Adapt, Share, TakeAway } from "./away";
import { Fault, type Kept, useJob } from "./panel";
import { Pick } from "./pick";
import { Waiting } from "./waiting";

const SHOWN = 60;
/** Suggestions that were rejected: not shown again while the page is open. */
const rejected = new Set<string>();

export function Train({ name }: { name: string }) {
  const drawer = useSignal("");
  const taught = useJob<ClassifyResult>(name, "classify");
  useEffect(() => void openTable(name).catch(complain), [name]);
  const open = (id: string) => void (drawer.value = id);
  return (
    <main class={drawer.value ? "page train with-drawer" : "page train"}>
      <h1 class="hidden-text">Train on {name}</h1>
      <Labels name={name} />
      <Pick name={name} taught={taught} open={open} />
      <Suggestions name={name} taught={taught} open={open} />
      <Adapt name={name} />
      <Share name={name} />
      <TakeAway name={name} />
      {drawer.value && <Drawer name={name} id={drawer.value} open={open} close={() => (drawer.value = "")} />}
      <SelectionBar name={name} marked={marked} />
    </main>
  );
}

function Labels({ name }: { name: string }) {
  void changes.value;
  const from = table.value;
  if (!from) return <section class="panel" aria-busy="true" />;
  const counts = from.label.counts(from.hidden);
  const labelled = counts.reduce((sum, each) => sum + each.count, 0);
  return (
    <section class="panel" aria-labelledby="labels-title">
      <h2 id="labels-title">Labels so far</h2>
      {counts.length ? (
        <>
          <p class="muted">
            {count(labelled)} of {images(from.shown())} in {count(counts.length)} {counts.length === 1 ? "class" : "classes"}.
          </p>
          <ul class="label-counts">
            {counts.slice(0, 40).map(({ value, count: times }) => (
              <li key={String(value)}>
                <a href={`${here(name)}?label=${encodeURIComponent(String(value))}`}>
                  <bdi>{String(value)}</bdi>
                </a>
                <meter min={0} max={counts[0].count} value={times} aria-label={`${times} images`} />
                <span>{count(times)}</span>
              </li>
            ))}
          </ul>
        </>
      ) : (
        <p class="empty">
          No image has a label yet. Select some in <a href={here(name)}>Browse</a>, press l and name them; five a class are a good start. Or let the service choose below what to label first.
        </p>
      )}
    </section>
  );
}

/** The image that has the focus in one of the panels. */
function marked(): string {
  return document.activeElement?.closest<HTMLElement>("[data-id]")?.dataset.id ?? "";
}

interface Interval {
  value: number;
  low: number;
  high: number;
}

function interval(accuracy: unknown): Interval | null {
  if (typeof accuracy !== "object" || accuracy === null) return null;
  const { value, low, high } = accuracy as Partial<Interval>;
  return value === undefined ? null : { value, low: low ?? value, high: high ?? value };
}

function Suggestions({ name, taught, open }: { name: string; taught: Kept<ClassifyResult>; open: (id: string) => void }) {
  const { job, found, fault, run } = taught;
  const only = useSignal("");
  const done = useSignal(0);
  void changes.value;
  const from = table.value;
  const left = useMemo(() => {
    const wanted = (each: ClassifyRow) => unlabelled(each.id) && !rejected.has(`${each.id} ${each.label}`) && (!only.value || each.label === only.value);
    return (found.value?.rows ?? []).filter(wanted);
  }, [found.value, only.value, changes.value, done.value, from]);
  const shown = left.slice(0, SHOWN);
  // where one was, though what stood there has got its label
  const place = useRef(-1);
  const at = shown.findIndex((each) => each.id === current.value);
  if (at >= 0) place.current = at;
  const now = Math.max(0, Math.min(place.current, shown.length - 1));
  const focus = (index: number) => {
    const next = shown[Math.max(0, Math.min(shown.length - 1, index))];
    if (!next) return;
    current.value = next.id;
    document.getElementById(`suggestion-${next.id}`)?.focus();
  };
  const settle = (each: ClassifyRow, good: boolean) => {
    const place = shown.indexOf(each);
    const next = shown[place + 1] ?? shown[place - 1];
    if (good) void labelEach(name, new Map([[each.label, [each.id]]]), `${base(each.key)} is “${each.label}”.`, "suggestion");
    else {
      const key = `${each.id} ${each.label}`;
      rejected.add(key);
      const back = () => {
        rejected.delete(key);
        done.value++;
      };
      offer(`${base(each.key)} is not “${each.label}”.`, back, "suggestion");
    }
    done.value++;
    if (next) {
      current.value = next.id;
      requestAnimationFrame(() => document.getElementById(`suggestion-${next.id}`)?.focus());
    }
  };
  const all = async () => {
    const batches = Map.groupBy(shown, (each) => each.label);
    const wanted = new Map([...batches].map(([value, some]) => [value, some.map((each) => each.id)]));
    await labelEach(name, wanted, `${images(shown.length)} labelled.`);
  };
  const when = () => shown.length > 0;
  useKeys([
    { key: "ArrowLeft ArrowUp", does: "Previous suggestion", when, run: () => focus(now - 1) },
    { key: "ArrowRight ArrowDown", does: "Next suggestion", when, run: () => focus(at < 0 && place.current >= 0 ? now : now + 1) },
    { key: "y", does: "Accept the suggestion", when, run: () => settle(shown[now], true) },
    { key: "n", does: "Reject the suggestion", when, run: () => settle(shown[now], false) },
    { key: "x", does: "Select or let go", when, run: () => toggle(shown[now].id) },
  ]);
  const sure = interval(found.value?.accuracy);
  return (
    <section class="panel" aria-labelledby="suggestions-title">
      <div class="row between wrap">
        <h2 id="suggestions-title">Suggestions</h2>
        <div class="row wrap">
          {shown.length > 0 && (
            <>
              <select aria-label="Suggestions of" value={only.value} onChange={(event) => (only.value = event.currentTarget.value)}>
                <option value="">All classes</option>
                {found.value!.classes.map((each) => (
                  <option key={each.label} value={each.label}>
                    {each.label}
                  </option>
                ))}
              </select>
              <button onClick={() => void all()}>Accept these {count(shown.length)}</button>
            </>
          )}
          <button class="primary" disabled={job.value !== null} onClick={() => void run()}>
            {found.value ? "Suggest again" : "Suggest labels"}
          </button>
        </div>
      </div>
      {job.value && <Waiting job={job.value} />}
      <Fault fault={fault.value} />
      {!found.value && !job.value && !fault.value && <p class="muted">Two classes with two examples are enough to begin. The surest come first: y accepts, n rejects, l gives another label, an old or a new one.</p>}
      {sure && (
        <p class="accuracy" data-testid="accuracy" data-value={sure.value}>
          <b>{percent(sure.value, 1)}</b> accurate, between {percent(sure.low, 1)} and {percent(sure.high, 1)} <span class="muted">(measured on your own labels, each left out in turn; 95 % interval)</span>
        </p>
      )}
      {found.value && !shown.length && !job.value && <p class="empty">Nothing is left to decide. Suggest again, or label more.</p>}
      <ul class="suggestions">
        {shown.map((each) => (
          <li key={each.id} data-testid="suggestion" data-id={each.id} data-key={each.key} data-label={each.label} class={selected.value.has(each.id) ? "chosen" : ""}>
            <button id={`suggestion-${each.id}`} class="picture" title={each.key} aria-label={`${each.key}: ${each.label}, ${percent(each.probability)}`} onFocus={() => (current.value = each.id)} onClick={() => open(each.id)}>
              <Thumbnail src={thumbnail(name, each.id)} alt="" />
            </button>
            <b>
              <bdi>{each.label}</bdi>
            </b>
            <span class="muted">{percent(each.probability)}</span>
            <span class="row">
              <button data-testid="accept" aria-label={`Accept ${each.label} for ${base(each.key)}`} onClick={() => settle(each, true)}>
                ✓
              </button>
              <button data-testid="reject" aria-label={`Reject ${each.label} for ${base(each.key)}`} onClick={() => settle(each, false)}>
                ×
              </button>
              <button aria-label={`Another label for ${base(each.key)}`} title="Another label, old or new (l)" onClick={() => askLabel([each.id])}>
                …
              </button>
            </span>
          </li>
        ))}
      </ul>
      {found.value && <Classes classes={found.value.classes} />}
    </section>
  );
}

function Classes({ classes }: { classes: ClassifyResult["classes"] }) {
  if (!classes.length) return null;
  return (
    <details>
      <summary>By class</summary>
      <div class="scroll" tabIndex={0} role="region" aria-label="Numbers by class">
        <table>
          <thead>
            <tr>
              <th scope="col">class</th>
              <th scope="col">examples</th>
              <th scope="col">precision</th>
              <th scope="col">recall</th>
            </tr>
          </thead>
          <tbody>
            {classes.map((each) => (
              <tr key={each.label}>
                <th scope="row">
                  <bdi>{each.label}</bdi>
                </th>
                <td>{count(each.examples)}</td>
                <td>{known(each.precision, percent)}</td>
                <td>{known(each.recall, percent)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </details>
  );
}
