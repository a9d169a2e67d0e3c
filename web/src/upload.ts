// Files on their way in: hashed, what is known is left out, the rest is one tar that is read as it is sent.
import { signal } from "@preact/signals";
import { at, Problem, send, sendBody } from "./api";
import { start } from "./jobs";
import { say } from "./toasts";
import { count } from "./words";
import type { Job } from "./wire";

const BLOCK = 512;
const ASKED_AT_ONCE = 5000;
const NAME_BYTES = 100;
const ARCHIVE = /\.(zip|tar|tgz|tar\.gz)$/i;
// the names that the service takes for pictures; what a file really is, its content says there
const PICTURE = /\.(avif|bmp|gif|hei[cf]|hif|jfif|jpe|jpe?g|jxl|png|tiff?|webp)$/i;
export const READABLE = "JPEG, PNG, WebP, GIF, TIFF, BMP and AVIF";

export interface Sending {
  collection: string;
  step: string;
  share: number | null;
}

export const sending = signal<Sending | null>(null);

addEventListener("beforeunload", (event) => {
  // a job goes on without the page, but what is not sent yet would be lost
  if (sending.value) event.preventDefault();
});

export interface Entry {
  key: string;
  file: File;
}

/** Tell whether a file may be a picture, by its name or by what the system says of it. */
export function isPicture({ key, file }: Entry): boolean {
  return PICTURE.test(key) || file.type.startsWith("image/");
}

/** Bring files into a collection, which is made if it is new; returns the job, or null where all were known. */
export async function upload(collection: string, files: Entry[], isNew: boolean): Promise<Job | null> {
  const archive = files.length === 1 && ARCHIVE.test(files[0].key);
  const pictures = archive ? files : files.filter(isPicture);
  if (!pictures.length) throw new Error(`None of these files is a picture. ${READABLE}, and archives of them, can be embedded.`);
  const others = files.length - pictures.length;
  if (others) say(`${count(others)} ${others === 1 ? "file that is not a picture is" : "files that are not pictures are"} left out.`);
  const tell = (step: string, share: number | null) => (sending.value = { collection, step, share });
  try {
    tell("Preparing", null);
    if (isNew) await make(collection);
    const fresh = archive ? pictures : await unknown(collection, pictures, (share) => tell("Looking which pictures are new", share));
    if (!fresh.length) return null;
    const body = archive ? fresh[0].file : tar(fresh);
    const stored = await sendBody<{ id: string }>("/v1/uploads", body, (share) => tell(`Sending ${fresh.length} ${fresh.length === 1 ? "file" : "files"}`, share));
    return await start("embed", { collection, source: { type: "upload", upload_id: stored.id } });
  } finally {
    sending.value = null;
  }
}

async function make(collection: string): Promise<void> {
  try {
    await send("POST", "/v1/collections", { name: collection });
  } catch (error) {
    if (!(error instanceof Problem) || error.code !== "collection_exists") throw error;
  }
}

async function unknown(collection: string, files: Entry[], tell: (share: number) => void): Promise<Entry[]> {
  // browsers hash on pages of this machine or over TLS only; elsewhere everything is sent, and the service reuses
  if (!globalThis.crypto?.subtle) return files;
  const left: Entry[] = [];
  for (let start = 0; start < files.length; start += ASKED_AT_ONCE) {
    const some = files.slice(start, start + ASKED_AT_ONCE);
    const contents: { key: string; content_hash: string }[] = [];
    for (const { key, file } of some) {
      contents.push({ key, content_hash: await hash(file) });
      tell((start + contents.length) / files.length);
    }
    const known = await send<{ items: { key: string }[] }>("POST", `${at.images(collection)}/known`, { images: contents });
    const there = new Set(known.items.map((item) => item.key));
    left.push(...some.filter(({ key }) => !there.has(key)));
  }
  return left;
}

async function hash(file: File): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A tar of files that stay on the disk until the browser sends them. */
export function tar(files: Entry[]): Blob {
  const parts: BlobPart[] = [];
  for (const { key, file } of files) {
    const name = new TextEncoder().encode(key);
    if (name.length > NAME_BYTES) {
      // the form that GNU tar writes for long names
      parts.push(header(new TextEncoder().encode("././@LongLink"), name.length + 1, "L"), name, zeros(padding(name.length + 1) + 1));
    }
    parts.push(header(name.subarray(0, NAME_BYTES), file.size, "0"), file, zeros(padding(file.size)));
  }
  parts.push(zeros(2 * BLOCK));
  return new Blob(parts, { type: "application/x-tar" });
}

function header(name: Uint8Array, size: number, type: string): Uint8Array<ArrayBuffer> {
  const block = new Uint8Array(BLOCK);
  const text = (at: number, value: string) => block.set(new TextEncoder().encode(value), at);
  block.set(name, 0);
  text(100, "0000644\0");
  text(108, "0000000\0");
  text(116, "0000000\0");
  text(124, size.toString(8).padStart(11, "0") + "\0");
  text(136, "00000000000\0");
  text(148, "        ");
  text(156, type);
  text(257, "ustar  \0");
  const sum = block.reduce((total, byte) => total + byte, 0);
  text(148, sum.toString(8).padStart(6, "0") + "\0 ");
  return block;
}

function padding(size: number): number {
  return (BLOCK - (size % BLOCK)) % BLOCK;
}

function zeros(size: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(size);
}

// --- what was dropped

/** The files of a drop, those in folders too, with the names that become keys. */
export async function dropped(transfer: DataTransfer): Promise<Entry[]> {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter((entry) => entry !== null && entry !== undefined);
  if (!entries.length) return chosen(transfer.files);
  const found: Entry[] = [];
  for (const entry of entries) await walk(entry, found);
  return found;
}

async function walk(entry: FileSystemEntry, found: Entry[]): Promise<void> {
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
    found.push({ key: entry.fullPath.replace(/^\//, ""), file });
    return;
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  for (;;) {
    // a reader hands over a hundred at a time
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return;
    for (const each of some) await walk(each, found);
  }
}

export function chosen(files: Iterable<File>): Entry[] {
  return [...files].map((file) => ({ key: file.webkitRelativePath || file.name, file }));
}

/** A name for a collection, from the folder that all files lie in. */
export function suggest(files: Entry[], taken: Set<string>): string {
  const folders = new Set(files.map(({ key }) => (key.includes("/") ? key.slice(0, key.indexOf("/")) : "")));
  const only = folders.size === 1 ? [...folders][0] : "";
  const archive = files.length === 1 && ARCHIVE.test(files[0].key) ? files[0].key.replace(ARCHIVE, "") : "";
  const stem = (only || archive || "pictures").normalize("NFKD").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "").slice(0, 100) || "pictures";
  for (let i = 1; ; i++) {
    const name = i === 1 ? stem : `${stem}-${i}`;
    if (!taken.has(name)) return name;
  }
}
