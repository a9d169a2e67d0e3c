// Near-duplicates: one group at a time, what to keep and why, decided by keys alone.
import { useSignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { all, at, get, inOrder, send } from "../api";
import { SelectionBar } from "../bar";
import { erase } from "../deeds";
import { thumbnail } from "../drawer";
import { HistogramSlider } from "../histogram";
import { latest, result, start } from "../jobs";
import { useKeys } from "../keyboard";
import { go, here } from "../route";
import { add } from "../selection";
import { open as openTable, stored, table } from "../table";
import { Thumbnail } from "../tile";
import { complain, offer } from "../toasts";
import { base, count, csv, download, images } from "../words";
import type { DuplicateGroup, DuplicateMember, DuplicatesResult, Job, Side, Verdict } from "../wire";
import { Waiting } from "./waiting";

const RAIL = 40;
const PAIRS = 4;
const LOOKS = 60;
const STARTS_ITSELF = 20_000;
const MAX_ZOOM = 8;

const WORDS: Record<string, string> = {
  identical: "the same file",
  same: "saved again or resized",
  mirrored: "mirrored",
  edited: "edited",
  verdict: "the same, as you said",
};
const RULES: Record<string, string> = {
  "more pixels": "it has more pixels",
  lossless: "it is lossless",
  "more bytes": "its file is larger",
  "more metadata": "more is known about it",
  older: "it came first",
  key: "its name comes first",
};
const DECIDED = { deleted: "the rest deleted", same: "all kept", different: "different pictures" };

export function Duplicates({ name, id }: { name: string; id: string }) {
  const job = useSignal<Job | null>(null);
  const found = useSignal<DuplicatesResult | null>(null);
  const verdicts = useSignal<Verdict[]>([]);
  const fault = useSignal("");
  const none = useSignal(false);

  useEffect(() => {
    let gone = false;
    found.value = job.value = null;
    fault.value = "";
    none.value = false;
    (async () => {
      let shown = id ? await get<Job>(`/v1/jobs/${id}`) : await latest("duplicates", name, (job) => !job.params.between && !job.params.against);
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
      const [pairs, said] = await Promise.all([result<DuplicatesResult>(shown), all<Verdict>(`${at.collection(name)}/verdicts`), openTable(name)]);
      if (gone) return;
      verdicts.value = said;
      found.value = pairs;
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
  if (found.value) return <Review key={id} name={name} job={id} result={found.value} said={verdicts.value} again={again} />;
  return (
    <main class="page">
      <h1>Duplicates</h1>
      {fault.value && (
        <p class="fault">
          {fault.value} <button onClick={() => void again()}>Look again</button>
        </p>
      )}
      {none.value && (
        <p class="empty big">
          Near-duplicates are copies, resized, mirrored and edited pictures. Finding them takes one job. <button class="primary" onClick={() => void again()}>Find duplicates</button>
        </p>
      )}
      {!none.value && !fault.value && <Waiting job={job.value} />}
    </main>
  );
}

function heading(groups: DuplicateGroup[]): string {
  if (!groups.length) return "No duplicates";
  return `${count(groups.length)} ${groups.length === 1 ? "group" : "groups"} of duplicates`;
}

/** Which pairs of contents somebody has called the same; such groups are not asked again. */
function known(said: Verdict[]): (a: string, b: string) => boolean {
  const hash = (id: string) => {
    const row = table.value?.row(id);
    return row === undefined ? "" : table.value!.hashes.at(row);
  };
  const pair = (a: string, b: string) => [hash(a), hash(b)].sort().join(" ");
  const same = new Set(said.filter((each) => each.a && each.b && each.verdict === "same").map((each) => pair(each.a!.id, each.b!.id)));
  return (a, b) => same.has(pair(a, b));
}

function Review(props: { name: string; job: string; result: DuplicatesResult; said: Verdict[]; again: (threshold?: number) => void }) {
  const { name, job, result: found, said, again } = props;
  // what was deleted since the job ran is not shown
  const groups = useMemo(
    () => found.groups.map((each) => ({ ...each, members: each.members.filter((member) => stored(member.id)) })).filter((each) => each.members.length > 1),
    [found],
  );
  const agreed = useMemo(() => {
    const same = known(said);
    const settled = groups.filter((each) => each.members.every((member) => member.id === each.keep.id || same(each.keep.id, member.id)));
    return new Map(settled.map((each) => [each.group, DECIDED.same] as const));
  }, [groups]);
  const decided = useSignal<ReadonlyMap<number, string>>(agreed);
  const at_ = useSignal(Math.max(0, groups.findIndex((each) => !agreed.has(each.group))));
  const kept = useSignal<ReadonlyMap<number, string>>(new Map());
  const group = groups[at_.value];
  const keepOf = (each: DuplicateGroup) => kept.value.get(each.group) ?? (each.members.some((member) => member.id === each.keep.id) ? each.keep.id : each.members[0].id);
  const restOf = (each: DuplicateGroup) => each.members.filter((member) => member.id !== keepOf(each)).map((member) => member.id);
  const twins = (each: DuplicateGroup) => each.members.filter((member) => member.reason === "identical" && member.id !== keepOf(each)).map((member) => member.id);
  const decide = (some: DuplicateGroup[], what: string | null) => {
    const next = new Map(decided.value);
    for (const each of some) what ? next.set(each.group, what) : next.delete(each.group);
    decided.value = next;
  };
  const move = (by: number) => (at_.value = Math.max(0, Math.min(groups.length - 1, at_.value + by)));
  const onward = () => {
    const next = groups.findIndex((each, i) => i > at_.value && !decided.value.has(each.group));
    const first = groups.findIndex((each) => !decided.value.has(each.group));
    if (next >= 0 || first >= 0) at_.value = next >= 0 ? next : first;
  };
  const remove = (some: DuplicateGroup[], ids: string[]) => {
    const before = at_.value;
    decide(some, DECIDED.deleted);
    erase(name, ids, undefined, () => {
      decide(some, null);
      at_.value = before;
    });
    onward();
  };
  const verdict = (each: DuplicateGroup, word: "same" | "different") => {
    const before = at_.value;
    decide([each], DECIDED[word]);
    // of images with the same bytes no verdict can be kept
    const lasts = twins(each).length < each.members.length - 1;
    judge(name, restOf(each).map((other) => ({ a: keepOf(each), b: other })), word, lasts, () => {
      decide([each], null);
      at_.value = before;
    });
    onward();
  };
  const open = groups.filter((each) => !decided.value.has(each.group));
  const identical = open.flatMap(twins);
  const removeIdentical = () => remove(open.filter((each) => twins(each).length === each.members.length - 1), identical);
  const list = () => {
    const rows = groups.flatMap((each) => each.members.map((member) => [each.group, member.id === keepOf(each) ? "keep" : "rest", member.key, member.id, member.reason, member.score, decided.value.get(each.group) ?? ""]));
    download(`${name}-duplicates.csv`, csv([["group", "part", "key", "id", "reason", "score", "decided"], ...rows]), "text/csv");
  };

  useKeys([
    { key: "ArrowLeft", does: "Previous group", run: () => move(-1) },
    { key: "ArrowRight", does: "Next group", run: () => move(1) },
    { key: "d", does: "Delete the rest", run: () => group && !decided.value.has(group.group) && remove([group], restOf(group)) },
    { key: "n", does: "They are different: do not ask again", run: () => group && verdict(group, "different") },
    { key: "y", does: "They are the same, keep all: do not ask again", run: () => group && verdict(group, "same") },
  ]);

  return (
    <main class="duplicates">
      <section class="side" aria-label="All groups">
        <h1>{heading(groups)}</h1>
        {groups.length > 0 && (
          <>
            <dl class="reasons">
              {Object.entries(found.by_reason)
                .filter(([, number]) => number)
                .map(([word, number]) => (
                  <div key={word}>
                    <dt>{WORDS[word] ?? word}</dt>
                    <dd>{count(number)}</dd>
                  </div>
                ))}
            </dl>
            <p class="muted" role="status">
              {count(open.length)} of {count(groups.length)} to decide
            </p>
            <div class="row wrap">
              {identical.length > 0 && <button onClick={removeIdentical}>Delete {count(identical.length)} identical {identical.length === 1 ? "file" : "files"}</button>}
              {open.length > 1 && (
                <button class="danger" onClick={() => remove(open, open.flatMap(restOf))}>
                  Delete the rest of all {count(open.length)}
                </button>
              )}
              {open.length > 0 && <button onClick={() => add(open.flatMap(restOf))}>Select the rest of all</button>}
              <button onClick={list} title="A table of all groups, with what you decided">
                List
              </button>
              <a class="button" href={`/v1/jobs/${job}/result`} download={`${name}-duplicates.json`} title="The job's result as JSON">
                JSON
              </a>
            </div>
          </>
        )}
        <Threshold name={name} found={found} again={again} />
        <div>
          <button onClick={() => again()}>Look again</button>
        </div>
      </section>
      <section class="found" aria-label="One group at a time">
        {group ? (
          <>
            <Group
              key={group.group}
              name={name}
              group={group}
              place={`Group ${count(at_.value + 1)} of ${count(groups.length)}`}
              decided={decided.value.get(group.group) ?? ""}
              keep={keepOf(group)}
              choose={(id) => (kept.value = new Map(kept.value).set(group.group, id))}
              remove={() => remove([group], restOf(group))}
              verdict={(word) => verdict(group, word)}
              move={move}
            />
            <Rail name={name} groups={groups} at={at_.value} decided={decided.value} go={(to) => (at_.value = to)} keepOf={keepOf} />
          </>
        ) : (
          <p class="empty big">Among {images(found.images)} there are no near-duplicates at this threshold. Lower it to see more.</p>
        )}
        <Look name={name} found={found} />
      </section>
      <SelectionBar name={name} />
    </main>
  );
}

/** Keep a verdict on pairs, and offer at once to take it back. */
function judge(name: string, pairs: { a: string; b: string }[], word: "same" | "different", lasts: boolean, back: () => void): void {
  const path = `${at.collection(name)}/verdicts`;
  inOrder(() => send("POST", path, { pairs: pairs.map((pair) => ({ ...pair, verdict: word })) })).catch((error) => {
    back();
    complain(error);
  });
  const said = word === "same" ? "The same picture, all are kept." : "Different pictures.";
  offer(lasts ? `${said} It is not asked again.` : `${said} The same bytes are asked about each time.`, () => {
    back();
    inOrder(() => send("DELETE", path, { pairs })).catch(complain);
  });
}

/** Pairs that are close by one sign only: in no group before somebody has looked. */
function Look({ name, found }: { name: string; found: DuplicatesResult }) {
  const done = useSignal<ReadonlySet<string>>(new Set());
  const key = (pair: { a: Side; b: Side }) => `${sideId(pair.a)} ${sideId(pair.b)}`;
  const pairs = found.look.filter((pair) => stored(sideId(pair.a)) && stored(sideId(pair.b)) && !done.value.has(key(pair)));
  if (!pairs.length) return null;
  const say = (pair: { a: Side; b: Side }, word: "same" | "different") => {
    done.value = new Set(done.value).add(key(pair));
    judge(name, [{ a: sideId(pair.a), b: sideId(pair.b) }], word, true, () => (done.value = new Set([...done.value].filter((each) => each !== key(pair)))));
  };
  return (
    <details>
      <summary>
        {count(pairs.length)} {pairs.length === 1 ? "pair is" : "pairs are"} close by one sign only: what are they?
      </summary>
      <ul class="pairs">
        {pairs.slice(0, LOOKS).map((pair) => (
          <li key={key(pair)}>
            <Thumbnail src={thumbnail(name, sideId(pair.a))} alt={label(pair.a)} />
            <Thumbnail src={thumbnail(name, sideId(pair.b))} alt={label(pair.b)} />
            <div class="row">
              <span class="muted">{pair.score.toFixed(3)}</span>
              <button onClick={() => say(pair, "same")}>Same</button>
              <button onClick={() => say(pair, "different")}>Different</button>
            </div>
          </li>
        ))}
      </ul>
    </details>
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
          {decided && <span class="muted">: {decided}</span>}
        </b>
        <div class="row wrap">
          <button aria-label="Previous group" onClick={() => move(-1)}>
            ←
          </button>
          <button aria-label="Next group" onClick={() => move(1)}>
            →
          </button>
          <button aria-pressed={overlay.value} onClick={() => (overlay.value = !overlay.value)}>
            Overlay <kbd>o</kbd>
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
  return member.id === group.keep.id ? `because ${RULES[group.keep.because] ?? group.keep.because}` : "because you chose it";
}

function reason(member: DuplicateMember): string {
  const words = WORDS[member.reason ?? ""] ?? "close to it";
  const signs = [`score ${member.score.toFixed(3)}`];
  if (member.hash_bits !== null && member.hash_bits !== undefined) signs.push(`${member.hash_bits} of 64 hash bits differ`);
  return `${words} (${signs.join(", ")})`;
}

function sideId(side: Side): string {
  return typeof side === "string" ? side : side.id;
}

function Threshold({ name, found, again }: { name: string; found: DuplicatesResult; again: (threshold?: number) => void }) {
  const value = useSignal(found.threshold);
  const { edges, counts } = found.histogram;
  if (edges.length < 2) return null;
  const near = found.examples.filter((pair) => stored(sideId(pair.a)) && stored(sideId(pair.b)));
  const pairs = near.sort((a, b) => Math.abs(a.score - value.value) - Math.abs(b.score - value.value)).slice(0, PAIRS).sort((a, b) => b.score - a.score);
  return (
    <section class="threshold" aria-label="Threshold">
      <h2>Where is the line?</h2>
      <HistogramSlider edges={edges} counts={counts} value={value.value} name="Threshold" testid="threshold" input={(next) => (value.value = next)} />
      {Math.abs(value.value - found.threshold) > 0.0005 && (
        <button class="primary" onClick={() => again(value.value)}>
          Look again at {value.value.toFixed(3)}
        </button>
      )}
      {pairs.length > 0 && (
        <>
          <p class="muted">Pairs next to the line. Below it, only the other signs count.</p>
          <ul class="pairs">
            {pairs.map((pair) => (
              <li key={`${sideId(pair.a)} ${sideId(pair.b)}`} class={pair.score >= value.value ? "in" : "out"}>
                <Thumbnail src={thumbnail(name, sideId(pair.a))} alt={label(pair.a)} />
                <Thumbnail src={thumbnail(name, sideId(pair.b))} alt={label(pair.b)} />
                <span>
                  {pair.score.toFixed(3)} {pair.score >= value.value ? "above" : "below"}
                </span>
              </li>
            ))}
          </ul>
        </>
      )}
    </section>
  );
}

function label(side: Side): string {
  const here_ = table.value;
  const row = here_?.row(sideId(side));
  return typeof side === "string" ? (row === undefined ? "" : here_!.keys.at(row)) : side.key;
}
