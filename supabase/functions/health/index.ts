// Says that functions are served, and by which Deno.
Deno.serve(() => Response.json({ status: "ok", deno: Deno.version.deno }));
