// A receiver of webhooks, with the library of Standard Webhooks, on loopback: node standard_webhooks.js DIRECTORY PORT
//
// The secret is in the file `secret` of the directory. What verifies goes to `taken.jsonl` and is answered 204;
// anything else goes to `refused.jsonl` and is answered 400.

import { appendFileSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';

import { Webhook } from 'standardwebhooks';

const [directory, port] = process.argv.slice(2);

function verified(body, headers) {
  const secret = readFileSync(join(directory, 'secret'), 'utf8');
  try {
    return { event: new Webhook(secret).verify(body, headers) };
  } catch (error) {
    return { problem: error.message };
  }
}

async function receive(request, response) {
  const parts = [];
  for await (const part of request) parts.push(part);
  const body = Buffer.concat(parts);
  const read = verified(body, request.headers);
  const line = JSON.stringify({ headers: request.headers, body: body.toString('base64'), ...read });
  appendFileSync(join(directory, read.problem ? 'refused.jsonl' : 'taken.jsonl'), `${line}\n`);
  response.writeHead(read.problem ? 400 : 204).end();
}

createServer(receive).listen(Number(port), '127.0.0.1');
