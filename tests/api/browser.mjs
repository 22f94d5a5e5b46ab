// Node 20 has no WebSocket, without which supabase-js refuses to start; ness.OS uses no realtime.
globalThis.WebSocket ??= class {};
