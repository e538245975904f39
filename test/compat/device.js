'use strict';

// azure-iot-device over MQTT with a shared access key: telemetry, cloud-to-device messages,
// twin, direct methods, takeover and refusals.

const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { NoRetry } = require('azure-iot-common');
const { Registry } = require('azure-iothub');
const { assert, cleanup, connection, host, poll, raw, rejected, telemetry, test, unique, within } = require('./harness');

const registry = Registry.fromConnectionString(connection.hub.connectionString);

// device registers one and returns what its program is configured with.
async function device(prefix) {
  const deviceId = unique(prefix);
  const { responseBody } = await registry.create({ deviceId });
  const keys = responseBody.authentication.symmetricKey;
  return { deviceId, keys, connectionString: `HostName=${host};DeviceId=${deviceId};SharedAccessKey=${keys.primaryKey}` };
}

// connected opens a client that gives up at the first failure.
async function connected(d) {
  const client = Client.fromConnectionString(d.connectionString, Mqtt);
  client.setRetryPolicy(new NoRetry());
  cleanup(() => client.close());
  const { constructor } = await client.open();
  assert.equal(constructor.name, 'Connected');
  return client;
}

test('telemetry arrives with body, properties and system properties', [], async () => {
  const d = await device('telemetry');
  const stream = await telemetry(d.deviceId);
  const client = await connected(d);

  const full = new Message(JSON.stringify({ temperature: 21.5, text: 'é&<>' }));
  full.messageId = 'm 1';
  full.correlationId = 'c/1';
  full.contentType = 'application/json';
  full.contentEncoding = 'utf-8';
  full.properties.add('alert', 'true');
  full.properties.add('sp ace', 'a b&c=d/ü+%');
  assert.equal((await client.sendEvent(full)).constructor.name, 'MessageEnqueued');
  const got = await stream.next();
  assert.equal(got.deviceId, d.deviceId);
  assert.deepEqual(got.body, { temperature: 21.5, text: 'é&<>' });
  assert.deepEqual(got.properties, { alert: 'true', 'sp ace': 'a b&c=d/ü+%' });
  const system = got.systemProperties;
  assert.equal(system['message-id'], 'm 1');
  assert.equal(system['correlation-id'], 'c/1');
  assert.equal(system['content-type'], 'application/json');
  assert.equal(system['content-encoding'], 'utf-8');

  const binary = Buffer.from([0, 1, 254, 255]);
  await client.sendEvent(new Message(binary));
  const bare = await stream.next();
  assert.equal(bare.bodyBase64, binary.toString('base64'));
  assert.deepEqual(bare.properties, {});

  // Many in flight keep their order.
  await Promise.all(Array.from({ length: 100 }, (_, n) => client.sendEvent(new Message(JSON.stringify({ n })))));
  for (let n = 0; n < 100; n++) {
    assert.deepEqual((await stream.next()).body, { n });
  }
});

// sendMail queues a cloud-to-device message over REST, as azure-iothub's AMQP sender would.
async function sendMail(deviceId, body, headers = {}) {
  const response = await raw('POST', `/devices/${encodeURIComponent(deviceId)}/messages/deviceBound?api-version=2021-04-12`, { body, headers });
  assert.equal(response.status, 204, response.text);
}

async function pending(deviceId) {
  return (await registry.get(deviceId)).responseBody.cloudToDeviceMessageCount;
}

// inbox collects what a client receives.
function inbox(client) {
  const messages = [];
  client.on('message', (m) => messages.push(m));
  return {
    messages,
    next: () => poll('a cloud-to-device message', () => messages.shift()),
  };
}

test('cloud-to-device messages arrive and complete', ['HD-52'], async () => {
  const d = await device('mail');
  await sendMail(d.deviceId, 'while away', { 'iothub-messageid': 'first' });
  assert.equal(await pending(d.deviceId), 1);
  const client = await connected(d);
  const box = inbox(client);

  const first = await box.next();
  assert.equal(first.getData().toString(), 'while away');
  assert.equal(first.messageId, 'first');
  assert.equal((await client.complete(first)).constructor.name, 'MessageCompleted');
  await poll('an empty queue', async () => await pending(d.deviceId) === 0);

  await sendMail(d.deviceId, '{"on":true}', {
    'iothub-messageid': 'second', 'iothub-correlationid': 'c 2', 'iothub-app-kind': 'a b&c', 'iothub-app-empty': '',
    ContentType: 'application/json', ContentEncoding: 'utf-8',
  });
  const second = await box.next();
  assert.equal(second.getData().toString(), '{"on":true}');
  assert.equal(second.messageId, 'second');
  assert.equal(second.correlationId, 'c 2');
  assert.equal(second.to, `/devices/${d.deviceId}/messages/devicebound`);
  assert.equal(second.contentType, 'application/json');
  assert.equal(second.contentEncoding, 'utf-8');
  assert.ok(Date.parse(second.expiryTimeUtc) > Date.now(), `expiry ${second.expiryTimeUtc}`);
  const properties = Object.fromEntries(second.properties.propertyList.map((p) => [p.key, p.value]));
  assert.deepEqual(properties, { kind: 'a b&c' }); // an empty value is left out: Java's SDK throws on one
  await client.complete(second);
  await poll('an empty queue', async () => await pending(d.deviceId) === 0);

  // MQTT can neither reject nor abandon; the SDK says so itself.
  assert.equal((await rejected(client.reject(second))).name, 'NotImplementedError');
  assert.equal((await rejected(client.abandon(second))).name, 'NotImplementedError');

  // Order is kept.
  for (let n = 0; n < 10; n++) {
    await sendMail(d.deviceId, `${n}`);
  }
  for (let n = 0; n < 10; n++) {
    const m = await box.next();
    assert.equal(m.getData().toString(), `${n}`);
    assert.match(m.messageId, /./);
  }
});

test('cloud-to-device messages to nobody are refused', [], async () => {
  const response = await raw('POST', '/devices/nobody/messages/deviceBound?api-version=2021-04-12', { body: 'x' });
  assert.equal(response.status, 404);
  assert.equal(response.headers['iothub-errorcode'], 'DeviceNotFound');
});

const update = (twin, patch) => new Promise((resolve, reject) => {
  twin.properties.reported.update(patch, (err) => (err ? reject(err) : resolve()));
});

test('twin: get, reported properties, desired updates and refusals', ['HD-63'], async () => {
  const d = await device('twin');
  await registry.updateTwin(d.deviceId, { tags: { site: 'north' }, properties: { desired: { interval: 10, nested: { a: 1, b: [1, 2] } } } }, '*');
  const client = await connected(d);
  const twin = await client.getTwin();
  assert.equal(twin.properties.desired.interval, 10);
  assert.deepEqual(twin.properties.desired.nested, { a: 1, b: [1, 2] });
  assert.equal(twin.properties.desired.$version, 2);
  assert.equal(twin.properties.reported.$version, 1);
  assert.equal('$metadata' in twin.properties.desired, false);
  assert.equal('tags' in twin, false);

  await update(twin, { firmware: '1.2', big: 4503599627370496, small: -4503599627370496, nested: { x: 1, gone: true } });
  await update(twin, { nested: { gone: null, y: 'ü' } });
  const reported = (await registry.getTwin(d.deviceId)).responseBody.properties.reported;
  assert.equal(reported.firmware, '1.2');
  assert.equal(reported.big, 4503599627370496);
  assert.equal(reported.small, -4503599627370496);
  assert.deepEqual(reported.nested, { x: 1, y: 'ü' });
  assert.equal(reported.$version, 3);

  // The SDK turns an error body into an Error with its message.
  for (const patch of [{ $bad: 1 }, { 'a.b': 1 }, { n: 4503599627370497 }, { s: 'x'.repeat(4097) }]) {
    const error = await rejected(update(twin, patch));
    assert.equal(error.name, 'Error');
    assert.match(error.message, /reported properties/);
  }
  assert.equal((await registry.getTwin(d.deviceId)).responseBody.properties.reported.$version, 3);

  const patches = [];
  const intervals = [];
  twin.on('properties.desired', (patch) => patches.push(structuredClone(patch)));
  twin.on('properties.desired.interval', (value) => intervals.push(value));
  await poll('what is there already', () => patches.length > 0 && intervals.length > 0);
  patches.length = intervals.length = 0;
  // The listener subscribes; a GET, which is answered in order, shows that it has.
  await twin.get();
  patches.length = intervals.length = 0;
  await registry.updateTwin(d.deviceId, { properties: { desired: { interval: 20, nested: { a: null } } } }, '*');
  await poll('the desired patch', () => patches.length === 1);
  assert.deepEqual(patches[0], { interval: 20, nested: { a: null }, $version: 3 });
  assert.deepEqual(intervals, [20]);
  assert.equal(twin.properties.desired.interval, 20);
  assert.deepEqual(twin.properties.desired.nested, { b: [1, 2] });

  // Tags are none of the device's business; versions stay in order.
  await registry.updateTwin(d.deviceId, { tags: { site: 'south' } }, '*');
  for (let n = 0; n < 20; n++) {
    await registry.updateTwin(d.deviceId, { properties: { desired: { n } } }, '*');
  }
  await poll('all patches', () => patches.length === 21);
  assert.deepEqual(patches.slice(1), Array.from({ length: 20 }, (_, n) => ({ n, $version: 4 + n })));
});

test('a second connection takes the first one over', [], async () => {
  const d = await device('takeover');
  const first = await connected(d);
  const lost = new Promise((resolve) => { first.once('disconnect', resolve); });
  const second = await connected(d);
  const reason = await within('the disconnect of the first', lost);
  assert.equal(reason.constructor.name, 'Disconnected');
  assert.equal((await second.sendEvent(new Message('still here'))).constructor.name, 'MessageEnqueued');
  assert.equal((await registry.get(d.deviceId)).responseBody.connectionState, 'Connected');
  await second.close();
  await poll('the device to be gone', async () => (await registry.get(d.deviceId)).responseBody.connectionState === 'Disconnected');
});

test('both keys connect; wrong keys, unknown and disabled devices do not', ['HS-037'], async () => {
  const d = await device('refused');
  const open = async (connectionString) => {
    const client = Client.fromConnectionString(connectionString, Mqtt);
    client.setRetryPolicy(new NoRetry());
    cleanup(() => client.close());
    await within('an answer to CONNECT', client.open());
    return client;
  };
  const secondary = await open(`HostName=${host};DeviceId=${d.deviceId};SharedAccessKey=${d.keys.secondaryKey}`);
  await secondary.close();

  const stranger = Buffer.alloc(32, 7).toString('base64');
  assert.equal((await rejected(open(`HostName=${host};DeviceId=${d.deviceId};SharedAccessKey=${stranger}`))).name, 'UnauthorizedError');
  assert.equal((await rejected(open(`HostName=${host};DeviceId=nobody;SharedAccessKey=${stranger}`))).name, 'UnauthorizedError');

  const client = await open(d.connectionString);
  const lost = new Promise((resolve) => { client.once('disconnect', resolve); });
  await registry.update({ deviceId: d.deviceId, status: 'disabled', statusReason: 'stolen' });
  await within('the disconnect of a disabled device', lost);
  await poll('the device to be gone', async () => (await registry.get(d.deviceId)).responseBody.connectionState === 'Disconnected');
  assert.equal((await rejected(open(d.connectionString))).name, 'ServiceUnavailableError');
  await registry.update({ deviceId: d.deviceId, status: 'enabled' });
  await open(d.connectionString);

  await registry.delete(d.deviceId);
  assert.equal((await rejected(open(d.connectionString))).name, 'UnauthorizedError');
});

test('tokens: a valid one connects, expired and foreign ones do not', [], async () => {
  const { sign } = require('./harness');
  const d = await device('token');
  const other = await device('other');
  const open = async (resource, key, life) => {
    const client = Client.fromSharedAccessSignature(sign(encodeURIComponent(resource), key, '', life), Mqtt);
    client.setRetryPolicy(new NoRetry());
    cleanup(() => client.close());
    await within('an answer to CONNECT', client.open());
  };
  const resource = `${host}/devices/${d.deviceId}`;
  await open(resource, d.keys.primaryKey, 3600);
  assert.equal((await rejected(open(resource, d.keys.primaryKey, -3600))).name, 'UnauthorizedError');
  assert.equal((await rejected(open(`${host}/devices/${other.deviceId}`, d.keys.primaryKey, 3600))).name, 'UnauthorizedError');
});

test('device ids with every allowed character connect', [], async () => {
  // The SDK itself refuses to subscribe to a topic with # or + in a device id.
  for (const deviceId of [`${unique('all')}-.%_*?!(),:=@$'`, `${unique('percent')}%2F%25`, `${unique('hash')}#+`]) {
    const { responseBody } = await registry.create({ deviceId });
    assert.equal(responseBody.deviceId, deviceId);
    const stream = await telemetry(deviceId);
    // A connection string has no way to hold a semicolon.
    const client = await connected({ connectionString: `HostName=${host};DeviceId=${deviceId};SharedAccessKey=${responseBody.authentication.symmetricKey.primaryKey}` });
    await client.sendEvent(new Message('"here"'));
    const got = await stream.next();
    assert.equal(got.deviceId, deviceId);
    assert.equal(got.body, 'here');
    if (deviceId.includes('#')) {
      continue;
    }
    const box = inbox(client);
    await sendMail(deviceId, 'you');
    assert.equal((await box.next()).getData().toString(), 'you');
  }
});
