// JSON that is well-formed and yet nothing the database can hold.

const MAX_DEPTH = 20;

// Says where a value is nested too deeply, or a text holds what Postgres cannot store: the null
// character, half a surrogate pair. Null when nothing is wrong. Without recursion: the depth is the
// sender's.
export function unstorable(root: unknown): string | null {
  const open: { value: unknown; path: string; depth: number }[] = [
    { value: root, path: "", depth: 0 },
  ];
  for (let next = open.pop(); next; next = open.pop()) {
    const { value, path, depth } = next;
    if (typeof value === "string" && !isText(value)) {
      return `${path || "body"}: holds a character that cannot be stored.`;
    }
    if (typeof value !== "object" || value === null) continue;
    if (depth === MAX_DEPTH) return `${path}: is nested deeper than ${MAX_DEPTH} levels.`;
    for (const [name, part] of Object.entries(value)) {
      if (!isText(name)) return `${path || "body"}: has a name that cannot be stored.`;
      const step = Array.isArray(value) ? `[${name}]` : path ? `.${name}` : name;
      // A path names a field, not a hostile depth.
      open.push({
        value: part,
        path: depth < 4 ? path + step.slice(0, 100) : path,
        depth: depth + 1,
      });
    }
  }
  return null;
}

function isText(text: string): boolean {
  return !text.includes("\0") && text.isWellFormed();
}
