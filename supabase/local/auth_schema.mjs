// Creates the tables of Auth in an empty database: node auth_schema.mjs [postgres url], or DATABASE_URL.
// Hosted Supabase has them already. The statements are the pinned library's own and repeatable.
import { getAuthSchemaSql } from "@supabase/lite";
import postgres from "postgres";

const url = process.argv[2] ?? process.env.DATABASE_URL;
if (!url) {
  console.error("usage: node auth_schema.mjs [postgres url], or DATABASE_URL");
  process.exit(2);
}
const sql = postgres(url, { max: 1, onnotice: () => {} });
try {
  // One writer at a time; a half-made schema is never seen.
  await sql.begin(async (transaction) => {
    await transaction`select pg_advisory_xact_lock(hashtext('nessos auth schema'))`;
    await transaction.unsafe(getAuthSchemaSql(false));
  });
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  await sql.end();
}
