'use strict';

// azure-iot-device-http: telemetry single and in batches, and cloud-to-device messages with their
// three settlements, by token and by certificate.

const { Client, Message } = require('azure-iot-device');
const { Http } = require('azure-iot-device-http');
const { Registry } = require('azure-iothub');

const { assert, certificates, cleanup, connection, host, poll, raw, rejected, telemetry, test, unique, within } = require('./harness.js');

const registry = Registry.fromConnectionString(connection.hub.connectionString);

async function device() {
  const deviceId = unique('http');
  const { responseBody } = await registry.create({ deviceId });
  return { deviceId, key: responseBody.authentication.symmetricKey.primaryKey };
}

async function open({ deviceId, key }) {
  const client = Client.fromConnectionString(`HostName=${host};DeviceId=${deviceId};SharedAccessKey=${key}`, Http);
  // Polled by hand: by default the SDK looks once in 25 minutes.
  await client.setOptions({ http: { receivePolicy: { interval: 1 } } });
  await client.open();
  cleanup(() => client.close());
  return client;
}

async function send(deviceId, messageId, properties = {}) {
  const headers = { 'iothub-messageid': messageId, 'iothub-ack': 'full', 'iothub-correlationid': 'c 1' };
  for (const [name, value] of Object.entries(properties)) {
    headers[`iothub-app-${name}`] = value;
  }
  const response = await raw('POST', `/devices/${deviceId}/messages/deviceBound?api-version=2021-04-12`, { headers, body: Buffer.from(`body of ${messageId}`) });
  assert.equal(response.status, 204);
}

// next resolves with the next message; SDK clients of HTTP poll once a listener is there.
const next = (client) => within('a cloud-to-device message', new Promise((resolve) => { client.once('message', resolve); }), 15_000);

test('telemetry: one message with its properties', [], async () => {
  const d = await device();
  const live = await telemetry(d.deviceId);
  const client = await open(d);
  const m = new Message(JSON.stringify({ t: 21.5 }));
  m.messageId = 'm 1';
  m.correlationId = 'c';
  m.contentType = 'application/json';
  m.contentEncoding = 'utf-8';
  m.properties.add('level', 'high & low');
  m.properties.add('zone', '7');
  await client.sendEvent(m);
  const got = await live.next();
  assert.deepEqual(got.body, { t: 21.5 });
  const text = JSON.stringify(got);
  for (const part of ['m 1', 'high & low', '"zone"', 'application/json']) {
    assert.ok(text.includes(part), `${part} is not in ${text}`);
  }
});

test('telemetry: a batch', [], async () => {
  const d = await device();
  const live = await telemetry(d.deviceId);
  const client = await open(d);
  const batch = [0, 1, 2].map((n) => {
    const m = new Message(`message ${n} ü`);
    m.properties.add('Number', String(n));
    return m;
  });
  await client.sendEventBatch(batch);
  for (const n of [0, 1, 2]) {
    const text = JSON.stringify(await live.next());
    assert.ok(text.includes('"Number"') && text.includes(`"${n}"`), text);
  }
});

test('cloud-to-device: complete, reject, abandon', [], async () => {
  const d = await device();
  await send(d.deviceId, 'one', { level: 'high' });
  await send(d.deviceId, 'two');
  await send(d.deviceId, 'three');
  const client = await open(d);

  const one = await next(client);
  assert.equal(one.messageId, 'one');
  assert.equal(one.getData().toString(), 'body of one');
  assert.equal(one.correlationId, 'c 1');
  assert.equal(one.to, `/devices/${d.deviceId}/messages/devicebound`);
  assert.ok(new Date(one.expiryTimeUtc) > new Date());
  assert.equal(one.properties.getValue('iothub-app-level'), 'high');
  await client.complete(one);
  const error = await rejected(client.complete(one));
  assert.equal(error.response.statusCode, 412); // the SDK has no class for it

  const two = await next(client);
  assert.equal(two.messageId, 'two');
  await client.abandon(two);
  const again = await next(client);
  assert.ok(['two', 'three'].includes(again.messageId));
  for (let m = again, seen = []; ;) {
    seen.push(m.messageId);
    await client.reject(m);
    if (seen.length === 2) {
      assert.deepEqual(seen.sort(), ['three', 'two']);
      break;
    }
    m = await next(client);
  }
  await poll('an empty queue', async () => (await registry.get(d.deviceId)).responseBody.cloudToDeviceMessageCount === 0);
});

test('a certificate proves the device', [], async () => {
  const { cert, key } = certificates['self-2'];
  const { X509Certificate } = require('node:crypto');
  const primaryThumbprint = new X509Certificate(certificates['self-2'].leaf).fingerprint.replaceAll(':', '');
  const deviceId = unique('http-x509');
  await registry.create({ deviceId, authentication: { type: 'selfSigned', x509Thumbprint: { primaryThumbprint, secondaryThumbprint: primaryThumbprint } } });
  const live = await telemetry(deviceId);
  const client = Client.fromConnectionString(`HostName=${host};DeviceId=${deviceId};x509=true`, Http);
  await client.setOptions({ cert, key, http: { receivePolicy: { interval: 1 } } }); // without `http` the SDK never answers
  await client.open();
  cleanup(() => client.close());
  await client.sendEvent(new Message('signed'));
  assert.ok(JSON.stringify(await live.next()).includes('x509'));
});

test('refusals reach the program as the errors of the SDK', [], async () => {
  const d = await device();
  const wrong = await open({ deviceId: d.deviceId, key: Buffer.alloc(32).toString('base64') });
  assert.equal((await rejected(wrong.sendEvent(new Message('x')))).name, 'UnauthorizedError');
  const client = await open(d);
  const large = await rejected(client.sendEvent(new Message('x'.repeat(256 * 1024 + 1))));
  assert.equal(large.name, 'MessageTooLargeError');
});
