// The one door to the database: SQL functions, called over REST.

const TIMEOUT_MS = 20_000;

export class RestError extends Error {
  override name = "RestError";

  constructor(readonly status: number, readonly body: Record<string, unknown>) {
    super(`${status} ${body.code} ${body.message}`);
  }
}

// A hosted project names its keys in a dictionary, older ones and self-hosted ones one by one.
function key(dictionary: string, single: string, legacy: string): string {
  const named = JSON.parse(Deno.env.get(dictionary) ?? "{}").default;
  const found = named ?? Deno.env.get(single) ?? Deno.env.get(legacy);
  if (!found) throw new Error(`${single} is not set`);
  return found;
}

export const publishableKey = () =>
  key("SUPABASE_PUBLISHABLE_KEYS", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_ANON_KEY");

export const secretKey = () =>
  key("SUPABASE_SECRET_KEYS", "SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY");

// Calls a function of the schema public. Arguments may come as JSON text, which is passed on as it is.
export async function rpc(
  name: string,
  args: Record<string, unknown> | string,
  apiKey: string,
): Promise<unknown> {
  const response = await fetch(`${Deno.env.get("SUPABASE_URL")}/rest/v1/rpc/${name}`, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      apikey: apiKey,
      // Keys of today are no tokens; those of yesterday are.
      ...(apiKey.startsWith("ey") ? { authorization: `Bearer ${apiKey}` } : {}),
    },
    body: typeof args === "string" ? args : JSON.stringify(args),
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  const text = await response.text();
  if (response.ok) return text === "" ? null : JSON.parse(text);
  let body: Record<string, unknown> = {};
  try {
    body = JSON.parse(text);
  } catch {
    // Not PostgREST, but a proxy before it.
  }
  throw new RestError(response.status, body);
}

// Seconds until a limit lets the caller through again, as app.rate_limit says them.
export function retryAfter(error: RestError): string {
  return /\d+/.exec(String(error.body.hint ?? ""))?.[0] ?? "60";
}
