// Takes measurements from machines: one as an object, or up to 1,000 as an array, in the name of an API
// key. What a measurement is, says the SQL function; this one reads the request.
import { mediaType, problem, readBody, served } from "../_shared/http.ts";
import { publishableKey, RestError, retryAfter, rpc } from "../_shared/rest.ts";
import { unstorable } from "../_shared/json.ts";

const LIMIT_MB = 2;

async function ingest(request: Request): Promise<Response> {
  if (request.method !== "POST") {
    return problem(405, "method_not_allowed", "Send POST.", { allow: "POST" });
  }
  if (mediaType(request.headers) !== "application/json") {
    return problem(415, "unsupported_media_type", "Send application/json.");
  }
  const apiKey = request.headers.get("x-api-key") ??
    /^Bearer (\S+)$/i.exec(request.headers.get("authorization") ?? "")?.[1];
  if (!apiKey) {
    return problem(401, "api_key_missing", "Send the key as x-api-key or as a Bearer token.", {
      "www-authenticate": "Bearer",
    });
  }
  const body = await readBody(request, LIMIT_MB * 1024 * 1024);
  if (!body) return problem(413, "payload_too_large", `The body exceeds ${LIMIT_MB} MB.`);
  let text: string;
  let indicators: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(body);
    indicators = JSON.parse(text);
  } catch {
    return problem(400, "bad_input", "body: is not JSON.");
  }
  const refused = unstorable(indicators);
  if (refused) return problem(400, "bad_input", refused);
  // The measurements go on as they were written: numbers keep all their digits.
  const args = `{"api_key": ${JSON.stringify(apiKey)}, "idempotency_key": ${
    JSON.stringify(request.headers.get("idempotency-key"))
  }, "indicators": ${text}}`;
  try {
    return Response.json(await rpc("ingest_indicators", args, publishableKey()));
  } catch (error) {
    if (!(error instanceof RestError) || error.status >= 500) throw error;
    return Response.json(withField(error.body), { status: error.status, headers: hints(error) });
  }
}

// The details of a refused measurement begin with the field they are about.
function withField(body: Record<string, unknown>): Record<string, unknown> {
  const field = /^(\w+): /.exec(String(body.details ?? ""))?.[1];
  return field ? { ...body, field } : body;
}

function hints(error: RestError): Record<string, string> {
  if (error.status === 401) return { "www-authenticate": "Bearer" };
  return error.status === 429 ? { "retry-after": retryAfter(error) } : {};
}

Deno.serve(served(ingest));
