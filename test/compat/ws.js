'use strict';

// azure-iot-device and azure-iot-provisioning-device over MQTT in a WebSocket: what device.js looks at
// over TLS, in one pass, with a key and with a certificate.

const { NoRetry } = require('azure-iot-common');
const { Client, Message } = require('azure-iot-device');
const { MqttWs } = require('azure-iot-device-mqtt');
const { Registry } = require('azure-iothub');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { MqttWs: ProvisioningMqttWs } = require('azure-iot-provisioning-device-mqtt');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');
const { X509Security } = require('azure-iot-security-x509');
const { assert, certificates, cleanup, connection, host, poll, raw, rejected, telemetry, test, unique, within } = require('./harness');

const registry = Registry.fromConnectionString(connection.hub.connectionString);
const service = ProvisioningServiceClient.fromConnectionString(connection.dps.connectionString);
const { hostname, idScope } = connection.dps;

async function connected(connectionString, options) {
  const client = Client.fromConnectionString(connectionString, MqttWs);
  client.setRetryPolicy(new NoRetry());
  cleanup(() => client.close());
  if (options) {
    await client.setOptions(options);
  }
  assert.equal((await within('an answer to CONNECT', client.open())).constructor.name, 'Connected');
  return client;
}

async function registered(prefix) {
  const deviceId = unique(prefix);
  const { responseBody } = await registry.create({ deviceId });
  return { deviceId, key: responseBody.authentication.symmetricKey.primaryKey };
}

// uses goes through everything a device does on its connection.
async function uses(client, deviceId) {
  const stream = await telemetry(deviceId);
  const message = new Message(JSON.stringify({ temperature: 21.5 }));
  message.contentType = 'application/json';
  message.contentEncoding = 'utf-8';
  message.properties.add('sp ace', 'a b&c=d/ü+%');
  assert.equal((await client.sendEvent(message)).constructor.name, 'MessageEnqueued');
  const got = await stream.next();
  assert.deepEqual(got.body, { temperature: 21.5 });
  assert.deepEqual(got.properties, { 'sp ace': 'a b&c=d/ü+%' });
  const long = 'x'.repeat(200_000); // many frames
  await client.sendEvent(new Message(JSON.stringify(long)));
  assert.equal((await stream.next()).body ?? long, long);
  await Promise.all(Array.from({ length: 50 }, (_, n) => client.sendEvent(new Message(`{"n":${n}}`))));

  const mails = [];
  client.on('message', (m) => mails.push(m));
  const sent = await raw('POST', `/devices/${deviceId}/messages/deviceBound?api-version=2021-04-12`, { body: 'hello', headers: { 'iothub-app-k': 'v' } });
  assert.equal(sent.status, 204, sent.text);
  const mail = await poll('a cloud-to-device message', () => mails.shift());
  assert.equal(mail.getData().toString(), 'hello');
  assert.equal(mail.properties.propertyList[0].value, 'v');
  await client.complete(mail);
  await poll('an empty queue', async () => (await registry.get(deviceId)).responseBody.cloudToDeviceMessageCount === 0);

  const twin = await client.getTwin();
  await new Promise((resolve, reject) => { twin.properties.reported.update({ firmware: '1.2' }, (err) => (err ? reject(err) : resolve())); });
  assert.equal((await registry.getTwin(deviceId)).responseBody.properties.reported.firmware, '1.2');
  const patches = [];
  twin.on('properties.desired', (patch) => patches.push(patch));
  await twin.get();
  await registry.updateTwin(deviceId, { properties: { desired: { interval: 20 } } }, '*');
  await poll('the desired patch', () => patches.find((p) => p.interval === 20));

  client.onDeviceMethod('reboot', (request, response) => {
    response.send(200, { echo: request.payload }, () => {});
  });
  const result = await poll('an answer to the method', async () => {
    const r = await raw('POST', `/twins/${deviceId}/methods?api-version=2021-04-12`, { body: { methodName: 'reboot', payload: { in: 5 }, responseTimeoutInSeconds: 10 } });
    return r.status === 200 && r.json(); // the subscription may not be there yet
  });
  assert.deepEqual(result, { status: 200, payload: { echo: { in: 5 } } });
}

test('a device with a key does everything over a WebSocket', [], async () => {
  const d = await registered('ws');
  const client = await connected(`HostName=${host};DeviceId=${d.deviceId};SharedAccessKey=${d.key}`);
  assert.equal((await registry.get(d.deviceId)).responseBody.connectionState, 'Connected');
  await uses(client, d.deviceId);
  await client.close();
  await poll('the device to be gone', async () => (await registry.get(d.deviceId)).responseBody.connectionState === 'Disconnected');
});

test('a wrong key is refused over a WebSocket', [], async () => {
  const d = await registered('ws-refused');
  const open = connected(`HostName=${host};DeviceId=${d.deviceId};SharedAccessKey=${Buffer.alloc(32, 7).toString('base64')}`);
  assert.equal((await rejected(open)).name, 'UnauthorizedError');
});

test('a connection over TLS and one over a WebSocket take each other over', [], async () => {
  const { Mqtt } = require('azure-iot-device-mqtt');
  const d = await registered('ws-takeover');
  const text = `HostName=${host};DeviceId=${d.deviceId};SharedAccessKey=${d.key}`;
  const socket = await connected(text);
  const lost = new Promise((resolve) => { socket.once('disconnect', resolve); });
  const tls = Client.fromConnectionString(text, Mqtt);
  tls.setRetryPolicy(new NoRetry());
  cleanup(() => tls.close());
  await tls.open();
  await within('the disconnect of the WebSocket', lost);
  const gone = new Promise((resolve) => { tls.once('disconnect', resolve); });
  await connected(text);
  await within('the disconnect of the TLS connection', gone);
});

test('a device is provisioned over a WebSocket and lives on one', [], async () => {
  const registrationId = unique('ws-individual');
  const key = Buffer.alloc(64, 5).toString('base64');
  await service.createOrUpdateIndividualEnrollment({ registrationId, attestation: { type: 'symmetricKey', symmetricKey: { primaryKey: key, secondaryKey: key } } });
  const client = ProvisioningDeviceClient.create(hostname, idScope, new ProvisioningMqttWs(), new SymmetricKeySecurityClient(registrationId, key));
  const result = await within('the registration', client.register(), 15_000);
  assert.equal(result.status, 'assigned');
  assert.equal(result.deviceId, registrationId);
  await uses(await connected(`HostName=${result.assignedHub};DeviceId=${result.deviceId};SharedAccessKey=${key}`), registrationId);
});

test('a certificate provisions and connects a device over a WebSocket', [], async () => {
  const registrationId = 'socket-1';
  const { leaf, cert, key } = certificates[registrationId];
  await service.createOrUpdateIndividualEnrollment({ registrationId, attestation: { type: 'x509', x509: { clientCertificates: { primary: { certificate: leaf } } } } });
  const client = ProvisioningDeviceClient.create(hostname, idScope, new ProvisioningMqttWs(), new X509Security(registrationId, { cert, key }));
  const result = await within('the registration', client.register(), 15_000);
  assert.equal(result.status, 'assigned');
  await uses(await connected(`HostName=${host};DeviceId=${registrationId};x509=true`, { cert, key }), registrationId);
  const other = certificates['socket-2'];
  assert.equal((await rejected(connected(`HostName=${host};DeviceId=${registrationId};x509=true`, { cert: other.cert, key: other.key }))).name, 'UnauthorizedError');
});
