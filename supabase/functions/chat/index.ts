// The chat of the public site: a visitor asks what is public of an organisation and gets an answer with
// its sources, as JSON or piece by piece; he may leave his data. docs/frontend.md says how it is called.
// SQL functions store and check everything; a worker answers.
import {
  clientAddress,
  crossOrigin,
  mediaType,
  problem,
  readBody,
  served,
} from "../_shared/http.ts";
import { unstorable } from "../_shared/json.ts";
import { RestError, retryAfter, rpc, secretKey } from "../_shared/rest.ts";
import { type Answer, follow, isFinished, type Thread } from "./follow.ts";
import { stream } from "./stream.ts";

const LIMIT_KB = 64;
const WAIT_MS = 25_000;

class Refusal extends Error {}

type Fields = Record<string, unknown>;

async function chat(request: Request): Promise<Response> {
  const url = new URL(request.url);
  const path = url.pathname.replace(/^.*?\/chat(?=\/|$)/, "").replace(/\/$/, "");
  try {
    if (path === "" && request.method === "GET") return await read(request, url.searchParams);
    if (path !== "" && path !== "/lead") return problem(404, "not_found", "/chat or /chat/lead");
    if (request.method !== "POST") {
      const allow = path === "" ? "GET, POST" : "POST";
      return problem(405, "method_not_allowed", `Send ${allow}.`, { allow });
    }
    if (mediaType(request.headers) !== "application/json") {
      return problem(415, "unsupported_media_type", "Send application/json.");
    }
    const body = await readBody(request, LIMIT_KB * 1024);
    if (!body) return problem(413, "payload_too_large", `The body exceeds ${LIMIT_KB} kB.`);
    const fields = parse(body);
    return path === "" ? await ask(request, fields) : await leaveData(request, fields);
  } catch (error) {
    if (error instanceof Refusal) return problem(400, "bad_input", error.message);
    if (!(error instanceof RestError) || error.status >= 500) throw error;
    return Response.json(error.body, {
      status: error.status,
      headers: error.status === 429 ? { "retry-after": retryAfter(error) } : {},
    });
  }
}

async function ask(request: Request, fields: Fields): Promise<Response> {
  const session = uuid(fields, "session");
  const token = text(fields, "token");
  if ((session === null) !== (token === null)) {
    throw new Refusal("session and token go together: send both, or none to begin.");
  }
  const asked = await rpc("ask_as_visitor", {
    p_organization: text(fields, "organization"),
    p_question: text(fields, "question"),
    p_session: session,
    p_token: token,
    p_idempotency_key: request.headers.get("idempotency-key"),
    p_address: clientAddress(request.headers),
  }, secretKey()) as { session_id: string; answer_id: string; token: string | null };
  const thread = {
    session: asked.session_id,
    token: asked.token ?? token!,
    message: asked.answer_id,
  };
  // The token is shown once, to whoever has begun.
  const known = { session: thread.session, ...(asked.token && { token: asked.token }) };
  return await answer(request, thread, known, patience(request));
}

// RFC 7240: "Prefer: wait=5" waits five seconds for the answer, "wait=0" not at all.
function patience(request: Request): number {
  const preferred = /(?:^|[,;\s])wait=(\d{1,4})\b/.exec(request.headers.get("prefer") ?? "")?.[1];
  return Math.min(preferred ? Number(preferred) * 1000 : WAIT_MS, WAIT_MS);
}

async function read(request: Request, query: URLSearchParams): Promise<Response> {
  const fields = Object.fromEntries(query);
  const session = uuid(fields, "session");
  const message = uuid(fields, "message");
  const token = request.headers.get("x-chat-token");
  if (!session || !token) throw new Refusal("session and the header x-chat-token are needed.");
  if (message) return await answer(request, { session, token, message }, { session }, 0);
  const { session_id: _, ...conversation } = await rpc("get_visitor_chat", {
    p_session: session,
    p_token: token,
  }, secretKey()) as Fields;
  return json(200, { session, ...conversation });
}

// Answers with the message: as it grows when asked for events, else when it is finished or the wait is
// over (202: ask for it again).
async function answer(
  request: Request,
  thread: Thread,
  known: Fields,
  patienceMs: number,
): Promise<Response> {
  if (/\btext\/event-stream\b/.test(request.headers.get("accept") ?? "")) {
    return stream(request, thread, known);
  }
  let message: Answer | undefined;
  for await (message of follow(thread, patienceMs, request.signal)) {
    if (isFinished(message)) return json(200, { ...known, message });
  }
  return json(202, { ...known, message }, { "retry-after": "1" });
}

async function leaveData(request: Request, fields: Fields): Promise<Response> {
  const session = uuid(fields, "session");
  const token = text(fields, "token");
  if (!session || !token) throw new Refusal("session and token are needed.");
  const { consent } = fields;
  if (consent !== undefined && consent !== null && typeof consent !== "boolean") {
    throw new Refusal("consent: is not true or false.");
  }
  return json(
    200,
    await rpc("submit_chat_lead", {
      p_session: session,
      p_token: token,
      p_name: text(fields, "name"),
      p_email: text(fields, "email"),
      p_phone: text(fields, "phone"),
      p_company: text(fields, "company"),
      p_message: text(fields, "message"),
      p_origin_url: text(fields, "origin_url"),
      p_consent: consent ?? null,
      p_address: clientAddress(request.headers),
    }, secretKey()),
  );
}

function parse(body: Uint8Array): Fields {
  let fields: unknown;
  try {
    fields = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch {
    throw new Refusal("body: is not JSON.");
  }
  if (typeof fields !== "object" || fields === null || Array.isArray(fields)) {
    throw new Refusal("body: is not an object.");
  }
  const refused = unstorable(fields);
  if (refused) throw new Refusal(refused);
  return fields as Fields;
}

function text(fields: Fields, name: string): string | null {
  const value = fields[name] ?? null;
  if (value !== null && typeof value !== "string") throw new Refusal(`${name}: is not a text.`);
  return value;
}

function uuid(fields: Fields, name: string): string | null {
  const value = text(fields, name);
  if (value !== null && !/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(value)) {
    throw new Refusal(`${name}: is not a UUID.`);
  }
  return value;
}

function json(status: number, body: unknown, headers: Record<string, string> = {}): Response {
  return Response.json(body, { status, headers: { "cache-control": "no-store", ...headers } });
}

Deno.serve(crossOrigin({
  methods: ["GET", "POST"],
  headers: [
    "accept",
    "apikey",
    "authorization",
    "content-type",
    "idempotency-key",
    "prefer",
    "x-chat-token",
    "x-client-info",
  ],
}, served(chat)));
