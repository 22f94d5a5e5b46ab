import assert from "node:assert/strict";
import { unstorable } from "./json.ts";

Deno.test("what the database can hold passes", () => {
  for (
    const value of [null, 1, "ação 👍", [], {}, { a: [{ b: "\\u0000 written out" }] }, [
      true,
      1e300,
    ]]
  ) {
    assert.equal(unstorable(value), null);
  }
});

Deno.test("what it cannot is named by its path", () => {
  assert.equal(
    unstorable([{}, { metadata: { note: "a\0b" } }]),
    "[1].metadata.note: holds a character that cannot be stored.",
  );
  assert.equal(unstorable({ unit: "\ud800" }), "unit: holds a character that cannot be stored.");
  assert.equal(
    unstorable({ metadata: { "a\0": 1 } }),
    "metadata: has a name that cannot be stored.",
  );
  assert.equal(unstorable("\0"), "body: holds a character that cannot be stored.");
});

Deno.test("a hostile depth is refused, not followed", () => {
  const deep = (levels: number) => JSON.parse("[".repeat(levels) + "]".repeat(levels));
  assert.equal(unstorable(deep(20)), null);
  assert.match(unstorable(deep(22))!, /nested deeper than 20 levels/);
  assert.match(unstorable(deep(500_000))!, /nested deeper than 20 levels/);
});
