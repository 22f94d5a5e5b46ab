// An answer as it grows: read from the database, where the worker writes it four times a second.
import { rpc, secretKey } from "../_shared/rest.ts";

const POLL_MS = 250;

export interface Thread {
  session: string;
  token: string;
  message: string;
}

export interface Answer {
  status: "pending" | "streaming" | "done" | "failed" | "abstained";
  content: string;
  citations: unknown[];
}

export const isFinished = (answer: Answer): boolean =>
  answer.status !== "pending" && answer.status !== "streaming";

// Gives the answer now and whenever it was looked at again, until it is finished, the time is over or
// nobody listens any more.
export async function* follow(
  thread: Thread,
  patienceMs: number,
  signal: AbortSignal,
): AsyncGenerator<Answer> {
  const until = performance.now() + patienceMs;
  const args = { p_session: thread.session, p_token: thread.token, p_message: thread.message };
  while (true) {
    const answer = await rpc("get_visitor_answer", args, secretKey()) as Answer;
    yield answer;
    if (isFinished(answer) || performance.now() + POLL_MS > until) return;
    await pause(POLL_MS, signal);
    if (signal.aborted) return;
  }
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((done) => {
    const wake = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", wake);
      done();
    };
    const timer = setTimeout(wake, ms);
    signal.addEventListener("abort", wake);
    if (signal.aborted) wake();
  });
}
