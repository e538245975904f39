'use strict';

// What the scripts beside this file share. A script declares its cases with test(name, ids, run);
// they run one after the other once the script is loaded. The Go test reads the plan and the
// outcomes as JSON lines from descriptor 3 and makes a subtest of each; it answers
// requests (ask) with lines on standard input.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const https = require('node:https');
const readline = require('node:readline');
const { inspect } = require('node:util');

const caseLimit = 40_000;

const connection = JSON.parse(fs.readFileSync(process.env.VAUBAN_CONNECTION, 'utf8'));
const certificates = JSON.parse(fs.readFileSync(process.env.VAUBAN_CERTIFICATES, 'utf8'));
const host = connection.hub.hostname;

const cases = [];
let abort = () => {}; // ends the running case

function test(name, ids, run) {
  cases.push({ name, ids, run });
}

function report(line) {
  fs.writeSync(3, JSON.stringify(line) + '\n');
}

async function main() {
  report({ plan: cases.map(({ name, ids }) => ({ name, ids })) });
  for (const c of cases) {
    let timer;
    const ended = new Promise((_, reject) => {
      abort = reject;
      timer = setTimeout(() => reject(new Error(`not done within ${caseLimit} ms`)), caseLimit);
    });
    let error = '';
    try {
      await Promise.race([c.run(), ended]);
    } catch (e) {
      error = (e && e.stack) || String(e);
    }
    abort = () => {};
    clearTimeout(timer);
    report({ name: c.name, error });
    for (const close of cleanups.splice(0).reverse()) {
      await Promise.race([Promise.resolve().then(close).catch(() => {}), wait(2000)]);
    }
  }
  process.exit(0); // SDKs leave timers behind
}

process.on('uncaughtException', (e) => abort(e));
process.on('unhandledRejection', (e) => abort(e));
setImmediate(main);

// cleanup runs close when the case is over, whatever its end.
const cleanups = [];
function cleanup(close) {
  cleanups.push(close);
}

const wait = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

// poll calls f until it returns something true and returns that.
async function poll(what, f, limit = 10_000) {
  for (const end = Date.now() + limit; ;) {
    const v = await f();
    if (v) {
      return v;
    }
    if (Date.now() > end) {
      throw new Error(`${what}: not within ${limit} ms`);
    }
    await wait(30);
  }
}

// within fails when promise takes longer than limit.
async function within(what, promise, limit = 10_000) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${limit} ms`)), limit);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

// rejected returns the error that promise fails with.
async function rejected(promise) {
  let value;
  try {
    value = await promise;
  } catch (e) {
    return e;
  }
  throw new Error(`succeeded with ${inspect(value, { depth: 1 })}, want an error`);
}

// ask has the Go test do something and returns when it is done.
let answers;
async function ask(what) {
  answers ??= readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  report({ ask: what });
  const { value } = await answers.next();
  assert.equal(value, 'done');
}

let serial = 0;
const unique = (prefix) => `${prefix}-${process.pid.toString(36)}-${++serial}`;

function parse(connectionString) {
  return Object.fromEntries(connectionString.split(';').map((p) => [p.slice(0, p.indexOf('=')), p.slice(p.indexOf('=') + 1)]));
}

const owner = parse(connection.hub.connectionString);

// sign makes a token as azure-iothub does.
function sign(resource, key, policy, life = 3600) {
  const { createHmac } = require('node:crypto');
  const se = Math.floor(Date.now() / 1000) + life;
  const sig = createHmac('sha256', Buffer.from(key, 'base64')).update(`${resource}\n${se}`).digest('base64');
  return `SharedAccessSignature sr=${resource}&sig=${encodeURIComponent(sig)}&se=${se}` + (policy ? `&skn=${policy}` : '');
}

// raw sends a request whose path is taken as it is, without any SDK's help.
function raw(method, path, { headers = {}, body, token } = {}) {
  return new Promise((resolve, reject) => {
    const request = https.request({
      host, port: connection.ports.https, method, path,
      headers: { Authorization: token ?? sign(host, owner.SharedAccessKey, owner.SharedAccessKeyName), ...headers },
    }, (response) => {
      let text = '';
      response.on('data', (chunk) => { text += chunk; });
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, text, json: () => JSON.parse(text) }));
    });
    request.on('error', reject);
    request.end(typeof body === 'object' && !Buffer.isBuffer(body) ? JSON.stringify(body) : body);
  });
}

// telemetry opens the operator's live stream of one device. next returns messages in order.
async function telemetry(deviceId) {
  const response = await new Promise((resolve, reject) => {
    https.get({
      host, port: connection.ports.https, path: `/api/messages?device=${encodeURIComponent(deviceId)}`,
      headers: { Authorization: `Bearer ${connection.api.token}` },
    }, resolve).on('error', reject);
  });
  assert.equal(response.statusCode, 200);
  response.on('error', () => {}); // the server may stop before the case does
  cleanup(() => response.destroy());
  const lines = readline.createInterface({ input: response })[Symbol.asyncIterator]();
  return {
    async next() {
      for (;;) {
        const { value, done } = await within(`a message of ${deviceId}`, lines.next());
        assert.ok(!done, 'the stream of messages ended');
        if (value.trim() !== '') {
          return JSON.parse(value);
        }
      }
    },
  };
}

module.exports = {
  ask, assert, certificates, cleanup, connection, host, owner, parse, poll, raw, rejected, sign, telemetry, test, unique, wait, within,
};
