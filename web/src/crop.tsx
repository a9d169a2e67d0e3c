// The picture that is searched for, and a box on it for a part of it.
import { useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { useKeys } from "./keyboard";

/** x, y, width and height in shares of the upright picture. */
export type Box = [number, number, number, number];

const LEAST = 0.05;
const STEP = 0.05;
const STEPS: Record<string, [number, number]> = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
const FIRST: Box = [0.25, 0.25, 0.5, 0.5];

export function Crop({ picture, box, change }: { picture: File | string; box: Box | null; change: (box: Box | null) => void }) {
  const url = useMemo(() => (typeof picture === "string" ? picture : URL.createObjectURL(picture)), [picture]);
  useEffect(() => () => void (typeof picture !== "string" && URL.revokeObjectURL(url)), [url]);
  const frame = useRef<HTMLDivElement>(null);
  const broken = useSignal(false);
  const draft = useSignal<Box | null>(null);
  const from = useRef<[number, number] | null>(null);
  const place = (event: PointerEvent): [number, number] => {
    const { left, top, width, height } = frame.current!.getBoundingClientRect();
    return [clamp((event.clientX - left) / width), clamp((event.clientY - top) / height)];
  };
  const between = ([ax, ay]: [number, number], [bx, by]: [number, number]): Box => [round(Math.min(ax, bx)), round(Math.min(ay, by)), round(Math.abs(ax - bx)), round(Math.abs(ay - by))];
  const end = (event: PointerEvent) => {
    if (!from.current) return;
    const next = between(from.current, place(event));
    from.current = draft.value = null;
    if (next[2] >= LEAST && next[3] >= LEAST) change(next);
  };
  const [x, y, width, height] = box ?? FIRST;
  const move = ({ key }: KeyboardEvent) => change([round(Math.max(0, Math.min(1 - width, x + STEPS[key][0]))), round(Math.max(0, Math.min(1 - height, y + STEPS[key][1]))), width, height]);
  const resize = ({ key }: KeyboardEvent) => change([x, y, round(Math.max(LEAST, Math.min(1 - x, width + STEPS[key][0]))), round(Math.max(LEAST, Math.min(1 - y, height + STEPS[key][1])))]);
  const arrows = Object.keys(STEPS);
  useKeys([
    { key: arrows.join(" "), does: "On the picture: move the box for a part of it", within: frame, run: move },
    { key: arrows.map((key) => `Shift+${key}`).join(" "), does: "On the picture: resize the box", within: frame, run: resize },
  ]);
  const shown = draft.value ?? box;
  if (broken.value) {
    if (typeof picture === "string") return null;
    return (
      <p class="muted">
        This browser cannot show “<bdi>{picture.name}</bdi>”; it is searched for as a whole.
      </p>
    );
  }
  return (
    <figure class="crop">
      <div
        ref={frame}
        role="group"
        tabIndex={0}
        aria-label="The picture that is searched for. Drag, or use arrows and Shift with arrows, to search for a part of it."
        onPointerDown={(event) => {
          if (event.button !== 0) return;
          event.preventDefault();
          frame.current!.setPointerCapture(event.pointerId);
          from.current = place(event);
        }}
        onPointerMove={(event) => from.current && (draft.value = between(from.current, place(event)))}
        onPointerUp={end}
        onPointerCancel={() => (from.current = draft.value = null)}
      >
        <img src={url} alt="Query" draggable={false} onError={() => (broken.value = true)} />
        {shown && <span class="box" style={{ left: `${100 * shown[0]}%`, top: `${100 * shown[1]}%`, width: `${100 * shown[2]}%`, height: `${100 * shown[3]}%` }} />}
      </div>
      <figcaption>
        {box ? <button onClick={() => change(null)}>Whole picture</button> : <span class="muted">Drag a box to search for a part</span>}
      </figcaption>
    </figure>
  );
}

function clamp(value: number): number {
  return Math.max(0, Math.min(1, value));
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}
