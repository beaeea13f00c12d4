// Signs a person in through Evergrant and calls the provider's API for them: docs/connect.md runs it.
// Takes EVERGRANT_URL, EVERGRANT_KEY (scopes connect and tokens), API_URL, PORT and APP_URL, which
// EVERGRANT_RETURN_URLS of the service names too. With WEBHOOK_SECRET, from `evergrant webhooks add`, it is told
// which grants have failed (docs/webhooks.md).
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const { EVERGRANT_URL, EVERGRANT_KEY, API_URL, APP_URL, PORT, WEBHOOK_SECRET } = process.env;
const GRANT = "user-42/buddy"; // your own sign-in says which person this is
const sent = new Map(); // who is on the way, and for which grant; your own store forgets them after ten minutes

const seen = new Set(); // your own store: an event may come again, days later too
const toConnectAgain = {}; // who has to, and until when the old token still works

async function evergrant(path, body) {
  const answer = await fetch(EVERGRANT_URL + path, {
    method: "POST",
    headers: { authorization: `Bearer ${EVERGRANT_KEY}`, "content-type": "application/json" },
    body: JSON.stringify(body),
    redirect: "error", // the key goes nowhere else
    signal: AbortSignal.timeout(100_000),
  });
  const document = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(document.code), { status: answer.status === 503 ? 503 : 409 });
  return document;
}

const take = (grant, body) => evergrant(`/v1/token/${encodeURIComponent(grant)}`, body);
const call = ({ access_token }) =>
  fetch(API_URL, { headers: { authorization: `Bearer ${access_token}` }, signal: AbortSignal.timeout(30_000) });

// The npm package `standardwebhooks` does the same: new Webhook(secret).verify(body, headers).
function isSigned(headers, body) {
  const at = headers["webhook-timestamp"];
  if (!(Math.abs(Date.now() / 1000 - at) < 300)) return false;
  const key = Buffer.from(WEBHOOK_SECRET.replace("whsec_", ""), "base64");
  const expected = createHmac("sha256", key).update(`${headers["webhook-id"]}.${at}.`).update(body).digest();
  return (headers["webhook-signature"] ?? "").split(" ").some((signature) => {
    const [version, text] = signature.split(",");
    const given = Buffer.from(text ?? "", "base64");
    return version === "v1" && given.length === expected.length && timingSafeEqual(given, expected);
  });
}

function heed({ id, type, subject, data }) {
  if (seen.has(id)) return;
  if (type === "evergrant.grant.failed") toConnectAgain[subject] = data.access_token_expires_at;
  if (type === "evergrant.grant.recovered") delete toConnectAgain[subject];
  seen.add(id);
}

async function serve(request, response) {
  const { pathname, searchParams } = new URL(request.url, APP_URL);
  if (request.method === "POST" && pathname === "/connect") {
    const attempt = randomBytes(32).toString("base64url");
    const signIn = { grant: GRANT, client: "buddy", return_to: `${APP_URL}/connected/${attempt}` };
    const { url } = await evergrant("/v1/connect", signIn);
    sent.set(attempt, GRANT);
    const cookie = `attempt=${attempt}; HttpOnly; SameSite=Lax; Path=/connected/`; // Secure too, behind TLS
    return response.writeHead(303, { location: url, "set-cookie": cookie }).end();
  }
  if (pathname.startsWith("/connected/")) {
    const attempt = pathname.slice("/connected/".length); // from the browser that was sent, or a stranger's link?
    const isTheirs = (request.headers.cookie ?? "").split("; ").includes(`attempt=${attempt}`);
    if (!isTheirs || !sent.delete(attempt) || !searchParams.has("code"))
      return response.writeHead(400, { "content-type": "text/plain" }).end(searchParams.get("error") ?? "start again");
    await evergrant("/v1/connect/confirm", { code: searchParams.get("code") });
    return response.writeHead(303, { location: "/me" }).end();
  }
  if (request.method === "POST" && pathname === "/hooks") {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks); // byte for byte: that is what was signed
    if (!isSigned(request.headers, body)) return response.writeHead(400).end(); // somebody else's
    heed(JSON.parse(body));
    return response.writeHead(204).end();
  }
  if (pathname === "/to-connect-again")
    return response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(toConnectAgain));
  if (pathname === "/me") {
    const token = await take(GRANT, {});
    let answer = await call(token);
    if (answer.status === 401) answer = await call(await take(GRANT, { refused_version: token.version }));
    return response.writeHead(answer.status, { "content-type": "application/json" }).end(await answer.text());
  }
  response.writeHead(200, { "content-type": "text/html" });
  return response.end('<form method="post" action="/connect"><button>Connect Buddy</button></form>');
}

createServer((request, response) =>
  // An error of another kind may quote a token.
  serve(request, response).catch((error) => response.writeHead(error.status ?? 500).end(error.status && error.message)),
).listen(PORT, "127.0.0.1");
