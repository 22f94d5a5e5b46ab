// /health says that functions are served, and by which Deno; /health/integrations how the services
// outside are: per provider, for anybody.
import { problem, served } from "../_shared/http.ts";
import { rpc, secretKey } from "../_shared/rest.ts";

const FRESH_MS = 10_000;

let known: { askedAt: number; answer: Promise<unknown> } | undefined;

// However many ask, the database is asked once in ten seconds.
function integrations(): Promise<unknown> {
  if (!known || Date.now() - known.askedAt > FRESH_MS) {
    const answer = rpc("get_integration_health", {}, secretKey());
    answer.catch(() => known = undefined);
    known = { askedAt: Date.now(), answer };
  }
  return known.answer;
}

async function health(request: Request): Promise<Response> {
  const path = new URL(request.url).pathname.replace(/^.*?\/health/, "").replace(/\/$/, "");
  switch (path) {
    case "":
      return Response.json({ status: "ok", deno: Deno.version.deno });
    case "/integrations":
      return Response.json({ integrations: await integrations() }, {
        headers: { "cache-control": `public, max-age=${FRESH_MS / 1000}` },
      });
    default:
      return problem(404, "not_found", "/health or /health/integrations");
  }
}

Deno.serve(served(health));
