// An answer as server-sent events: started, token …, citations, done; or error.
import { type Answer, follow, isFinished, type Thread } from "./follow.ts";

const PATIENCE_MS = 120_000;
const HEARTBEAT_MS = 10_000;

const encoder = new TextEncoder();

const event = (name: string, data: unknown): Uint8Array =>
  encoder.encode(`event: ${name}\ndata: ${JSON.stringify(data)}\n\n`);

export function stream(
  request: Request,
  thread: Thread,
  known: Record<string, unknown>,
): Response {
  const gone = new AbortController();
  const signal = AbortSignal.any([request.signal, gone.signal]);
  const body = new ReadableStream<Uint8Array>({
    async start(controller) {
      // Proxies close what is silent for long.
      const heart = setInterval(() => send(encoder.encode(": ping\n\n")), HEARTBEAT_MS);
      const send = (bytes: Uint8Array) => {
        if (!signal.aborted) controller.enqueue(bytes);
      };
      try {
        send(event("started", { ...known, message: thread.message }));
        await tell(thread, signal, send);
      } catch (error) {
        console.error(error instanceof Error ? `${error.name}: ${error.message}` : "failed");
        send(event("error", { message: "unavailable", details: "Ask for the message again." }));
      } finally {
        clearInterval(heart);
        if (!gone.signal.aborted) controller.close();
      }
    },
    cancel: () => gone.abort(),
  });
  return new Response(body, {
    headers: {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-store, no-transform",
      "x-accel-buffering": "no",
    },
  });
}

async function tell(
  thread: Thread,
  signal: AbortSignal,
  send: (bytes: Uint8Array) => void,
): Promise<void> {
  let shown = "";
  let answer: Answer | undefined;
  for await (answer of follow(thread, PATIENCE_MS, signal)) {
    if (answer.content !== shown) send(event("token", difference(shown, answer.content)));
    shown = answer.content;
  }
  if (!answer || signal.aborted) return;
  if (!isFinished(answer)) {
    send(event("error", { message: "answer_pending", details: "Ask for the message again." }));
    return;
  }
  if (answer.citations.length > 0) send(event("citations", answer.citations));
  send(event("done", answer));
}

// What to do with a text to have the next: keep its first `from` characters, append `text`. An answer
// mostly grows; one that turned out to have no source is replaced.
export function difference(before: string, after: string): { from: number; text: string } {
  let from = 0;
  const longest = Math.min(before.length, after.length);
  while (from < longest && before[from] === after[from]) from++;
  // Not in the middle of a surrogate pair.
  if (from > 0 && /[\ud800-\udbff]/.test(after[from - 1]!)) from--;
  return { from, text: after.slice(from) };
}
