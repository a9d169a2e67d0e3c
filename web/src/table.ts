// A collection's images as columns: typed arrays, no object for each image.
import { effect, signal } from "@preact/signals";
import { at, get, request } from "./api";
import type { Image, Page } from "./wire";

const MAGIC = "IKC1";
export const NONE = 0xffffffff;
const COLUMNS = "id,key,content_hash,width,height,metadata.label,metadata.split";
const decoder = new TextDecoder();
const encoder = new TextEncoder();

/** Texts behind one another, each ending where the next begins. */
export class Texts {
  constructor(
    readonly offsets: Uint32Array,
    readonly data: Uint8Array,
  ) {}

  static of(texts: string[]): Texts {
    const parts = texts.map((text) => encoder.encode(text));
    const offsets = new Uint32Array(parts.length + 1);
    parts.forEach((part, row) => (offsets[row + 1] = offsets[row] + part.length));
    const data = new Uint8Array(offsets[parts.length]);
    parts.forEach((part, row) => data.set(part, offsets[row]));
    return new Texts(offsets, data);
  }

  at(row: number): string {
    return decoder.decode(this.data.subarray(this.offsets[row], this.offsets[row + 1]));
  }

  /** Tell whether other texts have the same one in a row. */
  same(row: number, other: Texts): boolean {
    const start = this.offsets[row];
    const there = other.offsets[row];
    const length = this.offsets[row + 1] - start;
    if (row + 1 >= other.offsets.length || other.offsets[row + 1] - there !== length) return false;
    for (let i = 0; i < length; i++) if (this.data[start + i] !== other.data[there + i]) return false;
    return true;
  }

  compare(one: number, other: number): number {
    const { offsets, data } = this;
    let a = offsets[one];
    let b = offsets[other];
    while (a < offsets[one + 1] && b < offsets[other + 1]) {
      const difference = data[a++] - data[b++];
      if (difference) return difference;
    }
    return offsets[one + 1] - offsets[one] - (offsets[other + 1] - offsets[other]);
  }

  /** Mark the rows whose text has `part` in it, letters of either case. */
  having(part: string): Uint8Array {
    const found = new Uint8Array(this.offsets.length - 1);
    const wanted = encoder.encode(part.toLowerCase());
    const { data, offsets } = this;
    const lower = (byte: number) => (byte >= 65 && byte <= 90 ? byte + 32 : byte);
    for (let row = 0; row < found.length; row++) {
      const end = offsets[row + 1] - wanted.length;
      search: for (let start = offsets[row]; start <= end; start++) {
        for (let i = 0; i < wanted.length; i++) if (lower(data[start + i]) !== wanted[i]) continue search;
        found[row] = 1;
        break;
      }
    }
    return found;
  }
}

/** A metadata field: a number for each image that stands for one of few values. */
export class Choice {
  constructor(
    readonly codes: Uint32Array,
    readonly values: unknown[],
  ) {}

  at(row: number): unknown {
    const code = this.codes[row];
    return code === NONE ? null : this.values[code];
  }

  code(value: unknown): number {
    if (value === null) return NONE;
    const code = this.values.indexOf(value);
    return code >= 0 ? code : this.values.push(value) - 1;
  }

  /** How often each value stands, most first. */
  counts(hidden: Uint8Array): { value: unknown; count: number }[] {
    const totals = new Uint32Array(this.values.length);
    for (let row = 0; row < this.codes.length; row++) {
      if (!hidden[row] && this.codes[row] !== NONE) totals[this.codes[row]]++;
    }
    return [...totals]
      .map((count, code) => ({ value: this.values[code], count }))
      .filter((each) => each.count)
      .sort((a, b) => b.count - a.count || String(a.value).localeCompare(String(b.value)));
  }
}

export class Table {
  readonly hidden: Uint8Array;
  #rows: Map<string, number> | null = null;

  constructor(
    readonly name: string,
    readonly etag: string,
    readonly whole: boolean,
    readonly ids: Texts,
    readonly keys: Texts,
    readonly hashes: Texts,
    readonly widths: Float32Array,
    readonly heights: Float32Array,
    readonly label: Choice,
    readonly split: Choice,
  ) {
    this.hidden = new Uint8Array(this.size);
  }

  get size(): number {
    return this.ids.offsets.length - 1;
  }

  row(id: string): number | undefined {
    if (!this.#rows) {
      this.#rows = new Map();
      for (let row = 0; row < this.size; row++) this.#rows.set(this.ids.at(row), row);
    }
    return this.#rows.get(id);
  }

  thumbnail(row: number): string {
    return at.thumbnail(this.name, this.ids.at(row), this.hashes.at(row));
  }

  shown(): number {
    let total = this.size;
    for (const each of this.hidden) total -= each;
    return total;
  }
}

export function ofImages(name: string, images: Image[]): Table {
  const choice = (field: string) => {
    const made = new Choice(new Uint32Array(images.length).fill(NONE), []);
    images.forEach((image, row) => (made.codes[row] = made.code(image.metadata[field] ?? null)));
    return made;
  };
  return new Table(
    name,
    "",
    false,
    Texts.of(images.map((image) => image.id)),
    Texts.of(images.map((image) => image.key)),
    Texts.of(images.map((image) => image.content_hash)),
    Float32Array.from(images, (image) => image.width ?? NaN),
    Float32Array.from(images, (image) => image.height ?? NaN),
    choice("label"),
    choice("split"),
  );
}

interface Head {
  count: number;
  columns: { name: string; type: "text" | "number" | "choice"; bytes: number; values?: unknown[] }[];
}

type Columns = Map<string, Texts | Choice | Float32Array>;

/** Read the binary form of `columns`; the reference describes it. */
function decode(buffer: ArrayBuffer): Columns {
  if (decoder.decode(new Uint8Array(buffer, 0, 4)) !== MAGIC) throw new Error("The service sent columns in a form that this page does not know.");
  const headBytes = new DataView(buffer).getUint32(4, true);
  const head: Head = JSON.parse(decoder.decode(new Uint8Array(buffer, 8, headBytes)));
  const columns: Columns = new Map();
  let start = align(8 + headBytes);
  for (const column of head.columns) {
    if (column.type === "text") {
      const offsets = new Uint32Array(buffer, start, head.count + 1);
      const from = start + offsets.byteLength;
      columns.set(column.name, new Texts(offsets, new Uint8Array(buffer, from, column.bytes - offsets.byteLength)));
    } else if (column.type === "choice") {
      columns.set(column.name, new Choice(new Uint32Array(buffer, start, head.count), column.values ?? []));
    } else {
      columns.set(column.name, new Float32Array(buffer, start, head.count));
    }
    start = align(start + column.bytes);
  }
  return columns;
}

function ofColumns(name: string, etag: string, columns: Columns): Table {
  return new Table(
    name,
    etag,
    true,
    columns.get("id") as Texts,
    columns.get("key") as Texts,
    columns.get("content_hash") as Texts,
    columns.get("width") as Float32Array,
    columns.get("height") as Float32Array,
    columns.get("metadata.label") as Choice,
    columns.get("metadata.split") as Choice,
  );
}

function align(position: number): number {
  return (position + 7) & ~7;
}

// --- the collection that is open

export const table = signal<Table | null>(null);
/** Rises when something in the table changed. */
export const changes = signal(0);
let loading: AbortController | null = null;

/** Bring the collection's images: a first page at once, then all of its columns. */
export async function open(name: string): Promise<void> {
  loading?.abort();
  const mine = (loading = new AbortController());
  const old = table.value?.name === name && table.value.whole ? table.value : null;
  if (!old) {
    table.value = null;
    const first = get<Page<Image>>(`${at.images(name)}?limit=200`, mine.signal).then((page) => {
      // what came whole meanwhile is better
      if (mine.signal.aborted || table.value?.name === name) return;
      table.value = ofImages(name, page.items);
      changes.value++;
    });
    await first;
  }
  const headers: HeadersInit = old ? { "If-None-Match": old.etag } : {};
  const answer = await fetchColumns(name, COLUMNS, headers, mine.signal);
  if (!answer || mine.signal.aborted) return;
  const fresh = ofColumns(name, answer.headers.get("ETag") ?? "", decode(await answer.arrayBuffer()));
  // what waits for its deletion stays out of sight
  for (const id of waiting) {
    const row = fresh.row(id);
    if (row !== undefined) fresh.hidden[row] = 1;
  }
  table.value = fresh;
  changes.value++;
}

/** Wait until all of a collection is there. */
export function whole(name: string): Promise<Table> {
  return new Promise((resolve) => {
    const stop = effect(() => {
      const here = table.value;
      if (here?.name !== name || !here.whole) return;
      resolve(here);
      // an effect cannot end itself while it runs
      queueMicrotask(() => stop());
    });
  });
}

/** Bring columns of numbers of a job's rows, such as x and y of a map, beside the rows of a table that they are for. */
export async function numbers(from: Table, job: string, fields: string[], signal: AbortSignal): Promise<{ rows: Uint32Array; columns: Float32Array[] }> {
  const names = fields.map((field) => `result.${job}.${field}`);
  const answer = await fetchColumns(from.name, ["id", ...names].join(","), {}, signal);
  const found = decode(await answer!.arrayBuffer());
  const ids = found.get("id") as Texts;
  const given = names.map((name) => found.get(name) as Float32Array);
  const places: number[] = [];
  const rows: number[] = [];
  for (let i = 0; i < given[0].length; i++) {
    // an image that came later has no place, and what was deleted since has no row
    if (Number.isNaN(given[0][i])) continue;
    const row = ids.same(i, from.ids) ? i : from.row(ids.at(i));
    if (row === undefined) continue;
    places.push(i);
    rows.push(row);
  }
  return { rows: Uint32Array.from(rows), columns: given.map((column) => Float32Array.from(places, (i) => column[i])) };
}

async function fetchColumns(name: string, names: string, headers: HeadersInit, signal: AbortSignal): Promise<Response | null> {
  const path = `${at.collection(name)}/columns?names=${names}`;
  const answer = await fetch(path, { headers, signal, credentials: "same-origin" }).catch(() => null);
  if (answer?.status === 304) return null;
  // the errors are worded where all are
  return answer?.ok ? answer : request("GET", path, { signal });
}

/** Tell whether an image is there still, as far as the page knows; what is gone has no thumbnail to ask for. */
export function stored(id: string): boolean {
  const here = table.value;
  return !here?.whole || here.row(id) !== undefined;
}

/** Tell whether an image is there and has no label yet. */
export function unlabelled(id: string): boolean {
  const from = table.value;
  const row = from?.row(id);
  return row !== undefined && !from!.hidden[row] && from!.label.at(row) === null;
}

/** Write labels into the open table, so that the page shows them at once. */
export function write(field: "label" | "split", ids: Iterable<string>, value: string | null): void {
  const here = table.value;
  if (!here) return;
  const code = here[field].code(value);
  for (const id of ids) {
    const row = here.row(id);
    if (row !== undefined) here[field].codes[row] = code;
  }
  changes.value++;
}

/** Images whose deletion waits for the time to undo it. */
const waiting = new Set<string>();

export function hide(ids: Iterable<string>, hidden: boolean): void {
  const here = table.value;
  for (const id of ids) {
    if (hidden) waiting.add(id);
    else waiting.delete(id);
    const row = here?.row(id);
    if (row !== undefined) here!.hidden[row] = hidden ? 1 : 0;
  }
  changes.value++;
}

/** The rows that a filter leaves, in an order. */
export function rows(from: Table, label: string | null, part: string, order: string): Uint32Array {
  const having = part ? from.keys.having(part) : null;
  const none = label === "";
  const code = label ? from.label.values.findIndex((value) => String(value) === label) : -1;
  const found = new Uint32Array(from.size);
  let total = 0;
  for (let row = 0; row < from.size; row++) {
    if (from.hidden[row] || (having && !having[row])) continue;
    if (none && from.label.codes[row] !== NONE) continue;
    if (label && from.label.codes[row] !== code) continue;
    found[total++] = row;
  }
  const left = found.subarray(0, total);
  if (order === "key") left.sort((a, b) => from.keys.compare(a, b));
  if (order === "-created") left.reverse();
  return left;
}
