// REST, Auth and the functions proxy of a machine without hosted Supabase: one address, like a project's.
// Embeds @supabase/lite; what is added or taken away around it stands in this file. Settings come from
// the environment (see py/nessos/local/stack.py), secrets never from the command line.
import { createHmac, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { AsyncLocalStorage } from "node:async_hooks";
import { Readable } from "node:stream";
import postgres from "postgres";
import "./corrections.mjs";

const { App } = await import("@supabase/lite");
const { createPostgresConnection } = await import("@supabase/lite/postgres");
const env = process.env;
const port = Number(env.NESSOS_GATEWAY_PORT ?? 54321);
const functionsPort = Number(env.NESSOS_FUNCTIONS_PORT ?? 54323);
const jsonLevels = 200;
const authTexts = ["email", "phone", "password", "refresh_token", "token", "token_hash", "type"];
const bodyLimit = Number(env.NESSOS_BODY_LIMIT_MB ?? 10) * 1024 * 1024;
const config = JSON.parse(env.NESSOS_PROJECT ?? "{}");
const { email: { enabled: emailEnabled = true, ...email } = {}, ...auth } = config.auth ?? {};

// Headers by which a caller could claim another address; the socket alone is believed.
const addressHeaders = [
  "cf-connecting-ip",
  "fastly-client-ip",
  "forwarded",
  "true-client-ip",
  "x-client-ip",
  "x-cluster-client-ip",
  "x-forwarded",
  "x-forwarded-for",
  "x-forwarded-host",
  "x-forwarded-port",
  "x-forwarded-proto",
  "x-real-ip",
];
const methods = ["GET", "POST", "PATCH", "PUT", "DELETE", "OPTIONS", "HEAD"];
const hopHeaders = [
  "connection",
  "content-length",
  "expect",
  "host",
  "keep-alive",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
];

// Values as PostgREST writes them: moments in ISO 8601, money as numbers.
const isoMoment = (text) =>
  text.replace(" ", "T").replace(
    /([+-]\d\d)(?::?(\d\d))?$/,
    (_, hour, minute) => `${hour}:${minute ?? "00"}`,
  );
const number = (text) => Number.isFinite(Number(text)) ? Number(text) : text;
const plain = (value) => value;
const restTypes = {
  numeric: { to: 1700, from: [1700], serialize: String, parse: number },
  timestamp: { to: 1114, from: [1114], serialize: plain, parse: (text) => text.replace(" ", "T") },
  timestamptz: { to: 1184, from: [1184], serialize: plain, parse: isoMoment },
};

// Auth hands over JSON already written, and the driver would write it once more: a string, not an object.
const writtenJson = (value) => typeof value === "string" ? value : JSON.stringify(value);
const authTypes = {
  ...restTypes,
  json: { to: 114, from: [114], serialize: writtenJson, parse: JSON.parse },
  jsonb: { to: 3802, from: [3802], serialize: writtenJson, parse: JSON.parse },
};

function connect(url, name, max, types, settings = {}) {
  return createPostgresConnection({
    url,
    postgresOptions: {
      max,
      idle_timeout: 60,
      types,
      onnotice: () => {},
      connection: { application_name: name, ...settings },
    },
  });
}

// The HTTP status PostgREST gives an SQLSTATE, where the library only knows "500, something": checks,
// exclusions, lost races, errors raised without a key. It passes on what is raised in PostgREST's own form.
const statusOf = {
  "08": 503,
  "23": 400,
  "53": 503,
  "57": 500,
  P0001: 400,
};
const known = new Set(["23502", "23503", "23505"]);

function withStatus(error) {
  const state = typeof error?.code === "string" ? error.code : "";
  const status = statusOf[state] ?? statusOf[state.slice(0, 2)];
  if (state.length !== 5 || !status || known.has(state)) return error;
  const { message, detail: details = null, hint = null } = error;
  return Object.assign(new Error(JSON.stringify({ code: state, message, details, hint })), {
    code: "PGRST",
    detail: JSON.stringify({ status, headers: {} }),
  });
}

// What SQL may read of a request, set in one statement where the library takes seven.
const incoming = new AsyncLocalStorage();
const settings = [
  ["role", ({ auth }) => auth?.role || "anon"],
  ["request.jwt.claim.sub", ({ auth }) => auth?.uid ?? ""],
  ["request.jwt.claim.role", ({ auth }) => auth?.role || "anon"],
  ["request.jwt.claims", ({ auth }) => auth?.jwt ? JSON.stringify(auth.jwt) : ""],
  ["request.method", () => incoming.getStore().method],
  ["request.path", () => incoming.getStore().path],
  ["request.headers", () => JSON.stringify(Object.fromEntries(incoming.getStore().headers))],
  ["response.status", () => ""],
  ["response.headers", () => ""],
];
const setAll = `select ${settings.map(([name], at) => `set_config('${name}', $${at + 1}, true)`)}`;

async function enterRequest(db, variables) {
  const parameters = settings.map(([, value]) => String(value(variables)));
  const query = { kind: "RawNode", sqlFragments: [setAll], parameters: [] };
  await db.executeQuery({ sql: setAll, parameters, query, queryId: { queryId: "request" } });
}

// One generation of connections and the App on them. A new one replaces it after migrations: the
// schema is read once, and prepared statements do not survive changed tables.
async function build() {
  // Auth owns its tables and reads the catalog, so it connects as the owner. Requests to REST run on a
  // second connection as `authenticator`, which is nothing until it becomes the role of the request.
  const owner = connect(env.NESSOS_OWNER_URL, "nessos gateway auth", 5, authTypes);
  const rest = connect(env.NESSOS_REST_URL, "nessos gateway rest", 10, restTypes, {
    statement_timeout: 8000,
  });
  // "unknown" would make the library grant every table to anon and authenticated.
  rest.rlsState = "active";
  owner.rlsState = "active";
  const normalize = owner.normalizeDbError.bind(owner);
  owner.normalizeDbError = (error) => withStatus(normalize(error));
  owner.withContext = (variables, act, options) => rest.withContext(variables, act, options);
  rest.applyJwtSessionContext = enterRequest;
  rest.applyRpcRequestGucs = () => Promise.resolve();
  const app = new App({
    connection: owner,
    api: { enabled: true, schemas: config.api?.schemas, max_rows: config.api?.max_rows },
    auth: {
      ...auth,
      email: { ...email, enable_signup: emailEnabled },
      jwt_secret: env.NESSOS_JWT_SECRET,
      publishable_key: env.SUPABASE_PUBLISHABLE_KEY,
      secret_key: env.SUPABASE_SECRET_KEY,
    },
    studio: { enabled: false },
    options: { server: { admin: false, disableStudio: true } },
  });
  const schema = await owner.introspect();
  if (schema.tables.length === 0) throw new Error("the schema of the database cannot be read");
  await rest.driver`select 1`;
  const close = () =>
    Promise.allSettled([owner, rest].map((one) => one.driver.end({ timeout: 10 })));
  let pending = 0;
  let isRetired = false;
  return {
    owner,
    close,
    async fetch(request) {
      pending += 1;
      try {
        return await app.fetch(request, { peerAddress: null });
      } finally {
        pending -= 1;
        if (isRetired && pending === 0) void close();
      }
    },
    // A statement that waits for its connection while that is being closed is never answered.
    retire() {
      isRetired = true;
      if (pending === 0) void close();
    },
  };
}

// One line, not the error: the library puts its whole configuration, keys included, into some of them.
const firstLine = (error) => String(error?.message ?? error).split("\n")[0].slice(0, 300);
const write = console.error;
console.error = (...parts) =>
  write(parts.map((part) => typeof part === "string" ? part : firstLine(part)).join(" "));
process.on("uncaughtException", (error) => {
  console.error(firstLine(error));
  process.exit(1);
});

let current = await build().catch((error) => {
  console.error(error.errors?.[0]?.error ?? firstLine(error));
  process.exit(1);
});
let reloading = Promise.resolve();

function reload() {
  reloading = reloading.then(async () => {
    const old = current;
    current = await build();
    console.log("schema reloaded");
    old.retire();
  }).catch((error) => console.error("schema not reloaded:", firstLine(error)));
  return reloading;
}

// The same call that reloads PostgREST on Supabase: notify pgrst, 'reload schema'.
const listener = postgres(env.NESSOS_OWNER_URL, {
  max: 1,
  connection: { application_name: "nessos gateway listen" },
});
await listener.listen("pgrst", () => void reload());

class Refusal extends Error {
  constructor(status, code, message, hint = null) {
    super(message);
    Object.assign(this, { status, code, hint });
  }
}

async function readBody(request) {
  if (Number(request.headers["content-length"] ?? 0) > bodyLimit) throw tooLarge();
  const parts = [];
  let size = 0;
  for await (const part of request) {
    size += part.length;
    if (size > bodyLimit) throw tooLarge();
    parts.push(part);
  }
  return size ? Buffer.concat(parts) : undefined;
}

const tooLarge = () =>
  new Refusal(413, "payload_too_large", `The body exceeds ${bodyLimit / 1024 / 1024} MB.`);

// What a hosted project's services refuse and the library falls over: levels of JSON by the thousand, in Auth
// anything but an object, and null bytes, which no text in Postgres holds.
function checkJson(path, body) {
  const text = body?.toString() ?? "";
  if (levelsOf(text) > jsonLevels) {
    throw new Refusal(400, "bad_json", `The body has more than ${jsonLevels} levels of JSON.`);
  }
  if (!path.startsWith("/auth/v1/") || text === "") return;
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Refusal(400, "bad_json", "The body is not JSON.");
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    throw new Refusal(400, "bad_json", "The body is not a JSON object.");
  }
  const wrong = authTexts.find((name) => typeof (value[name] ?? "") !== "string");
  if (wrong) throw new Refusal(400, "validation_failed", `${wrong} is a text.`);
  if (JSON.stringify(value).includes("\\u0000")) {
    throw new Refusal(400, "bad_json", "A text has a null byte.");
  }
}

function levelsOf(text) {
  let levels = 0;
  let deepest = 0;
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[[\]{}]/gs)) {
    if (token === "[" || token === "{") deepest = Math.max(deepest, ++levels);
    else if (token === "]" || token === "}") levels -= 1;
  }
  return deepest;
}

function trustedHeaders(request, requestId) {
  const headers = new Headers();
  for (const [name, value] of Object.entries(request.headers)) {
    if (addressHeaders.includes(name) || hopHeaders.includes(name) || name.startsWith(":")) {
      continue;
    }
    headers.set(name, Array.isArray(value) ? value.join(", ") : value);
  }
  headers.set("x-forwarded-for", (request.socket.remoteAddress ?? "").replace(/^::ffff:/, ""));
  headers.set("x-request-id", requestId);
  return headers;
}

function crossOrigin(request) {
  return {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": methods.join(", "),
    "access-control-allow-headers": request.headers["access-control-request-headers"] ??
      "authorization, apikey, content-type, prefer, range, x-client-info, x-request-id",
    "access-control-expose-headers":
      "content-range, content-location, preference-applied, x-request-id",
    "access-control-max-age": "86400",
  };
}

function json(status, body, headers = {}) {
  return new Response(JSON.stringify(body), {
    status,
    headers: { "content-type": "application/json; charset=utf-8", ...headers },
  });
}

async function answer(request, url, headers) {
  const path = url.pathname;
  if (path === "/health") return await health();
  const isFunction = path.startsWith("/functions/v1/");
  if (!isFunction && !path.startsWith("/rest/v1/") && !path.startsWith("/auth/v1/")) {
    throw new Refusal(404, "not_found", "No such address.", "/rest/v1, /auth/v1 or /functions/v1");
  }
  if (!methods.includes(request.method)) {
    throw new Refusal(405, "method_not_allowed", "No such method here.", methods.join(", "));
  }
  if (request.method === "OPTIONS" && !isFunction && request.headers.origin) {
    return new Response(null, { status: 204 });
  }
  const hasBody = request.method !== "GET" && request.method !== "HEAD";
  const init = { method: request.method, headers, body: hasBody ? await readBody(request) : null };
  if (!isFunction) checkJson(path, init.body);
  if (isFunction) {
    const target = `http://127.0.0.1:${functionsPort}${path.slice("/functions/v1".length)}`;
    return await fetch(target + url.search, { ...init, redirect: "manual" }).catch(() => {
      throw new Refusal(502, "functions_down", "The functions server does not answer.");
    });
  }
  const response = await incoming.run(
    { method: request.method, path: path.replace("/rest/v1", ""), headers },
    () => current.fetch(new Request(url, init)),
  );
  return path.startsWith("/auth/v1/") ? await withMetadata(response) : response;
}

// A hosted project's tokens also carry the person's metadata: app_metadata, which only the server can
// write, is what an agent is known by.
async function withMetadata(response) {
  if (!response.ok || !response.headers.get("content-type")?.includes("json")) return response;
  const text = await response.text();
  const { access_token: token, user, ...session } = JSON.parse(text || "null") ?? {};
  if (!token || !user) return new Response(text || null, response);
  const [head, body] = token.split(".");
  const claims = {
    ...JSON.parse(Buffer.from(body, "base64url")),
    app_metadata: user.app_metadata,
    user_metadata: user.user_metadata,
  };
  const signed = `${head}.${Buffer.from(JSON.stringify(claims)).toString("base64url")}`;
  const signature = createHmac("sha256", env.NESSOS_JWT_SECRET).update(signed).digest("base64url");
  const headers = new Headers(response.headers);
  headers.delete("content-length");
  return json(response.status, { access_token: `${signed}.${signature}`, ...session, user }, {
    ...Object.fromEntries(headers),
  });
}

async function health() {
  const alive = current.owner.driver`select 1`.then(() => true, () => false);
  const ok = await Promise.race([alive, new Promise((done) => setTimeout(done, 2000, false))]);
  return json(ok ? 200 : 503, { status: ok ? "ok" : "database_down" });
}

// What went wrong inside stays in the log; the caller gets the request's id to ask about.
async function withoutInternals(response, requestId) {
  if (response.status < 500) return response;
  const text = await response.text();
  console.error(`${requestId} ${response.status} ${text.slice(0, 2000)}`);
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    body = {};
  }
  // An error that a function raised on purpose (PT5xx) or that names a limit keeps its words.
  const isOurs = /^(PT5\d\d|57014|53\d{3}|functions_down)$/.test(body.code ?? "");
  if (isOurs) return json(response.status, body);
  return json(response.status, {
    code: "internal_error",
    message: "Something went wrong on our side.",
    details: null,
    hint: `Ask about request ${requestId}.`,
  });
}

const server = createServer(async (request, reply) => {
  const given = request.headers["x-request-id"];
  const requestId = /^[\w.:-]{1,100}$/.test(given ?? "") ? given : randomUUID();
  const started = performance.now();
  let response;
  try {
    const url = new URL(request.url, `http://${request.headers.host ?? `127.0.0.1:${port}`}`);
    response = await answer(request, url, trustedHeaders(request, requestId));
    if (!url.pathname.startsWith("/functions/")) {
      response = await withoutInternals(response, requestId);
    }
  } catch (error) {
    if (!(error instanceof Refusal)) write(requestId, error);
    const { status = 500, code = "internal_error", hint = null } = error instanceof Refusal
      ? error
      : {};
    const message = status === 500 ? "Something went wrong on our side." : error.message;
    response = json(status, { code, message, details: null, hint });
  }
  const headers = Object.fromEntries(response.headers);
  delete headers["access-control-allow-credentials"];
  if (!request.url.startsWith("/functions/")) Object.assign(headers, crossOrigin(request));
  reply.writeHead(response.status, { ...headers, "x-request-id": requestId });
  if (response.status === 413) reply.shouldKeepAlive = false;
  if (response.body && request.method !== "HEAD") {
    const body = Readable.fromWeb(response.body).on("error", () => reply.destroy());
    reply.on("close", () => body.destroy()); // nobody listens to what a function goes on telling
    body.pipe(reply);
  } else {
    reply.end();
  }
  if (env.NESSOS_LOG_REQUESTS) {
    const spent = (performance.now() - started).toFixed(0);
    console.log(`${requestId} ${request.method} ${request.url} ${response.status} ${spent} ms`);
  }
});

server.on("error", (error) => {
  console.error(error.code === "EADDRINUSE" ? `port ${port} is taken` : error.message);
  process.exit(1);
});
server.listen(port, "127.0.0.1", () => console.log(`gateway on http://127.0.0.1:${port}`));

async function stop() {
  server.close();
  server.closeAllConnections();
  await Promise.race([
    Promise.allSettled([current.close(), listener.end({ timeout: 1 })]),
    new Promise((done) => setTimeout(done, 3000)),
  ]);
  process.exit(0);
}
process.on("SIGTERM", stop);
process.on("SIGINT", stop);
