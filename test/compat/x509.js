'use strict';

// azure-iot-device with certificates instead of keys: thumbprints and CAs.

const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { NoRetry } = require('azure-iot-common');
const { Registry } = require('azure-iothub');
const { X509Certificate } = require('node:crypto');
const { assert, certificates, cleanup, connection, host, raw, rejected, telemetry, test, within } = require('./harness');

const registry = Registry.fromConnectionString(connection.hub.connectionString);

const thumbprints = (name) => {
  const cert = new X509Certificate(certificates[name].leaf);
  return { sha1: cert.fingerprint, sha256: cert.fingerprint256 }; // with colons
};

async function open(deviceId, name) {
  const client = Client.fromConnectionString(`HostName=${host};DeviceId=${deviceId};x509=true`, Mqtt);
  client.setRetryPolicy(new NoRetry());
  client.setOptions({ cert: certificates[name].cert, key: certificates[name].key });
  cleanup(() => client.close());
  await within('an answer to CONNECT', client.open());
  return client;
}

async function refused(deviceId, name) {
  const error = await rejected(open(deviceId, name));
  assert.equal(error.name, 'UnauthorizedError', error.stack);
}

async function works(deviceId, name) {
  const stream = await telemetry(deviceId);
  const client = await open(deviceId, name);
  await client.sendEvent(new Message('"by certificate"'));
  assert.equal((await stream.next()).body, 'by certificate');
  await client.close();
}

test('a thumbprint proves a device', [], async () => {
  const one = thumbprints('self-1');
  const two = thumbprints('self-2');
  const { responseBody } = await registry.create({
    deviceId: 'by-thumbprint', authentication: { x509Thumbprint: { primaryThumbprint: one.sha1, secondaryThumbprint: two.sha256.toLowerCase() } },
  });
  assert.equal(responseBody.authentication.type, 'selfSigned');
  assert.deepEqual(responseBody.authentication.x509Thumbprint, {
    primaryThumbprint: one.sha1.replaceAll(':', ''), secondaryThumbprint: two.sha256.replaceAll(':', ''),
  });
  assert.deepEqual(responseBody.authentication.symmetricKey, { primaryKey: null, secondaryKey: null });
  await works('by-thumbprint', 'self-1');
  await works('by-thumbprint', 'self-2');
  await refused('by-thumbprint', 'factory-1');
  // The certificate that is taken out no longer opens the door.
  await registry.update({
    deviceId: 'by-thumbprint', authentication: { type: 'selfSigned', x509Thumbprint: { primaryThumbprint: two.sha1, secondaryThumbprint: null } },
  });
  await refused('by-thumbprint', 'self-1');
  await works('by-thumbprint', 'self-2');
});

test('a CA proves the devices it certified', [], async () => {
  for (const deviceId of ['factory-1', 'factory-2', 'factory-direct', 'factory-expired', 'stranger-2']) {
    const { responseBody } = await registry.create({ deviceId, authentication: { type: 'certificateAuthority' } });
    assert.deepEqual(responseBody.authentication, {
      type: 'certificateAuthority', symmetricKey: { primaryKey: null, secondaryKey: null },
      x509Thumbprint: { primaryThumbprint: null, secondaryThumbprint: null },
    });
  }
  await refused('factory-1', 'factory-1'); // nobody trusts the CA yet
  const token = `Bearer ${connection.api.token}`;
  const added = await raw('PUT', '/api/certificates/factory', { token, body: certificates['factory-ca'] });
  assert.ok(added.status < 300, added.text);
  await works('factory-1', 'factory-1'); // by an intermediate that the device sends
  await works('factory-direct', 'factory-direct');
  await refused('factory-2', 'factory-1'); // another device's certificate
  await refused('factory-expired', 'factory-expired');
  await refused('stranger-2', 'stranger-2'); // another CA
  const deleted = await raw('DELETE', '/api/certificates/factory', { token });
  assert.ok(deleted.status < 300, deleted.text);
  await refused('factory-1', 'factory-1');
});

test('a device with a certificate has no use for keys, and the other way round', [], async () => {
  await registry.create({ deviceId: 'self-1', authentication: { x509Thumbprint: { primaryThumbprint: thumbprints('self-1').sha256 } } });
  const key = Buffer.alloc(32, 1).toString('base64');
  const client = Client.fromConnectionString(`HostName=${host};DeviceId=self-1;SharedAccessKey=${key}`, Mqtt);
  client.setRetryPolicy(new NoRetry());
  cleanup(() => client.close());
  assert.equal((await rejected(within('an answer to CONNECT', client.open()))).name, 'UnauthorizedError');
  await registry.create({ deviceId: 'self-2' });
  await refused('self-2', 'self-2');
});
