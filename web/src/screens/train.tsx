// Teach a few labels, look at what the service makes of them, take the set away.
import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useMemo } from "preact/hooks";
import { at, over, Problem } from "../api";
import { LabelList, SelectionBar } from "../bar";
import { labelEach } from "../deeds";
import { Drawer, thumbnail } from "../drawer";
import { latest, result, start } from "../jobs";
import { useKeys } from "../keyboard";
import { here } from "../route";
import { add, current, selected, toggle } from "../selection";
import { changes, open as openTable, table } from "../table";
import { Thumbnail } from "../tile";
import { complain, offer } from "../toasts";
import { base, count, images, percent } from "../words";
import type { ClassifyResult, ClassifyRow, DuplicatesResult, Job, OutlierRow, SelectRow } from "../wire";
import { Waiting } from "./waiting";

const SHOWN = 60;
const FORMATS = [
  ["csv", "CSV", "a table of keys, sizes and labels"],
  ["jsonl", "JSON lines", "the same, a line an image"],
  ["coco", "COCO", "images, categories and classes"],
  ["labelstudio", "Label Studio", "tasks to continue labelling"],
  ["parquet", "Parquet", "with all vectors"],
  ["npz", "NumPy", "with all vectors"],
  ["safetensors", "safetensors", "with all vectors"],
  ["imagefolder", "Image folder", "a zip of the pictures by split and label"],
  ["webdataset", "WebDataset", "a tar of the pictures with what is known of each"],
] as const;
/** Suggestions that were rejected: not shown again while the page is open. */
const rejected = new Set<string>();

export function Train({ name }: { name: string }) {
  const drawer = useSignal("");
  useEffect(() => void openTable(name).catch(complain), [name]);
  const open = (id: string) => void (drawer.value = id);
  return (
    <main class={drawer.value ? "page train with-drawer" : "page train"}>
      <h1 class="hidden-text">Train on {name}</h1>
      <Labels name={name} />
      <Suggestions name={name} open={open} />
      <Pick name={name} open={open} />
      <Adapt name={name} />
      <Share name={name} />
      <TakeAway name={name} />
      {drawer.value && <Drawer name={name} id={drawer.value} open={open} close={() => (drawer.value = "")} />}
      <SelectionBar name={name} />
      <LabelList />
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

/** A job that a panel starts, shows and may start again; what runs or ran before is taken up. */
function useJob<T>(name: string, kind: string, wanted: (job: Job) => boolean = () => true) {
  const job = useSignal<Job | null>(null);
  const found = useSignal<T | null>(null);
  const fault = useSignal<{ text: string; code: string } | null>(null);
  const wait = async (asked: Promise<Job | null>, strict: boolean) => {
    fault.value = null;
    try {
      const made = await asked;
      if (!made) return;
      job.value = over(made) ? null : made;
      found.value = await result<T>(made);
    } catch (error) {
      // an old result may have expired: then there is none
      if (strict) fault.value = { text: (error as Error).message, code: error instanceof Problem ? error.code : "" };
    } finally {
      job.value = null;
    }
  };
  useEffect(() => {
    found.value = null;
    void wait(latest(kind, name, wanted), false);
  }, [name]);
  const run = (body: Record<string, unknown> = {}) => wait(start(kind, { collection: name, ...body }), true);
  return { job, found, fault, run };
}

function Fault({ fault, children }: { fault: { text: string } | null; children?: ComponentChildren }) {
  if (!fault) return null;
  return (
    <p class="fault" role="alert">
      {fault.text} {children}
    </p>
  );
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

function Suggestions({ name, open }: { name: string; open: (id: string) => void }) {
  const { job, found, fault, run } = useJob<ClassifyResult>(name, "classify");
  const only = useSignal("");
  const done = useSignal(0);
  void changes.value;
  const from = table.value;
  const left = useMemo(() => {
    const open_ = (each: ClassifyRow) => {
      const row = from?.row(each.id);
      return row !== undefined && !from!.hidden[row] && from!.label.at(row) === null && !rejected.has(`${each.id} ${each.label}`);
    };
    return (found.value?.rows ?? []).filter((each) => open_(each) && (!only.value || each.label === only.value));
  }, [found.value, only.value, changes.value, done.value, from]);
  const shown = left.slice(0, SHOWN);
  const now = Math.max(0, shown.findIndex((each) => each.id === current.value));
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
  useKeys(
    shown.length
      ? [
          { key: "ArrowLeft ArrowUp", does: "Previous suggestion", run: () => focus(now - 1) },
          { key: "ArrowRight ArrowDown", does: "Next suggestion", run: () => focus(now + 1) },
          { key: "y", does: "Accept the suggestion", run: () => settle(shown[now], true) },
          { key: "n", does: "Reject the suggestion", run: () => settle(shown[now], false) },
          { key: "x", does: "Select or let go", run: () => toggle(shown[now].id) },
        ]
      : [],
  );
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
      {!found.value && !job.value && !fault.value && <p class="muted">Two classes with two examples are enough to begin. The surest come first: y accepts, n rejects.</p>}
      {sure && (
        <p class="accuracy" data-testid="accuracy" data-value={sure.value}>
          <b>{percent(sure.value, 1)}</b> accurate, between {percent(sure.low, 1)} and {percent(sure.high, 1)} <span class="muted">(measured on your own labels, each left out in turn; 95 % interval)</span>
        </p>
      )}
      {found.value && !shown.length && !job.value && <p class="empty">Nothing is left to decide. Suggest again, or label more.</p>}
      <ul class="suggestions">
        {shown.map((each) => (
          <li key={each.id} data-testid="suggestion" data-key={each.key} data-label={each.label} class={selected.value.has(each.id) ? "chosen" : ""}>
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

/** What to look at next: images unlike all others, or a set that covers the collection. */
function Pick({ name, open }: { name: string; open: (id: string) => void }) {
  const outliers = useJob<{ rows: OutlierRow[] }>(name, "outliers", (job) => !over(job));
  const diverse = useJob<{ rows: SelectRow[]; coverage: number }>(name, "select", (job) => !over(job));
  const number = useSignal(40);
  const labelled = () => {
    const from = table.value;
    const ids: string[] = [];
    for (let row = 0; from && row < from.size; row++) if (!from.hidden[row] && from.label.at(row) !== null) ids.push(from.ids.at(row));
    return ids;
  };
  const choose = async () => {
    const avoid = labelled();
    const total = table.value?.shown() ?? number.value;
    await diverse.run({ n: Math.max(1, Math.min(number.value, total - avoid.length)), method: "diverse", ...(avoid.length && avoid.length <= 10_000 ? { avoid } : {}) });
    outliers.found.value = null;
  };
  const strange = async () => {
    await outliers.run({ n: Math.min(number.value, table.value?.shown() ?? number.value) });
    diverse.found.value = null;
  };
  const rows = diverse.found.value?.rows ?? outliers.found.value?.rows ?? [];
  const coverage = diverse.found.value?.coverage;
  return (
    <section class="panel" aria-labelledby="pick-title">
      <div class="row between wrap">
        <h2 id="pick-title">What to label next</h2>
        <div class="row wrap">
          <label class="check">
            How many
            <input class="short" type="number" min={1} max={1000} value={number.value} onInput={(event) => (number.value = Math.max(1, Number(event.currentTarget.value) || 1))} />
          </label>
          <button disabled={diverse.job.value !== null} onClick={() => void choose()}>
            A diverse set
          </button>
          <button disabled={outliers.job.value !== null} onClick={() => void strange()}>
            Outliers
          </button>
        </div>
      </div>
      {(diverse.job.value ?? outliers.job.value) && <Waiting job={diverse.job.value ?? outliers.job.value} />}
      <Fault fault={diverse.fault.value ?? outliers.fault.value} />
      {!rows.length && <p class="muted">A diverse set covers the collection with few images, away from those that have a label. Outliers are like nothing else here: rare finds, or mistakes.</p>}
      {rows.length > 0 && (
        <div class="row wrap">
          <button onClick={() => add(rows.map((each) => each.id))}>Select these {count(rows.length)}</button>
          {coverage !== undefined && <span class="muted">All images are {percent(coverage)} like their nearest one of these.</span>}
        </div>
      )}
      <ul class="strip wrapping">
        {rows.map((each) => (
          <li key={each.id} class={selected.value.has(each.id) ? "chosen" : ""}>
            <button title={each.key} aria-label={`${each.rank}: ${each.key}`} onClick={() => open(each.id)}>
              <Thumbnail src={thumbnail(name, each.id)} alt="" />
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

interface Quality {
  precision_at_5: number | null;
  map: number | null;
}

function known(value: number | null, words: (value: number) => string): string {
  return value === null ? "not measured" : words(value);
}

function Adapt({ name }: { name: string }) {
  const { job, found, fault, run } = useJob<{ collection: string; before: Quality; after: Quality }>(name, "adapt");
  const into = useSignal(`${name}-adapted`);
  return (
    <section class="panel" aria-labelledby="adapt-title">
      <div class="row between wrap">
        <h2 id="adapt-title">Adapt to your labels</h2>
        <form
          class="row"
          onSubmit={(event) => {
            event.preventDefault();
            void run({ name: into.value });
          }}
        >
          <input aria-label="Name of the adapted collection" required maxLength={128} pattern="[A-Za-z0-9][A-Za-z0-9._\-]*" value={into.value} onInput={(event) => (into.value = event.currentTarget.value)} />
          <button class="primary" data-testid="adapt" disabled={job.value !== null}>
            Adapt
          </button>
        </form>
      </div>
      {job.value && <Waiting job={job.value} />}
      <Fault fault={fault.value}>
        {fault.value?.code === "not_better" && <button onClick={() => void run({ name: into.value, force: true })}>Make it anyway</button>}
      </Fault>
      {found.value ? (
        <>
          <table class="before-after">
            <thead>
              <tr>
                <td />
                <th scope="col">before</th>
                <th scope="col">after</th>
              </tr>
            </thead>
            <tbody>
              <tr>
                <th scope="row">of the 5 nearest are of the class</th>
                <td>{known(found.value.before.precision_at_5, percent)}</td>
                <td>{known(found.value.after.precision_at_5, percent)}</td>
              </tr>
              <tr>
                <th scope="row">mean average precision</th>
                <td>{known(found.value.before.map, (value) => value.toFixed(3))}</td>
                <td>{known(found.value.after.map, (value) => value.toFixed(3))}</td>
              </tr>
            </tbody>
          </table>
          <p>
            <a class="button" href={here(found.value.collection)}>
              Open {found.value.collection}
            </a>
          </p>
        </>
      ) : (
        <p class="muted">Learns what your labels have in common and makes a new collection in which kin by your labels are nearer. Nothing is made where it does not help.</p>
      )}
    </section>
  );
}

function Share({ name }: { name: string }) {
  const split = useJob<Record<string, unknown>>(name, "split");
  const leaks = useJob<DuplicatesResult>(name, "duplicates", (job) => job.params.between === "split");
  const shares = useSignal({ train: 80, val: 10, test: 10 });
  const seed = useSignal(100);
  void changes.value;
  const counts = table.value?.split.counts(table.value.hidden) ?? [];
  const sum = Object.values(shares.value).reduce((a, b) => a + b, 0);
  const run = async () => {
    const labelled = (table.value?.label.counts(table.value.hidden).length ?? 0) > 1;
    const parts = Object.fromEntries(Object.entries(shares.value).filter(([, part]) => part > 0).map(([field, part]) => [field, part / sum]));
    await split.run({ field: "split", shares: parts, seed: seed.value, ...(labelled ? { stratify: "label" } : {}) });
    await openTable(name).catch(complain);
  };
  return (
    <section class="panel" aria-labelledby="split-title">
      <div class="row between wrap">
        <h2 id="split-title">Split</h2>
        <form
          class="row wrap"
          onSubmit={(event) => {
            event.preventDefault();
            void run();
          }}
        >
          {(["train", "val", "test"] as const).map((part) => (
            <label key={part} class="check">
              {part}
              <input class="short" type="number" min={0} max={100} value={shares.value[part]} onInput={(event) => (shares.value = { ...shares.value, [part]: Number(event.currentTarget.value) })} />
            </label>
          ))}
          <label class="check">
            seed
            <input class="short" type="number" min={0} value={seed.value} onInput={(event) => (seed.value = Number(event.currentTarget.value))} />
          </label>
          <button class="primary" disabled={split.job.value !== null || sum <= 0}>
            Split
          </button>
          <button type="button" disabled={!counts.length || leaks.job.value !== null} onClick={() => void leaks.run({ between: "split" })}>
            Check for leaks
          </button>
        </form>
      </div>
      {(split.job.value ?? leaks.job.value) && <Waiting job={split.job.value ?? leaks.job.value} />}
      <Fault fault={split.fault.value ?? leaks.fault.value} />
      {counts.length ? (
        <p>
          {counts.map(({ value, count: times }) => `${String(value)} ${count(times)}`).join(" · ")}
        </p>
      ) : (
        <p class="muted">Near-duplicates stay on one side, and each class is divided by the same shares.</p>
      )}
      {leaks.found.value && (
        <p role="status">
          {leaks.found.value.groups.length ? `${count(leaks.found.value.groups.length)} groups of near-duplicates lie on both sides.` : "No near-duplicate lies on two sides."}
        </p>
      )}
    </section>
  );
}

function TakeAway({ name }: { name: string }) {
  const format = useSignal<string>(FORMATS[0][0]);
  return (
    <section class="panel" aria-labelledby="away-title">
      <h2 id="away-title">Take away</h2>
      <div class="row wrap">
        <select aria-label="Format" value={format.value} onChange={(event) => (format.value = event.currentTarget.value)}>
          {FORMATS.map(([value, title, about]) => (
            <option key={value} value={value}>
              {title}: {about}
            </option>
          ))}
        </select>
        <a class="button primary" data-testid="take-away" download href={`${at.collection(name)}/export?format=${format.value}`}>
          Take away
        </a>
        <a class="button" download href={`${at.collection(name)}/export?format=manifest`}>
          Manifest
        </a>
      </div>
      <p class="muted">
        The manifest has the hash, label and split of every file, and each job with what it was asked. The pictures themselves can be taken away while the service still reads where they came from.
      </p>
    </section>
  );
}
