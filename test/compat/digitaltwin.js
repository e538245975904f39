'use strict';

// azure-iothub's DigitalTwinClient in front of a Plug and Play device.

const { Client: Device } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { DigitalTwinClient, IoTHubTokenCredentials, Registry, Client } = require('azure-iothub');
const { assert, cleanup, connection, host, poll, rejected, test, unique, within } = require('./harness');

const registry = Registry.fromConnectionString(connection.hub.connectionString);
const service = Client.fromConnectionString(connection.hub.connectionString);
const twins = new DigitalTwinClient(new IoTHubTokenCredentials(connection.hub.connectionString));
const model = 'dtmi:com:example:TemperatureController;1';

async function online() {
  const deviceId = unique('pnp');
  const { responseBody } = await registry.create({ deviceId });
  const client = Device.fromConnectionString(`HostName=${host};DeviceId=${deviceId};SharedAccessKey=${responseBody.authentication.symmetricKey.primaryKey}`, Mqtt);
  await client.setOptions({ modelId: model });
  cleanup(() => client.close());
  await client.open();
  return { deviceId, client };
}

test('a digital twin: components, acknowledgements and patches', ['HS-048', 'HS-049'], async () => {
  const { deviceId, client } = await online();
  const twin = await client.getTwin();
  const patches = [];
  twin.on('properties.desired', (p) => patches.push(p));
  const report = (patch) => new Promise((resolve, reject) => { twin.properties.reported.update(patch, (e) => (e ? reject(e) : resolve())); });
  await report({ serialNumber: 'abc', thermostat1: { __t: 'c', maxTemp: 25.3, targetTemperature: { value: 20.4, ac: 200, av: 1, ad: 'ok' } } });

  const seen = await twins.getDigitalTwin(deviceId);
  assert.equal(seen.$dtId, deviceId);
  assert.equal(seen.serialNumber, 'abc');
  assert.equal(seen.$metadata.$model, model);
  assert.match(seen.$metadata.serialNumber.lastUpdateTime, /^\d{4}-.*Z$/);
  assert.equal(seen.thermostat1.maxTemp, 25.3);
  assert.equal(seen.thermostat1.targetTemperature, 20.4);
  assert.equal(seen.thermostat1.__t, undefined);
  const { ackCode, ackVersion, ackDescription } = seen.thermostat1.$metadata.targetTemperature;
  assert.deepEqual({ ackCode, ackVersion, ackDescription }, { ackCode: 200, ackVersion: 1, ackDescription: 'ok' });
  const etag = seen._response.headers.get('etag');
  assert.match(etag, /^".+"$/);

  // An answer without a body has no result to hang the response on; the callback has it.
  const changed = await new Promise((resolve, reject) => {
    twins.updateDigitalTwin(deviceId, [{ op: 'replace', path: '/thermostat1/targetTemperature', value: 42 }], etag, (e, _, response) => (e ? reject(e) : resolve(response)));
  });
  assert.equal(changed.status, 202);
  assert.notEqual(changed.headers.get('etag'), etag);
  assert.ok(changed.headers.get('location').endsWith(`/digitaltwins/${deviceId}`));
  const got = await poll('the desired patch', () => patches.find((p) => p.thermostat1));
  assert.equal(got.thermostat1.__t, 'c');
  assert.equal(got.thermostat1.targetTemperature, 42);
  const after = await twins.getDigitalTwin(deviceId);
  assert.equal(after.thermostat1.$metadata.targetTemperature.desiredValue, 42);
  assert.equal(after.thermostat1.$metadata.targetTemperature.desiredVersion, got.$version);
  assert.equal(after.thermostat1.targetTemperature, 20.4);

  const stale = await rejected(twins.updateDigitalTwin(deviceId, [{ op: 'add', path: '/x', value: 1 }], etag));
  assert.equal(stale.statusCode, 412);
  await twins.updateDigitalTwin(deviceId, [{ op: 'add', path: '/thermostat2', value: { targetTemperature: 1, $metadata: {} } }], '*');
  await twins.updateDigitalTwin(deviceId, [{ op: 'replace', path: '/thermostat2', value: { $metadata: {} } }]);
  const { responseBody: { properties: { desired } } } = await registry.getTwin(deviceId);
  assert.deepEqual(desired.thermostat2, { __t: 'c' });
  await twins.updateDigitalTwin(deviceId, [{ op: 'remove', path: '/thermostat2' }]);
  assert.equal((await registry.getTwin(deviceId)).responseBody.properties.desired.thermostat2, undefined);

  const odd = await rejected(twins.updateDigitalTwin(deviceId, [{ op: 'add', path: '/serialNumber/x', value: 1 }]));
  assert.equal(odd.statusCode, 400);
  assert.match(odd.message, /'serialNumber' exists within the device twin and is not digital twin conformant property/);
  assert.equal((await rejected(twins.updateDigitalTwin(deviceId, [{ op: 'add', path: '/list', value: [1] }]))).statusCode, 400);
});

test('commands of the root and of a component', ['HS-050'], async () => {
  const { deviceId, client } = await online();
  const asked = [];
  for (const name of ['reboot', 'thermostat1*getMaxMinReport']) {
    client.onDeviceMethod(name, (request, response) => {
      asked.push([request.methodName, request.payload]);
      response.send(request.payload === 'fail' ? 418 : 200, { echo: request.payload });
    });
  }
  client.onDeviceMethod('ready', (request, response) => response.send(200));
  await service.invokeDeviceMethod(deviceId, { methodName: 'ready', connectTimeoutInSeconds: 10 });

  const root = await within('the command', twins.invokeCommand(deviceId, 'reboot', '3'));
  assert.equal(root._response.status, 200);
  assert.deepEqual(asked.pop(), ['reboot', '3']);
  assert.equal(root.xMsCommandStatuscode, 200);
  assert.deepEqual(JSON.parse(root._response.bodyAsText), { echo: '3' });
  const component = await twins.invokeComponentCommand(deviceId, 'thermostat1', 'getMaxMinReport', { since: 1 }, { responseTimeoutInSeconds: 10, connectTimeoutInSeconds: 1 });
  assert.deepEqual(asked.pop(), ['thermostat1*getMaxMinReport', { since: 1 }]);
  assert.deepEqual(JSON.parse(component._response.bodyAsText), { echo: { since: 1 } });
  const failed = await twins.invokeCommand(deviceId, 'reboot', 'fail');
  assert.equal(failed._response.headers.get('x-ms-command-statuscode'), '418');

  await client.close();
  const offline = await rejected(twins.invokeCommand(deviceId, 'reboot', '3'));
  assert.equal(offline.statusCode, 404);
  assert.match(offline.message, /404103/);
});
