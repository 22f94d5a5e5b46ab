// What every function that takes requests needs: answers in the form of PostgREST's errors, and
// bodies that are read no further than they may be long.

export function problem(
  status: number,
  message: string,
  details: string | null = null,
  headers: Record<string, string> = {},
): Response {
  return Response.json({ code: String(status), message, details, hint: null }, { status, headers });
}

// The body's bytes; null when there are more than the limit, of which the rest is not read.
export async function readBody(request: Request, limit: number): Promise<Uint8Array | null> {
  if (Number(request.headers.get("content-length") ?? 0) > limit) return null;
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of request.body ?? []) {
    size += part.length;
    if (size > limit) return null;
    parts.push(part);
  }
  const body = new Uint8Array(size);
  let place = 0;
  for (const part of parts) {
    body.set(part, place);
    place += part.length;
  }
  return body;
}

export function mediaType(headers: Headers): string {
  return (headers.get("content-type") ?? "").split(";")[0]!.trim().toLowerCase();
}

// Where a request comes from, as app.client_address says it: the last entry is the one our own edge
// appended, earlier ones are the caller's word.
export function clientAddress(headers: Headers): string {
  return headers.get("cf-connecting-ip") ??
    (headers.get("x-forwarded-for")?.split(",").at(-1)?.trim() || "unknown");
}

// Lets pages of any site read the answers of a handler that anybody may call.
export function crossOrigin(
  allowed: { methods: string[]; headers: string[] },
  handler: (request: Request) => Promise<Response>,
): (request: Request) => Promise<Response> {
  const methods = [...allowed.methods, "OPTIONS"].join(", ");
  return async (request) => {
    const response = request.method === "OPTIONS"
      ? new Response(null, { status: 204, headers: { allow: methods } })
      : await handler(request);
    response.headers.set("access-control-allow-origin", "*");
    response.headers.set("access-control-allow-methods", methods);
    response.headers.set("access-control-allow-headers", allowed.headers.join(", "));
    response.headers.set("access-control-expose-headers", "retry-after, x-request-id");
    response.headers.set("access-control-max-age", "86400");
    return response;
  };
}

// Runs a handler; what it does not expect is an outage of ours, which the sender may wait out.
export function served(
  handler: (request: Request) => Promise<Response>,
): (request: Request) => Promise<Response> {
  return async (request) => {
    try {
      return await handler(request);
    } catch (error) {
      console.error(error instanceof Error ? `${error.name}: ${error.message}` : "failed");
      return problem(503, "unavailable", "Try again in 30 s.", { "retry-after": "30" });
    }
  };
}
