// Where the page is: its address is all of its state that a colleague needs.
import { computed, signal } from "@preact/signals";

export interface Route {
  screen: string;
  collection: string;
  id: string;
}

const SCREENS = new Set(["search", "groups", "duplicates", "map", "train"]);

export const path = signal(location.pathname);
export const query = signal(new URLSearchParams(location.search));

export const route = computed<Route>(() => {
  const parts = path.value.split("/").filter(Boolean).map(decoded);
  if (parts.length === 0) return { screen: "collections", collection: "", id: "" };
  if (parts[0] === "jobs") return { screen: parts[1] ? "job" : "jobs", collection: "", id: parts[1] ?? "" };
  if (parts[0] === "c" && parts[1]) {
    const screen = parts[2] ?? "browse";
    if (screen === "browse" || SCREENS.has(screen)) return { screen, collection: parts[1], id: parts[3] ?? "" };
  }
  return { screen: "missing", collection: "", id: "" };
});

/** A part of the address as a text; what is no encoding of one stands as it is. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function read(): void {
  path.value = location.pathname;
  query.value = new URLSearchParams(location.search);
}

export function go(to: string, replace = false): void {
  history[replace ? "replaceState" : "pushState"](null, "", to);
  // not read back: a browser ignores changes of the address that come too quickly
  const next = new URL(to, location.href);
  path.value = next.pathname;
  query.value = next.searchParams;
}

/** Change what the address says after the `?`; empty values leave it. */
export function note(values: Record<string, string | null | undefined>): void {
  const next = new URLSearchParams(query.value);
  for (const [name, value] of Object.entries(values)) {
    if (value) next.set(name, value);
    else next.delete(name);
  }
  const text = next.toString();
  go(path.value + (text ? `?${text}` : ""), true);
}

export function here(collection: string, screen = "", id = ""): string {
  return ["/c", encodeURIComponent(collection), screen, id && encodeURIComponent(id)].filter(Boolean).join("/");
}

export function listen(): void {
  addEventListener("popstate", read);
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey) return;
    const link = (event.target as Element).closest?.("a[href]") as HTMLAnchorElement | null;
    if (!link || link.target || link.hasAttribute("download") || link.origin !== location.origin) return;
    if (!/^\/($|c\/|jobs(\/|$))/.test(link.pathname)) return;
    event.preventDefault();
    go(link.pathname + link.search);
    scrollTo(0, 0);
  });
}
