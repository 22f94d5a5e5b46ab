"""The stack on one machine: what hosted Supabase and its container give in production."""
