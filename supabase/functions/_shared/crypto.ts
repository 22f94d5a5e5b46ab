// Signatures, comparisons in constant time, and the credentials that organisations have stored.
import { Buffer } from "node:buffer";
import { timingSafeEqual } from "node:crypto";

type Bytes = Uint8Array<ArrayBuffer>;

export const utf8 = (text: string): Bytes => new TextEncoder().encode(text);

// Both encodings of base64, with padding or without; what is no base64 is skipped.
export const fromBase64 = (text: string): Bytes => new Uint8Array(Buffer.from(text, "base64"));

export const toBase64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");

export const toHex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

export async function sha256(bytes: Uint8Array): Promise<Bytes> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes as Bytes));
}

export async function hmac(
  hash: "SHA-1" | "SHA-256",
  key: Uint8Array,
  ...parts: Uint8Array[]
): Promise<Bytes> {
  // WebCrypto takes no empty key; nothing must ever be signed with one.
  if (key.length === 0) throw new Error("a secret is empty");
  const imported = await crypto.subtle.importKey(
    "raw",
    key as Bytes,
    { name: "HMAC", hash },
    false,
    [
      "sign",
    ],
  );
  return new Uint8Array(await crypto.subtle.sign("HMAC", imported, Buffer.concat(parts) as Bytes));
}

// Whether two values are the same, in a time that does not tell where they differ.
export function isSame(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && timingSafeEqual(one, other);
}

// The same for texts of any length, which is not told either.
export async function isSameText(one: string, other: string): Promise<boolean> {
  return isSame(await sha256(utf8(one)), await sha256(utf8(other)));
}

// Opens what nessos/credentials.py has sealed: AES-256-GCM, nonce (12 bytes) ‖ ciphertext ‖ tag, with
// <org_id>/<provider> as additional data; the key is one of NESSOS_ENCRYPTION_KEYS, found by its id.
export async function openCredentials(
  sealed: { orgId: string; provider: string; keyId: string; ciphertext: Uint8Array },
  keys: string = Deno.env.get("NESSOS_ENCRYPTION_KEYS") ?? "",
): Promise<Record<string, string>> {
  for (const encoded of keys.split(",")) {
    const raw = fromBase64(encoded.trim());
    if (toHex(await sha256(raw)).slice(0, 8) !== sealed.keyId) continue;
    const key = await crypto.subtle.importKey("raw", raw, "AES-GCM", false, ["decrypt"]);
    const plain = await crypto.subtle.decrypt(
      {
        name: "AES-GCM",
        iv: sealed.ciphertext.slice(0, 12) as Bytes,
        additionalData: utf8(`${sealed.orgId}/${sealed.provider}`),
      },
      key,
      sealed.ciphertext.slice(12) as Bytes,
    );
    try {
      return JSON.parse(new TextDecoder().decode(plain));
    } catch {
      throw new Error("credentials are not JSON"); // the parser's own words quote them
    }
  }
  throw new Error(`NESSOS_ENCRYPTION_KEYS has no key ${sealed.keyId}`);
}
