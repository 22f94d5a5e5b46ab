// Who may send webhooks, how each proves that it is he, and by what his events are told apart.
import { isSameText } from "../_shared/crypto.ts";
import {
  checkGithub,
  checkJwt,
  checkSvix,
  checkTwilio,
  type Delivery,
} from "../_shared/signatures.ts";

// Values of the organisation's credentials for the provider; none when it has stored none.
export type Secrets = Readonly<Record<string, string>>;

export interface Provider {
  // Why a delivery is refused; null when it is genuine.
  refusal(delivery: Delivery, secrets: Secrets): Promise<string | null>;
  // The provider's own id of the event; null where it gives none, and the body's hash stands for it.
  eventId(delivery: Delivery): string | null;
  // Whether it appends to the path it was given.
  appendsPath?: true;
  // What it takes for an answer, where that is not JSON.
  answer?: () => Response;
}

const header = (name: string) => (delivery: Delivery) => delivery.headers.get(name);

// A provider that signs is believed by its signature alone: without a secret, nothing is.
function signed(
  field: string,
  check: (delivery: Delivery, secret: string) => Promise<string | null>,
): Provider["refusal"] {
  return async (delivery, secrets) => {
    const secret = secrets[field];
    return secret ? await check(delivery, secret) : `no ${field} is stored`;
  };
}

export const providers: ReadonlyMap<string, Provider> = new Map<string, Provider>([
  ["resend", {
    refusal: signed("webhook_secret", checkSvix),
    eventId: (delivery) => header("svix-id")(delivery) ?? header("webhook-id")(delivery),
  }],
  ["github", {
    refusal: signed("webhook_secret", checkGithub),
    eventId: header("x-github-delivery"),
  }],
  ["twilio", {
    refusal: signed("auth_token", checkTwilio),
    // Its idempotency header is not signed; the body is.
    eventId: () => null,
    // Plain text would be sent to the person as a reply.
    answer: () =>
      new Response('<?xml version="1.0" encoding="UTF-8"?><Response/>', {
        headers: { "content-type": "text/xml" },
      }),
  }],
  ["evolution", {
    // The token in the address, and what else the organisation has agreed with its own server.
    async refusal(delivery, secrets) {
      if (secrets.webhook_jwt_key) {
        const refusal = await checkJwt(delivery, secrets.webhook_jwt_key);
        if (refusal) return refusal;
      }
      const given = header("x-webhook-secret")(delivery) ?? "";
      return secrets.webhook_secret && !(await isSameText(given, secrets.webhook_secret))
        ? "x-webhook-secret wrong"
        : null;
    },
    eventId: () => null,
    // byEvents: /messages-upsert and the like.
    appendsPath: true,
  }],
  ["omie", {
    // Signs nothing: the token in the address, and appKey, compared when the event is processed.
    refusal: () => Promise.resolve(null),
    eventId(delivery) {
      try {
        const id = JSON.parse(new TextDecoder().decode(delivery.body))?.messageId;
        return typeof id === "string" ? id : null;
      } catch {
        return null;
      }
    },
  }],
]);
