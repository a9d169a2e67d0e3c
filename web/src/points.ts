// Points painted into an image by hand. Where no graphics card helps, this is many times quicker than WebGL
// (docs/explanation/gallery.md has the numbers), and it is the same code everywhere.

export interface Camera {
  /** What stands in the middle, and how many pixels a unit of the map is. */
  x: number;
  y: number;
  scale: number;
}

export interface Points {
  x: Float32Array;
  y: Float32Array;
  /** An index into the palette for each point; the last 255 means: not shown. */
  color: Uint8Array;
  marked: Uint8Array;
}

const MOST_PIXELS = 4_000_000;

/** Turn `#rrggbb` into what stands in the memory of an image. */
export function pixel(color: string): number {
  const value = parseInt(color.slice(1), 16);
  return (0xff000000 | ((value & 0xff) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
}

export class Painter {
  readonly #context: CanvasRenderingContext2D;
  #image: ImageData | null = null;
  ratio = 1;

  constructor(readonly canvas: HTMLCanvasElement) {
    this.#context = canvas.getContext("2d", { alpha: false })!;
  }

  resize(width: number, height: number): void {
    this.ratio = Math.min(devicePixelRatio, Math.sqrt(MOST_PIXELS / Math.max(1, width * height)));
    this.canvas.width = Math.max(1, Math.round(width * this.ratio));
    this.canvas.height = Math.max(1, Math.round(height * this.ratio));
    this.#image = this.#context.createImageData(this.canvas.width, this.canvas.height);
  }

  paint(points: Points, camera: Camera, palette: Uint32Array, ground: number, ring: number, radius: number): void {
    const image = this.#image;
    if (!image) return;
    const { width, height } = image;
    const pixels = new Uint32Array(image.data.buffer);
    pixels.fill(ground);
    const scale = camera.scale * this.ratio;
    const left = width / 2 - camera.x * scale;
    const top = height / 2 - camera.y * scale;
    const spans = disc(Math.max(1, Math.round(radius * this.ratio)));
    const wide = disc(Math.max(2, Math.round((radius + 2) * this.ratio)));
    for (const marked of [0, 1]) {
      for (let i = 0; i < points.x.length; i++) {
        if (points.marked[i] !== marked || points.color[i] === 255) continue;
        const x = Math.round(left + points.x[i] * scale);
        const y = Math.round(top + points.y[i] * scale);
        if (marked) fill(pixels, width, height, x, y, wide, ring);
        fill(pixels, width, height, x, y, spans, palette[points.color[i]]);
      }
    }
    this.#context.putImageData(image, 0, 0);
  }
}

/** Half the width of a disc in each of its lines. */
function disc(radius: number): Int32Array {
  return Int32Array.from({ length: 2 * radius + 1 }, (_, line) => Math.round(Math.sqrt(radius * radius + radius * 0.8 - (line - radius) ** 2)) || 0);
}

function fill(pixels: Uint32Array, width: number, height: number, x: number, y: number, spans: Int32Array, color: number): void {
  const radius = spans.length >> 1;
  if (x + radius < 0 || y + radius < 0 || x - radius >= width || y - radius >= height) return;
  for (let line = 0; line < spans.length; line++) {
    const row = y + line - radius;
    if (row < 0 || row >= height) continue;
    const from = Math.max(0, x - spans[line]);
    const to = Math.min(width - 1, x + spans[line]);
    for (let at = row * width + from; at <= row * width + to; at++) pixels[at] = color;
  }
}

/** Tell which points lie inside a polygon (x0, y0, x1, y1, ...) of the map. */
export function inside(points: Points, polygon: number[]): number[] {
  const found: number[] = [];
  for (let i = 0; i < points.x.length; i++) {
    if (points.color[i] === 255) continue;
    const x = points.x[i];
    const y = points.y[i];
    let odd = false;
    for (let a = 0, b = polygon.length - 2; a < polygon.length; b = a, a += 2) {
      if (polygon[a + 1] > y !== polygon[b + 1] > y && x < ((polygon[b] - polygon[a]) * (y - polygon[a + 1])) / (polygon[b + 1] - polygon[a + 1]) + polygon[a]) odd = !odd;
    }
    if (odd) found.push(i);
  }
  return found;
}
