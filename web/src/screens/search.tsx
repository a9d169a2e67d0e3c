// Search by a picture, by several, by a part of one; refined with + and -.
import { useComputed, useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { at, get, Problem, request, sendBody } from "../api";
import { SelectionBar } from "../bar";
import { Crop, type Box } from "../crop";
import { Drawer, thumbnail } from "../drawer";
import { bins, HistogramSlider } from "../histogram";
import { result, start, watch } from "../jobs";
import { useKeys } from "../keyboard";
import { note, query as address } from "../route";
import { add, current, selected, toggle } from "../selection";
import { open as openTable, whole, type Table } from "../table";
import { Thumbnail } from "../tile";
import { complain } from "../toasts";
import { chosen, isPicture, READABLE, type Entry } from "../upload";
import { base, count } from "../words";
import type { Job, Neighbor, SearchResult } from "../wire";
import { dropTarget, FileButtons } from "./collections";

const TOP = [60, 200, 1000];
const REFINE_MS = 250;
const ASKED = 4;
/** What to do about a search that failed, by the service's code for it. */
const ADVICE: Record<string, string> = {
  fetch_refused: "Save the picture and drop it here, or ask the operator of the service to allow this host.",
  fetch_failed: "Check the address, or save the picture and drop it here.",
  timeout: "Try again, or save the picture and drop it here.",
  image_not_found: "Search for another one.",
  unsupported_format: "Choose another file.",
  decode_error: "Choose another file.",
};

export function Search({ name }: { name: string }) {
  const picture = useSignal<File | null>(null);
  const box = useSignal<Box | null>(null);
  const text = useSignal(address.value.get("url") ?? "");
  const fault = useSignal("");
  const answers = useSignal<Neighbor[] | null>(null);
  const ask = useSignal<string[]>([]);
  const busy = useSignal(false);
  const least = useSignal<number | null>(null);
  const drawer = useSignal("");
  const input = useRef<HTMLInputElement>(null);
  const alert = useRef<HTMLParagraphElement>(null);
  const ticket = useRef(0);
  const tries = useSignal(0);
  const place = useRef(0);

  const list = (field: string) => (address.value.get(field) ?? "").split(",").filter(Boolean);
  const plus = list("images");
  const minus = list("minus");
  const url = address.value.get("url") ?? "";
  const job = address.value.get("job") ?? "";
  const top = Number(address.value.get("top") ?? TOP[0]);
  const collapse = address.value.get("collapse") === "1";

  useEffect(() => void openTable(name).catch(complain), [name]);
  useEffect(() => () => void ticket.current++, []);
  // on a phone it stands below the window
  useEffect(() => alert.current?.scrollIntoView({ block: "nearest" }), [fault.value]);

  const options = () => ({ collection: name, top_k: top, ...(collapse ? { collapse_duplicates: true } : {}) });

  const post = async (): Promise<Job> => {
    const file = picture.value ?? (box.value && plus.length === 1 ? await stored(name, plus[0]) : null);
    if (file) {
      const form = new FormData();
      for (const [field, value] of Object.entries(options())) form.set(field, String(value));
      if (box.value) form.set("crop", JSON.stringify(box.value));
      if (picture.value && plus.length) form.set("positives", JSON.stringify(plus.map((image_id) => ({ image_id }))));
      if (picture.value && minus.length) form.set("negatives", JSON.stringify(minus.map((image_id) => ({ image_id }))));
      form.set("image", file);
      const made = await sendBody<Job>("/v1/jobs/search", form, () => undefined);
      void watch(made).catch(complain);
      return made;
    }
    if (minus.length || plus.length + (url ? 1 : 0) > 1) {
      const queries = (ids: string[]) => ids.map((image_id) => ({ image_id }));
      const positives = url ? [{ url }, ...queries(plus)] : queries(plus);
      return start("search", { ...options(), positives, ...(minus.length ? { negatives: queries(minus) } : {}) });
    }
    return start("search", { ...options(), query: url ? { url } : { image_id: plus[0] }, ...(url && box.value ? { crop: box.value } : {}) });
  };

  const fail = (error: unknown) => {
    if (error instanceof DOMException && error.name === "AbortError") return;
    answers.value = null;
    fault.value = `${(error as Error).message} ${error instanceof Problem ? (ADVICE[error.code] ?? "") : ""}`;
  };
  const run = async () => {
    const mine = ++ticket.current;
    busy.value = true;
    fault.value = "";
    try {
      const made = await post();
      const found = await result<SearchResult>(made);
      if (mine !== ticket.current) return;
      answers.value = found.neighbors;
      ask.value = (found.ask ?? []).map((each) => each.id);
      least.value = null;
      note({ job: picture.value || box.value ? made.id : "" });
    } catch (error) {
      if (mine === ticket.current) fail(error);
    } finally {
      if (mine === ticket.current) busy.value = false;
    }
  };

  // the address says what is searched for; a picture of one's own has no address, its job has
  const wanted = `${name} ${plus} ${minus} ${url} ${top} ${collapse}`;
  const opened = useRef(job ? wanted : "");
  const found = !picture.value && !box.value && job !== "" && opened.current === wanted;
  useEffect(() => {
    if (found) {
      get<SearchResult>(`/v1/jobs/${job}/result`).then((kept) => {
        answers.value = kept.neighbors;
        ask.value = (kept.ask ?? []).map((each) => each.id);
      }, fail);
      return undefined;
    }
    if (picture.value || plus.length || url) {
      const timer = setTimeout(run, REFINE_MS);
      return () => clearTimeout(timer);
    }
    return undefined;
  }, [wanted, picture.value, box.value, tries.value]);

  const fresh = (picked: File | null, said: Record<string, string>) => {
    // what is still on its way is an answer to something else
    ticket.current++;
    tries.value++;
    place.current = 0;
    busy.value = false;
    box.value = answers.value = null;
    ask.value = [];
    fault.value = "";
    picture.value = picked;
    note({ url: "", images: "", minus: "", job: "", ...said });
    // the keys are about the answers now
    input.current?.blur();
  };
  const take = (files: Entry[]) => {
    const found = files.find(isPicture);
    text.value = "";
    if (found) fresh(found.file, {});
    else fault.value = `“${base(files[0].key)}” is not a picture. Choose a file that is one: ${READABLE} can be read.`;
  };
  useEffect(() => {
    const paste = (event: ClipboardEvent) => {
      const files = chosen(event.clipboardData?.files ?? []);
      if (!files.length) return;
      event.preventDefault();
      take(files);
    };
    addEventListener("paste", paste);
    return () => removeEventListener("paste", paste);
  }, []);

  const byText = async () => {
    const wanted = text.value.trim();
    if (!wanted) return;
    // one that cannot be fetched is refused with a reason
    if (/^[a-z][a-z0-9+.-]*:\/\//i.test(wanted)) {
      fresh(null, { url: wanted });
      return;
    }
    const here = await whole(name);
    const row = named(here, wanted);
    if (row === undefined) {
      fault.value = `No image of this collection has “${wanted}” in its name. Type a part of a name as Browse shows it, or an address that begins with http:// or https://.`;
      return;
    }
    text.value = "";
    fresh(null, { images: here.ids.at(row) });
  };

  const mark = (id: string, good: boolean) => {
    const mine = good ? plus : minus;
    const without = (ids: string[]) => ids.filter((each) => each !== id);
    const next = mine.includes(id) ? without(mine) : [...mine, id];
    note(good ? { images: next.join(","), minus: without(minus).join(",") } : { minus: next.join(","), images: without(plus).join(",") });
  };

  const scores = useMemo(() => (answers.value?.length ? bins(answers.value.map((each) => each.score)) : null), [answers.value]);
  const cut = least.value ?? scores?.edges[0] ?? -1;
  const shown = useComputed(() => answers.value?.filter((each) => each.score >= (least.value ?? -2)) ?? []);
  const move = (by: number) => {
    const list = shown.value;
    const now = list.findIndex((each) => each.id === current.value);
    // what was marked has left the answers: the next one stands in its place
    place.current = Math.max(0, Math.min(list.length - 1, now < 0 ? place.current : now + by));
    const next = list[place.current];
    if (!next) return;
    current.value = next.id;
    document.getElementById(`answer-${next.id}`)?.focus();
  };
  const across = () => {
    const tops = [...document.querySelectorAll<HTMLElement>(".answers > li")].map((each) => each.offsetTop);
    return Math.max(1, tops.filter((each) => each === tops[0]).length);
  };
  const marked = () => shown.value.find((each) => each.id === current.value)?.id ?? "";
  const any = () => marked() !== "";
  useKeys([
    { key: "/", does: "Search box", run: () => input.current?.focus() },
    { key: "ArrowLeft ArrowRight", does: "Move", run: (event) => move(event.key === "ArrowLeft" ? -1 : 1) },
    { key: "ArrowUp ArrowDown", does: "Move by a row", run: (event) => move(event.key === "ArrowUp" ? -across() : across()) },
    { key: "+ =", does: "More like this", when: any, run: () => mark(marked(), true) },
    { key: "-", does: "Less like this", when: any, run: () => mark(marked(), false) },
    { key: "x", does: "Select or let go", when: any, run: () => toggle(marked()) },
    { key: "a", does: "Select all that is shown", run: () => add(shown.value.map((each) => each.id)) },
    { key: "Enter", does: "Open", when: any, run: () => (drawer.value = marked()) },
    { key: "Escape", does: "Empty the search box", when: () => text.value !== "", run: () => (text.value = "") },
  ]);

  const single = picture.value ?? (plus.length === 1 && !minus.length && !url ? thumbnail(name, plus[0]) : null);
  return (
    <main class={drawer.value ? "search with-drawer" : "search"} {...dropTarget(take)}>
      <h1 class="hidden-text">Search in {name}</h1>
      <section class="side" aria-label="Query">
        <form
          class="row"
          onSubmit={(event) => {
            event.preventDefault();
            void byText();
          }}
        >
          <input ref={input} type="search" data-testid="query" aria-label="Address of a picture, or a name in this collection" placeholder="Address or name  /" value={text.value} onInput={(event) => (text.value = event.currentTarget.value)} />
          <button>Search</button>
        </form>
        <div class="row wrap">
          <FileButtons take={take} one />
          <span class="muted">or drop or paste one</span>
        </div>
        {single && <Crop key={typeof single === "string" ? single : single.name + single.size} picture={single} box={box.value} change={(next) => (box.value = next)} />}
        {found && <p class="muted">Found by a picture, or by a part of one, that is not kept here; choose it again to refine with it.</p>}
        {url && url !== text.value && <p class="muted query-url"><bdi>{url}</bdi></p>}
        <Marks name={name} ids={single && !picture.value ? [] : plus} sign="+" drop={(id) => mark(id, true)} />
        <Marks name={name} ids={minus} sign="−" drop={(id) => mark(id, false)} />
        <Asked name={name} ids={ask.value.filter((id) => !plus.includes(id) && !minus.includes(id)).slice(0, ASKED)} mark={mark} />
        {scores && <HistogramSlider edges={scores.edges} counts={scores.counts} value={cut} name="Least score" testid="score-slider" input={(value) => (least.value = value)} />}
        <div class="row wrap">
          <select aria-label="How many answers" value={top} onChange={(event) => note({ top: event.currentTarget.value })}>
            {TOP.map((value) => (
              <option key={value} value={value}>
                {count(value)} answers
              </option>
            ))}
          </select>
          <label class="check">
            <input type="checkbox" checked={collapse} onChange={(event) => note({ collapse: event.currentTarget.checked ? "1" : "" })} /> collapse duplicates
          </label>
        </div>
        {answers.value && (
          <p class="muted" role="status">
            {shown.value.length < answers.value.length && `${count(shown.value.length)} of `}
            {count(answers.value.length)} {answers.value.length === 1 ? "answer" : "answers"}. Mark some with + and − to refine.
          </p>
        )}
        {shown.value.length > 0 && <button onClick={() => add(shown.value.map((each) => each.id))}>Select these {count(shown.value.length)}</button>}
      </section>
      <section class="found" aria-label="Answers" aria-busy={busy.value}>
        {fault.value && (
          <p ref={alert} class="fault" role="alert">
            {fault.value}
          </p>
        )}
        {!answers.value && busy.value && (
          <p class="waiting big" role="status">
            Searching…
          </p>
        )}
        {!answers.value && !busy.value && !fault.value && <p class="empty big">Drop or paste a picture, type a name of one, or select some in Browse and press s.</p>}
        {answers.value && !answers.value.length && <p class="empty big">Nothing is like it here.</p>}
        <ul class="answers">
          {shown.value.map((each) => (
            <Answer key={each.id} name={name} answer={each} sign={plus.includes(each.id) ? 1 : minus.includes(each.id) ? -1 : 0} mark={mark} open={(id) => (drawer.value = id)} />
          ))}
        </ul>
      </section>
      {drawer.value && <Drawer name={name} id={drawer.value} open={(id) => (drawer.value = id)} close={() => (drawer.value = "")} />}
      <SelectionBar name={name} marked={marked} />
    </main>
  );
}

/** The row of the image that a text names: by its id, its key, or a part of that. */
function named(from: Table, text: string): number | undefined {
  const having = from.keys.having(text);
  let found: number | undefined;
  for (let row = having.indexOf(1); row >= 0; row = having.indexOf(1, row + 1)) {
    if (from.hidden[row]) continue;
    found ??= row;
    if ([from.keys.at(row), base(from.keys.at(row))].includes(text)) return row;
  }
  return found ?? from.row(text);
}

/** The service keeps vectors and thumbnails of its images: a part is looked at in the thumbnail. */
async function stored(name: string, id: string): Promise<File> {
  const answer = await request("GET", at.thumbnail(name, id));
  return new File([await answer.blob()], "part.jpg", { type: "image/jpeg" });
}

function Marks({ name, ids, sign, drop }: { name: string; ids: string[]; sign: string; drop: (id: string) => void }) {
  if (!ids.length) return null;
  const title = sign === "+" ? "More like these" : "Less like these";
  return (
    <section aria-label={title}>
      <h2>{title}</h2>
      <ul class="marks">
        {ids.map((id) => (
          <li key={id}>
            <button aria-label={`Take back ${sign} for this one`} title="Take it back" onClick={() => drop(id)}>
              <Thumbnail src={thumbnail(name, id)} alt="" />
              <span class={sign === "+" ? "sign good" : "sign bad"}>{sign}</span>
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

/** Images whose verdict would teach the search most. */
function Asked({ name, ids, mark }: { name: string; ids: string[]; mark: (id: string, good: boolean) => void }) {
  if (!ids.length) return null;
  return (
    <section aria-label="Unsure about these">
      <h2>Unsure about these</h2>
      <ul class="marks asked">
        {ids.map((id) => (
          <li key={id}>
            <Thumbnail src={thumbnail(name, id)} alt="" />
            <span class="verdict">
              <button aria-label="Yes, more like this one" onClick={() => mark(id, true)}>
                +
              </button>
              <button aria-label="No, less like this one" onClick={() => mark(id, false)}>
                −
              </button>
            </span>
          </li>
        ))}
      </ul>
    </section>
  );
}

function Answer(props: { name: string; answer: Neighbor; sign: number; mark: (id: string, good: boolean) => void; open: (id: string) => void }) {
  const { name, answer, sign, mark, open } = props;
  const { id, key } = answer;
  const chosen = selected.value.has(id);
  const twins = answer.duplicates ?? [];
  return (
    <li data-testid="answer" data-key={key} data-id={id} data-score={answer.score} class={["answer", sign > 0 && "plus", sign < 0 && "minus", chosen && "chosen"].filter(Boolean).join(" ")}>
      <button id={`answer-${id}`} class="picture" aria-label={`${key}, score ${answer.score.toFixed(3)}`} title={key} onFocus={() => (current.value = id)} onClick={() => open(id)}>
        <Thumbnail src={thumbnail(name, id)} alt="" />
      </button>
      <span class="score">{answer.score.toFixed(3)}</span>
      <span class="caption">{base(key)}</span>
      <span class="verdict">
        <button data-testid="plus" aria-label={`More like ${base(key)}`} aria-pressed={sign > 0} onClick={() => mark(id, true)}>
          +
        </button>
        <button data-testid="minus" aria-label={`Less like ${base(key)}`} aria-pressed={sign < 0} onClick={() => mark(id, false)}>
          −
        </button>
        <button aria-label={`Select ${base(key)}`} aria-pressed={chosen} onClick={() => toggle(id)}>
          ✓
        </button>
      </span>
      {twins.length > 0 && (
        <details class="twins">
          <summary>{twins.length === 1 ? "1 duplicate" : `${count(twins.length)} duplicates`}</summary>
          <ul class="marks">
            {twins.map((each) => (
              <li key={each.id}>
                <button title={each.key} aria-label={`${each.key}, score ${each.score.toFixed(3)}`} onClick={() => open(each.id)}>
                  <Thumbnail src={thumbnail(name, each.id)} alt="" />
                </button>
              </li>
            ))}
          </ul>
        </details>
      )}
    </li>
  );
}
