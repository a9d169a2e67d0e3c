// What to label next: where a label teaches most, where to begin, and what is odd.
import { useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { over } from "../api";
import { thumbnail } from "../drawer";
import { add, selected } from "../selection";
import { changes, table, unlabelled } from "../table";
import { Thumbnail } from "../tile";
import { count, percent } from "../words";
import type { ClassifyResult, ClassifyRow, OutlierRow, Ref, SelectRow } from "../wire";
import { Fault, useJob, type Kept } from "./panel";
import { Waiting } from "./waiting";

const MOST_AVOIDED = 10_000;
const WAYS = [
  ["unsure", "The least sure", "Images that your labels say least about: a label on them teaches most. For this, some images need labels."],
  ["diverse", "A diverse set", "Few images that cover the collection, away from those that have a label: good to begin with."],
  ["typical", "Typical ones", "The middle of each group of similar images: what most of the collection looks like."],
  ["strange", "Outliers", "Images like nothing else here: rare finds, or mistakes."],
] as const;
type Way = (typeof WAYS)[number][0];

export function Pick({ name, taught, open }: { name: string; taught: Kept<ClassifyResult>; open: (id: string) => void }) {
  const outliers = useJob<{ rows: OutlierRow[] }>(name, "outliers", (job) => !over(job));
  const chosen = useJob<{ rows: SelectRow[]; coverage: number }>(name, "select", (job) => !over(job));
  const number = useSignal(40);
  const way = useSignal<Way | null>(null);
  const now = way.value === "unsure" ? taught : way.value === "strange" ? outliers : chosen;
  const choose = (wanted: Way) => {
    way.value = wanted;
    const avoid = labelled();
    const most = table.value?.shown() ?? number.value;
    const n = (of: number) => Math.max(1, Math.min(number.value, of));
    if (wanted === "unsure") return taught.run();
    if (wanted === "strange") return outliers.run({ n: n(most) });
    if (wanted === "typical") return chosen.run({ n: n(most), method: "representative" });
    return chosen.run({ n: n(most - avoid.length), method: "diverse", ...(avoid.length && avoid.length <= MOST_AVOIDED ? { avoid } : {}) });
  };
  const unsure = useMemo(() => leastSure(taught.found.value?.rows ?? [], number.value), [taught.found.value, number.value, changes.value]);
  const rows: Ref[] = now === taught ? unsure : (now.found.value?.rows ?? []);
  const coverage = now === chosen ? chosen.found.value?.coverage : undefined;
  return (
    <section class="panel" aria-labelledby="pick-title">
      <div class="row between wrap">
        <h2 id="pick-title">What to label next</h2>
        <label class="check">
          How many
          <input class="short" type="number" min={1} max={1000} value={number.value} onInput={(event) => (number.value = Math.max(1, Number(event.currentTarget.value) || 1))} />
        </label>
      </div>
      <ul class="ways">
        {WAYS.map(([value, title, about]) => (
          <li key={value}>
            <button aria-pressed={way.value === value} aria-describedby={`way-${value}`} disabled={now.job.value !== null} onClick={() => void choose(value)}>
              {title}
            </button>
            <span id={`way-${value}`} class="muted">
              {about}
            </span>
          </li>
        ))}
      </ul>
      {now.job.value && <Waiting job={now.job.value} />}
      {way.value && <Fault fault={now.fault.value} />}
      {now === taught && now.found.value && !now.job.value && !rows.length && <p class="empty">No image is left without a label.</p>}
      {rows.length > 0 && (
        <div class="row wrap">
          <button onClick={() => add(rows.map((each) => each.id))}>Select these {count(rows.length)}</button>
          <span class="muted">l labels the one that has the focus.</span>
          {coverage !== undefined && <span class="muted">All images are {percent(coverage)} like their nearest one of these.</span>}
        </div>
      )}
      <ul class="strip">
        {rows.map((each, i) => (
          <li key={each.id} data-id={each.id} class={selected.value.has(each.id) ? "chosen" : ""}>
            <button title={each.key} aria-label={`${i + 1}: ${each.key}`} onClick={() => open(each.id)}>
              <Thumbnail src={thumbnail(name, each.id)} alt="" />
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

function labelled(): string[] {
  const from = table.value;
  const ids: string[] = [];
  for (let row = 0; from && row < from.size; row++) if (!from.hidden[row] && from.label.at(row) !== null) ids.push(from.ids.at(row));
  return ids;
}

/** The images without a label for which the suggested one is least probable. */
function leastSure(rows: ClassifyRow[], number: number): ClassifyRow[] {
  return rows
    .filter((each) => unlabelled(each.id))
    .sort((a, b) => a.probability - b.probability)
    .slice(0, number);
}
