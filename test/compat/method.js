'use strict';

// Direct methods: azure-iothub's Client calls, azure-iot-device answers.

const { Client: Device } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { NoRetry } = require('azure-iot-common');
const { Client, Registry } = require('azure-iothub');
const { assert, cleanup, connection, host, raw, rejected, test, unique, wait, within } = require('./harness');

const registry = Registry.fromConnectionString(connection.hub.connectionString);
const service = Client.fromConnectionString(connection.hub.connectionString);

async function create(prefix) {
  const deviceId = unique(prefix);
  const { responseBody } = await registry.create({ deviceId });
  return { deviceId, connectionString: `HostName=${host};DeviceId=${deviceId};SharedAccessKey=${responseBody.authentication.symmetricKey.primaryKey}` };
}

async function online(d) {
  const client = Device.fromConnectionString(d.connectionString, Mqtt);
  client.setRetryPolicy(new NoRetry());
  cleanup(() => client.close());
  await client.open();
  return client;
}

// listen answers method calls and returns when the subscription stands: a first call got through.
async function listen(d, handlers) {
  const client = await online(d);
  for (const [name, handler] of Object.entries(handlers)) {
    client.onDeviceMethod(name, handler);
  }
  client.onDeviceMethod('ready', (request, response) => response.send(200));
  const { result } = await service.invokeDeviceMethod(d.deviceId, { methodName: 'ready', connectTimeoutInSeconds: 10 });
  assert.deepEqual(result, { status: 200, payload: null });
  return client;
}

const call = (deviceId, params) => service.invokeDeviceMethod(deviceId, params);

test('payloads and statuses make the round trip', ['HS-070', 'HD-69'], async () => {
  const d = await create('method');
  const asked = [];
  await listen(d, {
    echo: (request, response) => {
      asked.push(request.payload);
      response.send(200, request.payload);
    },
    fail: (request, response) => response.send(500, { why: 'broken' }),
    bare: (request, response) => response.send(204),
    'comp*echo': (request, response) => response.send(207, request.methodName),
  });
  for (const payload of [null, '', 'foo', { k1: 'v1' }, {}, [], [1, 'two', null, { three: [3] }], 0, 1.5, true, false, 'é"\\\n<>&', { deep: { deeper: { deepest: null } } }]) {
    const { result, message } = await call(d.deviceId, { methodName: 'echo', payload });
    assert.equal(message.statusCode, 200);
    assert.match(message.headers['content-type'], /application\/json/);
    assert.deepEqual(result, { status: 200, payload });
    assert.deepEqual(asked.pop(), payload);
  }
  assert.deepEqual((await call(d.deviceId, { methodName: 'echo' })).result, { status: 200, payload: null });
  assert.deepEqual((await call(d.deviceId, { methodName: 'fail' })).result, { status: 500, payload: { why: 'broken' } });
  assert.deepEqual((await call(d.deviceId, { methodName: 'bare' })).result, { status: 204, payload: null });
  assert.deepEqual((await call(d.deviceId, { methodName: 'comp*echo', payload: 1 })).result, { status: 207, payload: 'comp*echo' });
});

test('calls to one device run side by side', [], async () => {
  const d = await create('parallel');
  const waiting = [];
  await listen(d, {
    gather: (request, response) => {
      waiting.push([request.payload, response]);
      if (waiting.length === 20) {
        for (const [payload, r] of waiting.reverse()) {
          r.send(200, payload);
        }
      }
    },
  });
  const results = await Promise.all(Array.from({ length: 20 }, (_, n) => call(d.deviceId, { methodName: 'gather', payload: { n } })));
  assert.deepEqual(results.map(({ result }) => result.payload.n), Array.from({ length: 20 }, (_, n) => n));
});

// detail reads the error form of methods: JSON inside the message.
function detail(error) {
  const body = JSON.parse(error.responseBody);
  assert.equal(body.ExceptionMessage, '');
  const inner = JSON.parse(body.Message);
  assert.match(inner.trackingId, /./);
  assert.match(inner.message, /./);
  assert.ok(Math.abs(Date.parse(inner.timestampUtc) - Date.now()) < 60_000, inner.timestampUtc);
  return inner;
}

test('unknown, offline, deaf and silent devices', ['HS-071'], async () => {
  const unknown = await rejected(call('nobody', { methodName: 'm' }));
  assert.equal(unknown.response.statusCode, 404);
  assert.equal(detail(unknown).errorCode, 404001);
  assert.equal(unknown.response.headers['iothub-errorcode'], 'DeviceNotFound');

  const d = await create('silent');
  let started = Date.now();
  const offline = await rejected(call(d.deviceId, { methodName: 'm' }));
  assert.equal(offline.response.statusCode, 404);
  assert.equal(detail(offline).errorCode, 404103);
  assert.equal(offline.response.headers['iothub-errorcode'], 'DeviceNotOnline');
  assert.ok(Date.now() - started < 5000, 'without a connect timeout the answer comes at once');

  started = Date.now();
  const waited = await rejected(call(d.deviceId, { methodName: 'm', connectTimeoutInSeconds: 2, responseTimeoutInSeconds: 60 }));
  assert.equal(detail(waited).errorCode, 404103);
  const took = Date.now() - started;
  assert.ok(took >= 1900 && took < 20_000, `a connect timeout of 2 s took ${took} ms`);

  const client = await online(d);
  const deaf = await rejected(call(d.deviceId, { methodName: 'm' }));
  assert.equal(detail(deaf).errorCode, 404103);
  await client.close();

  await listen(d, { sleep: () => {} });
  started = Date.now();
  const silent = await rejected(call(d.deviceId, { methodName: 'sleep', responseTimeoutInSeconds: 5 }));
  assert.equal(silent.name, 'GatewayTimeoutError');
  assert.equal(silent.response.statusCode, 504);
  assert.equal(silent.response.headers['iothub-errorcode'], 'GatewayTimeout');
  assert.equal(detail(silent).errorCode, 504101);
  const slept = Date.now() - started; // had it been longer, the package's own socket would have timed out
  assert.ok(slept > 3500, `silent for 5 s took ${slept} ms`);
});

test('a device that connects in time is waited for', [], async () => {
  const d = await create('late');
  const called = call(d.deviceId, { methodName: 'm', payload: 7, connectTimeoutInSeconds: 20 });
  await wait(300);
  const client = await online(d);
  client.onDeviceMethod('m', (request, response) => response.send(200, request.payload + 1));
  assert.deepEqual((await within('the answer', called)).result, { status: 200, payload: 8 });
});

test('a device that goes while it is asked is told of', [], async () => {
  const d = await create('gone');
  let client;
  client = await listen(d, { leave: () => client.close() });
  const error = await rejected(call(d.deviceId, { methodName: 'leave', responseTimeoutInSeconds: 10 }));
  assert.equal(error.response.statusCode, 404);
  assert.equal(detail(error).errorCode, 404104);
  assert.equal(error.response.headers['iothub-errorcode'], 'DeviceConnectionClosedRemotely');
});

test('limits: payload and times', ['HS-073'], async () => {
  const d = await create('limits');
  await listen(d, { size: (request, response) => response.send(200, request.payload.length) });
  const full = 'x'.repeat(128 * 1024 - 2);
  assert.deepEqual((await call(d.deviceId, { methodName: 'size', payload: full })).result, { status: 200, payload: full.length });
  const over = await rejected(call(d.deviceId, { methodName: 'size', payload: `${full}x` }));
  assert.equal(over.response.statusCode, 413);
  for (const body of [
    { methodName: 'size', responseTimeoutInSeconds: 4 }, { methodName: 'size', responseTimeoutInSeconds: 301 },
    { methodName: 'size', connectTimeoutInSeconds: -1 }, { methodName: 'size', connectTimeoutInSeconds: 301 },
    { payload: 1 }, { methodName: '' }, { methodName: 'a/b' },
  ]) {
    const r = await raw('POST', `/twins/${d.deviceId}/methods?api-version=2021-04-12`, { body, headers: { 'Content-Type': 'application/json' } });
    assert.equal(r.status, 400, JSON.stringify(body));
    assert.equal(r.headers['iothub-errorcode'], 'ArgumentInvalid');
    assert.equal(JSON.parse(r.json().Message).errorCode, 400004);
  }
});
