// Near-duplicates: one group at a time, what to keep and why, decided by keys alone.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { at, get, send } from "../api";
import { SelectionBar } from "../bar";
import { erase } from "../deeds";
import { thumbnail } from "../drawer";
import { HistogramSlider } from "../histogram";
import { latest, result, start } from "../jobs";
import { useKeys } from "../keyboard";
import { go, here } from "../route";
import { add } from "../selection";
import { open as openTable, table } from "../table";
import { Thumbnail } from "../tile";
import { complain } from "../toasts";
import { base, count, csv, download, images } from "../words";
import type { DuplicateGroup, DuplicateMember, DuplicatesResult, Job, Side } from "../wire";
import { Waiting } from "./waiting";

const RAIL = 40;
const PAIRS = 4;
const STARTS_ITSELF = 20_000;
const MAX_ZOOM = 8;

const WORDS: Record<string, string> = {
  identical: "the same file",
  same: "same picture, saved again",
  mirrored: "mirrored",
  edited: "edited",
};

export function Duplicates({ name, id }: { name: string; id: string }) {
  const job = useSignal<Job | null>(null);
  const found = useSignal<DuplicatesResult | null>(null);
  const fault = useSignal("");
  const none = useSignal(false);

  useEffect(() => void openTable(name).catch(complain), [name]);
  useEffect(() => {
    let gone = false;
    found.value = job.value = null;
    fault.value = "";
    none.value = false;
    (async () => {
      let shown = id ? await get<Job>(`/v1/jobs/${id}`) : await latest("duplicates", name);
      if (!shown) {
        const collection = await get<{ image_count: number }>(at.collection(name));
        if (collection.image_count > STARTS_ITSELF || !collection.image_count) {
          if (!gone) none.value = true;
          return;
        }
        shown = await start("duplicates", { collection: name });
      }
      if (gone) return;
      if (!id) go(here(name, "duplicates", shown.id), true);
      job.value = shown;
      const pairs = await result<DuplicatesResult>(shown);
      if (!gone) found.value = pairs;
    })().catch((error) => !gone && (fault.value = error.message));
    return () => void (gone = true);
  }, [name, id]);

  const again = async (threshold?: number) => {
    try {
      const made = await start("duplicates", threshold === undefined ? { collection: name } : { collection: name, threshold });
      go(here(name, "duplicates", made.id));
    } catch (error) {
      complain(error);
    }
  };
  return (
    <main class="page duplicates">
      <div class="row between wrap">
        <h1>{found.value ? heading(found.value) : "Duplicates"}</h1>
        <button onClick={() => void again()}>Look again</button>
      </div>
      {fault.value && <p class="fault">{fault.value}</p>}
      {none.value && (
        <p class="empty big">
          Near-duplicates of a collection are found in one job. <button class="primary" onClick={() => void again()}>Find duplicates</button>
        </p>
      )}
      {!found.value && !none.value && !fault.value && <Waiting job={job.value} />}
      {found.value && <Review key={id} name={name} job={id} result={found.value} again={again} />}
      <SelectionBar name={name} />
    </main>
  );
}

function heading(found: DuplicatesResult): string {
  if (!found.groups.length) return "No duplicates";
  return `${count(found.groups.length)} ${found.groups.length === 1 ? "group" : "groups"} of duplicates`;
}

function Review({ name, job, result: found, again }: { name: string; job: string; result: DuplicatesResult; again: (threshold?: number) => void }) {
  const at_ = useSignal(0);
  const kept = useSignal<ReadonlyMap<number, string>>(new Map());
  const decided = useSignal<ReadonlyMap<number, string>>(new Map());
  const { groups } = found;
  const group = groups[at_.value];
  const keepOf = (each: DuplicateGroup) => kept.value.get(each.group) ?? each.keep.id;
  const restOf = (each: DuplicateGroup) => each.members.filter((member) => member.id !== keepOf(each)).map((member) => member.id);
  const decide = (each: DuplicateGroup, what: string | null) => {
    const next = new Map(decided.value);
    if (what) next.set(each.group, what);
    else next.delete(each.group);
    decided.value = next;
  };
  const move = (by: number) => (at_.value = Math.max(0, Math.min(groups.length - 1, at_.value + by)));
  const onward = () => {
    const open = groups.findIndex((each, i) => i > at_.value && !decided.value.has(each.group));
    const first = groups.findIndex((each) => !decided.value.has(each.group));
    if (open >= 0 || first >= 0) at_.value = open >= 0 ? open : first;
  };
  const remove = () => {
    const here_ = at_.value;
    const each = group;
    decide(each, "deleted");
    erase(name, restOf(each), undefined, () => {
      decide(each, null);
      at_.value = here_;
    });
    onward();
  };
  const verdict = (each: DuplicateGroup, word: "same" | "different") => {
    const keep = keepOf(each);
    decide(each, word);
    send("POST", `${at.collection(name)}/verdicts`, { pairs: restOf(each).map((other) => ({ a: keep, b: other, verdict: word })) }).catch((error) => {
      decide(each, null);
      complain(error);
    });
    onward();
  };
  const identical = groups.flatMap((each) => {
    const twins = each.members.filter((member) => member.reason === "identical" && member.id !== keepOf(each)).map((member) => member.id);
    return decided.value.has(each.group) ? [] : twins;
  });
  const open = groups.filter((each) => !decided.value.has(each.group));
  const removeAll = () => {
    const all = open.flatMap(restOf);
    const before = decided.value;
    decided.value = new Map([...before, ...open.map((each) => [each.group, "deleted"] as const)]);
    erase(name, all, undefined, () => (decided.value = before));
  };
  const removeIdentical = () => {
    const whole = groups.filter((each) => each.members.every((member) => member.reason === "identical" || member.id === keepOf(each)) && !decided.value.has(each.group));
    const before = decided.value;
    decided.value = new Map([...before, ...whole.map((each) => [each.group, "deleted"] as const)]);
    erase(name, identical, undefined, () => (decided.value = before));
    onward();
  };
  const list = () => {
    const rows = groups.flatMap((each) => each.members.map((member) => [each.group, member.id === keepOf(each) ? "keep" : "rest", member.key, member.id, member.reason, member.score, decided.value.get(each.group) ?? ""]));
    download(`${name}-duplicates.csv`, csv([["group", "part", "key", "id", "reason", "score", "decided"], ...rows]), "text/csv");
  };

  useKeys([
    { key: "ArrowLeft", does: "Previous group", run: () => move(-1) },
    { key: "ArrowRight", does: "Next group", run: () => move(1) },
    { key: "d", does: "Delete the rest", run: () => group && remove() },
    { key: "n", does: "They are different: do not ask again", run: () => group && verdict(group, "different") },
    { key: "y", does: "They are the same, keep all", run: () => group && verdict(group, "same") },
  ]);

  return (
    <>
      <Threshold name={name} found={found} again={again} />
      {groups.length === 0 ? (
        <p class="empty big">Among {images(found.images)} there are no near-duplicates at this threshold. Lower it to see more.</p>
      ) : (
        <>
          <div class="row wrap actions">
            <span class="muted">
              {count(found.duplicates)} could go: {Object.entries(found.by_reason).filter(([, number]) => number).map(([reason, number]) => `${count(number)} ${WORDS[reason] ?? reason}`).join(", ")}
            </span>
            <span class="spacer" />
            {identical.length > 0 && <button onClick={removeIdentical}>Delete all {count(identical.length)} of the same file</button>}
            <button onClick={() => add(open.flatMap(restOf))}>Select the rest</button>
            <a class="button" href={`/v1/jobs/${job}/result`} download={`${name}-duplicates.json`}>
              Result
            </a>
            <button onClick={list}>List</button>
            {open.length > 1 && (
              <button class="danger" onClick={removeAll}>
                Delete the rest of {count(open.length)} groups
              </button>
            )}
          </div>
          <Group
            key={group.group}
            name={name}
            group={group}
            place={`${count(at_.value + 1)} of ${count(groups.length)}`}
            decided={decided.value.get(group.group) ?? ""}
            keep={keepOf(group)}
            choose={(id) => (kept.value = new Map(kept.value).set(group.group, id))}
            remove={remove}
            verdict={(word) => verdict(group, word)}
            move={move}
          />
          <Rail name={name} groups={groups} at={at_.value} decided={decided.value} go={(to) => (at_.value = to)} keepOf={keepOf} />
        </>
      )}
    </>
  );
}

function Rail(props: { name: string; groups: DuplicateGroup[]; at: number; decided: ReadonlyMap<number, string>; go: (to: number) => void; keepOf: (each: DuplicateGroup) => string }) {
  const { name, groups, at: now, decided, go: to, keepOf } = props;
  const first = Math.max(0, Math.min(now - RAIL / 2, groups.length - RAIL));
  return (
    <ul class="rail" aria-label="Groups">
      {groups.slice(first, first + RAIL).map((each, i) => (
        <li key={each.group} data-testid="group" data-size={each.size} class={decided.has(each.group) ? "done" : ""}>
          <button aria-current={first + i === now ? "true" : undefined} aria-label={`Group ${each.group}, ${each.size} images${decided.has(each.group) ? `, ${decided.get(each.group)}` : ""}`} onClick={() => to(first + i)}>
            <Thumbnail src={thumbnail(name, keepOf(each))} alt="" />
            <span>{each.size}</span>
          </button>
        </li>
      ))}
    </ul>
  );
}

function Group(props: {
  name: string;
  group: DuplicateGroup;
  place: string;
  decided: string;
  keep: string;
  choose: (id: string) => void;
  remove: () => void;
  verdict: (word: "same" | "different") => void;
  move: (by: number) => void;
}) {
  const { name, group, place, decided, keep, choose, remove, verdict, move } = props;
  const looked = useSignal(Math.max(0, group.members.findIndex((member) => member.id !== keep)));
  const zoom = useSignal<{ by: number; x: number; y: number }>({ by: 1, x: 50, y: 50 });
  const overlay = useSignal(false);
  const members = [...group.members].sort((a, b) => Number(b.id === keep) - Number(a.id === keep) || b.score - a.score);
  const other = members[Math.min(looked.value, members.length - 1)];
  const scale = (factor: number) => (zoom.value = { ...zoom.value, by: Math.max(1, Math.min(MAX_ZOOM, zoom.value.by * factor)) });
  useKeys([
    { key: "ArrowUp ArrowDown", does: "Look at another of the group", run: (event) => (looked.value = (looked.value + (event.key === "ArrowUp" ? members.length - 1 : 1)) % members.length) },
    { key: "k", does: "Keep this one instead", run: () => choose(other.id) },
    { key: "o", does: "Overlay of the difference", run: () => (overlay.value = !overlay.value) },
    { key: "+ =", does: "Zoom all in", run: () => scale(1.5) },
    { key: "-", does: "Zoom all out", run: () => scale(1 / 1.5) },
  ]);
  const point = (event: PointerEvent) => {
    if (zoom.value.by === 1) return;
    const frame = (event.currentTarget as HTMLElement).getBoundingClientRect();
    zoom.value = { ...zoom.value, x: (100 * (event.clientX - frame.left)) / frame.width, y: (100 * (event.clientY - frame.top)) / frame.height };
  };
  const style = { transform: `scale(${zoom.value.by})`, transformOrigin: `${zoom.value.x}% ${zoom.value.y}%` };
  return (
    <section class="review" aria-label={`Group ${place}`}>
      <div class="row between wrap">
        <b role="status">
          {place}
          {decided && <span class="muted"> · {decided}</span>}
        </b>
        <div class="row wrap">
          <button aria-label="Previous group" onClick={() => move(-1)}>
            ←
          </button>
          <button aria-label="Next group" onClick={() => move(1)}>
            →
          </button>
          <button aria-pressed={overlay.value} onClick={() => (overlay.value = !overlay.value)}>
            Difference <kbd>o</kbd>
          </button>
          <button onClick={() => verdict("different")}>
            Different <kbd>n</kbd>
          </button>
          <button onClick={() => verdict("same")}>
            Keep all <kbd>y</kbd>
          </button>
          <button class="primary" data-testid="delete-rest" onClick={remove}>
            Delete the rest <kbd>d</kbd>
          </button>
        </div>
      </div>
      <ul class="members">
        {members.map((member, i) => {
          const mine = member.id === keep;
          return (
            <li key={member.id} class={[mine && "kept", i === looked.value && "looked"].filter(Boolean).join(" ")} data-testid={mine ? "keep" : "rest"} data-key={member.key} onClick={() => (looked.value = i)}>
              <div class="stage" onPointerMove={point} onDblClick={() => (zoom.value = { ...zoom.value, by: zoom.value.by > 1 ? 1 : 3 })}>
                <Thumbnail src={thumbnail(name, member.id)} alt={member.key} style={style} />
                {overlay.value && !mine && <Thumbnail class={member.reason === "mirrored" ? "over mirrored" : "over"} src={thumbnail(name, keep)} alt="" style={member.reason === "mirrored" ? { ...style, transform: `${style.transform} scaleX(-1)` } : style} />}
              </div>
              <div class="about">
                <b title={member.key}>
                  <bdi>{base(member.key)}</bdi>
                </b>
                <span>{size(member)}</span>
                <span class="muted">{mine ? because(group, member) : reason(member)}</span>
                {mine ? <span class="badge">keep</span> : <button onClick={() => choose(member.id)}>Keep this one</button>}
              </div>
            </li>
          );
        })}
      </ul>
    </section>
  );
}

function size({ width, height }: DuplicateMember): string {
  return width && height ? `${width} × ${height}` : "size not known";
}

function because(group: DuplicateGroup, member: DuplicateMember): string {
  return member.id === group.keep.id ? `kept because of ${group.keep.because}` : "your choice";
}

function reason(member: DuplicateMember): string {
  const words = WORDS[member.reason] ?? member.reason;
  const signs = [`score ${member.score.toFixed(3)}`];
  if (member.hash_bits !== null && member.hash_bits !== undefined) signs.push(`${member.hash_bits} bits`);
  return `${words} (${signs.join(", ")})`;
}

function sideId(side: Side): string {
  return typeof side === "string" ? side : side.id;
}

function Threshold({ name, found, again }: { name: string; found: DuplicatesResult; again: (threshold?: number) => void }) {
  const value = useSignal(found.threshold);
  const box = useRef<HTMLDetailsElement>(null);
  const { edges, counts } = found.histogram;
  const pairs = [...found.examples].sort((a, b) => Math.abs(a.score - value.value) - Math.abs(b.score - value.value)).slice(0, PAIRS).sort((a, b) => b.score - a.score);
  if (edges.length < 2) return null;
  return (
    <details ref={box} class="threshold" open>
      <summary>Where is the line? Pairs next to it, most similar first</summary>
      <div class="threshold-inside">
        <div>
          <HistogramSlider edges={edges} counts={counts} value={value.value} name="Threshold" testid="threshold" input={(next) => (value.value = next)} />
          {Math.abs(value.value - found.threshold) > 0.0005 && (
            <button class="primary" onClick={() => again(value.value)}>
              Look again at {value.value.toFixed(3)}
            </button>
          )}
        </div>
        <ul class="pairs">
          {pairs.map((pair) => (
            <li key={`${sideId(pair.a)} ${sideId(pair.b)}`} class={pair.score >= value.value ? "in" : "out"}>
              <Thumbnail src={thumbnail(name, sideId(pair.a))} alt={label(pair.a)} />
              <Thumbnail src={thumbnail(name, sideId(pair.b))} alt={label(pair.b)} />
              <span>
                {pair.score.toFixed(3)} {pair.score >= value.value ? "duplicate" : "different"}
              </span>
            </li>
          ))}
        </ul>
      </div>
    </details>
  );
}

function label(side: Side): string {
  const here_ = table.value;
  const row = here_?.row(sideId(side));
  return typeof side === "string" ? (row === undefined ? "" : here_!.keys.at(row)) : side.key;
}
