// Everything about one image, and its nearest kin.
import { useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { at, get } from "./api";
import { erase, label } from "./deeds";
import { start, result } from "./jobs";
import { LEVELS, useKeys } from "./keyboard";
import { here } from "./route";
import { selected, toggle } from "./selection";
import { changes, table } from "./table";
import { Thumbnail } from "./tile";
import { complain } from "./toasts";
import { base, lines } from "./words";
import type { Image, Neighbor, SearchResult } from "./wire";

const KIN = 12;

export function Drawer(props: { name: string; id: string; open: (id: string) => void; close: () => void; step?: (by: number) => void }) {
  const { name, id, open, close, step } = props;
  const image = useSignal<Image | null>(null);
  const kin = useSignal<Neighbor[] | null>(null);
  const missing = useSignal("");
  const box = useRef<HTMLDivElement>(null);
  const text = useSignal("");
  const input = useRef<HTMLInputElement>(null);
  void changes.value;

  useEffect(() => {
    const gone = new AbortController();
    image.value = kin.value = null;
    missing.value = "";
    get<Image>(at.image(name, id), gone.signal).then(
      (found) => {
        image.value = found;
        text.value = String(found.metadata.label ?? "");
      },
      (error) => !gone.signal.aborted && (missing.value = error.message),
    );
    // stepping through images quickly searches for none of them
    const wait = setTimeout(() => {
      start("search", { collection: name, query: { image_id: id }, top_k: KIN })
        .then((job) => result<SearchResult>(job))
        .then((found) => !gone.signal.aborted && (kin.value = found.neighbors))
        .catch((error) => !gone.signal.aborted && complain(error));
    }, 250);
    return () => {
      clearTimeout(wait);
      gone.abort();
    };
  }, [name, id]);

  // at once when it closes: Preact ends other effects later, and the focus would be taken from what was pressed since
  useLayoutEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    box.current?.focus();
    return () => before?.focus?.();
  }, []);

  const steps = step
    ? [
        { key: "ArrowLeft ArrowUp", does: "Previous image", run: () => step(-1) },
        { key: "ArrowRight ArrowDown", does: "Next image", run: () => step(1) },
      ]
    : [];
  useKeys(
    [
      { key: "Escape", does: "Close the image", run: close },
      { key: "x", does: "Select or let go", run: () => toggle(id) },
      { key: "l", does: "Label the image", run: () => input.current?.focus() },
      ...steps,
    ],
    LEVELS.over,
  );

  const found = image.value;
  const row = table.value?.name === name ? table.value.row(id) : undefined;
  const now = row === undefined ? found?.metadata.label : table.value!.label.at(row);
  const save = () => {
    const value = text.value.trim();
    if (value !== String(now ?? "")) void label(name, [id], value || null);
  };
  return (
    <div ref={box} class="drawer" role="dialog" aria-label={found ? found.key : "Image"} tabIndex={-1}>
      <header>
        <h2 title={found?.key}>{found ? base(found.key) : "…"}</h2>
        <button class="quiet" aria-label="Close" onClick={close}>
          ×
        </button>
      </header>
      {missing.value && <p class="empty">{missing.value}</p>}
      <div class="drawer-picture">
        <Thumbnail key={id} src={at.thumbnail(name, id, found?.content_hash)} alt={found?.key ?? ""} />
      </div>
      {found && (
        <>
          <form
            class="row"
            onSubmit={(event) => {
              event.preventDefault();
              save();
            }}
          >
            <input ref={input} aria-label="Label of this image" placeholder="Label" list="labels" maxLength={1000} autocomplete="off" value={text.value} onInput={(event) => (text.value = event.currentTarget.value)} />
            <button>Save</button>
          </form>
          <div class="row wrap">
            <button aria-pressed={selected.value.has(id)} onClick={() => toggle(id)}>
              {selected.value.has(id) ? "Selected" : "Select"}
            </button>
            <a class="button" href={`${here(name, "search")}?images=${id}`}>
              Search
            </a>
            <button
              class="danger"
              onClick={() => {
                close();
                erase(name, [id]);
              }}
            >
              Delete
            </button>
          </div>
        </>
      )}
      <h3>Nearest kin</h3>
      {kin.value === null ? (
        <div class="kin waiting" aria-busy="true" />
      ) : (
        <ul class="kin">
          {kin.value.map((each) => (
            <li key={each.id}>
              <button title={each.key} aria-label={`${each.key}, score ${each.score.toFixed(3)}`} onClick={() => open(each.id)}>
                <Thumbnail src={thumbnail(name, each.id)} alt="" />
                <span>{each.score.toFixed(3)}</span>
              </button>
            </li>
          ))}
          {!kin.value.length && <li class="empty">It is alone in its collection.</li>}
        </ul>
      )}
      {found && (
        <dl class="facts">
          <dt>Key</dt>
          <dd>
            <bdi>{found.key}</bdi>
          </dd>
          <dt>Size</dt>
          <dd>{found.width && found.height ? `${found.width} × ${found.height}` : "not known"}{found.format ? `, ${found.format}` : ""}</dd>
          {lines(found.metadata).map(([field, value]) => (
            <>
              <dt>
                <bdi>{field}</bdi>
              </dt>
              <dd>
                <bdi>{value}</bdi>
              </dd>
            </>
          ))}
          <dt>Added</dt>
          <dd>{new Date(found.created_at).toLocaleString()}</dd>
          <dt>SHA-256</dt>
          <dd class="hash">{found.content_hash}</dd>
          <dt>Id</dt>
          <dd class="hash">{found.id}</dd>
        </dl>
      )}
    </div>
  );
}

/** A thumbnail's address, with its content where the page knows it. */
export function thumbnail(name: string, id: string): string {
  const here = table.value?.name === name ? table.value : null;
  const row = here?.row(id);
  return here && row !== undefined ? here.thumbnail(row) : at.thumbnail(name, id);
}
