// Corrections to the pinned @supabase/lite, made to its text while it is loaded: where it answers
// otherwise than PostgREST, above all where composite keys (org_id, x_id) meet embeds. Another release has another
// text; then loading fails, and each correction is looked at anew. Import this before the library.
import { register } from "node:module";
import { isMainThread } from "node:worker_threads";

const corrections = [
  {
    // clients!contracts_org_id_client_id_fkey(…) and client:client_id(…) joined on the first column
    // of the key alone, that is on org_id: every client of the organisation.
    from: "if(a)return jS(a,e,n)}return null}",
    to: "if(a)return a.fk?Vr(e,n,r.filter(k=>k.table===a.fk.table&&k.ref_table===a.fk.ref_table&&" +
      "(k.foreign_key_group??k.foreign_key_name)===(a.fk.foreign_key_group??a.fk.foreign_key_name))," +
      "jS(a,e,n).type):jS(a,e,n)}return null}",
  },
  {
    // Any table with keys to both was taken for a link between them, and made clients of contracts
    // ambiguous; PostgREST asks that both keys be part of the link's primary key.
    from: "if(y===e||y===n)continue;let w=i.filter(S=>S.table===y&&S.ref_table===n);",
    to: "if(y===e||y===n)continue;let K=t.primary_keys?.find(k=>k.table===y)?.columns??[];" +
      "if(!g.every(k=>K.includes(k.column)))continue;" +
      "let w=i.filter(S=>S.table===y&&S.ref_table===n&&K.includes(S.column));",
  },
  {
    // A composite key under a unique constraint points back to one row: an object, not a list.
    from: "c=t.primary_keys?.find(f=>f.table===n);if(!c?.columns?.length)return  false;",
    to: "c=t.primary_keys?.find(f=>f.table===n);" +
      "if(t.unique_constraints?.some(f=>f.table===n&&f.columns.length===l.length&&" +
      "l.every(k=>f.columns.includes(k))))return true;if(!c?.columns?.length)return false;",
  },
  {
    // JSON arguments of functions were written as JSON twice, once here and once by the driver, and
    // arrived as a text.
    from: 'function ao(t){return t==null||typeof t=="string"?t:JSON.stringify(t)}',
    to: "function ao(t){return t}",
  },
  {
    // REST verifies the token itself; the look at Auth's tables before it was a second verification
    // and two statements per request whose outcome nobody used.
    from:
      '.pathname.startsWith("/storage/v1/")){await n();return}if(!e.var.userId||!e.var.sessionId)',
    to: '.pathname.startsWith("/rest/v1/")){await n();return}if(!e.var.userId||!e.var.sessionId)',
  },
];

if (isMainThread) register(import.meta.url);

export async function load(url, context, next) {
  const loaded = await next(url, context);
  if (!url.endsWith("/@supabase/lite/dist/index.js")) return loaded;
  let source = String(loaded.source);
  for (const { from, to } of corrections) {
    if (source.split(from).length !== 2) {
      throw new Error("@supabase/lite is not the release that corrections.mjs is written for");
    }
    source = source.replace(from, () => to);
  }
  return { ...loaded, source };
}
