// All collections, and the place where pictures are dropped.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { all, at, get, Problem, send } from "../api";
import { ends, VERBS } from "../jobs";
import { useKeys } from "../keyboard";
import { go, here } from "../route";
import { Thumbnail } from "../tile";
import { complain, later, say } from "../toasts";
import { chosen, dropped, sending, suggest, upload } from "../upload";
import { ago, images } from "../words";
import type { Collection, Image, Job, Page } from "../wire";

const MOSAIC = 9;

export function Collections() {
  const found = useSignal<Collection[] | null>(null);
  const gone = useSignal<ReadonlySet<string>>(new Set());
  const name = useSignal("");

  useEffect(() => {
    const abort = new AbortController();
    all<Collection>("/v1/collections", abort.signal).then((items) => (found.value = items), complain);
    return () => abort.abort();
  }, [ends.value, sending.value === null]);

  const take = async (files: { key: string; file: File }[]) => {
    const taken = new Set((found.value ?? []).map((each) => each.name));
    const into = name.value.trim() || suggest(files, taken);
    try {
      const job = await upload(into, files, !taken.has(into));
      name.value = "";
      if (job) go(here(into));
      else say("All of these pictures are in the collection already.");
    } catch (error) {
      complain(error);
    }
  };

  const erase = (collection: string) => {
    gone.value = new Set(gone.value).add(collection);
    const back = () => (gone.value = new Set([...gone.value].filter((each) => each !== collection)));
    later(`Collection ${collection} deleted.`, () => void send("DELETE", at.collection(collection)).catch((error) => { back(); complain(error); }), back);
  };

  useKeys([{ key: "/", does: "Name for a new collection", run: () => document.getElementById("new-name")?.focus() }]);

  const shown = found.value?.filter((each) => !gone.value.has(each.name)) ?? [];
  return (
    <main class="page" {...dropTarget(take)}>
      <h1>{shown.length || !found.value ? "Collections" : "Start with some pictures"}</h1>
      <section class="drop" aria-label="New collection">
        <div>
          <p>
            <b>Drop pictures here</b>
            <span> — files, folders or an archive. They stay on this service.</span>
          </p>
          <div class="row wrap">
            <input id="new-name" aria-label="Name of the collection" placeholder="Name (or what the folder is called)" maxLength={128} pattern="[A-Za-z0-9][A-Za-z0-9._\-]*" value={name.value} onInput={(event) => (name.value = event.currentTarget.value)} />
            <FileButtons take={take} />
          </div>
        </div>
        {sending.value && <Sending />}
      </section>
      {found.value && !shown.length && (
        <p class="empty">
          Then look through them: what looks like what, what is there twice, which groups there are. Label a few, let these teach the rest, and take the set away.
        </p>
      )}
      <ul class="cards">
        {shown.map((each) => (
          <Card key={each.name} collection={each} erase={erase} />
        ))}
      </ul>
    </main>
  );
}

function Sending() {
  const now = sending.value!;
  return (
    <p class="sending" role="status">
      <span>
        {now.step} · <bdi>{now.collection}</bdi>
      </span>
      <progress data-testid="progress" max={1} value={now.share ?? undefined} aria-label={now.step} />
    </p>
  );
}

/** The two buttons that choose files or a folder. */
export function FileButtons({ take, one, more }: { take: (files: { key: string; file: File }[]) => void; one?: boolean; more?: boolean }) {
  const verb = more ? "Add" : "Choose";
  const pick = (event: Event) => {
    const input = event.currentTarget as HTMLInputElement;
    const files = chosen(input.files ?? []);
    input.value = "";
    if (files.length) take(files);
  };
  return (
    <>
      <label class="button primary">
        {one ? "Choose a picture" : `${verb} pictures`}
        <input class="hidden" type="file" data-testid="drop" multiple={!one} accept={one ? "image/*" : "image/*,.zip,.tar,.tgz,.gz"} onChange={pick} />
      </label>
      {!one && (
        <label class="button folder">
          {verb} a folder
          <input class="hidden" type="file" {...{ webkitdirectory: true }} onChange={pick} />
        </label>
      )}
    </>
  );
}

export function dropTarget(take: (files: { key: string; file: File }[]) => void) {
  const mark = (event: DragEvent, on: boolean) => (event.currentTarget as HTMLElement).classList.toggle("dropping", on);
  return {
    onDragOver: (event: DragEvent) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      mark(event, true);
    },
    onDragLeave: (event: DragEvent) => {
      if (!(event.currentTarget as HTMLElement).contains(event.relatedTarget as Node | null)) mark(event, false);
    },
    onDrop: (event: DragEvent) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      mark(event, false);
      dropped(event.dataTransfer).then((files) => files.length && take(files), complain);
    },
  };
}

function Card({ collection, erase }: { collection: Collection; erase: (name: string) => void }) {
  const { name } = collection;
  const mosaic = useSignal<Image[]>([]);
  const last = useSignal<Job | null>(null);
  useEffect(() => {
    const abort = new AbortController();
    get<Page<Image>>(`${at.images(name)}?limit=${MOSAIC}`, abort.signal).then((page) => (mosaic.value = page.items), ignoreGone);
    get<Page<Job>>(`/v1/jobs?collection=${encodeURIComponent(name)}&limit=10`, abort.signal).then(
      (page) => (last.value = page.items.find((job) => job.kind !== "search") ?? null),
      ignoreGone,
    );
    return () => abort.abort();
  }, [name, collection.image_count, ends.value]);
  const pictures = mosaic.value.length >= MOSAIC ? mosaic.value : mosaic.value.slice(0, mosaic.value.length >= 4 ? 4 : 1);
  return (
    <li class="card" data-testid="collection" data-name={name}>
      <a href={here(name)}>
        <div class={`mosaic of-${pictures.length}`}>
          {pictures.map((image) => (
            <Thumbnail key={image.id} src={at.thumbnail(name, image.id, image.content_hash)} alt="" />
          ))}
        </div>
        <h2>{name}</h2>
        <p>
          {images(collection.image_count)} · {collection.backbone}
        </p>
      </a>
      <footer>
        {last.value ? (
          <a href={`/jobs/${last.value.id}`}>
            {VERBS[last.value.kind] ?? last.value.kind}: {last.value.status}, {ago(last.value.created_at)}
          </a>
        ) : (
          <span>no jobs yet</span>
        )}
        <button class="quiet" aria-label={`Delete the collection ${name}`} onClick={() => erase(name)}>
          Delete
        </button>
      </footer>
    </li>
  );
}

function ignoreGone(error: unknown): void {
  // a collection may be deleted while its card is drawn
  if (!(error instanceof Problem) || error.status !== 404) complain(error);
}
