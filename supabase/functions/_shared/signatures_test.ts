// The published test vectors of each provider, and what must not pass for them.
import assert from "node:assert/strict";
import { hmac, sha256, toBase64, toHex, utf8 } from "./crypto.ts";
import { checkGithub, checkJwt, checkSvix, checkTwilio, type Delivery } from "./signatures.ts";

function delivery(
  body: string | Uint8Array,
  headers: Record<string, string>,
  more: Partial<Delivery> = {},
): Delivery {
  return {
    url: "https://mycompany.com/",
    headers: new Headers(headers),
    body: typeof body === "string" ? utf8(body) : body,
    now: 1614265330,
    ...more,
  };
}

// --- Svix ----------------------------------------------------------------------------------------

const svix = {
  secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
  body: '{"test": 2432232314}',
  headers: {
    "svix-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "svix-timestamp": "1614265330",
    "svix-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
  },
};

function svixWith(headers: Record<string, string>, more: Partial<Delivery> = {}): Delivery {
  return delivery(svix.body, { ...svix.headers, ...headers }, more);
}

Deno.test("Svix' own vector is genuine", async () => {
  assert.equal(await checkSvix(svixWith({}), svix.secret), null);
  assert.equal(await checkSvix(svixWith({}), svix.secret.replace("whsec_", "")), null);
});

Deno.test("Svix: the unbranded headers mean the same", async () => {
  const headers = Object.fromEntries(
    Object.entries(svix.headers).map(([name, value]) => [name.replace("svix", "webhook"), value]),
  );
  assert.equal(await checkSvix(delivery(svix.body, headers), svix.secret), null);
});

Deno.test("Svix: one right signature among several is enough, other versions count for nothing", async () => {
  const good = svix.headers["svix-signature"];
  const bad = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc=";
  for (const signature of [`${bad} ${good}`, `${good} ${bad}`, `v2,x v1a,y ${good}`]) {
    assert.equal(await checkSvix(svixWith({ "svix-signature": signature }), svix.secret), null);
  }
  const late = [...Array(10).fill(bad), good].join(" ");
  for (const signature of [bad, good.replace("v1,", "v1a,"), good.slice(3), "v1,", late]) {
    assert.equal(
      await checkSvix(svixWith({ "svix-signature": signature }), svix.secret),
      "signature wrong",
    );
  }
});

Deno.test("Svix: the window is 300 seconds either way", async () => {
  for (const [now, refusal] of [[300, null], [-300, null], [301, "out"], [-301, "out"]] as const) {
    const answer = await checkSvix(svixWith({}, { now: 1614265330 + now }), svix.secret);
    assert.equal(answer, refusal && "timestamp out of window");
  }
  for (const timestamp of ["", "x", "1e9", "-1", "NaN", "99999999999999"]) {
    assert.ok(await checkSvix(svixWith({ "svix-timestamp": timestamp }), svix.secret), timestamp);
  }
});

Deno.test("Svix: every part is signed, and the secret is decoded", async () => {
  for (const header of ["svix-id", "svix-timestamp", "svix-signature"]) {
    const headers = new Headers(svix.headers);
    headers.delete(header);
    assert.equal(
      await checkSvix(delivery(svix.body, Object.fromEntries(headers)), svix.secret),
      "signature missing",
    );
  }
  assert.ok(await checkSvix(svixWith({ "svix-id": "msg_other" }), svix.secret));
  assert.ok(await checkSvix(svixWith({ "svix-timestamp": "1614265331" }), svix.secret));
  assert.ok(await checkSvix(delivery(svix.body + " ", svix.headers), svix.secret));
  const asText = await hmac(
    "SHA-256",
    utf8(svix.secret),
    utf8(`msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.${svix.body}`),
  );
  assert.ok(await checkSvix(svixWith({ "svix-signature": `v1,${toBase64(asText)}` }), svix.secret));
  assert.equal(await checkSvix(svixWith({}), "whsec_"), "stored secret malformed");
});

// --- GitHub --------------------------------------------------------------------------------------

const github = {
  secret: "It's a Secret to Everybody",
  body: "Hello, World!",
  signature: "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
};

Deno.test("GitHub's own vector is genuine, whatever the content type", async () => {
  for (const type of ["application/json", "application/x-www-form-urlencoded"]) {
    const headers = { "x-hub-signature-256": github.signature, "content-type": type };
    assert.equal(await checkGithub(delivery(github.body, headers), github.secret), null);
  }
});

Deno.test("GitHub: SHA-1 alone, a shortened or another signature prove nothing", async () => {
  const sha1 = `sha1=${toHex(await hmac("SHA-1", utf8(github.secret), utf8(github.body)))}`;
  for (
    const headers of [
      {},
      { "x-hub-signature": sha1 },
      { "x-hub-signature-256": sha1 },
      { "x-hub-signature-256": github.signature.slice(0, -2) },
      { "x-hub-signature-256": `sha256=${"0".repeat(64)}` },
      { "x-hub-signature-256": "sha256=" },
    ] as Record<string, string>[]
  ) {
    assert.ok(await checkGithub(delivery(github.body, headers), github.secret));
  }
  const headers = { "x-hub-signature-256": github.signature };
  assert.ok(await checkGithub(delivery(github.body, headers), `${github.secret}!`));
  assert.ok(await checkGithub(delivery(`${github.body}\n`, headers), github.secret));
});

// --- Twilio --------------------------------------------------------------------------------------

const twilio = {
  token: "12345",
  url: "https://mycompany.com/myapp.php?foo=1&bar=2",
  body: "CallSid=CA1234567890ABCDE&Caller=%2B14158675309&Digits=1234&From=%2B14158675309" +
    "&To=%2B18005551212",
  headers: {
    "content-type": "application/x-www-form-urlencoded; charset=UTF-8",
    "x-twilio-signature": "RSOYDt4T1cUTdK1PDd93/VVr8B8=",
  },
};

async function signTwilio(text: string): Promise<string> {
  return toBase64(await hmac("SHA-1", utf8(twilio.token), utf8(text)));
}

Deno.test("Twilio's own vector is genuine, in any order of parameters", async () => {
  const reversed = twilio.body.split("&").reverse().join("&");
  for (const body of [twilio.body, reversed]) {
    assert.equal(
      await checkTwilio(delivery(body, twilio.headers, { url: twilio.url }), twilio.token),
      null,
    );
  }
});

function delivered(body: string, url: string, signature: string, type: string): Delivery {
  return delivery(body, { "content-type": type, "x-twilio-signature": signature }, { url });
}

Deno.test("Twilio: signed with or without the scheme's own port, and with no other", async () => {
  const form = "application/x-www-form-urlencoded";
  for (
    const [signed, called, isGenuine] of [
      ["https://a.test:443/x?y=1", "https://a.test/x?y=1", true],
      ["https://a.test/x", "https://a.test:443/x", true],
      ["http://a.test:80/x", "http://a.test/x", true],
      ["http://a.test:8080/x", "http://a.test:8080/x", true],
      ["http://a.test/x", "http://a.test:8080/x", false],
      ["https://a.test/x", "http://a.test/x", false],
      ["https://a.test/x", "https://a.test/x/", false],
    ] as const
  ) {
    const signature = await signTwilio(`${signed}A1`);
    const answer = await checkTwilio(delivered("A=1", called, signature, form), twilio.token);
    assert.equal(answer === null, isGenuine, `${signed} ${called}`);
  }
});

Deno.test("Twilio: repeated values count once, in order; decoded; capitals before small letters", async () => {
  const form = "application/x-www-form-urlencoded";
  const url = "https://a.test/";
  const signature = await signTwilio(`${url}Beta2aol\u00e1 mundoa1x1x2`);
  const body = "x=2&a=1&Beta=2&x=1&x=2&a=ol%C3%A1+mundo";
  // Values of one name are sorted too: "1" comes before "olá mundo".
  const sorted = await signTwilio(`${url}Beta2a1aol\u00e1 mundox1x2`);
  assert.ok(await checkTwilio(delivered(body, url, signature, form), twilio.token));
  assert.equal(await checkTwilio(delivered(body, url, sorted, form), twilio.token), null);
});

Deno.test("Twilio: a body that is no form is named by its hash in the URL", async () => {
  const body = '{"a": 1}';
  const url = `https://a.test/?bodySHA256=${toHex(await sha256(utf8(body)))}`;
  const signature = await signTwilio(url);
  const json = "application/json";
  assert.equal(await checkTwilio(delivered(body, url, signature, json), twilio.token), null);
  assert.ok(await checkTwilio(delivered(`${body} `, url, signature, json), twilio.token));
  const bare = "https://a.test/";
  assert.ok(await checkTwilio(delivered(body, bare, await signTwilio(bare), json), twilio.token));
});

Deno.test("Twilio: a parameter more, another token or no signature is refused", async () => {
  assert.ok(
    await checkTwilio(
      delivery(`${twilio.body}&X=`, twilio.headers, { url: twilio.url }),
      twilio.token,
    ),
  );
  assert.ok(await checkTwilio(delivery(twilio.body, twilio.headers, { url: twilio.url }), "12346"));
  const { "x-twilio-signature": _, ...unsigned } = twilio.headers;
  assert.ok(await checkTwilio(delivery(twilio.body, unsigned, { url: twilio.url }), twilio.token));
});

// --- Evolution -----------------------------------------------------------------------------------

const base64url = (text: string) =>
  toBase64(utf8(text)).replace(/\+/g, "-").replace(/\//g, "_")
    .replace(/=+$/, "");

async function jwt(
  claims: Record<string, unknown> = {},
  { alg = "HS256", key = "a-shared-key" } = {},
): Promise<Delivery> {
  const issued = { iat: 1000, exp: 1600, app: "evolution", action: "webhook", ...claims };
  const head = `${base64url(JSON.stringify({ alg, typ: "JWT" }))}.${
    base64url(JSON.stringify(issued))
  }`;
  const signature = base64urlBytes(await hmac("SHA-256", utf8(key), utf8(head)));
  return delivery("{}", { authorization: `Bearer ${head}.${signature}` }, { now: 1000 });
}

const base64urlBytes = (bytes: Uint8Array) =>
  toBase64(bytes).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

Deno.test("Evolution: its token is genuine until half an hour after its end", async () => {
  for (const [now, refusal] of [[1000, null], [3400, null], [3401, "token expired"]] as const) {
    assert.equal(await checkJwt({ ...await jwt(), now }, "a-shared-key"), refusal);
  }
});

Deno.test("Evolution: other keys, algorithms, purposes and no end are refused", async () => {
  for (
    const forged of [
      await jwt({}, { key: "another key" }),
      await jwt({}, { alg: "none" }),
      await jwt({}, { alg: "HS512" }),
      await jwt({ app: "other" }),
      await jwt({ action: "login" }),
      await jwt({ exp: undefined }),
      await jwt({ exp: "soon" }),
      delivery("{}", {}),
      delivery("{}", { authorization: "Bearer a.b." }),
      delivery("{}", { authorization: "Bearer a.b.c" }),
      delivery("{}", { authorization: "Basic YTpi" }),
    ]
  ) {
    assert.ok(await checkJwt(forged, "a-shared-key"));
  }
});
