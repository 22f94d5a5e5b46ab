// What the Python tests do, done with supabase-js, as a frontend would. Prints each step done.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { createClient } from "@supabase/supabase-js";

const { SUPABASE_URL: url, SUPABASE_PUBLISHABLE_KEY: key } = process.env;
const password = "correct-horse-battery";
const client = () => createClient(url, key, { auth: { persistSession: false } });
const email = (name) => `${name}-${randomUUID().slice(0, 12)}@people.test`;

async function step(name, act) {
  await act();
  console.log(name);
}

// The answer without its error, or the error as the test's failure.
function data({ data, error }) {
  assert.equal(error, null, JSON.stringify(error));
  return data;
}

const owner = client();
const guest = client();
const stranger = client();
const visitor = client();
const ownerEmail = email("olga");
const guestEmail = email("gil");
let org, lead;

await step("sign up", async () => {
  const signed = data(
    await owner.auth.signUp({
      email: ownerEmail,
      password,
      options: { data: { full_name: "Olga" } },
    }),
  );
  assert.ok(signed.session.access_token);
  data(await guest.auth.signUp({ email: guestEmail, password }));
  data(await stranger.auth.signUp({ email: email("estranho"), password }));
});

await step("wrong password", async () => {
  const { error } = await client().auth.signInWithPassword({
    email: ownerEmail,
    password: "wrong",
  });
  assert.equal(error.status, 400);
  assert.equal(error.code, "invalid_credentials");
});

await step("sign in", async () => {
  const { user } = data(await owner.auth.signInWithPassword({ email: ownerEmail, password }));
  assert.equal(user.email, ownerEmail);
  assert.equal(data(await owner.auth.getUser()).user.id, user.id);
});

await step("refresh", async () => {
  const before = data(await owner.auth.getSession()).session;
  const after = data(await owner.auth.refreshSession()).session;
  assert.notEqual(after.refresh_token, before.refresh_token);
});

await step("create an organisation", async () => {
  org = data(
    await owner.rpc("create_organization", { name: "Casa JS", slug: `js-${randomUUID()}` })
      .single(),
  );
  assert.equal(data(await owner.rpc("list_my_organizations")).length, 1);
});

await step("invite and accept", async () => {
  const { token } = data(
    await owner.rpc("invite_member", { org: org.id, email: guestEmail, role: "director" }),
  );
  const { error } = await stranger.rpc("accept_invitation", { token });
  assert.equal(error.message, "invitation_foreign");
  data(await guest.rpc("accept_invitation", { token }));
  assert.equal(data(await guest.rpc("list_my_organizations"))[0].role, "director");
});

await step("a visitor's lead", async () => {
  const answer = data(
    await visitor.rpc("submit_lead", {
      org_slug: org.slug,
      name: "Lia",
      email: email("lia"),
      consent: true,
    }),
  );
  assert.deepEqual(Object.keys(answer), ["receipt"]);
  lead = answer.receipt;
  const { status, error } = await visitor.from("leads").select();
  assert.equal(status, 401);
  assert.equal(error.code, "42501");
});

await step("embeds over composite keys", async () => {
  const { client_id: clientId, contract_id: contractId } = data(
    await guest.rpc("convert_lead", {
      lead,
      document: "11444777000161",
      client_name: "Aurora Ltda",
      contract_title: "Plantão",
      contract_mrr: 1500.5,
    }),
  );
  data(
    await guest.from("contract_items").insert([
      { org_id: org.id, contract_id: contractId, description: "Ronda", unit_price: 10 },
      { org_id: org.id, contract_id: contractId, description: "Vigia", unit_price: 20.25 },
    ]),
  );
  const rows = data(
    await guest.from("contracts").select("title, mrr, clients(id, name), contract_items(*)")
      .order("description", { referencedTable: "contract_items", ascending: false }),
  );
  assert.equal(rows.length, 1);
  assert.deepEqual(rows[0].clients, { id: clientId, name: "Aurora Ltda" });
  assert.deepEqual(rows[0].contract_items.map((item) => item.unit_price), [20.25, 10]);
  assert.equal(rows[0].mrr, 1500.5);
  const clients = data(
    await guest.from("clients").select(
      "name, lead:leads!clients_org_id_lead_id_fkey(name), contracts!inner(title)",
    )
      .eq("contracts.title", "Plantão"),
  );
  assert.deepEqual(clients, [
    { name: "Aurora Ltda", lead: { name: "Lia" }, contracts: [{ title: "Plantão" }] },
  ]);
});

await step("filters, order, pages", async () => {
  data(
    await guest.from("leads").insert(
      Array.from({ length: 7 }, (_, n) => ({
        org_id: org.id,
        name: `Pessoa ${n}`,
        email: email("pessoa"),
        score: n * 10,
      })),
    ),
  );
  const { data: page, count, status } = await guest.from("leads")
    .select("name, score", { count: "exact" })
    .ilike("name", "pessoa%").gte("score", 20).order("score", { ascending: false }).range(0, 1);
  assert.deepEqual(page.map((row) => row.score), [60, 50]);
  assert.equal(count, 5);
  assert.equal(status, 206);
  const head = await guest.from("leads").select("*", { count: "exact", head: true })
    .or("score.eq.0,score.eq.60").like("name", "Pessoa%");
  assert.equal(head.count, 2);
});

await step("upsert, update, delete", async () => {
  const row = { org_id: org.id, document: "11444777000161", name: "Aurora SA" };
  const upserted = data(
    await guest.from("clients").upsert(row, { onConflict: "org_id,document" }).select().single(),
  );
  assert.equal(upserted.name, "Aurora SA");
  const changed = data(
    await guest.from("leads").update({ score: 99 }).eq("name", "Pessoa 6").select("score").single(),
  );
  assert.equal(changed.score, 99);
  assert.equal(data(await guest.from("leads").delete().eq("name", "Pessoa 6").select()).length, 1);
});

await step("settings as JSON", async () => {
  const row = data(
    await owner.rpc("update_organization", { org: org.id, settings: { site_tagline: "Olá" } })
      .single(),
  );
  assert.deepEqual(row.settings, { site_tagline: "Olá" });
});

await step("errors", async () => {
  const moved = await guest.from("leads").update({ status: "new" }).eq("id", lead);
  assert.equal(moved.status, 409);
  assert.deepEqual(
    { ...moved.error },
    {
      code: "PT409",
      message: "lead_move_refused",
      details: "A lead cannot go from won to new.",
      hint: "Allowed from here: nothing.",
    },
  );
  const denied = await guest.rpc("create_api_key", {
    org: org.id,
    name: "x",
    scopes: ["indicators:write"],
  });
  assert.equal(denied.status, 403);
  assert.equal(denied.error.message, "not_allowed");
});

await step("another company is blind", async () => {
  data(await stranger.rpc("create_organization", { name: "Outra", slug: `js-${randomUUID()}` }));
  for (const table of ["leads", "clients", "contracts", "contract_items", "module_events"]) {
    assert.deepEqual(data(await stranger.from(table).select().eq("org_id", org.id)), [], table);
  }
  const { status } = await stranger.from("leads")
    .insert({ org_id: org.id, name: "Intrusa", email: email("i") });
  assert.equal(status, 403);
  const { error } = await stranger.rpc("convert_lead", { lead, document: "11444777000161" });
  assert.equal(error.message, "lead_not_found");
});

await step("a removed member is denied at once", async () => {
  const { user } = data(await guest.auth.getUser());
  data(await owner.rpc("remove_member", { org: org.id, member: user.id }));
  assert.deepEqual(data(await guest.from("leads").select()), []);
});

await step("sign out", async () => {
  assert.equal((await owner.auth.signOut()).error, null);
  assert.equal((await owner.from("leads").select()).status, 401);
});

for (const one of [owner, guest, stranger, visitor]) await one.auth.stopAutoRefresh();
