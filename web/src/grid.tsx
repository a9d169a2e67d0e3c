// The grid: fixed cells, only those near the window are in the document, whatever the number of images.
import { useSignal } from "@preact/signals";
import type { RefObject } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { useKeys } from "./keyboard";
import { add, current, selected, set, toggle } from "./selection";
import { changes, type Table } from "./table";
import { Thumbnail } from "./tile";
import { base } from "./words";

const GAP = 6;
// Browsers place nothing beyond some 33 million pixels; past this many, a pixel of the scroll bar is more than one.
const MAX_HEIGHT = 30_000_000;
const OVERSCAN_ROWS = 2;
const SETTLED_MS = 110;
// Faster than this a frame, pictures would be gone before they came.
const SCRUBBING_ROWS = 2;

export const tileSize = { wide: 168, narrow: 112 };

/** Give the keyboard to the grid, where the screen has one. */
export function toGrid(): void {
  document.querySelector<HTMLElement>("[role=listbox]")?.focus();
}

interface Cell {
  index: number;
  row: number;
}

export function Grid(props: { table: Table; rows: Uint32Array; open: (id: string) => void }) {
  const { table, rows, open } = props;
  const box = useRef<HTMLDivElement>(null);
  const size = useSignal({ width: 0, height: 0 });
  const scroll = useSignal(0);
  const scrubbing = useSignal(false);
  const anchor = useRef<number>(-1);
  const rubber = useSignal<{ x: number; y: number; right: number; bottom: number } | null>(null);
  void changes.value;

  useLayoutEffect(() => {
    const element = box.current!;
    const measure = () => {
      const { clientWidth: width, clientHeight: height } = element;
      if (width !== size.value.width || height !== size.value.height) size.value = { width, height };
    };
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => observer.disconnect();
  }, []);

  const wanted = size.value.width < 600 ? tileSize.narrow : tileSize.wide;
  const columns = Math.max(2, Math.floor((size.value.width + GAP) / (wanted + GAP)));
  const cell = Math.max(1, Math.floor((size.value.width - GAP * (columns + 1)) / columns)) + GAP;
  const lines = Math.ceil(rows.length / columns);
  const full = lines * cell + GAP;
  const height = Math.min(full, MAX_HEIGHT);
  const view = size.value.height;
  const scale = full > height ? (full - view) / (height - view) : 1;

  useScrollState(box, scroll, scrubbing, cell, scale);

  const top = scroll.value * scale;
  const first = Math.max(0, Math.floor(top / cell) - OVERSCAN_ROWS);
  const last = Math.min(lines, Math.ceil((top + view) / cell) + OVERSCAN_ROWS);
  const shift = scroll.value - top;

  const position = useMemo(() => {
    const found = table.row(current.value);
    return found === undefined ? -1 : rows.indexOf(found);
  }, [current.value, rows, table]);

  const show = (index: number) => {
    const element = box.current!;
    const line = Math.floor(index / columns) * cell;
    const at = element.scrollTop * scale;
    if (line < at) element.scrollTop = line / scale;
    else if (line + cell + GAP > at + view) element.scrollTop = (line + cell + GAP - view) / scale;
  };

  const move = (by: number, extend: boolean) => {
    if (!rows.length) return;
    const next = Math.max(0, Math.min(rows.length - 1, position < 0 ? (by === rows.length ? by : 0) : position + by));
    current.value = table.ids.at(rows[next]);
    if (extend) {
      if (anchor.current < 0) anchor.current = Math.max(0, position);
      select(anchor.current, next);
    }
    show(next);
  };

  const select = (from: number, to: number) => {
    const ids: string[] = [];
    for (let i = Math.min(from, to); i <= Math.max(from, to); i++) ids.push(table.ids.at(rows[i]));
    add(ids);
  };

  const page = Math.max(1, Math.floor(view / cell)) * columns;
  useKeys([
    { key: "ArrowLeft ArrowRight", does: "Move", run: (event) => move(event.key === "ArrowLeft" ? -1 : 1, false) },
    { key: "ArrowUp ArrowDown", does: "Move by a row", run: (event) => move(event.key === "ArrowUp" ? -columns : columns, false) },
    { key: "Shift+ArrowLeft Shift+ArrowRight", does: "Select on the way", run: (event) => move(event.key === "ArrowLeft" ? -1 : 1, true) },
    { key: "Shift+ArrowUp Shift+ArrowDown", does: "Select on the way, by a row", run: (event) => move(event.key === "ArrowUp" ? -columns : columns, true) },
    { key: "PageUp PageDown", does: "Move by a page", run: (event) => move(event.key === "PageUp" ? -page : page, false) },
    { key: "Home End", does: "First, last", run: (event) => move(event.key === "Home" ? -rows.length : rows.length, false) },
    {
      key: "x",
      does: "Select or let go",
      run: () => {
        if (position < 0) return;
        anchor.current = position;
        toggle(current.value);
      },
    },
    { key: "a", does: "Select all that is shown", run: () => set(Array.from(rows, (row) => table.ids.at(row))) },
    { key: "Enter", does: "Open", run: () => current.value && open(current.value) },
  ]);

  const click = (index: number, event: MouseEvent) => {
    const id = table.ids.at(rows[index]);
    if (event.shiftKey && anchor.current >= 0) {
      select(anchor.current, index);
    } else {
      anchor.current = index;
      toggle(id);
    }
    current.value = id;
  };

  const drag = useDrag(box, rubber, (area, before) => {
    const line = (y: number) => Math.max(0, Math.min(lines - 1, Math.floor(y / cell)));
    const column = (x: number) => Math.max(0, Math.min(columns - 1, Math.floor((x - GAP / 2) / cell)));
    const ids = new Set(before);
    for (let y = line((area.y - GAP) * 1); y <= line(area.bottom - GAP); y++) {
      for (let x = column(area.x); x <= column(area.right); x++) {
        const index = y * columns + x;
        if (index < rows.length) ids.add(table.ids.at(rows[index]));
      }
    }
    set(ids);
  }, scale);

  const cells: Cell[] = [];
  for (let index = first * columns; index < Math.min(rows.length, last * columns); index++) cells.push({ index, row: rows[index] });
  const chosen = selected.value;
  const active = position >= first * columns && position < last * columns ? `tile-${position}` : undefined;
  return (
    <div
      ref={box}
      class="grid"
      role="listbox"
      aria-label="Images"
      aria-multiselectable="true"
      aria-activedescendant={active}
      tabIndex={0}
      {...drag}
    >
      <div class="grid-space" role="presentation" style={{ height: `${height}px` }}>
        {cells.map(({ index, row }) => {
          const id = table.ids.at(row);
          const key = table.keys.at(row);
          const label = table.label.at(row);
          const x = GAP + (index % columns) * cell;
          const y = GAP + Math.floor(index / columns) * cell + shift;
          return (
            <div
              key={id}
              id={`tile-${index}`}
              data-testid="tile"
              data-key={key}
              data-id={id}
              role="option"
              aria-selected={chosen.has(id)}
              aria-label={label ? `${label}, ${key}` : key}
              aria-posinset={index + 1}
              aria-setsize={rows.length}
              class={index === position ? "tile current" : "tile"}
              title={key}
              style={{ width: `${cell - GAP}px`, height: `${cell - GAP}px`, transform: `translate(${x}px, ${y}px)` }}
              onClick={(event) => click(index, event)}
              onDblClick={() => open(id)}
            >
              <Thumbnail src={table.thumbnail(row)} alt="" wait={scrubbing.value} />
              {label !== null && <span class="tag">{String(label)}</span>}
              <span class="caption">{base(key)}</span>
              <span class="mark" />
              <span
                class="open"
                aria-hidden="true"
                title="Open (double click, Enter)"
                onClick={(event) => {
                  event.stopPropagation();
                  open(id);
                }}
              >
                ⤢
              </span>
            </div>
          );
        })}
        {rubber.value && (
          <div
            class="rubber"
            style={{
              left: `${rubber.value.x}px`,
              top: `${rubber.value.y + shift}px`,
              width: `${rubber.value.right - rubber.value.x}px`,
              height: `${rubber.value.bottom - rubber.value.y}px`,
            }}
          />
        )}
      </div>
    </div>
  );
}

interface Value<T> {
  value: T;
}

function useScrollState(box: RefObject<HTMLDivElement | null>, scroll: Value<number>, scrubbing: Value<boolean>, cell: number, scale: number): void {
  useEffect(() => {
    const element = box.current!;
    let timer = 0;
    let seen = element.scrollTop;
    let frame = 0;
    const onScroll = () => {
      if (frame) return;
      frame = requestAnimationFrame(() => {
        frame = 0;
        const now = element.scrollTop;
        if (Math.abs(now - seen) * scale > SCRUBBING_ROWS * cell) scrubbing.value = true;
        seen = now;
        scroll.value = now;
        clearTimeout(timer);
        timer = window.setTimeout(() => (scrubbing.value = false), SETTLED_MS);
      });
    };
    element.addEventListener("scroll", onScroll, { passive: true });
    // fewer images may leave the box scrolled elsewhere
    if (element.scrollTop !== scroll.value) scroll.value = element.scrollTop;
    return () => {
      element.removeEventListener("scroll", onScroll);
      cancelAnimationFrame(frame);
      clearTimeout(timer);
      scrubbing.value = false;
    };
  }, [cell, scale]);
}

interface Area {
  x: number;
  y: number;
  right: number;
  bottom: number;
}

const DRAG_STARTS_PX = 8;

/** Selecting by dragging a frame with the mouse; fingers scroll. */
function useDrag(box: RefObject<HTMLDivElement | null>, rubber: Value<Area | null>, select: (area: Area, before: ReadonlySet<string>) => void, scale: number) {
  const start = useRef<{ x: number; y: number; before: ReadonlySet<string> } | null>(null);
  const place = (event: PointerEvent) => {
    const element = box.current!;
    const frame = element.getBoundingClientRect();
    return { x: event.clientX - frame.left, y: event.clientY - frame.top + element.scrollTop * scale };
  };
  return {
    onPointerDown: (event: PointerEvent) => {
      if (event.button !== 0 || event.pointerType !== "mouse") return;
      start.current = { ...place(event), before: event.shiftKey || event.ctrlKey || event.metaKey ? selected.value : new Set(selected.value) };
    },
    onPointerMove: (event: PointerEvent) => {
      const from = start.current;
      if (!from || !(event.buttons & 1)) return;
      const to = place(event);
      if (!rubber.value && Math.hypot(to.x - from.x, to.y - from.y) < DRAG_STARTS_PX) return;
      if (!rubber.value) box.current!.setPointerCapture(event.pointerId);
      rubber.value = { x: Math.min(from.x, to.x), y: Math.min(from.y, to.y), right: Math.max(from.x, to.x), bottom: Math.max(from.y, to.y) };
      select(rubber.value, from.before);
      const frame = box.current!.getBoundingClientRect();
      if (event.clientY > frame.bottom - 30) box.current!.scrollTop += 20;
      if (event.clientY < frame.top + 30) box.current!.scrollTop -= 20;
    },
    onPointerUp: () => {
      start.current = null;
    },
    onClickCapture: (event: MouseEvent) => {
      // the click at the end of a drag is none
      if (!rubber.value) return;
      rubber.value = null;
      event.stopPropagation();
    },
    onPointerCancel: () => {
      start.current = null;
      rubber.value = null;
    },
  };
}

