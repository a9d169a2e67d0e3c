// Numbers, sizes and times as people read them.
const SHOWN_OF_A_LIST = 20;
const COUNT = new Intl.NumberFormat("en-US");

export function count(value: number): string {
  return COUNT.format(value);
}

export function images(value: number): string {
  return `${count(value)} ${value === 1 ? "image" : "images"}`;
}

export function percent(share: number, digits = 0): string {
  return `${(100 * share).toFixed(digits)} %`;
}

/** A number in words, or that there is none. */
export function known(value: number | null, words: (value: number) => string): string {
  return value === null ? "not measured" : words(value);
}

export function duration(seconds: number): string {
  if (seconds < 1) return "under a second";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export function ago(time: string): string {
  const seconds = (Date.now() - Date.parse(time)) / 1000;
  if (seconds < 45) return "just now";
  if (seconds < 5400) return `${Math.max(1, Math.round(seconds / 60))} min ago`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h ago`;
  return new Date(time).toLocaleDateString();
}

/** The end of a key, which tells images of one folder apart. */
export function base(key: string): string {
  return key.slice(key.lastIndexOf("/") + 1) || key;
}

/** A value of any depth as pairs of a name and a text; what is not set has none. */
export function lines(value: unknown, name = ""): [string, string][] {
  if (value === null || value === undefined) return [];
  if (typeof value !== "object") return [[name, String(value)]];
  if (Array.isArray(value) && value.every((each) => typeof each !== "object")) {
    return [[name, value.length > SHOWN_OF_A_LIST ? `${count(value.length)} of them` : value.join(", ")]];
  }
  return Object.entries(value).flatMap(([field, each]) => lines(each, name ? `${name} › ${field}` : field));
}

export function csv(rows: unknown[][]): string {
  const cell = (value: unknown) => {
    let text = value === null || value === undefined ? "" : String(value);
    // a spreadsheet would run what starts like a formula
    if (/^[=+\-@\t\r]/.test(text) && typeof value === "string") text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

/** Have the browser keep a text as a file. */
export function download(name: string, text: string, type: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
