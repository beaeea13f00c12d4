// Signs a person in through Evergrant and calls the provider's API for them: docs/connect.md runs it.
// Takes EVERGRANT_URL, EVERGRANT_KEY (scopes connect and tokens), API_URL, PORT and APP_URL, which
// EVERGRANT_RETURN_URLS of the service names too.
import { randomBytes } from "node:crypto";
import { createServer } from "node:http";

const { EVERGRANT_URL, EVERGRANT_KEY, API_URL, APP_URL, PORT } = process.env;
const GRANT = "user-42/buddy"; // your own sign-in says which person this is
const sent = new Map(); // who is on the way, and for which grant; your own store forgets them after ten minutes

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
