// A slider over the histogram of what it cuts.
import { useId } from "preact/hooks";

const WIDTH = 300;
const HEIGHT = 48;

interface Props {
  edges: number[];
  counts: number[];
  value: number;
  name: string;
  testid: string;
  input: (value: number) => void;
  change?: (value: number) => void;
}

export function HistogramSlider({ edges, counts, value, name, testid, input, change }: Props) {
  const id = useId();
  const low = edges[0] ?? 0;
  const high = edges[edges.length - 1] ?? 1;
  // a few pairs at the far end have to be seen beside thousands
  const most = Math.sqrt(Math.max(1, ...counts));
  const x = (at: number) => ((at - low) / (high - low || 1)) * WIDTH;
  return (
    <div class="histogram">
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
        {counts.map((count, i) => {
          const height = (Math.sqrt(count) / most) * HEIGHT;
          return <rect key={i} class={edges[i] >= value ? "in" : "out"} x={x(edges[i])} y={HEIGHT - height} width={Math.max(0.5, x(edges[i + 1]) - x(edges[i]) - 0.5)} height={height} />;
        })}
      </svg>
      <input
        id={id}
        type="range"
        data-testid={testid}
        aria-label={name}
        min={low}
        max={high}
        step={0.001}
        value={value}
        onInput={(event) => input(Number(event.currentTarget.value))}
        onChange={(event) => change?.(Number(event.currentTarget.value))}
      />
      <label for={id}>
        {name} <output>{value.toFixed(3)}</output>
      </label>
    </div>
  );
}

/** Counts of values between the least and the most of them. */
export function bins(values: number[], number = 40): { edges: number[]; counts: number[] } {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const width = (high - low || 0.001) / number;
  const counts = new Array<number>(number).fill(0);
  for (const value of values) counts[Math.min(number - 1, Math.floor((value - low) / width))]++;
  return { edges: Array.from({ length: number + 1 }, (_, i) => low + i * width), counts };
}
