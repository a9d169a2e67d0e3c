// All images by kinship: points from afar, pictures from near, a lasso for both.
import { useSignal } from "@preact/signals";
import type { RefObject } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { at, get, Problem } from "../api";
import { SelectionBar } from "../bar";
import { Drawer } from "../drawer";
import { latest, start, watch } from "../jobs";
import { useKeys } from "../keyboard";
import { inside, Painter, pixel, type Camera, type Points } from "../points";
import { go, here, note, query } from "../route";
import { add, selected } from "../selection";
import { changes, NONE, numbers, open as openTable, table, whole, type Table } from "../table";
import { Thumbnail } from "../tile";
import { complain } from "../toasts";
import { base, count, images } from "../words";
import type { Job } from "../wire";
import { Waiting } from "./waiting";

const STARTS_ITSELF = 20_000;
// Room for half a picture around the outermost points.
const MARGIN_PX = 40;
const MAX_ZOOM = 400;
// So near that even in a dense place few images share the window; farther in there is nothing to see.
const DENSE = 4;
// What is nearest stays that far inside of the window, wherever one moves: beside the legend and above the bar.
const IN_SIGHT_PX = 40;
const BAR_PX = 90;
const NEAR_PX = 14;
const PICTURE_PX = 64;
const MOST_PICTURES = 140;
const SETTLED_MS = 90;
const CLICK_PX = 5;
// Paul Tol's muted and bright schemes, told apart by those who see few colors.
const PALETTE = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee7733", "#009988", "#cc3311", "#332288", "#999933", "#882255"];
const GREY = PALETTE.length;

interface Layout {
  x: Float32Array;
  y: Float32Array;
  rows: Uint32Array;
}

export function Map_({ name, id }: { name: string; id: string }) {
  const job = useSignal<Job | null>(null);
  const layout = useSignal<Layout | null>(null);
  const fault = useSignal("");
  const none = useSignal(false);
  useEffect(() => {
    const gone = new AbortController();
    layout.value = job.value = null;
    fault.value = "";
    none.value = false;
    (async () => {
      let shown = id ? await get<Job>(`/v1/jobs/${id}`, gone.signal) : await latest("map", name);
      if (!shown) {
        const collection = await get<{ image_count: number }>(at.collection(name), gone.signal);
        if (collection.image_count > STARTS_ITSELF || !collection.image_count) {
          none.value = true;
          return;
        }
        shown = await start("map", { collection: name });
      }
      if (gone.signal.aborted) return;
      if (!id) go(here(name, "map", shown.id), true);
      job.value = shown;
      const ended = await watch(shown);
      if (ended.status !== "succeeded" && ended.status !== "partial") throw new Problem(0, "", ended.error?.detail ?? `The job was ${ended.status}.`);
      openTable(name).catch(complain);
      const read = await load(await whole(name), ended.id, gone.signal);
      if (!gone.signal.aborted) layout.value = read;
    })().catch((error) => !gone.signal.aborted && (fault.value = error.message));
    return () => gone.abort();
  }, [name, id]);
  const begin = async () => {
    try {
      go(here(name, "map", (await start("map", { collection: name })).id));
    } catch (error) {
      complain(error);
    }
  };
  if (layout.value && table.value) return <Plane name={name} table={table.value} layout={layout.value} again={begin} />;
  return (
    <main class="page">
      <h1>Map</h1>
      {fault.value && <p class="fault">{fault.value}</p>}
      {none.value ? (
        <p class="empty big">
          A map lays out all images so that kin lie together. For a large collection it takes minutes. <button class="primary" onClick={() => void begin()}>Draw the map</button>
        </p>
      ) : (
        !fault.value && <Waiting job={job.value} />
      )}
    </main>
  );
}

async function load(from: Table, job: string, signal: AbortSignal): Promise<Layout> {
  const { rows, columns } = await numbers(from, job, ["x", "y"], signal);
  return { x: columns[0], y: columns[1], rows };
}

interface Colors {
  of: Uint8Array;
  legend: { color: string; text: string; count: number; ids: () => string[] }[];
}

/** Colors by a field of the table or by the group of a clustering. */
function colors(from: Table, layout: Layout, by: string, groups: Uint32Array | null): Colors {
  const codes = by === "group" && groups ? groups : by === "split" ? from.split.codes : from.label.codes;
  const values = by === "group" ? null : by === "split" ? from.split.values : from.label.values;
  const totals = new Map<number, number>();
  for (const row of layout.rows) if (!from.hidden[row]) totals.set(codes[row], (totals.get(codes[row]) ?? 0) + 1);
  const order = [...totals].filter(([code]) => code !== NONE).sort((a, b) => b[1] - a[1]);
  const place = new Map(order.map(([code], i) => [code, Math.min(i, GREY)]));
  const of = new Uint8Array(layout.rows.length);
  layout.rows.forEach((row, i) => (of[i] = from.hidden[row] ? 255 : (place.get(codes[row]) ?? GREY)));
  const idsOf = (wanted: (code: number) => boolean) => () => Array.from(layout.rows.filter((row) => !from.hidden[row] && wanted(codes[row])), (row) => from.ids.at(row));
  const legend = order.slice(0, PALETTE.length).map(([code, number], i) => ({
    color: PALETTE[i],
    text: values ? String(values[code]) : `Group ${code}`,
    count: number,
    ids: idsOf((each) => each === code),
  }));
  const rest = order.slice(PALETTE.length);
  if (rest.length) {
    const others = new Set(rest.map(([code]) => code));
    legend.push({ color: "", text: `${count(rest.length)} more`, count: rest.reduce((sum, each) => sum + each[1], 0), ids: idsOf((each) => others.has(each)) });
  }
  if (totals.get(NONE)) legend.push({ color: "", text: by === "group" ? "no group" : `no ${by}`, count: totals.get(NONE)!, ids: idsOf((each) => each === NONE) });
  return { of, legend };
}

function Plane({ name, table: from, layout, again }: { name: string; table: Table; layout: Layout; again: () => void }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const legend = useRef<HTMLDetailsElement>(null);
  const painter = useRef<Painter | null>(null);
  const camera = useRef<Camera>({ x: 0.5, y: 0.5, scale: 1 });
  const size = useSignal({ width: 0, height: 0 });
  const moved = useSignal(0);
  const pictures = useSignal<number[]>([]);
  const hover = useSignal(-1);
  const lasso = useSignal<number[]>([]);
  // a mouse draws around images, a finger moves the map
  const moving = useSignal(matchMedia("(pointer: coarse)").matches);
  const groups = useSignal<Uint32Array | null>(null);
  const by = query.value.get("color") ?? "label";
  const drawer = query.value.get("image") ?? "";
  const fitted = useRef(0);

  useEffect(() => {
    if (by !== "group" || groups.value) return;
    latest("cluster", name)
      .then(async (job) => {
        if (!job) throw new Error("There is no grouping yet: make one on the Groups screen.");
        const codes = new Uint32Array(from.size).fill(NONE);
        const found = await numbers(from, job.id, ["label"], new AbortController().signal);
        found.rows.forEach((row, i) => (codes[row] = found.columns[0][i]));
        groups.value = codes;
      })
      .catch(complain);
  }, [by, from]);

  const colored = useMemo(() => colors(from, layout, by, groups.value), [from, layout, by, groups.value, changes.value]);
  const points = useMemo<Points>(() => {
    const marked = new Uint8Array(layout.rows.length);
    if (selected.value.size) layout.rows.forEach((row, i) => (marked[i] = selected.value.has(from.ids.at(row)) ? 1 : 0));
    return { x: layout.x, y: layout.y, color: colored.of, marked };
  }, [layout, colored, selected.value]);

  useLayoutEffect(() => {
    const element = canvas.current!;
    painter.current = new Painter(element);
    const observer = new ResizeObserver(() => {
      const { clientWidth: width, clientHeight: height } = element;
      if (!width || !height) return;
      painter.current!.resize(width, height);
      const fit = Math.max(MARGIN_PX, Math.min(width, height) - 2 * MARGIN_PX);
      camera.current.scale = fitted.current ? (camera.current.scale / fitted.current) * fit : fit;
      fitted.current = fit;
      size.value = { width, height };
      changed();
    });
    observer.observe(element);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const repaint = () => void moved.value++;
    dark.addEventListener("change", repaint);
    return () => {
      observer.disconnect();
      dark.removeEventListener("change", repaint);
      clearTimeout(settle.current);
    };
  }, []);

  const settle = useRef(0);
  const changed = () => {
    moved.value++;
    clearTimeout(settle.current);
    settle.current = window.setTimeout(choose, SETTLED_MS);
  };

  const onScreen = (i: number): [number, number] => {
    const { x, y, scale } = camera.current;
    return [size.value.width / 2 + (layout.x[i] - x) * scale, size.value.height / 2 + (layout.y[i] - y) * scale];
  };
  const onMap = (px: number, py: number): [number, number] => {
    const { x, y, scale } = camera.current;
    return [x + (px - size.value.width / 2) / scale, y + (py - size.value.height / 2) / scale];
  };

  /** Bring the nearest image to the edge of the window where there would be none in it. */
  const keepInSight = () => {
    const { width, height } = size.value;
    const { offsetLeft = 0, offsetWidth = 0 } = legend.current ?? {};
    const left = Math.min(width / 2, offsetLeft + offsetWidth + IN_SIGHT_PX);
    let [offX, offY, least] = [0, 0, Infinity];
    for (let i = 0; i < layout.x.length && least; i++) {
      if (colored.of[i] === 255) continue;
      const [x, y] = onScreen(i);
      const [overX, overY] = [beyond(x, left, width - IN_SIGHT_PX), beyond(y, IN_SIGHT_PX, height - BAR_PX)];
      const distance = overX * overX + overY * overY;
      if (distance < least) [offX, offY, least] = [overX, overY, distance];
    }
    camera.current.x += offX / camera.current.scale;
    camera.current.y += offY / camera.current.scale;
  };

  /** Choose the pictures that have room: one of each cell of the window, if they are few enough to be seen. */
  const choose = () => {
    const { width, height } = size.value;
    const cells = new Map<number, number>();
    let visible = 0;
    for (let i = 0; i < layout.x.length; i++) {
      const [x, y] = onScreen(i);
      if (x < 0 || y < 0 || x > width || y > height || colored.of[i] === 255) continue;
      visible++;
      const cell = Math.floor(y / PICTURE_PX) * 1000 + Math.floor(x / PICTURE_PX);
      if (!cells.has(cell)) cells.set(cell, i);
    }
    const room = (width * height) / (PICTURE_PX * PICTURE_PX);
    pictures.value = visible < 4 * room ? [...cells.values()].slice(0, MOST_PICTURES) : [];
  };
  useEffect(() => choose(), [colored]);

  useLayoutEffect(() => {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const ground = pixel(dark ? "#141413" : "#fbfaf8");
    const grey = pixel(dark ? "#6b6a66" : "#a8a6a0");
    const palette = Uint32Array.from([...PALETTE.map(pixel), grey]);
    const zoom = camera.current.scale / (fitted.current || 1);
    const radius = Math.min(6, (layout.x.length > 20_000 ? 1 : layout.x.length > 2000 ? 2 : 4) * Math.sqrt(Math.max(1, zoom / 2)));
    painter.current?.paint(points, camera.current, palette, ground, pixel(dark ? "#ffffff" : "#000000"), radius);
  }, [moved.value, points, size.value]);

  const zoom = (factor: number, px = size.value.width / 2, py = size.value.height / 2) => {
    const [x, y] = onMap(px, py);
    const most = Math.min(MAX_ZOOM, DENSE * Math.sqrt(layout.x.length));
    const next = Math.max(fitted.current * 0.5, Math.min(fitted.current * most, camera.current.scale * factor));
    camera.current = { x: x - (px - size.value.width / 2) / next, y: y - (py - size.value.height / 2) / next, scale: next };
    keepInSight();
    changed();
  };
  const showAll = () => {
    camera.current = { x: 0.5, y: 0.5, scale: fitted.current };
    changed();
  };
  const pan = (dx: number, dy: number) => {
    camera.current.x -= dx / camera.current.scale;
    camera.current.y -= dy / camera.current.scale;
    keepInSight();
    changed();
  };
  const nearest = (px: number, py: number, within = NEAR_PX): number => {
    // what lies on top is what one points at
    const half = pictureSide() / 2;
    const shown = pictures.value.findLast((i) => {
      const [x, y] = onScreen(i);
      return Math.abs(x - px) < half && Math.abs(y - py) < half;
    });
    if (shown !== undefined) return shown;
    let best = -1;
    let least = within * within;
    for (let i = 0; i < layout.x.length; i++) {
      if (colored.of[i] === 255) continue;
      const [x, y] = onScreen(i);
      const distance = (x - px) ** 2 + (y - py) ** 2;
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  };
  const pictureSide = () => Math.max(28, Math.min(96, PICTURE_PX * 0.9 * Math.sqrt(camera.current.scale / (fitted.current || 1))));
  const idOf = (i: number) => from.ids.at(layout.rows[i]);
  const open = (i: number) => i >= 0 && note({ image: idOf(i) });
  const seen = () => {
    const found: string[] = [];
    for (let i = 0; i < layout.x.length; i++) {
      const [x, y] = onScreen(i);
      if (x >= 0 && y >= 0 && x <= size.value.width && y <= size.value.height && colored.of[i] !== 255) found.push(idOf(i));
    }
    return found;
  };

  useKeys([
    { key: "ArrowLeft ArrowRight", does: "Move the map", run: (event) => pan(event.key === "ArrowLeft" ? 80 : -80, 0) },
    { key: "ArrowUp ArrowDown", does: "Move the map", run: (event) => pan(0, event.key === "ArrowUp" ? 80 : -80) },
    { key: "+ =", does: "Closer", run: () => zoom(1.5) },
    { key: "-", does: "Farther", run: () => zoom(1 / 1.5) },
    { key: "0", does: "The whole map", run: showAll },
    { key: "m", does: "Drag selects, or moves the map", run: () => (moving.value = !moving.value) },
    { key: "a", does: "Select all that is in sight", run: () => add(seen()) },
    { key: "Enter", does: "Open the image in the middle", run: () => open(nearest(size.value.width / 2, size.value.height / 2, Infinity)) },
  ]);

  const pointers = useRef(new Map<number, [number, number]>());
  const down = useRef<{ x: number; y: number; pans: boolean } | null>(null);
  const place = (event: MouseEvent): [number, number] => {
    const frame = canvas.current!.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  };
  const onDown = (event: PointerEvent) => {
    const [x, y] = place(event);
    canvas.current!.setPointerCapture(event.pointerId);
    pointers.current.set(event.pointerId, [x, y]);
    down.current = { x, y, pans: moving.value || event.button !== 0 || event.altKey };
    lasso.value = down.current.pans ? [] : [x, y];
  };
  const onMove = (event: PointerEvent) => {
    const [x, y] = place(event);
    const before = pointers.current.get(event.pointerId);
    if (!before || !down.current) {
      if (event.pointerType === "mouse") hover.value = nearest(x, y);
      return;
    }
    hover.value = -1;
    if (pointers.current.size === 2) {
      const [other] = [...pointers.current].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      const was = Math.hypot(before[0] - other[0], before[1] - other[1]);
      const is = Math.hypot(x - other[0], y - other[1]);
      if (was > 10) zoom(is / was, (x + other[0]) / 2, (y + other[1]) / 2);
      down.current.x = Infinity;
    } else if (down.current.pans) pan(x - before[0], y - before[1]);
    else lasso.value = [...lasso.value, x, y];
    pointers.current.set(event.pointerId, [x, y]);
  };
  const onUp = (event: PointerEvent) => {
    const [x, y] = place(event);
    const start_ = down.current;
    pointers.current.delete(event.pointerId);
    if (pointers.current.size) return;
    down.current = null;
    const drawn = lasso.value;
    lasso.value = [];
    if (!start_) return;
    if (drawn.length <= 6 || Math.hypot(...span(drawn)) < CLICK_PX) {
      if (Math.hypot(x - start_.x, y - start_.y) > CLICK_PX) return;
      open(nearest(x, y));
      return;
    }
    const polygon: number[] = [];
    for (let i = 0; i < drawn.length; i += 2) polygon.push(...onMap(drawn[i], drawn[i + 1]));
    add(inside(points, polygon).map(idOf));
  };

  useEffect(() => {
    const element = canvas.current!;
    const onWheel = (event: WheelEvent) => {
      event.preventDefault();
      const [x, y] = place(event);
      zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), x, y);
    };
    // a passive listener could not keep the page from scrolling
    element.addEventListener("wheel", onWheel, { passive: false });
    return () => element.removeEventListener("wheel", onWheel);
  });

  void moved.value;
  const side = pictureSide();
  return (
    <main class={drawer ? "map with-drawer" : "map"}>
      <h1 class="hidden-text">Map of {name}</h1>
      <div class="tools" role="toolbar" aria-label="Map">
        <select aria-label="Color by" value={by} onChange={(event) => note({ color: event.currentTarget.value })}>
          <option value="label">Color by label</option>
          <option value="group">Color by group</option>
          <option value="split">Color by split</option>
        </select>
        <button aria-pressed={!moving.value} onClick={() => (moving.value = !moving.value)} title="On: drag around images to select them. Off: drag moves the map.">
          Lasso
        </button>
        <button aria-label="Closer" onClick={() => zoom(1.5)}>
          +
        </button>
        <button aria-label="Farther" onClick={() => zoom(1 / 1.5)}>
          −
        </button>
        <button title="All images again (0)" onClick={showAll}>
          Whole map
        </button>
        <span class="muted wide" role="status">
          {images(layout.rows.length)}. Drag around some to select them, scroll to come closer.
        </span>
        <span class="spacer" />
        <button onClick={again}>Draw again</button>
      </div>
      <div class="plane">
        <canvas
          ref={canvas}
          data-testid="map"
          data-count={layout.rows.length}
          role="img"
          aria-label={`Map of ${images(layout.rows.length)}`}
          tabIndex={0}
          onPointerDown={onDown}
          onPointerMove={onMove}
          onPointerUp={onUp}
          onPointerCancel={onUp}
          onPointerLeave={() => (hover.value = -1)}
          onContextMenu={(event) => event.preventDefault()}
        />
        <div class="map-pictures" aria-hidden="true">
          {pictures.value.map((i) => {
            const [x, y] = onScreen(i);
            const marked = points.marked[i] === 1;
            return (
              <div key={i} class={marked ? "chosen" : ""} style={{ transform: `translate(${x - side / 2}px, ${y - side / 2}px)`, width: `${side}px`, height: `${side}px`, borderColor: PALETTE[colored.of[i]] ?? undefined }}>
                <Thumbnail src={from.thumbnail(layout.rows[i])} alt="" />
              </div>
            );
          })}
        </div>
        {lasso.value.length > 4 && (
          <svg class="lasso" aria-hidden="true">
            <polygon points={lasso.value.join(" ")} />
          </svg>
        )}
        {hover.value >= 0 && !down.current && <Tip table={from} row={layout.rows[hover.value]} at={onScreen(hover.value)} />}
        <Legend box={legend} colors={colored} />
      </div>
      {drawer && <Drawer name={name} id={drawer} open={(id) => note({ image: id })} close={() => note({ image: null })} />}
      <SelectionBar name={name} />
    </main>
  );
}

/** What each color means; folded where it would hide the map. */
function Legend({ box, colors: { legend } }: { box: RefObject<HTMLDetailsElement | null>; colors: Colors }) {
  return (
    <details ref={box} class="legend" open={matchMedia("(width > 900px)").matches}>
      <summary>Colors</summary>
      <ul aria-label="Colors">
        {legend.map((each) => (
          <li key={each.text}>
            <button onClick={() => add(each.ids())} title="Select these">
              <span class="swatch" style={{ background: each.color || undefined }} />
              <bdi>{each.text}</bdi> <span class="muted">{count(each.count)}</span>
            </button>
          </li>
        ))}
      </ul>
    </details>
  );
}

/** How far a value is outside of two limits, below 0 under the lower one. */
function beyond(value: number, low: number, high: number): number {
  return Math.min(0, value - low) + Math.max(0, value - high);
}

function span(polygon: number[]): [number, number] {
  const xs = polygon.filter((_, i) => i % 2 === 0);
  const ys = polygon.filter((_, i) => i % 2 === 1);
  return [Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys)];
}

function Tip({ table: from, row, at: [x, y] }: { table: Table; row: number; at: [number, number] }) {
  const label = from.label.at(row);
  return (
    <div class="tip" style={{ transform: `translate(${x + 12}px, ${y + 12}px)` }}>
      <Thumbnail key={row} src={from.thumbnail(row)} alt="" />
      <bdi>{base(from.keys.at(row))}</bdi>
      {label !== null && <span class="tag">{String(label)}</span>}
    </div>
  );
}
