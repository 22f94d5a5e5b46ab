import assert from "node:assert/strict";
import {
  fromBase64,
  isSame,
  isSameText,
  openCredentials,
  sha256,
  toBase64,
  toHex,
  utf8,
} from "./crypto.ts";

const orgId = "6e657373-4f53-4000-8000-000000000001";

async function seal(values: unknown, raw: Uint8Array<ArrayBuffer>, provider = "github") {
  const key = await crypto.subtle.importKey("raw", raw, "AES-GCM", false, ["encrypt"]);
  const iv = crypto.getRandomValues(new Uint8Array(12));
  const text = typeof values === "string" ? values : JSON.stringify(values);
  const sealed = await crypto.subtle.encrypt(
    { name: "AES-GCM", iv, additionalData: utf8(`${orgId}/${provider}`) },
    key,
    utf8(text),
  );
  return {
    orgId,
    provider,
    keyId: toHex(await sha256(raw)).slice(0, 8),
    ciphertext: new Uint8Array([...iv, ...new Uint8Array(sealed)]),
  };
}

const key = () => crypto.getRandomValues(new Uint8Array(32));

Deno.test("credentials are opened with whichever key of the ring sealed them", async () => {
  const [old, current] = [key(), key()];
  const ring = `${toBase64(current)}, ${toBase64(old)}`;
  for (const raw of [old, current]) {
    const values = { webhook_secret: "segredo é" };
    assert.deepEqual(await openCredentials(await seal(values, raw), ring), values);
  }
});

Deno.test("credentials moved to another organisation or provider, changed or under a lost key stay shut", async () => {
  const raw = key();
  const sealed = await seal({ webhook_secret: "s" }, raw);
  const ring = toBase64(raw);
  await assert.rejects(openCredentials({ ...sealed, provider: "resend" }, ring));
  await assert.rejects(openCredentials({ ...sealed, orgId: orgId.replace(/1$/, "2") }, ring));
  const changed = sealed.ciphertext.slice();
  changed[20]! ^= 1;
  await assert.rejects(openCredentials({ ...sealed, ciphertext: changed }, ring));
  await assert.rejects(openCredentials(sealed, toBase64(key())), /has no key/);
  await assert.rejects(openCredentials(sealed, ""), /has no key/);
});

Deno.test("what is no JSON is not quoted in the error", async () => {
  const raw = key();
  const sealed = await seal("top-secret", raw);
  await assert.rejects(
    openCredentials(sealed, toBase64(raw)),
    (error: Error) => !String(error).includes("top"),
  );
});

Deno.test("comparisons", async () => {
  assert.ok(isSame(utf8("abc"), utf8("abc")));
  assert.ok(!isSame(utf8("abc"), utf8("abd")));
  assert.ok(!isSame(utf8("abc"), utf8("abcd")));
  assert.ok(!isSame(utf8(""), utf8("a")));
  assert.ok(await isSameText("ação", "ação"));
  assert.ok(!(await isSameText("", "a")));
});

Deno.test("base64 with and without padding, in both alphabets", () => {
  assert.deepEqual([...fromBase64("+/8=")], [251, 255]);
  assert.deepEqual([...fromBase64("-_8")], [251, 255]);
  assert.equal(toBase64(new Uint8Array([251, 255])), "+/8=");
});
