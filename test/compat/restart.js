'use strict';

// A device program lives through a restart of the server without doing anything.

const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { Client: Service, Registry } = require('azure-iothub');
const { ask, assert, cleanup, connection, host, poll, raw, telemetry, test, unique } = require('./harness');

const registry = Registry.fromConnectionString(connection.hub.connectionString);

test('telemetry, mail, twin and methods work again after a restart', [], async () => {
  const deviceId = unique('restart');
  const { responseBody: before } = await registry.create({ deviceId });
  const client = Client.fromConnectionString(`HostName=${host};DeviceId=${deviceId};SharedAccessKey=${before.authentication.symmetricKey.primaryKey}`, Mqtt);
  cleanup(() => client.close());
  await client.open();
  const mail = [];
  const patches = [];
  client.on('message', (m) => {
    mail.push(m.getData().toString());
    client.complete(m, () => {});
  });
  client.onDeviceMethod('ping', (request, response) => response.send(200, 'pong'));
  const twin = await client.getTwin();
  twin.on('properties.desired', (patch) => patches.push(patch.n));
  const reported = (patch) => new Promise((resolve, reject) => {
    twin.properties.reported.update(patch, (err) => (err ? reject(err) : resolve()));
  });
  await reported({ boot: 1 });
  await registry.updateTwin(deviceId, { properties: { desired: { n: 1 } } }, '*');
  await poll('the first desired patch', () => patches.includes(1));
  assert.equal((await client.sendEvent(new Message('"before"'))).constructor.name, 'MessageEnqueued');

  await ask('restart');

  // Everything that was written is there.
  const { responseBody: after } = await registry.get(deviceId);
  assert.deepEqual(after.authentication, before.authentication);
  assert.equal(after.generationId, before.generationId);
  const kept = (await registry.getTwin(deviceId)).responseBody;
  assert.equal(kept.properties.desired.n, 1);
  assert.equal(kept.properties.reported.boot, 1);

  // The device comes back on its own.
  const service = Service.fromConnectionString(connection.hub.connectionString);
  const pong = await service.invokeDeviceMethod(deviceId, { methodName: 'ping', connectTimeoutInSeconds: 30 });
  assert.deepEqual(pong.result, { status: 200, payload: 'pong' });
  const stream = await telemetry(deviceId);
  await client.sendEvent(new Message('"after"'));
  assert.equal((await stream.next()).body, 'after');
  await reported({ boot: 2 });
  assert.equal((await registry.getTwin(deviceId)).responseBody.properties.reported.boot, 2);
  await raw('POST', `/devices/${deviceId}/messages/deviceBound?api-version=2021-04-12`, { body: 'mail' });
  await poll('the message', () => mail.includes('mail'), 20_000);
  await poll('the completion', async () => (await registry.get(deviceId)).responseBody.cloudToDeviceMessageCount === 0);
  await registry.updateTwin(deviceId, { properties: { desired: { n: 2 } } }, '*');
  await poll('the next desired patch', () => patches.includes(2));
});

test('telemetry sent while the server is away is delivered when it is back', [], async () => {
  const deviceId = unique('away');
  const { responseBody } = await registry.create({ deviceId });
  const client = Client.fromConnectionString(`HostName=${host};DeviceId=${deviceId};SharedAccessKey=${responseBody.authentication.symmetricKey.primaryKey}`, Mqtt);
  cleanup(() => client.close());
  await client.open();
  await ask('stop');
  let outcome;
  client.sendEvent(new Message('"patient"')).then(() => { outcome = 'sent'; }, (e) => { outcome = e; });
  await ask('start');
  const stream = await telemetry(deviceId);
  // It may have arrived before the stream was open; a second one tells.
  await client.sendEvent(new Message('"second"'));
  const seen = [];
  do {
    seen.push((await stream.next()).body);
  } while (!seen.includes('second'));
  await poll('the outcome of the first', () => outcome);
  assert.equal(outcome, 'sent');
});
