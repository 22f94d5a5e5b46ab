// The signatures of providers, each as its documentation defines it, over the bytes as they came. A
// check gives null when the delivery is genuine, else why not: for the operator, never for the sender.
import { fromBase64, hmac, isSame, isSameText, sha256, toHex, utf8 } from "./crypto.ts";
import { mediaType } from "./http.ts";

export interface Delivery {
  // As the provider called it: public scheme, host, path and query.
  url: string;
  headers: Headers;
  body: Uint8Array;
  // Unix time in seconds.
  now: number;
}

const SVIX_WINDOW_S = 300;
const JWT_LEEWAY_S = 30 * 60;
const MAX_SIGNATURES = 10;

// Svix (Resend): HMAC-SHA256 of "<id>.<timestamp>.<body>", several signatures while a secret is replaced.
export async function checkSvix(delivery: Delivery, secret: string): Promise<string | null> {
  const header = (name: string) =>
    delivery.headers.get(`svix-${name}`) ?? delivery.headers.get(`webhook-${name}`);
  const id = header("id");
  const timestamp = header("timestamp");
  const signatures = header("signature");
  if (!id || !timestamp || !signatures) return "signature missing";
  if (!/^\d{1,12}$/.test(timestamp)) return "timestamp malformed";
  if (Math.abs(delivery.now - Number(timestamp)) > SVIX_WINDOW_S) return "timestamp out of window";
  const key = fromBase64(secret.replace(/^whsec_/, ""));
  if (key.length === 0) return "stored secret malformed";
  const expected = await hmac("SHA-256", key, utf8(`${id}.${timestamp}.`), delivery.body);
  const isGenuine = signatures.split(" ").slice(0, MAX_SIGNATURES)
    .filter((entry) => entry.startsWith("v1,"))
    .map((entry) => isSame(expected, fromBase64(entry.slice(3))))
    .includes(true);
  return isGenuine ? null : "signature wrong";
}

// GitHub: HMAC-SHA256 of the body, whatever its content type. The older SHA-1 header proves nothing.
export async function checkGithub(delivery: Delivery, secret: string): Promise<string | null> {
  const signature = /^sha256=([0-9a-f]{64})$/
    .exec(delivery.headers.get("x-hub-signature-256") ?? "")?.[1];
  if (!signature) return "signature missing";
  const expected = await hmac("SHA-256", utf8(secret), delivery.body);
  return isSame(utf8(toHex(expected)), utf8(signature)) ? null : "signature wrong";
}

// Twilio: HMAC-SHA1 of the URL and the form's parameters; other bodies are named by their hash in the
// URL. Twilio signs the URL now with, now without the scheme's own port.
export async function checkTwilio(delivery: Delivery, authToken: string): Promise<string | null> {
  const signature = delivery.headers.get("x-twilio-signature");
  if (!signature) return "signature missing";
  const isForm = mediaType(delivery.headers) === "application/x-www-form-urlencoded";
  if (!isForm) {
    const named = new URL(delivery.url).searchParams.get("bodySHA256") ?? "";
    const actual = toHex(await sha256(delivery.body));
    if (!(await isSameText(actual, named.toLowerCase()))) return "hash of the body wrong";
  }
  const parameters = isForm ? joinParameters(delivery.body) : "";
  const key = utf8(authToken);
  const given = fromBase64(signature);
  const matches = [];
  for (const url of withAndWithoutPort(delivery.url)) {
    matches.push(isSame(await hmac("SHA-1", key, utf8(url + parameters)), given));
  }
  return matches.includes(true) ? null : "signature wrong";
}

function joinParameters(body: Uint8Array): string {
  const parameters = new URLSearchParams(new TextDecoder().decode(body));
  return [...new Set(parameters.keys())].sort()
    .flatMap((name) =>
      [...new Set(parameters.getAll(name))].sort().map((value) => `${name}${value}`)
    )
    .join("");
}

function withAndWithoutPort(url: string): string[] {
  const [, scheme, host, port, rest] = /^(https?):\/\/([^/?#:]+)(:\d+)?(.*)$/s.exec(url) ?? [];
  const own = scheme === "https" ? ":443" : ":80";
  if (port !== undefined && port !== own) return [url];
  return [`${scheme}://${host}${rest}`, `${scheme}://${host}${own}${rest}`];
}

// Evolution signs no body. It can send a token signed with a shared key, minted once before its
// retries, which go on for longer than the token lasts: hence the leeway.
export async function checkJwt(delivery: Delivery, key: string): Promise<string | null> {
  const token = /^Bearer ([\w-]+)\.([\w-]+)\.([\w-]+)$/
    .exec(delivery.headers.get("authorization") ?? "");
  if (!token) return "token missing";
  const [, head, claims, signature] = token as unknown as [string, string, string, string];
  const expected = await hmac("SHA-256", utf8(key), utf8(`${head}.${claims}`));
  if (!isSame(expected, fromBase64(signature))) return "token's signature wrong";
  try {
    const { alg } = JSON.parse(new TextDecoder().decode(fromBase64(head)));
    const { app, action, exp } = JSON.parse(new TextDecoder().decode(fromBase64(claims)));
    if (alg !== "HS256") return "token's algorithm is not HS256";
    if (app !== "evolution" || action !== "webhook") return "token is for something else";
    if (!(delivery.now <= Number(exp) + JWT_LEEWAY_S)) return "token expired";
  } catch {
    return "token malformed";
  }
  return null;
}
