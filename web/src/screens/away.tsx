// What comes of the labels: an adapted collection, a split without leaks, and files to take away.
import { useSignal } from "@preact/signals";
import { at } from "../api";
import { here } from "../route";
import { changes, open as openTable, table } from "../table";
import { complain } from "../toasts";
import { count, known, percent } from "../words";
import type { DuplicatesResult } from "../wire";
import { Fault, useJob } from "./panel";
import { Waiting } from "./waiting";

const FORMATS = [
  ["csv", "CSV", "a table of keys, sizes and labels"],
  ["jsonl", "JSON lines", "the same, a line an image"],
  ["coco", "COCO", "images, categories and classes"],
  ["labelstudio", "Label Studio", "tasks to continue labelling"],
  ["imagefolder", "Image folder", "a zip of the pictures by split and label"],
  ["webdataset", "WebDataset", "a tar of the pictures with what is known of each"],
  ["parquet", "Parquet", "with all vectors"],
  ["npz", "NumPy", "with all vectors"],
  ["safetensors", "safetensors", "with all vectors"],
  ["manifest", "Manifest", "hash, label and split of each file, and what was asked"],
] as const;

interface Quality {
  precision_at_5: number | null;
  map: number | null;
}

export function Adapt({ name }: { name: string }) {
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

export function Share({ name }: { name: string }) {
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

export function TakeAway({ name }: { name: string }) {
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
