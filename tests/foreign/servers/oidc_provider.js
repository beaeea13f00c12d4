// oidc-provider on loopback: node oidc_provider.js DIRECTORY PORT
//
// Its endpoints are its own. Beside them are those of README.md, which the tests steer it by.

import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';

import { Provider, errors } from 'oidc-provider';

const [directory, port] = process.argv.slice(2);
const ACCESS_SECONDS = 60;
const SCOPE = 'openid offline_access';

// Every change is appended to a file before it is acknowledged, and a restart reads the file again.
const log = join(directory, 'oidc_provider.jsonl');
const stored = new Map();

function apply(key, value) {
  if (value === null) stored.delete(key);
  else stored.set(key, value);
}

function write(key, value) {
  appendFileSync(log, `${JSON.stringify([key, value])}\n`);
  apply(key, value);
}

if (existsSync(log)) {
  for (const line of readFileSync(log, 'utf8').split('\n').slice(0, -1)) apply(...JSON.parse(line));
}

class FileAdapter {
  constructor(model) {
    this.model = model;
  }

  key(id) {
    return `${this.model}:${id}`;
  }

  async upsert(id, payload) {
    write(this.key(id), payload);
  }

  async find(id) {
    return stored.get(this.key(id));
  }

  async findByUid(uid) {
    return [...stored.values()].find((payload) => payload.uid === uid);
  }

  async consume(id) {
    write(this.key(id), { ...stored.get(this.key(id)), consumed: Math.floor(Date.now() / 1000) });
  }

  async destroy(id) {
    write(this.key(id), null);
  }

  async revokeByGrantId(grantId) {
    for (const [key, payload] of [...stored]) if (payload.grantId === grantId) write(key, null);
  }
}

const provider = new Provider(`http://127.0.0.1:${port}`, {
  adapter: FileAdapter,
  findAccount: (ctx, accountId) => ({ accountId, claims: () => ({ sub: accountId }) }),
  rotateRefreshToken: true,
  ttl: { AccessToken: ACCESS_SECONDS, IdToken: ACCESS_SECONDS, Grant: 86_400, RefreshToken: 86_400 },
  clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none'],
  features: {
    devInteractions: { enabled: true }, // forms to sign in and to consent, for `make browser`
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      // A client that names no resource gets a token for none.
      useGrantedResource: () => false,
      getResourceServerInfo: (ctx, resource) => {
        if (!resource.startsWith('https://api.example/')) throw new errors.InvalidTarget();
        return { scope: 'read', audience: resource, accessTokenTTL: ACCESS_SECONDS };
      },
    },
  },
});

async function issue(accountId, clientId, resource) {
  const client = await provider.Client.find(clientId);
  const grant = new provider.Grant({ accountId, clientId });
  grant.addOIDCScope(SCOPE);
  if (resource) grant.addResourceScope(resource, 'read');
  const consent = { accountId, client, grantId: await grant.save(), gty: 'authorization_code' };
  const accessToken = new provider.AccessToken({ ...consent, scope: SCOPE });
  const scope = resource ? `${SCOPE} read` : SCOPE;
  const refreshToken = new provider.RefreshToken({ ...consent, scope, resource });
  return {
    access_token: await accessToken.save(),
    refresh_token: await refreshToken.save(),
    expires_in: ACCESS_SECONDS,
  };
}

// The newest of each kind: what is stored keeps the order in which it came.
function livePairs() {
  const pairs = {};
  for (const { kind, accountId, jti, consumed } of stored.values()) {
    if (kind === 'RefreshToken' && !consumed) pairs[accountId] = { ...pairs[accountId], refresh_token: jti };
    if (kind === 'AccessToken') pairs[accountId] = { ...pairs[accountId], access_token: jti };
  }
  return pairs;
}

const control = {
  '/control/clients': async (metadata) => {
    await new FileAdapter('Client').upsert(metadata.client_id, {
      grant_types: ['authorization_code', 'refresh_token'],
      redirect_uris: ['https://app.example/callback'],
      ...metadata,
    });
  },
  '/control/grants': async ({ ids, client_id: clientId, resource }) => {
    const issued = {};
    for (const id of ids) issued[id] = await issue(id, clientId, resource);
    return issued;
  },
  '/control/pairs': async () => livePairs(),
};

async function bodyOf(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return JSON.parse(Buffer.concat(chunks).toString() || 'null');
}

const server = createServer(async (request, response) => {
  const handler = control[request.url];
  if (!handler) return provider.callback()(request, response);
  const answer = await handler(await bodyOf(request));
  return response.setHeader('content-type', 'application/json').end(JSON.stringify(answer ?? null));
});

server.listen(Number(port), '127.0.0.1');

// What is being answered is answered first.
process.on('SIGTERM', () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
