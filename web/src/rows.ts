// Results of many rows, read a line at a time: what a row said is kept, the row is not.
import { request } from "./api";

export async function eachRow<T>(job: string, tell: (row: T) => void, signal?: AbortSignal): Promise<void> {
  const answer = await request("GET", `/v1/jobs/${job}/result`, { signal, headers: { Accept: "application/x-ndjson" } });
  const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    const lines = (rest + (value ?? "")).split("\n");
    rest = done ? "" : lines.pop()!;
    for (const line of lines) if (line) tell(JSON.parse(line));
    if (done) return;
  }
}
