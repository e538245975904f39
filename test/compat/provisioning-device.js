'use strict';

// azure-iot-provisioning-device over MQTT or HTTPS, as the argument says: a device gets its hub, and
// then uses it.

const { createHmac, X509Certificate } = require('node:crypto');
const http = require('node:http');
const { NoRetry } = require('azure-iot-common');
const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { Registry } = require('azure-iothub');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { Http } = require('azure-iot-provisioning-device-http');
const { Mqtt: ProvisioningMqtt } = require('azure-iot-provisioning-device-mqtt');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');
const { X509Security } = require('azure-iot-security-x509');
const { assert, certificates, cleanup, connection, host, rejected, telemetry, test, unique, within } = require('./harness');

const registry = Registry.fromConnectionString(connection.hub.connectionString);
const service = ProvisioningServiceClient.fromConnectionString(connection.dps.connectionString);
const { hostname, idScope } = connection.dps;

const transports = { MQTT: ProvisioningMqtt, HTTPS: Http };
const transport = process.argv[2];
assert.ok(transport in transports, 'the argument is MQTT or HTTPS');
const name = (what) => unique(`${what}-${transport.toLowerCase()}`);

function register(security, payload) {
  const client = ProvisioningDeviceClient.create(hostname, idScope, new transports[transport](), security);
  if (payload) {
    client.setProvisioningPayload(payload);
  }
  return within('the registration', client.register(), 15_000);
}

const withKey = (id, key) => register(new SymmetricKeySecurityClient(id, key));
const withCertificate = (id, name = id) => register(new X509Security(id, { cert: certificates[name].cert, key: certificates[name].key }));

// unauthorized wants a refusal of the credentials, as the transport words it: MQTT's hands on what
// mqtt.js makes of the CONNACK.
async function unauthorized(promise) {
  const error = await rejected(promise);
  if (transport === 'MQTT') {
    assert.equal(error.message, 'Connection refused: Not authorized', error.stack);
    assert.equal(error.code, 5);
    return;
  }
  assert.equal(error.name, 'UnauthorizedError', error.stack);
  assert.equal(error.response.headers['x-ms-error-code'], '401002');
  const body = JSON.parse(error.responseBody);
  assert.equal(body.errorCode, 401002);
  assert.match(body.message, /./);
}

const derive = (groupKey, id) => createHmac('sha256', Buffer.from(groupKey, 'base64')).update(id).digest('base64');
const someKey = (n) => Buffer.alloc(64, n).toString('base64');

// assigned checks the answer a device gets.
function assigned(result, registrationId, deviceId = registrationId) {
  assert.equal(result.status, 'assigned');
  assert.equal(result.substatus, 'initialAssignment');
  assert.equal(result.registrationId, registrationId);
  assert.equal(result.assignedHub, host);
  assert.equal(result.deviceId, deviceId);
  for (const at of [result.createdDateTimeUtc, result.lastUpdatedDateTimeUtc]) {
    assert.match(at, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z$/);
    assert.ok(Math.abs(Date.parse(at) - Date.now()) < 60_000, at);
  }
  assert.match(result.etag, /./);
}

// lives proves that a device may use the hub it was told of.
async function lives(result, credentials) {
  const client = Client.fromConnectionString(`HostName=${result.assignedHub};DeviceId=${result.deviceId};${credentials.key ? `SharedAccessKey=${credentials.key}` : 'x509=true'}`, Mqtt);
  client.setRetryPolicy(new NoRetry());
  if (credentials.cert) {
    await client.setOptions({ cert: credentials.cert, key: credentials.certKey });
  }
  cleanup(() => client.close());
  await client.open();
  const stream = await telemetry(result.deviceId);
  await client.sendEvent(new Message('"provisioned"'));
  assert.equal((await stream.next()).body, 'provisioned');
  const twin = await client.getTwin();
  await client.close();
  return twin;
}

test('an individual enrollment with a symmetric key', ['DPS-36'], async () => {
  const registrationId = name('individual');
  const deviceId = `${registrationId}-device`;
  await service.createOrUpdateIndividualEnrollment({
    registrationId, deviceId, attestation: { type: 'symmetricKey', symmetricKey: { primaryKey: someKey(1), secondaryKey: someKey(2) } },
    initialTwin: { tags: { from: 'enrollment' }, properties: { desired: { interval: 5 } } }, capabilities: { iotEdge: false },
  });
  const began = Date.now();
  const result = await withKey(registrationId, someKey(1));
  assert.ok(Date.now() - began < 5000, 'an assignment takes less than 5 s');
  assigned(result, registrationId, deviceId);

  const { responseBody: identity } = await registry.get(deviceId);
  assert.deepEqual(identity.authentication.symmetricKey, { primaryKey: someKey(1), secondaryKey: someKey(2) });
  assert.equal(identity.status, 'enabled');
  const { responseBody: document } = await registry.getTwin(deviceId);
  assert.deepEqual(document.tags, { from: 'enrollment' });
  const twin = await lives(result, { key: someKey(1) });
  assert.equal(twin.properties.desired.interval, 5);

  // It comes again, with its other key and a payload, and finds what it had.
  await registry.updateTwin(deviceId, { tags: { from: 'operator' }, properties: { desired: { interval: 7 } } }, '*');
  const again = await register(new SymmetricKeySecurityClient(registrationId, someKey(2)), { modelId: 'dtmi:com:example:Thermostat;1' });
  assigned(again, registrationId, deviceId);
  assert.equal(again.createdDateTimeUtc, result.createdDateTimeUtc);
  const { responseBody: kept } = await registry.getTwin(deviceId);
  assert.deepEqual(kept.tags, { from: 'operator' });
  assert.equal(kept.properties.desired.interval, 7);
  assert.deepEqual((await registry.get(deviceId)).responseBody.authentication.symmetricKey, { primaryKey: someKey(1), secondaryKey: someKey(2) });
});

test('an enrollment group with derived keys', [], async () => {
  const enrollmentGroupId = name('group');
  const groupKey = someKey(transport.charCodeAt(0));
  await service.createOrUpdateEnrollmentGroup({
    enrollmentGroupId, attestation: { type: 'symmetricKey', symmetricKey: { primaryKey: groupKey, secondaryKey: someKey(transport.charCodeAt(1)) } },
    initialTwin: { tags: { group: enrollmentGroupId }, properties: { desired: { fleet: true } } },
  });
  const registrationId = name('member');
  const result = await withKey(registrationId, derive(groupKey, registrationId));
  assigned(result, registrationId);
  assert.equal(result.symmetricKey.enrollmentGroupId, enrollmentGroupId);
  const twin = await lives(result, { key: derive(groupKey, registrationId) });
  assert.equal(twin.properties.desired.fleet, true);
  assert.deepEqual((await registry.getTwin(registrationId)).responseBody.tags, { group: enrollmentGroupId });

  const other = name('member');
  assigned(await withKey(other, derive(someKey(transport.charCodeAt(1)), other)), other); // from the secondary key
  const { responseBody: records } = await service.createEnrollmentGroupDeviceRegistrationStateQuery({ query: 'SELECT *' }, enrollmentGroupId).next();
  assert.deepEqual(records.map((r) => r.registrationId).sort(), [registrationId, other].sort());

  const thief = name('thief');
  await unauthorized(withKey(thief, groupKey)); // the group's own key is no device's
  await unauthorized(withKey(thief, derive(groupKey, registrationId)));
  assert.equal((await rejected(registry.get(thief))).name, 'DeviceNotFoundError');
});

test('an enrollment group of a CA', [], async () => {
  const ca = transport === 'MQTT' ? 'plant' : 'line';
  const enrollmentGroupId = name('ca');
  const group = (certificate) => ({
    enrollmentGroupId, attestation: { type: 'x509', x509: { signingCertificates: { primary: { certificate } } } },
    initialTwin: { tags: { ca }, properties: { desired: {} } },
  });
  await service.createOrUpdateEnrollmentGroup(group(certificates[`${ca}-ca`]));
  const result = await withCertificate(`${ca}-1`); // the chain goes through an intermediate
  assigned(result, `${ca}-1`);
  assert.equal(result.x509.enrollmentGroupId, enrollmentGroupId);
  assert.equal((await registry.get(`${ca}-1`)).responseBody.authentication.type, 'certificateAuthority');
  await lives(result, { cert: certificates[`${ca}-1`].cert, certKey: certificates[`${ca}-1`].key });
  assert.deepEqual((await registry.getTwin(`${ca}-1`)).responseBody.tags, { ca });
  assigned(await withCertificate(`${ca}-direct`), `${ca}-direct`);

  for (const [id, certificate] of [
    [`${ca}-3`, `${ca}-2`], // another's certificate
    ['stranger-1', 'stranger-1'], // an unknown CA
    [`${ca}-expired`, `${ca}-expired`],
  ]) {
    await unauthorized(withCertificate(id, certificate));
  }

  // The intermediate alone is enough, without the root.
  const below = group(certificates[`${ca}-intermediate`]);
  await service.createOrUpdateEnrollmentGroup(below);
  assigned(await withCertificate(`${ca}-2`), `${ca}-2`);
  await unauthorized(withCertificate(`${ca}-direct`));
  await service.deleteEnrollmentGroup(enrollmentGroupId);
  await unauthorized(withCertificate(`${ca}-2`));
});

test('an individual enrollment with a certificate', [], async () => {
  const registrationId = transport === 'MQTT' ? 'enrolled-1' : 'enrolled-2';
  const { leaf, cert, key } = certificates[registrationId];
  await service.createOrUpdateIndividualEnrollment({ registrationId, attestation: { type: 'x509', x509: { clientCertificates: { primary: { certificate: leaf } } } } });
  const result = await withCertificate(registrationId);
  assigned(result, registrationId);
  const { authentication } = (await registry.get(registrationId)).responseBody;
  assert.equal(authentication.type, 'selfSigned');
  assert.equal(authentication.x509Thumbprint.primaryThumbprint, new X509Certificate(leaf).fingerprint256.replaceAll(':', ''));
  await lives(result, { cert, certKey: key });
  await unauthorized(withCertificate(registrationId, 'self-1'));
});

test('the unknown, the wrong key and the disabled are refused alike', [], async () => {
  const registrationId = name('refused');
  await unauthorized(withKey(registrationId, someKey(1)));
  const enrollment = { registrationId, attestation: { type: 'symmetricKey', symmetricKey: { primaryKey: someKey(1), secondaryKey: someKey(2) } } };
  await service.createOrUpdateIndividualEnrollment(enrollment);
  await unauthorized(withKey(registrationId, someKey(3)));
  await service.createOrUpdateIndividualEnrollment({ ...enrollment, provisioningStatus: 'disabled' });
  await unauthorized(withKey(registrationId, someKey(1)));
  await service.createOrUpdateIndividualEnrollment({ ...enrollment, provisioningStatus: 'enabled' });
  assigned(await withKey(registrationId, someKey(1)), registrationId);

  // A disabled group, and a disabled individual in an enabled group.
  const enrollmentGroupId = name('off');
  const groupKey = someKey(40 + transport.length);
  const group = { enrollmentGroupId, attestation: { type: 'symmetricKey', symmetricKey: { primaryKey: groupKey, secondaryKey: groupKey } } };
  await service.createOrUpdateEnrollmentGroup({ ...group, provisioningStatus: 'disabled' });
  const member = name('member');
  await unauthorized(withKey(member, derive(groupKey, member)));
  await service.createOrUpdateEnrollmentGroup({ ...group, provisioningStatus: 'enabled' });
  await service.createOrUpdateIndividualEnrollment({ ...enrollment, registrationId: member, provisioningStatus: 'disabled' });
  await unauthorized(withKey(member, derive(groupKey, member)));
  await service.deleteIndividualEnrollment(member);
  assigned(await withKey(member, derive(groupKey, member)), member);

  const foreign = ProvisioningDeviceClient.create(hostname, '0ne00000000', new transports[transport](), new SymmetricKeySecurityClient(registrationId, someKey(1)));
  await unauthorized(within('the refusal', foreign.register()));
});

test('coming again: kept, reset or made anew, as the enrollment says', ['DPS-27'], async () => {
  const registrationId = name('again');
  const enroll = (reprovisionPolicy) => service.createOrUpdateIndividualEnrollment({
    registrationId, reprovisionPolicy, attestation: { type: 'symmetricKey', symmetricKey: { primaryKey: someKey(1), secondaryKey: someKey(2) } },
    initialTwin: { tags: { first: true }, properties: { desired: { n: 1 } } },
  });
  const twin = async () => {
    const { tags, properties: { desired: { n, extra } } } = (await registry.getTwin(registrationId)).responseBody;
    return { tags, n, extra };
  };
  const change = () => registry.updateTwin(registrationId, { tags: { first: false }, properties: { desired: { n: 2, extra: 'x' } } }, '*');
  const come = async () => (await withKey(registrationId, someKey(1))).substatus;
  const initial = { tags: { first: true }, n: 1, extra: undefined };
  const changed = { tags: { first: false }, n: 2, extra: 'x' };

  await enroll({ updateHubAssignment: true, migrateDeviceData: true });
  assert.equal(await come(), 'initialAssignment');
  assert.deepEqual(await twin(), initial);
  await change();
  assert.equal(await come(), 'initialAssignment'); // the same hub: nothing to migrate
  assert.deepEqual(await twin(), changed);

  await enroll({ updateHubAssignment: false, migrateDeviceData: false });
  assert.equal(await come(), 'initialAssignment');
  assert.deepEqual(await twin(), changed);
  await registry.delete(registrationId);
  assert.equal(await come(), 'reprovisionedToInitialAssignment');
  assert.deepEqual(await twin(), initial);

  await change();
  await enroll({ updateHubAssignment: true, migrateDeviceData: false });
  assert.equal(await come(), 'deviceDataReset');
  assert.deepEqual(await twin(), initial);
  assert.deepEqual((await registry.get(registrationId)).responseBody.authentication.symmetricKey, { primaryKey: someKey(1), secondaryKey: someKey(2) });
});

test('custom allocation: the webhook hears what the device says, and the device what the webhook says', [], async () => {
  const asked = [];
  let answer = { iotHubHostName: host, payload: { color: 'red' }, initialTwin: { tags: { by: 'webhook' }, properties: { desired: {} } } };
  const hook = http.createServer((request, response) => {
    let text = '';
    request.on('data', (chunk) => { text += chunk; });
    request.on('end', () => {
      asked.push(JSON.parse(text));
      response.end(JSON.stringify(answer));
    });
  });
  await new Promise((resolve) => { hook.listen(0, '127.0.0.1', resolve); });
  cleanup(() => hook.close());
  const registrationId = name('custom');
  await service.createOrUpdateIndividualEnrollment({
    registrationId, attestation: { type: 'symmetricKey', symmetricKey: { primaryKey: someKey(1), secondaryKey: someKey(2) } }, allocationPolicy: 'custom',
    customAllocationDefinition: { webhookUrl: `http://127.0.0.1:${hook.address().port}/where`, apiVersion: '2021-10-01' },
  });
  const result = await register(new SymmetricKeySecurityClient(registrationId, someKey(1)), { modelId: 'dtmi:com:example:Lamp;1' });
  assigned(result, registrationId);
  assert.deepEqual(result.payload, { color: 'red' });
  assert.equal(asked.length, 1);
  assert.equal(asked[0].deviceRuntimeContext.registrationId, registrationId);
  assert.deepEqual(asked[0].deviceRuntimeContext.payload, { modelId: 'dtmi:com:example:Lamp;1' });
  assert.equal(asked[0].individualEnrollment.registrationId, registrationId);
  assert.deepEqual(asked[0].linkedHubs, [host]);
  assert.deepEqual((await registry.getTwin(registrationId)).responseBody.tags, { by: 'webhook' });

  answer = { iotHubHostName: 'elsewhere.example.net' };
  const other = name('custom');
  await service.createOrUpdateIndividualEnrollment({
    registrationId: other, attestation: { type: 'symmetricKey', symmetricKey: { primaryKey: someKey(1), secondaryKey: someKey(2) } }, allocationPolicy: 'custom',
    customAllocationDefinition: { webhookUrl: `http://127.0.0.1:${hook.address().port}/where`, apiVersion: '2021-10-01' },
  });
  await rejected(withKey(other, someKey(1)));
  const { responseBody: record } = await service.getDeviceRegistrationState(other);
  assert.equal(record.status, 'failed');
  assert.equal(record.errorCode, 400207);
});
