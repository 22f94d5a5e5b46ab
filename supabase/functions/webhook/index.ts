// Takes what outside services send to /functions/v1/webhook/<provider>/<token>: checks it, stores it as
// it came, answers. A job does the rest (nessos/webhooks/inbound.py).
import { fromBase64, openCredentials, sha256, toBase64, toHex } from "../_shared/crypto.ts";
import { problem, readBody, served } from "../_shared/http.ts";
import { RestError, retryAfter, rpc, secretKey } from "../_shared/rest.ts";
import type { Delivery } from "../_shared/signatures.ts";
import { providers, type Secrets } from "./providers.ts";

const limitMb = Number(Deno.env.get("NESSOS_WEBHOOK_LIMIT_MB") ?? 5);
const publicUrl = (Deno.env.get("NESSOS_PUBLIC_URL") || Deno.env.get("SUPABASE_URL") || "")
  .replace(/\/+$/, "");

// Headers that tell of the event. Everything else is dropped: it may be a credential.
const KEPT =
  /^(content-length|content-type|date|user-agent|x-forwarded-for|x-request-id|(svix|webhook|x-github|x-hub|x-twilio|i-twilio)-.+)$/;
const MAX_HEADER_LENGTH = 1000;

// Checked against when there is nobody to ask: an unknown token costs what a wrong signature costs.
const DECOY: Secrets = { webhook_secret: crypto.randomUUID(), auth_token: crypto.randomUUID() };

interface Credentials {
  org_id: string;
  key_id: string | null;
  ciphertext: string | null;
}

async function take(request: Request): Promise<Response> {
  const url = new URL(request.url);
  const path = url.pathname.replace(/^\/functions\/v1(?=\/)/, "");
  const [, name = "", token = "", appended] = /^\/webhook\/([^/]+)\/([^/]+)(\/.*)?$/.exec(path) ??
    [];
  const provider = providers.get(name);
  if (!provider || (appended && !provider.appendsPath)) return problem(404, "not_found");
  if (request.method !== "POST") {
    return problem(405, "method_not_allowed", "Send POST.", { allow: "POST" });
  }
  const body = await readBody(request, limitMb * 1024 * 1024);
  if (!body) return problem(413, "payload_too_large", `The body exceeds ${limitMb} MB.`);

  const delivery: Delivery = {
    url: `${publicUrl}/functions/v1${path}${url.search}`,
    headers: request.headers,
    body,
    now: Date.now() / 1000,
  };
  const key = secretKey();
  const found = await rpc("get_webhook_credentials", { provider: name, token }, key) as
    | Credentials
    | null;
  const refusal = await provider.refusal(delivery, await secretsOf(name, found));
  const rejection = found ? refusal : "address unknown";
  try {
    const outcome = await rpc("receive_webhook", {
      provider: name,
      token,
      event_key: await eventKey(provider.eventId(delivery), body),
      headers: keptHeaders(request.headers),
      body: toBase64(body),
      rejection,
    }, key);
    if (rejection || outcome === "unknown") return problem(401, "webhook_refused");
    return provider.answer?.() ?? Response.json({ status: outcome });
  } catch (error) {
    if (!(error instanceof RestError) || error.status !== 429) throw error;
    return Response.json(error.body, {
      status: 429,
      headers: { "retry-after": retryAfter(error) },
    });
  }
}

async function secretsOf(provider: string, found: Credentials | null): Promise<Secrets> {
  if (!found) return DECOY;
  if (!found.ciphertext || !found.key_id) return {};
  return await openCredentials({
    orgId: found.org_id,
    provider,
    keyId: found.key_id,
    ciphertext: fromBase64(found.ciphertext),
  });
}

async function eventKey(id: string | null, body: Uint8Array): Promise<string> {
  return id && /^[\x21-\x7e]{1,200}$/.test(id) ? id : `sha256:${toHex(await sha256(body))}`;
}

function keptHeaders(headers: Headers): Record<string, string> {
  return Object.fromEntries(
    [...headers].filter(([name]) => KEPT.test(name))
      .map(([name, value]) => [name, value.slice(0, MAX_HEADER_LENGTH)]),
  );
}

Deno.serve(served(take));
