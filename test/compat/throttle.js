'use strict';

// azure-iothub against a hub whose throttles are low.

const { Client: Device } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { Client: Service, Registry } = require('azure-iothub');
const { assert, cleanup, connection, host, raw, rejected, test, unique, wait } = require('./harness');

const registry = Registry.fromConnectionString(connection.hub.connectionString);

async function limits(limits) {
  const { status, text } = await raw('PUT', '/api/throttles', { token: `Bearer ${connection.api.token}`, body: { limits } });
  assert.equal(status, 200, text);
}

test('beyond a low limit there is 429 in form A, and the client tries again until there is room', ['HS-153'], async () => {
  const deviceId = unique('throttle');
  const { responseBody: { authentication } } = await registry.create({ deviceId });
  const device = Device.fromConnectionString(`HostName=${host};DeviceId=${deviceId};SharedAccessKey=${authentication.symmetricKey.primaryKey}`, Mqtt);
  cleanup(() => device.close());
  cleanup(() => limits({}));
  await device.open();
  let calls = 0;
  device.onDeviceMethod('ping', (request, response) => {
    calls++;
    response.send(200, calls);
  });
  const service = Service.fromConnectionString(connection.hub.connectionString);
  const ping = () => service.invokeDeviceMethod(deviceId, { methodName: 'ping', connectTimeoutInSeconds: 10 });
  assert.equal((await ping()).result.payload, 1);

  await limits({ directMethods: '1/min', twinReads: '1/min' });
  // As it looks on the wire.
  assert.equal((await raw('GET', `/twins/${deviceId}?api-version=2021-04-12`)).status, 200);
  const refused = await raw('GET', `/twins/${deviceId}?api-version=2021-04-12`);
  assert.equal(refused.status, 429);
  assert.equal(refused.headers['iothub-errorcode'], 'ThrottlingException');
  assert.ok(Number(refused.headers['retry-after']) >= 1);
  assert.match(refused.json().Message, /^ErrorCode:ThrottlingException;.+/);
  assert.ok(refused.json().ExceptionMessage);
  // Registry hands the refusal on.
  assert.equal((await rejected(registry.getTwin(deviceId))).name, 'ThrottlingError');
  // Client tries again, behind the back of its caller.
  assert.equal((await ping()).result.payload, 2);
  let outcome = 'waits';
  const third = ping().then((r) => { outcome = 'done'; return r; }, (e) => { outcome = e.name; throw e; });
  third.catch(() => {});
  await wait(3000);
  assert.equal(outcome, 'waits');
  assert.equal(calls, 2);
  assert.equal((await raw('POST', `/twins/${deviceId}/methods?api-version=2021-04-12`, { body: { methodName: 'ping' } })).status, 429);
  await limits({});
  assert.equal((await third).result.payload, 3);
});
