// What stands around every screen: where one is, where one can go, what is running.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { get, over, send, session } from "./api";
import { running, share, VERBS } from "./jobs";
import { helping, LEVELS, useKeys } from "./keyboard";
import { go, here, route } from "./route";
import { sending } from "./upload";
import { percent } from "./words";
import type { Collection, Page } from "./wire";

const TABS = [
  ["browse", "", "Browse"],
  ["search", "search", "Search"],
  ["groups", "groups", "Groups"],
  ["duplicates", "duplicates", "Duplicates"],
  ["map", "map", "Map"],
  ["train", "train", "Train"],
] as const;

export function Header() {
  const { screen, collection } = route.value;
  useKeys(
    collection ? [{ key: TABS.map((_, i) => i + 1).join(" "), does: TABS.map(([, , title]) => title).join(", "), run: ({ key }) => go(here(collection, TABS[Number(key) - 1][1])) }] : [],
    LEVELS.last,
  );
  return (
    <header class="top">
      <a class="logo" href="/" aria-label="imagekin, all collections">
        <img src="/app/icon.svg" alt="" width={24} height={24} />
        <span class="wide">imagekin</span>
      </a>
      {collection && <Switcher now={collection} />}
      {collection && (
        <nav aria-label="Screens of this collection">
          {TABS.map(([name, path, title]) => (
            <a key={name} href={here(collection, path)} aria-current={screen === name ? "page" : undefined}>
              {title}
            </a>
          ))}
        </nav>
      )}
      <div class="top-end">
        <Running />
        <a class="icon-button" href="/jobs" aria-label="Jobs" aria-current={screen.startsWith("job") ? "page" : undefined}>
          Jobs
        </a>
        <button class="quiet icon-button" aria-label="All keys" title="All keys" onClick={() => (helping.value = true)}>
          ?
        </button>
        {session.value?.auth === "keys" && (
          <button class="quiet" onClick={() => void leave()}>
            Sign out
          </button>
        )}
      </div>
    </header>
  );
}

async function leave(): Promise<void> {
  await send("DELETE", "/session");
  location.assign("/");
}

function Switcher({ now }: { now: string }) {
  const names = useSignal<string[]>([now]);
  useEffect(() => {
    get<Page<Collection>>("/v1/collections?limit=200").then(
      (page) => (names.value = page.items.map((each) => each.name)),
      () => undefined,
    );
  }, [now]);
  const all = names.value.includes(now) ? names.value : [now, ...names.value];
  return (
    <select class="switcher" aria-label="Collection" value={now} onChange={(event) => location.assign(here(event.currentTarget.value))}>
      {all.map((name) => (
        <option key={name} value={name}>
          {name}
        </option>
      ))}
    </select>
  );
}

function Running() {
  const up = sending.value;
  // a search is over before its bar could be read
  const jobs = [...running.value.values()].filter((job) => job.kind !== "search" && !over(job));
  if (!up && !jobs.length) return null;
  const newest = jobs[jobs.length - 1];
  const part = up ? up.share : share(newest);
  const text = up ? up.step : jobs.length > 1 ? `${jobs.length} jobs` : (VERBS[newest.kind] ?? newest.kind);
  return (
    <a class="running" href={!up && jobs.length === 1 ? `/jobs/${newest.id}` : "/jobs"}>
      <span>
        {text} {part !== null && percent(part)}
      </span>
      <progress max={1} value={part ?? undefined} aria-label={text} />
    </a>
  );
}
