// Serves every supabase/functions/<name>/index.ts from one process, as the edge runtime would:
// deno run functions.ts, behind the gateway's /functions/v1/<name>. Port in NESSOS_FUNCTIONS_PORT.

const folder = new URL("../functions/", import.meta.url);
const port = Number(Deno.env.get("NESSOS_FUNCTIONS_PORT") ?? 54323);
const handlers = new Map<string, Deno.ServeHandler>();
const serve = Deno.serve;

// A function calls Deno.serve(handler) when it is imported; that handler is kept instead of served.
async function load(name: string): Promise<void> {
  let handler: Deno.ServeHandler | undefined;
  Object.defineProperty(Deno, "serve", {
    configurable: true,
    value: (...args: unknown[]) => {
      const options = args.find((arg) => typeof arg === "object") as {
        handler?: Deno.ServeHandler;
      };
      handler = (args.find((arg) => typeof arg === "function") as Deno.ServeHandler) ??
        options?.handler;
      return { finished: Promise.resolve(), shutdown: () => Promise.resolve() };
    },
  });
  await import(new URL(`${name}/index.ts`, folder).href);
  if (!handler) throw new Error(`the function ${name} does not call Deno.serve`);
  handlers.set(name, handler);
}

function problem(status: number, message: string): Response {
  return Response.json({ code: String(status), message, details: null, hint: null }, { status });
}

for (const entry of Deno.readDirSync(folder)) {
  if (!entry.isDirectory || entry.name.startsWith("_") || entry.name.startsWith(".")) continue;
  try {
    await load(entry.name);
  } catch (error) {
    console.error(`function ${entry.name} is not served:`, error);
  }
}

serve({ hostname: "127.0.0.1", port, onListen: () => {} }, async (request, info) => {
  const name = new URL(request.url).pathname.split("/")[1] ?? "";
  if (name === "") return Response.json({ status: "ok", functions: [...handlers.keys()].sort() });
  const handler = handlers.get(name);
  if (!handler) return problem(404, "function_not_found");
  try {
    return await handler(request, info);
  } catch (error) {
    console.error(`function ${name}:`, error);
    return problem(500, "function_failed");
  }
});
