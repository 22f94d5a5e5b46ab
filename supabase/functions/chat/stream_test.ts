import assert from "node:assert/strict";
import { difference } from "./stream.ts";

Deno.test("a difference makes one text of the other", () => {
  const texts = ["", "Olá", "Olá, mundo", "Não encontrei.", "😀", "😀😁", "😁"];
  for (const before of texts) {
    for (const after of texts) {
      const { from, text } = difference(before, after);
      assert.equal(before.slice(0, from) + text, after);
      assert.ok(text.isWellFormed());
    }
  }
  assert.deepEqual(difference("Olá", "Olá, mundo"), { from: 3, text: ", mundo" });
  assert.deepEqual(difference("😀", "😁"), { from: 0, text: "😁" });
});
